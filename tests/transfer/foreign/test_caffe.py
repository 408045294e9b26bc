"""Caffe's files: a tiny VGG16 in both formats gives the same logits here, and its names are torchvision's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.errors import CheckpointError, TransferError
from transfer.foreign import check_outputs, read_foreign
from transfer.foreign.caffe import read_caffe
from transfer.foreign.load import load_foreign
from transfer.foreign.rules_caffe import RULES
from transfer.rename import Rule, apply_rules

FIXTURES = Path(__file__).parent / "fixtures" / "caffe"
BLOCKS = ((2, 2), (3, 3), (4, 4, 4), (4, 4, 4), (5, 5, 5))


def tiny_vgg():
    """Build VGG16 as torchvision has it, 2 to 5 channels wide, for 64 pixels."""
    from torchvision.models.vgg import make_layers

    torch.manual_seed(3)
    network = nn.Module()
    network.features = make_layers([width for block in BLOCKS for width in (*block, "M")])
    network.classifier = nn.Sequential(
        nn.Linear(5 * 2 * 2, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)
    )
    network.forward = lambda x: network.classifier(network.features(x).flatten(1))
    return network


def outputs():
    """Return pictures (N, 3, H, W) in red, green, blue, scaled as in the fixture, and logits."""
    with np.load(FIXTURES / "vgg_outputs.npz") as file:
        pixels = torch.from_numpy(file["pixels"]).permute(0, 3, 1, 2).double()
        return (pixels / 127.5 - 1).float(), file["logits"]


@pytest.mark.parametrize("file", ["vgg.caffemodel", "vgg_today.caffemodel"])
def test_vgg16_gives_the_same_logits(file):
    network = tiny_vgg()
    plan = load_foreign(FIXTURES / file, network, "vgg16-caffe", least_share=1.0)
    assert plan.missing == plan.unexpected == plan.left_out == ()
    assert any("blue, green, red" in note for note in plan.notes)
    images, logits = outputs()
    assert check_outputs(network, images, logits).difference < 1e-5
    with pytest.raises(TransferError, match="not those expected"):
        check_outputs(network, images.flip(1), logits)  # the order of the channels matters


def test_both_formats_hold_the_same():
    old, new = (read_foreign(FIXTURES / f"{name}.caffemodel") for name in ("vgg", "vgg_today"))
    assert old.kind == new.kind == "caffe"
    assert old.tensors.keys() == new.tensors.keys()
    for name, array in old.tensors.items():
        np.testing.assert_array_equal(array, new.tensors[name])


def test_all_names_of_the_published_network_map_onto_torchvisions():
    import torchvision

    with torch.device("meta"):
        network = torchvision.models.vgg16()
    source, channels = {}, 3
    for block, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for place in range(1, count + 1):
            source[f"conv{block}_{place}/0"] = torch.empty(width, channels, 3, 3, device="meta")
            source[f"conv{block}_{place}/1"] = torch.empty(width, device="meta")
            channels = width
    for name, (into, out) in {"fc6": (25088, 4096), "fc7": (4096, 4096), "fc8": (4096, 1000)}.items():
        source[f"{name}/0"] = torch.empty(out, into, device="meta")
        source[f"{name}/1"] = torch.empty(out, device="meta")
    renamed = apply_rules(source, RULES["vgg16-caffe"].rules)
    assert renamed.unmatched == ()
    here = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in renamed.tensors.items()} == here


def test_shapes_of_old_blobs_and_doubles_and_the_factor_of_a_norm():
    found = read_caffe(FIXTURES / "norm.caffemodel")
    assert {name: array.shape for name, array in found.items()} == {
        "one_by_one/0": (1, 1, 1, 3), "score/0": (1, 3), "score/1": (1,), "bn/0": (2,), "bn/1": (2,),
        "scale/0": (2,), "scale/1": (2,),
    }  # fmt: skip
    np.testing.assert_array_equal(found["bn/0"], [0.5, 1.0])  # sums by the factor of 4
    np.testing.assert_array_equal(found["bn/1"], [1.5, 2.5])
    assert found["scale/0"].dtype == np.float64
    rules = [Rule("bn/0", "running_mean"), Rule("bn/1", "running_var"), Rule("scale/0", "weight"),
             Rule("scale/1", "bias"), Rule(".*", None)]  # fmt: skip
    norm = nn.BatchNorm2d(2)
    load_foreign(FIXTURES / "norm.caffemodel", norm, rules, least_share=1.0)
    x = torch.ones(1, 2, 1, 1)
    expected = [1.5 * (1 - 0.5) / np.sqrt(1.5 + 1e-5) + 0.5, -2.0 * (1 - 1.0) / np.sqrt(2.5 + 1e-5) + 0.25]
    check_outputs(norm, x, np.reshape(expected, (1, 2, 1, 1)))


def test_a_damaged_factor_of_a_norm_gives_numbers_that_no_network_takes(tmp_path):
    content = bytearray((FIXTURES / "norm.caffemodel").read_bytes())
    content[156] = 0  # the factor of 4 becomes 1e-38
    (tmp_path / "n.caffemodel").write_bytes(content)
    rules = [Rule("bn/0", "running_mean"), Rule("bn/1", "running_var"), Rule(".*", None)]
    with pytest.raises(TransferError, match="NaN or infinite values in running_"):
        load_foreign(tmp_path / "n.caffemodel", nn.BatchNorm2d(2), rules, select="running")


def field(number, content):
    assert len(content) < 128
    return bytes([(number << 3 | 2) & 0x7F | (0x80 if number > 15 else 0)]) + (
        bytes([number >> 4]) if number > 15 else b"") + bytes([len(content)]) + content  # fmt: skip


def layer(name, *blobs):
    return field(100, field(1, name.encode()) + b"".join(field(7, blob) for blob in blobs))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no layer with blobs"),
        (layer("relu"), "no layer with blobs"),
        (layer("conv", field(5, bytes(8)) + field(7, field(1, b"\x03"))), r"'conv/0' .* \(3,\), but 2 numbers"),
        (layer("conv", field(5, bytes(6))), "field 5 should hold numbers of 4 bytes"),
        (layer("a", field(5, bytes(4))) + layer("a", field(5, bytes(4))), "two layers with blobs are called 'a'"),
    ],
)  # fmt: skip
def test_what_is_no_caffemodel_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.caffemodel"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_caffe(path)


def test_a_file_cut_short_is_refused(tmp_path):
    whole, path = (FIXTURES / "vgg.caffemodel").read_bytes(), tmp_path / "cut.caffemodel"
    found = 0
    for length in range(1, len(whole), 61):
        path.write_bytes(whole[:length])
        try:
            tensors = read_foreign(path).tensors
        except CheckpointError as error:
            assert "cut.caffemodel" in str(error)  # noqa: PT017
            found += 1
        else:
            # Cut between two layers it is a whole file of fewer: protocol buffers have no end. The audit tells.
            with pytest.raises(TransferError, match="share"):
                load_foreign(path, tiny_vgg(), "vgg16-caffe", least_share=1.0)
            assert len(tensors) < 32
    assert found > 100
