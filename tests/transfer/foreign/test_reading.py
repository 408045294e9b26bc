"""Finding the kind of a weights file: by contents, by suffix, by what a folder holds; and the table of rules."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import transfer.foreign
from auxtasks.backbones import build, mlp
from auxtasks.errors import CheckpointError, TransferError
from transfer.foreign import KINDS, read_foreign
from transfer.foreign.load import load_foreign
from transfer.foreign.rule_sets import RULE_SETS, find_rule_set
from transfer.foreign.weights import find_kind
from transfer.rename import Rule

FIXTURES = Path(__file__).parent / "fixtures"
HERE = {  # a file of each kind, written by the framework itself
    "npz": "jax/vit.npz",
    "flax-msgpack": "jax/vit.msgpack",
    "onnx": "onnx/folded.onnx",
    "caffe": "caffe/vgg.caffemodel",
    "keras-h5": "keras/tiny.h5",
    "keras": "keras/tiny.keras",
    "tensorflow": "tensorflow/convnet.ckpt",
    "tensorflow-v1": "tensorflow/convnet_v1.ckpt",
}


@pytest.mark.parametrize("kind", HERE)
def test_each_kind_is_found_and_read(kind):
    found = read_foreign(FIXTURES / HERE[kind])
    assert found.kind == kind
    assert found.path == FIXTURES / HERE[kind]
    assert found.tensors
    assert all(tensor.ndim <= 4 for tensor in found.tensors.values())


@pytest.mark.parametrize("kind", [kind for kind in HERE if kind != "tensorflow"])  # several files go together
def test_a_kind_that_is_given_counts_more_than_the_suffix(tmp_path, kind):
    path = tmp_path / "weights.v2"
    shutil.copy(FIXTURES / HERE[kind], path)
    assert read_foreign(path, kind).tensors.keys() == read_foreign(FIXTURES / HERE[kind]).tensors.keys()


def test_contents_count_more_than_a_wrong_suffix(tmp_path):
    shutil.copy(FIXTURES / HERE["npz"], tmp_path / "renamed.h5")
    torch.save({"w": torch.ones(1)}, tmp_path / "renamed.npz")
    assert read_foreign(tmp_path / "renamed.h5").kind == "npz"
    assert read_foreign(tmp_path / "renamed.npz").kind == "torch"


def test_a_file_cut_short_is_read_by_its_suffix_and_refused_there(tmp_path):
    whole = (FIXTURES / HERE["npz"]).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.npz is damaged or cut short"):
        read_foreign(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    "file", ["jax/halves.npz", "jax/halves.msgpack", "jax/chunked.msgpack", "onnx/types.onnx", "caffe/norm.caffemodel",
             "t.pt", "t.safetensors"],
)  # fmt: skip
def test_a_file_with_changed_bytes_is_read_or_refused_and_nothing_else(tmp_path, file):
    """Nothing but our own error comes out, whichever bytes are others; and most of the changes are noticed."""
    torch.save({"a": torch.ones(3, 4), "b": torch.ones(2)}, tmp_path / "t.pt")
    safetensors.torch.save_file({"a": torch.ones(3, 4)}, tmp_path / "t.safetensors")
    source = tmp_path / file if file.startswith("t.") else FIXTURES / file
    whole, path, rng, refused = source.read_bytes(), tmp_path / f"x{source.suffix}", np.random.default_rng(0), 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_foreign(path)
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_an_unknown_file_lists_all_kinds(tmp_path):
    path = tmp_path / "weights.xyz"
    path.write_bytes(b"nothing that anybody knows")
    with pytest.raises(CheckpointError, match=r'no weights file of a known kind.*"\.xyz"') as raised:
        read_foreign(path)
    assert all(f"  {kind}: " in str(raised.value) for kind in KINDS)
    with pytest.raises(CheckpointError, match=r'no kind "onx" of weights file\. Did you mean "onnx"'):
        read_foreign(path, "onx")
    with pytest.raises(CheckpointError, match="there is no file or folder"):
        read_foreign(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="holds no weights that are known"):
        read_foreign(tmp_path)


def test_a_folder_is_read_by_what_it_holds(tmp_path):
    shutil.copy(FIXTURES / HERE["flax-msgpack"], tmp_path / "flax_model.msgpack")
    assert read_foreign(tmp_path).path.name == "flax_model.msgpack"
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")  # PyTorch's own first
    assert read_foreign(tmp_path).kind == "torch"
    mlp(width=2, hidden=[3], seed=0).save_pretrained(tmp_path / "saved")
    assert read_foreign(tmp_path / "saved").kind == "safetensors"


def test_tensorflow_is_found_without_a_file_of_that_name(tmp_path):
    for name in ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"")
    assert find_kind(tmp_path / "bert_model.ckpt") == "tensorflow"
    assert find_kind(tmp_path / "bert_model.ckpt.index") == "tensorflow"
    variables = tmp_path / "saved" / "variables"
    variables.mkdir(parents=True)
    (variables / "variables.index").write_bytes(b"")
    assert find_kind(tmp_path / "saved") == "tensorflow"
    with pytest.raises(CheckpointError, match="variables"):
        read_foreign(tmp_path / "saved")


def test_an_archive_of_keras_and_hdf5_are_told_by_their_contents(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "model", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"")
    (tmp_path / "weights").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(8))
    assert find_kind(tmp_path / "model") == "keras"
    assert find_kind(tmp_path / "weights") == "keras-h5"


def test_the_table_of_rules_is_closed_and_names_networks_that_exist():
    assert sorted(RULE_SETS) == [
        "bert-tensorflow", "facenet-tensorflow", "resnet50-slim", "vgg16-caffe", "vgg16-keras", "vit-big-vision",
    ]  # fmt: skip
    for name, found in RULE_SETS.items():
        assert found.name == name
        assert found.rules
        assert all((found.source, found.into, found.reference, found.preprocessing))
    with pytest.raises(TransferError, match=r'no rules "vgg16-cafe"\. Did you mean "vgg16-caffe"') as raised:
        find_rule_set("vgg16-cafe")
    assert all(f"  {name}: " in str(raised.value) for name in RULE_SETS)


def test_rules_of_ones_own_and_a_dry_run(tmp_path):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((2, 3)).astype(np.float32)
    np.savez(tmp_path / "w.npz", **{"a/kernel": kernel, "a/bias": np.ones(3, np.float32), "step": np.asarray(1)})
    target = mlp(width=2, hidden=[3], seed=0)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    rules = [Rule("a/kernel", "0.0.weight", "linear"), Rule("a/bias", "0.0.bias")]
    plan = load_foreign(tmp_path / "w.npz", target, rules, dry_run=True)
    assert plan.unexpected == ("step",)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())
    load_foreign(tmp_path / "w.npz", target, rules, least_share=1.0)
    x = rng.standard_normal((5, 2)).astype(np.float32)
    torch.testing.assert_close(target(torch.from_numpy(x)), torch.from_numpy(np.maximum(x @ kernel + 1, 0)))
    assert "w.npz" in str(target.provenance)
    with pytest.raises(TransferError, match="nothing"):
        load_foreign(tmp_path / "w.npz", mlp(width=2, hidden=[3], seed=0), "vgg16-caffe")


def test_a_set_reads_into_a_backbone_of_the_zoo(tmp_path):
    """The whole way on a network of true size: rules, audit and a saved backbone that remembers where it came from."""
    backbone = build("timm", name="vit_tiny_patch16_224", seed=0)
    state = backbone.module.state_dict()
    source = {"head/kernel": np.zeros((192, 10), np.float32), "cls": np.full((1, 1, 192), 2, np.float32)}
    np.savez(tmp_path / "part.npz", **source)
    plan = load_foreign(tmp_path / "part.npz", backbone, "vit-big-vision")
    assert plan.loaded == ("cls_token",)
    assert plan.unexpected == ("head/kernel",)
    assert float(state["cls_token"].sum()) == 2 * 192
    assert "tanh" in plan.describe()
    with pytest.raises(TransferError, match="share"):
        load_foreign(tmp_path / "part.npz", backbone, "vit-big-vision", least_share=0.5)


@pytest.mark.parametrize("name", sorted(set(RULE_SETS) - {"bert-tensorflow"}))
def test_the_audit_says_how_pictures_must_be_normalised(tmp_path, name):
    """A network that is fed on another scale computes something else, without an error."""
    np.savez(tmp_path / "w.npz", any=np.zeros(1, np.float32))

    def told(**scale):
        network = build("torchvision/resnet18", size=32, **scale)
        return load_foreign(tmp_path / "w.npz", network, name, dry_run=True).describe()

    asked = re.search(r"normalises .* Build it with mean=(\[.*?\]) std=(\[.*?\])\.", told())
    mean, std = (json.loads(asked[place]) for place in (1, 2))
    assert "normalises" not in told(mean=mean, std=std)
    assert "normalises" in told(mean=mean)
    scale = {"facenet-tensorflow": (127.5, 128), "vit-big-vision": (127.5, 127.5)}.get(
        name, ([123.68, 116.78, 103.94], 1)
    )
    np.testing.assert_allclose(np.multiply(mean, 255), np.broadcast_to(scale[0], 3), atol=0.002)
    np.testing.assert_allclose(np.multiply(std, 255), scale[1], rtol=1e-6)


def test_facenet_is_built_with_the_scale_of_its_weights():
    plan = load_foreign(FIXTURES / "jax/vit.npz", build("facenet", size=80), "facenet-tensorflow", dry_run=True)
    assert "trained on: faces" in plan.describe()
    assert "normalises" not in plan.describe()


def test_the_public_names():
    assert sorted(transfer.foreign.__all__) == [
        "Check", "ForeignWeights", "KINDS", "RuleSet", "check_file", "check_outputs", "read_foreign",
    ]  # fmt: skip


@pytest.mark.processes
def test_reading_needs_no_other_framework():
    heavy = ("tensorflow", "keras", "jax", "flax", "onnx", "caffe", "google.protobuf", "msgpack")
    files = [str(FIXTURES / file) for file in HERE.values()]
    code = f"import sys; from transfer.foreign import read_foreign; [read_foreign(f) for f in {files}]; "
    code += f"print(*[name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
