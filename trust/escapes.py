"""Names, links and archive members that lead out of the folder they belong in: none is followed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from auxtasks.backbones import build
from auxtasks.data import load_source
from auxtasks.errors import AuxtasksError
from recipes.cache import clear_cache
from recipes.config import load_recipe
from recipes.folder import RunFolder
from transfer import load
from transfer.foreign import read_foreign
from transfer.foreign.rule_sets import find_rule_set

__all__ = ["ESCAPES", "Escape", "followed"]

NAMES = ("../out", "a/b", "/tmp/out", "..", ".", "-rf", "a\0b", "a\nb", "~", "")


@dataclasses.dataclass(frozen=True)
class Escape:
    """An attempt to get out.

    Attributes:
        name: what is tried, in words.
        attempt: tries it, in a working directory in which nothing may change either; its first argument is a folder
            whose sub-folder ``inside`` may change, and nothing else.
        says: a part of the error that must come; None where the name leads nowhere, and nothing is wrong.
    """

    name: str
    attempt: Callable[[Path], object]
    says: str | None


def followed(escape: Escape, folder: Path) -> tuple[str, ...]:
    """Try to get out of a folder; return what went wrong, nothing if it was held."""
    (folder / "inside").mkdir(parents=True)
    (folder / "work").mkdir()
    (folder / "precious").mkdir()
    (folder / "precious" / "file").write_text("as it was", encoding="utf-8")
    before, said = _around(folder), None
    try:
        with contextlib.chdir(folder / "work"):
            escape.attempt(folder)
    except AuxtasksError as error:
        said = str(error)
    changed = {path for path, _ in before ^ _around(folder)}
    failures = [f"{escape.name}: {path} changed" for path in sorted(changed)]
    if escape.says is not None and escape.says not in (said or ""):
        failures.append(f"{escape.name}: expected a refusal that says {escape.says!r}, found {said!r}")
    return tuple(failures)


def _around(folder: Path) -> set[tuple[str, bytes]]:
    """Return what is in a folder but not in its ``inside``, and what is beside the folder."""
    paths = [path for path in folder.rglob("*") if not path.is_relative_to(folder / "inside")]
    files = {(str(path), path.read_bytes() if path.is_file() else b"") for path in paths}
    return files | {(str(path), b"") for path in folder.parent.iterdir()}


def _with(**values: Any) -> Callable[[Path], object]:
    """Load a recipe with other values."""

    def attempt(folder: Path) -> object:
        recipe = {"name": "tried", "data": {"path": "builtin:drawn_faces"}, **values}
        (folder / "inside" / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        return load_recipe(str(folder / "inside" / "recipe.yaml"))

    return attempt


def _members(name: str, contents: dict[str, bytes]) -> Callable[[Path], object]:
    """Read a zip file with members that lead out."""

    def attempt(folder: Path) -> object:
        absolute = str(folder.parent / "absolute")
        with zipfile.ZipFile(folder / "inside" / name, "w") as archive:
            for member, inner in contents.items():
                archive.writestr(member, inner)
            for member in ("../out", "../../out", absolute, "a/../../../out"):
                archive.writestr(member + (".npy" if name.endswith(".npz") else ""), next(iter(contents.values())))
        return read_foreign(folder / "inside" / name)

    return attempt


def _array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(2, np.float32))
    return file.getvalue()


def _keras_members() -> dict[str, bytes]:
    file = io.BytesIO()
    with h5py.File(file, "w") as weights:
        weights["layers/dense/vars/0"] = np.ones((2, 3), np.float32)
    layers = [{"class_name": "Dense", "config": {"name": "dense"}}]
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    return {"config.json": json.dumps(config).encode(), "model.weights.h5": file.getvalue()}


def _shard_elsewhere(folder: Path) -> object:
    torch.save({"weight": torch.zeros(2)}, folder / "precious.bin")
    index = folder / "inside" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": "../precious.bin"}}), encoding="utf-8")
    try:
        return read_foreign(index)
    finally:
        (folder / "precious.bin").unlink()


def _linked_entry(folder: Path) -> object:
    """Clear a cache in which a link with an entry's name leads to somebody's folder."""
    kept = folder / "inside" / "pictures"
    kept.mkdir()
    (kept / f"images-{'0' * 32}").symlink_to(folder / "precious", target_is_directory=True)
    return clear_cache(folder / "inside")


def _linked_picture(folder: Path) -> object:
    people = folder / "inside" / "person"
    people.mkdir()
    Image.new("L", (4, 4)).save(people / "0.png")
    (people / "1.png").symlink_to(folder / "precious" / "file")
    return load_source(folder / "inside", columns={"image": "image"})


def _claim(folder: Path) -> object:
    """Take a folder of somebody's data for a run's."""
    return RunFolder(folder / "precious").claim(load_recipe("faces_demo"))


def _of_names() -> Sequence[Escape]:
    source = {"path": "builtin:drawn_faces"}
    found = []
    for name in NAMES:
        # YAML has no such character; the other names are refused where they stand.
        said, refused = ascii(name), "not valid YAML" if "\0" in name else None
        found += [
            Escape(f"a target called {said}", _with(targets={name: source}), refused or "targets"),
            Escape(f"minimal pairs called {said}", _with(minimal_pairs={name: source}), refused or "minimal_pairs"),
            Escape(
                f"a backbone beside called {said}",
                _with(transfer={"beside": {name: "x"}}),
                refused or "transfer.beside",
            ),
            Escape(f"a recipe called {said}", _with(name=name), refused or "name"),
        ]
    return found


def _of_zoos() -> Sequence[Escape]:
    names = ("hf/../../etc", "hf/../x", "hf//etc/passwd", "timm/../x", "timm/local-dir:/etc", "timm/hf-hub:a/b",
             "torchvision/../x", "facenet/../x", "../x", "/etc/passwd")  # fmt: skip
    return [
        Escape(f"a backbone called {name}", lambda _, name=name: build(name), name.split("/", 1)[-1]) for name in names
    ]


def _build_escapes() -> Sequence[Escape]:
    return [
        *_of_names(),
        *_of_zoos(),
        Escape("rules called ../x", lambda _: find_rule_set("../x"), 'no rules "../x"'),
        Escape("a target model called ../x", lambda folder: load(folder / "inside", "../x"), "no target model"),
        Escape("a cached key called ../precious", lambda folder: clear_cache(folder / "inside", keys=["../precious"]),
               "nothing with the key"),
        Escape("a kind of cache called ../precious", lambda folder: clear_cache(folder / "inside", kind="../precious"),
               "no kind"),
        Escape("members of an .npz", _members("w.npz", {"w.npy": _array()}), None),
        Escape("members of a Keras archive", _members("w.keras", _keras_members()), None),
        Escape("members of a PyTorch file", _members("w.pt", {"w/data.pkl": b"\x80\x02}q\x00."}), "w.pt"),
        Escape("a shard in another folder", _shard_elsewhere, "a shard is a file beside the index"),
        Escape("a link in the cache to somebody's folder", _linked_entry, None),
        Escape("a link among pictures to another file", _linked_picture, "leads out of"),
        Escape("--out of a folder with data", _claim, "it is not a run's folder"),
    ]  # fmt: skip


ESCAPES: Sequence[Escape] = _build_escapes()
