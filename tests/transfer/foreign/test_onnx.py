"""ONNX initializers: what PyTorch exported comes back to the bit, in every type, and files that lie are refused."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.errors import CheckpointError, TransferError
from transfer.foreign import check_outputs, read_foreign
from transfer.foreign.load import load_foreign
from transfer.foreign.onnx import read_onnx

FIXTURES = Path(__file__).parent / "fixtures" / "onnx"


def make_network():
    layers = {
        "conv": nn.Conv2d(3, 4, 3, padding=1), "norm": nn.BatchNorm2d(4), "act": nn.ReLU(), "flat": nn.Flatten(),
        "hidden": nn.Linear(144, 5), "act2": nn.Tanh(), "head": nn.Linear(5, 3),
    }  # fmt: skip
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


@pytest.mark.parametrize("file", ["convnet.onnx", "external.onnx"])
def test_an_exported_network_gives_the_same_outputs(file):
    network = make_network()
    plan = load_foreign(FIXTURES / file, network, least_share=1.0)
    assert plan.missing == plan.unexpected == ()
    with np.load(FIXTURES / "convnet_outputs.npz") as arrays:
        assert check_outputs(network, arrays["inputs"], arrays["outputs"]).difference < 1e-6
    assert network.training  # the check leaves the mode as it was


def test_a_folded_norm_is_told_by_the_audit():
    plan = load_foreign(FIXTURES / "folded.onnx", make_network(), dry_run=True)
    assert {name for name in plan.missing if name.startswith(("conv", "norm"))} == set(plan.missing)
    assert plan.unexpected == ("onnx::Conv_20", "onnx::Conv_21")
    with pytest.raises(TransferError, match="share"):
        load_foreign(FIXTURES / "folded.onnx", make_network(), least_share=0.99)


def test_every_type_of_number_raw_and_listed():
    found = read_onnx(FIXTURES / "types.onnx")
    expected = json.loads((FIXTURES / "types.json").read_text())
    assert len(found) == 2 * len(expected) + 1
    for kind, values in expected.items():
        wanted = [ast.literal_eval(value) for value in values]
        for form in ("listed", "raw"):
            array = found[f"{kind} {form}"]
            assert tuple(array.shape) == (2, 1)
            assert [complex(one) if "COMPLEX" in kind else one for one in array.flatten().tolist()] == wanted
            name = str(array.dtype).removeprefix("torch.").upper()
            assert name == {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}.get(kind, kind)
    assert found["scalar"].shape == ()
    assert found["scalar"] == 3.0


def test_texts_are_refused():
    with pytest.raises(CheckpointError, match="'words' holds texts"):
        read_onnx(FIXTURES / "texts.onnx")


def varint(number):
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(place, value):
    return varint(place << 3) + varint(value)


def model(*tensors):
    return field(7, b"".join(field(5, tensor) for tensor in tensors))


def external(**entries):
    pairs = (field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in entries.items())
    return number(1, 2) + number(2, 1) + field(8, b"w") + number(14, 1) + b"".join(pairs)


def test_numbers_outside_the_folder_are_never_read(tmp_path):
    (tmp_path / "secret.data").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    (folder / "link.data").symlink_to(tmp_path / "secret.data")
    for location in ("../secret.data", str(tmp_path / "secret.data"), "link.data", "", ".", "a\0b"):
        path.write_bytes(model(external(location=location)))
        with pytest.raises(CheckpointError, match="no file in the model's own folder"):
            read_onnx(path)
    (folder / "here.data").write_bytes(np.asarray([0, 1.5, -2], "<f4").tobytes())
    path.write_bytes(model(external(location="here.data", offset="4", length="8")))
    np.testing.assert_array_equal(read_onnx(path)["w"], [1.5, -2])
    for entries, message in [
        ({"offset": "8"}, "cut short: 'w' has 8 bytes at byte 8, 4 are there"),
        ({"offset": str(1 << 70)}, "cut short: 'w' has 8 bytes at byte 1180591620717411303424, 0 are there"),
        ({"length": "12"}, "takes 8 bytes; here.data is said to hold 12"),
        ({"offset": "many"}, "is damaged: where 'w' lies"),
        ({"location": "none.data"}, "cannot be read"),
    ]:
        path.write_bytes(model(external(**{"location": "here.data", **entries})))
        with pytest.raises(CheckpointError, match=message):
            read_onnx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no graph"),
        (field(7, b""), "without initializers"),
        (field(7, field(15, b"")), "sparse ones, which are not read"),
        (model(number(1, 2) + number(2, 1) + field(8, b"w") + field(9, bytes(4))), r"\(2,\) of float32, but 4 bytes"),
        (model(number(1, 2) + number(2, 1) + field(8, b"w") + field(4, bytes(12))), "but 3 numbers"),
        (model(number(2, 20) + field(8, b"w")), "'w' holds numbers of ONNX's type 20"),
        (model(*[number(1, 1) + number(2, 1) + field(8, b"w") + field(9, bytes(4))] * 2), "two initializers"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_onnx(path)


def test_cut_and_missing_files_are_refused(tmp_path):
    whole, path = (FIXTURES / "folded.onnx").read_bytes(), tmp_path / "cut.onnx"
    for length in range(1, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.onnx"):
            read_foreign(path)
    shutil.copy(FIXTURES / "external.onnx", tmp_path / "alone.onnx")
    with pytest.raises(CheckpointError, match=r"external\.data"):
        read_onnx(tmp_path / "alone.onnx")


def test_the_arrays_can_be_copied_without_a_warning():
    assert torch.equal(
        torch.as_tensor(np.array(read_onnx(FIXTURES / "convnet.onnx")["conv.bias"])),
        torch.as_tensor(np.array(read_onnx(FIXTURES / "external.onnx")["conv.bias"])),
    )
