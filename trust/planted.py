"""Files that would run code were they read without care, one for each way in: no reader of ours may spring a trap."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

import transfer
from auxtasks import checkpoint
from auxtasks.backbones import Backbone, mlp, transformers
from auxtasks.backbones.tokenizer import read_tokenizer
from auxtasks.backbones.weights import read_weights
from auxtasks.data import decode_images, load_source, load_tokenizer, train_tokenizer
from auxtasks.data.decoding import decode_one
from auxtasks.data.sentence_table import load_sentences, save_sentences
from auxtasks.data.sentences import read_sentences
from auxtasks.data.stream_sources import open_stream
from auxtasks.errors import AuxtasksError
from recipes.config import load_recipe
from recipes.import_weights import import_weights
from transfer.foreign import read_foreign
from trust.traps import Planted, Trap

__all__ = ["PLANTED"]


# --- pickles ----------------------------------------------------------------------------------------------------------


def _pickle(name: str, protocol: int = 2) -> Callable[[Path, Trap], Path]:
    def plant(folder: Path, trap: Trap) -> Path:
        (folder / name).write_bytes(trap.pickled(protocol))
        return folder / name

    return plant


def _saved_by_torch(name: str) -> Callable[[Path, Trap], Path]:
    def plant(folder: Path, trap: Trap) -> Path:
        torch.save({"state_dict": {"weight": torch.zeros(2)}, "epoch": trap}, folder / name)
        return folder / name

    return plant


def _objects(folder: Path, trap: Trap) -> Path:
    np.savez(folder / "weights.npz", weight=np.array([trap], dtype=object))
    return folder / "weights.npz"


def _shard(folder: Path, trap: Trap) -> Path:
    (folder / "pytorch_model-1.bin").write_bytes(trap.pickled())
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": "pytorch_model-1.bin"}}), encoding="utf-8")
    return index


def _backbone(*, keep_safetensors: bool) -> Callable[[Path, Trap], Path]:
    def plant(folder: Path, trap: Trap) -> Path:
        mlp(width=4, hidden=[3]).save_pretrained(folder / "backbone")
        weights = folder / "backbone" / "model.safetensors"
        if not keep_safetensors:
            weights.unlink()
            weights = weights.with_name("pytorch_model.bin")
        weights.write_bytes(trap.pickled())
        return folder / "backbone"

    return plant


def _target_model(folder: Path, trap: Trap) -> Path:
    place = folder / "model"
    mlp(width=4, hidden=[3]).save_pretrained(place / "backbone")
    settings = {
        "schema": checkpoint.SCHEMA_VERSION, "layer": "hidden1", "pool": "auto", "mirror": False, "decoded_size": None,
        "fit": "stretch", "class_names": ["a", "b"], "discriminants": False, "facts": {}, "head": {"kind": "linear"},
    }  # fmt: skip
    checkpoint.write_json(place / "target.json", settings)
    for name in ("head.safetensors", "head.pkl", "head.joblib"):
        (place / name).write_bytes(trap.pickled())
    return place


def _kept_pictures(folder: Path, trap: Trap) -> tuple[Any, Path]:
    faces = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"},
                        options={"people": 2, "photos": 2, "size": 20})  # fmt: skip
    decode_images(faces, size=(20, 20), channels=1, cache=folder)
    (kept,) = folder.iterdir()
    for name in ("rows.npy", "pixels.npy"):
        np.save(kept / name, np.array([trap] * 4, dtype=object), allow_pickle=True)
    return faces, folder


def _read_pictures(planted: tuple[Any, Path]) -> None:
    faces, cache = planted
    if len(decode_images(faces, size=(20, 20), channels=1, cache=cache)) != 4:
        raise AuxtasksError("the pictures were not decoded anew")


def _kept_sentences(folder: Path, trap: Trap) -> Path:
    texts = ["The old dog sleeps.", "A cat hears the dog.", "The cat sees a dog."]
    place = folder / "kept"
    save_sentences(read_sentences(texts, train_tokenizer(texts, size=60), length=16), place)
    np.save(place / "rows.npy", np.array([trap] * 3, dtype=object), allow_pickle=True)
    manifest = checkpoint.read_json(place / "manifest.json")
    manifest["digests"]["rows"] = checkpoint.file_digest(place / "rows.npy")  # as who plants it would
    checkpoint.write_json(place / "manifest.json", manifest)
    return place


def _load_sentences(place: Path) -> None:
    if load_sentences(place) is None:
        raise AuxtasksError("what was kept is damaged, and is made anew")


# --- code of Hugging Face's kinds -------------------------------------------------------------------------------------

TINY_BERT = {
    "model_type": "bert", "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 8, "max_position_embeddings": 16,
}  # fmt: skip


def _own_model(model_type: str) -> Callable[[Path, Trap], Path]:
    """Write a whole BERT whose configuration names classes of a program beside it."""

    def plant(folder: Path, trap: Trap) -> Path:
        transformers(TINY_BERT).save_pretrained(folder / "model")
        place = folder / "model"
        config = checkpoint.read_json(place / "config.json")
        named = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}
        checkpoint.write_json(place / "config.json", {**config, "model_type": model_type, "auto_map": named})
        (place / "custom.py").write_text(trap.code, encoding="utf-8")
        return place

    return plant


def _read_model(place: Path) -> Backbone:
    return transformers(name=str(place))


def _pickled_model(folder: Path, trap: Trap) -> Path:
    (folder / "config.json").write_text(json.dumps(TINY_BERT), encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(trap.pickled())
    return folder


def _own_tokenizer(folder: Path, trap: Trap) -> Path:
    """Write a tokenizer whose class is in a program beside it."""
    train_tokenizer(["a b", "b a"], size=20).save_pretrained(folder)
    config = checkpoint.read_json(folder / "tokenizer_config.json")
    named = {"AutoTokenizer": ["custom.Tokenizer", "custom.Tokenizer"]}
    config = {**config, "tokenizer_class": "CustomTokenizer", "auto_map": named}
    checkpoint.write_json(folder / "tokenizer_config.json", config)
    (folder / "custom.py").write_text(trap.code, encoding="utf-8")
    return folder


def _script(folder: Path, trap: Trap) -> Path:
    """Write a loading script, as `datasets` used to run, in a folder of its name."""
    place = folder / "corpus"
    place.mkdir()
    (place / "corpus.py").write_text(trap.code, encoding="utf-8")
    return place


def _load(source: Path, **options: Any) -> None:
    load_source(source, columns={"text": "text"}, cache_dir=source.parent / "cache", **options)


def _load_from_hub(source: Path) -> None:
    _load(source, kind="hub")


def _extension_type(folder: Path, trap: Trap) -> Path:
    """Write a parquet file whose column claims to be of a type that is a pickle (CVE-2023-47248)."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": trap.pickled()}
    field = pa.field("text", pa.string(), metadata=metadata)
    pq.write_table(pa.table([pa.array(["a b", "b a"])], schema=pa.schema([field])), folder / "table.parquet")
    return folder / "table.parquet"


def _feature_type(folder: Path, trap: Trap) -> Path:
    """Write a parquet file that tells `datasets` of a type by a function's name."""
    features = {"text": {"_type": "os.mkdir", "path": str(trap.marker)}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a b", "b a"]}).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "table.parquet")
    return folder / "table.parquet"


# --- Keras, PostScript, YAML ------------------------------------------------------------------------------------------


def _lambda_layer(trap: Trap) -> str:
    """Return a Keras model with a Lambda layer, whose function is a program."""
    function = {"class_name": "__lambda__", "config": {"code": trap.code}}
    layers = [
        {"module": "keras.layers", "class_name": "Dense", "config": {"name": "dense"}},
        {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "lambda", "function": function}},
    ]
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "net", "layers": layers}})


def _keras_archive(folder: Path, trap: Trap) -> Path:
    with h5py.File(folder / "weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones((2, 3), np.float32)
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("config.json", _lambda_layer(trap))
        archive.write(folder / "weights.h5", "model.weights.h5")
    return folder / "model.keras"


def _keras_h5(folder: Path, trap: Trap) -> Path:
    with h5py.File(folder / "model.h5", "w") as file:
        file.attrs["model_config"] = _lambda_layer(trap)
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"dense"]
        dense = weights.create_group("dense")
        dense.attrs["weight_names"] = [b"dense/kernel:0"]
        dense["dense/kernel:0"] = np.ones((2, 3), np.float32)
    return folder / "model.h5"


def _postscript(folder: Path, trap: Trap) -> tuple[Path, Path]:
    """Write PostScript under the name of a picture, and a Ghostscript that only tells that it was started."""
    interpreter = folder / "bin" / "gs"
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\nmkdir '{trap.marker}'\n", encoding="utf-8")
    interpreter.chmod(0o755)
    picture = folder / "photo.png"
    picture.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    return picture, interpreter.parent


@contextlib.contextmanager
def _on_path(folder: Path) -> Any:
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _decode(planted: tuple[Path, Path]) -> None:
    picture, programs = planted
    with _on_path(programs):
        decode_one(picture, size=(8, 8), channels=1)


YAML_TAGS = ("object/apply:os.mkdir", "object/new:os.mkdir", "object:os.mkdir", "name:os.mkdir", "module:os")


def _tagged(tag: str) -> Callable[[Path, Trap], Path]:
    def plant(folder: Path, trap: Trap) -> Path:
        recipe = folder / "recipe.yaml"
        recipe.write_text(f"name: planted\nseed: !!python/{tag} ['{trap.marker}']\n", encoding="utf-8")
        return recipe

    return plant


def _load_recipe(path: Path) -> None:
    load_recipe(str(path))


def _override(_: Path, trap: Trap) -> str:
    return f"seed=!!python/object/apply:os.mkdir ['{trap.marker}']"


def _argument(folder: Path, trap: Trap) -> tuple[Path, str]:
    save_file({"weight": torch.zeros(2)}, folder / "w.safetensors")
    return folder / "w.safetensors", f"width=!!python/object/apply:os.mkdir ['{trap.marker}']"


def _import(planted: tuple[Path, str]) -> None:
    file, argument = planted
    import_weights(file, "mlp", [argument], dry_run=True, tell=len)


CODE = "a pickle that would run code"
OWN_CODE = "it comes with code of its own that would have to be run, which is never done here"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".joblib", ".h5", ".npz", ".onnx", ".msgpack", ".caffemodel")


def _of_weights() -> Sequence[Planted]:
    ours = [
        Planted(f"weights{suffix}, a pickle of protocol {protocol}", _pickle(f"weights{suffix}", protocol),
                read_weights, CODE)
        for suffix in PICKLES[:4] for protocol in (2, 4)
    ]  # fmt: skip
    ours += [
        Planted(f"weights{suffix} of torch.save", _saved_by_torch(f"weights{suffix}"), read_weights, CODE)
        for suffix in PICKLES[:4]
    ]
    foreign = [
        Planted(f"foreign weights{suffix}, a pickle", _pickle(f"weights{suffix}"), read_foreign, CODE)
        for suffix in PICKLES
    ]
    return [
        *ours,
        *foreign,
        Planted("weights.safetensors, a pickle", _pickle("weights.safetensors"), read_weights, "damaged"),
        Planted("an .npz with an array of objects", _objects, read_foreign, "a pickle, which could run code"),
        Planted("a shard that is a pickle", _shard, read_foreign, CODE),
        Planted("a Keras archive with a Lambda layer", _keras_archive, read_foreign, None),
        Planted("a Keras HDF5 file with a Lambda layer", _keras_h5, read_foreign, None),
        Planted("a saved backbone, its weights a pickle", _backbone(keep_safetensors=True), Backbone.from_pretrained,
                "damaged or cut short"),
        Planted("a saved backbone with pytorch_model.bin", _backbone(keep_safetensors=False), Backbone.from_pretrained,
                "model.safetensors is missing"),
        Planted("a target model, its head a pickle", _target_model, transfer.load, "damaged or cut short"),
        Planted("kept pictures, arrays of objects", _kept_pictures, _read_pictures, None),
        Planted("kept sentences, an array of objects", _kept_sentences, _load_sentences, "made anew"),
    ]  # fmt: skip


def _of_libraries() -> Sequence[Planted]:
    return [
        Planted("a model of its own type, with a program", _own_model("custom"), _read_model, OWN_CODE),
        Planted("a BERT with a program beside it", _own_model("bert"), _read_model, None),
        Planted("a model whose weights are a pickle", _pickled_model, _read_model, "can run code"),
        Planted("a tokenizer with a program, for a corpus", _own_tokenizer, load_tokenizer, OWN_CODE),
        Planted("a tokenizer with a program, for a backbone", _own_tokenizer, read_tokenizer, OWN_CODE),
        Planted("a data set with a script", _script, _load, "holds no image"),
        Planted("a data set's script as a Hub name", _script, _load_from_hub, "could not be loaded"),
        Planted("a data set's script as a stream", _script, open_stream, "nothing that streams"),
        Planted("a script as a source", lambda folder, trap: _script(folder, trap) / "corpus.py", _load, "ends in .py"),
        Planted("a pickle as a source", _pickle("table.pkl"), _load, "ends in .pkl"),
        Planted("a parquet file with a pickled type", _extension_type, _load, None),
        Planted("a parquet file with a function as a type", _feature_type, _load, "cannot be read as parquet"),
        Planted("PostScript as a picture", _postscript, _decode, "PostScript, which is a program, is never read"),
    ]  # fmt: skip


def _of_recipes() -> Sequence[Planted]:
    return [
        *(Planted(f"a recipe with !!python/{tag}", _tagged(tag), _load_recipe, "not valid YAML") for tag in YAML_TAGS),
        Planted("an override with !!python/object/apply", _override, lambda text: load_recipe("faces_demo", [text]),
                "seed: not valid YAML"),
        Planted("an argument with !!python/object/apply", _argument, _import, "width: not valid YAML"),
    ]  # fmt: skip


PLANTED: Sequence[Planted] = (*_of_weights(), *_of_libraries(), *_of_recipes())
