"""Files that Keras wrote, in each of its formats, read without it: the same logits; damage and code are no danger."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.errors import CheckpointError
from transfer.foreign.hdf5 import read_hdf5
from transfer.foreign.keras_archive import read_keras_archive
from transfer.foreign.rules_keras import RULES
from transfer.foreign.tensorflow_bundle import read_tensorflow_bundle
from transfer.rename import Rule, apply_rules

FIXTURES = Path(__file__).parent / "fixtures" / "keras"

FORMATS = {
    "archive": (read_keras_archive, "tiny.keras"),
    "weights": (read_hdf5, "tiny.weights.h5"),
    "whole model": (read_hdf5, "tiny.h5"),
    "saved model": (read_tensorflow_bundle, "tiny_saved"),
}
NORM = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# The weights alone do not say which of a normalisation's three arrays is not there: they have numbers.
NUMBERS = dict(zip(NORM.values(), "012", strict=True))
TINY = [
    Rule("stem/kernel", "stem.weight", "conv"),
    Rule("depthwise/kernel", "depthwise.weight", "depthwise"),
    Rule("(stem|depthwise)/bias", r"\1.bias"),
    *(Rule(f"norm/({theirs}|{NUMBERS[ours]})", f"norm.{ours}") for theirs, ours in NORM.items()),
    Rule("mix/a/kernel", "a.weight", "linear"),
    Rule("mix/a/bias", "a.bias"),
    Rule("mix/b/kernel", "b.weight", "linear"),
    Rule("logits/kernel", "logits.weight", "flattened", grid=(4, 4)),
    Rule("logits/bias", "logits.bias"),
]


class Tiny(nn.Module):
    """The network of make_keras.py."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=0.001)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4)
        self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 4, bias=False)
        self.logits = nn.Linear(64, 3)

    def forward(self, x):
        x = 2 * self.depthwise(self.norm(self.stem(x)).relu())
        x = self.b(self.a(x.movedim(1, -1))).movedim(-1, 1)
        return self.logits(x.flatten(1))


def outputs(name):
    with np.load(FIXTURES / "outputs.npz") as file:
        return torch.from_numpy(file[f"{name}_images"]).permute(0, 3, 1, 2), file[f"{name}_logits"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_network_of_keras_gives_the_same_logits_from_each_format(form):
    read, file = FORMATS[form]
    network = Tiny().eval()
    renamed = apply_rules(read(FIXTURES / file), TINY)
    assert renamed.unmatched == ()  # nor is there anything of the optimizer's
    missing, unexpected = network.load_state_dict(renamed.tensors, strict=False)
    assert unexpected == []
    assert missing == ["norm.weight"]
    images, wanted = outputs("tiny")
    with torch.no_grad():
        np.testing.assert_allclose(network(images).numpy(), wanted, rtol=0, atol=1e-5)
    assert np.abs(wanted).max() > 0.1


def test_an_archive_names_what_a_normalisation_without_scale_has():
    read = read_keras_archive(FIXTURES / "tiny.keras")
    assert [name for name in read if name.startswith("norm/")] == [f"norm/{name}" for name in NORM]


def narrow_vgg():
    """Return the network of make_keras.py by torchvision's names."""
    stages, last = [], 3
    for count, width in zip((2, 2, 3, 3, 3), (2, 2, 3, 3, 4), strict=True):
        for _ in range(count):
            stages += [nn.Conv2d(last, width, 3, padding=1), nn.ReLU()]
            last = width
        stages += [nn.MaxPool2d(2)]
    dense = [nn.Linear(16, 5), nn.ReLU(), nn.Identity(), nn.Linear(5, 5), nn.ReLU(), nn.Identity(), nn.Linear(5, 3)]
    parts = {"features": nn.Sequential(*stages[:-1]), "flatten": nn.Flatten(), "classifier": nn.Sequential(*dense)}
    network = nn.Sequential()
    for name, part in parts.items():
        network.add_module(name, part)
    return network.eval()


def test_a_narrow_vgg_gives_the_same_logits_for_pictures_the_other_way_round():
    rules = RULES["vgg16-keras"]
    prepared = rules.prepare(read_hdf5(FIXTURES / "tiny_vgg.h5"))
    flattened = [rule for rule in rules.rules if rule.layout == "flattened"]
    assert len(flattened) == 1
    # Its pictures leave 2 x 2 to flatten, not 7 x 7.
    own = [Rule(flattened[0].pattern, flattened[0].to or "", "flattened", grid=(2, 2))]
    renamed = apply_rules(prepared, [*own, *rules.rules])
    assert renamed.unmatched == ()
    network = narrow_vgg()
    network.load_state_dict(renamed.tensors, strict=True)
    images, wanted = outputs("vgg")
    with torch.no_grad():
        # Keras's kernel took blue, green, red, ours takes red, green, blue.
        np.testing.assert_allclose(network(images.flip(1)).numpy(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        assert np.abs(network(images).numpy() - wanted).max() > 1e-3


@pytest.mark.parametrize("old_names", [False, True])
def test_vgg_16_is_met_completely(old_names):
    from torchvision.models import vgg16

    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in vgg16().state_dict().items()}
    lines = (FIXTURES / "vgg16.txt").read_text(encoding="utf-8").split("\n")[:-1]
    shapes = {name: tuple(map(int, shape.split("x"))) for name, shape in (line.split(" ") for line in lines)}
    if old_names:  # of vgg16_weights_tf_dim_ordering_tf_kernels.h5: block1_conv1/block1_conv1_W_1
        shapes = {
            f"{layer}/{layer}_{'W' if kind == 'kernel' else 'b'}_1": shape
            for (layer, kind), shape in ((name.split("/"), shape) for name, shape in shapes.items())
        }
    rules = RULES["vgg16-keras"]
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    renamed = apply_rules(rules.prepare(tensors), rules.rules)
    assert renamed.unmatched == ()
    assert {name: tuple(tensor.shape) for name, tensor in renamed.tensors.items()} == wanted


def test_files_of_keras_1_and_names_in_several_attributes_are_read(tmp_path):
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names0"] = [b"block1_conv1"]
        file.attrs["layer_names1"] = [b"pool", b"fc1"]
        for layer, names in {"block1_conv1": ["W", "b"], "pool": [], "fc1": ["W"]}.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}_{name}_1:0".encode() for name in names]
            for place, name in enumerate(names):
                group[f"{layer}_{name}_1:0"] = np.full(2, place, np.float32)
    read = read_hdf5(tmp_path / "old.h5")
    assert list(read) == ["block1_conv1/block1_conv1_W_1", "block1_conv1/block1_conv1_b_1", "fc1/fc1_W_1"]
    assert read["block1_conv1/block1_conv1_b_1"].tolist() == [1, 1]


def test_bfloat16_becomes_float32(tmp_path):
    with h5py.File(tmp_path / "half.weights.h5", "w") as file:
        data = file.create_dataset("layers/dense/vars/0", data=np.asarray([0x3F80, 0xC000], np.uint16).view("V2"))
        data.attrs["dtype"] = "bfloat16"
    read = read_hdf5(tmp_path / "half.weights.h5")
    assert read["dense/0" if "dense/0" in read else "dense/kernel"].tolist() == [1.0, -2.0]


def test_code_in_an_archive_is_never_run(tmp_path):
    with zipfile.ZipFile(FIXTURES / "tiny.keras") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert b"__lambda__" in content["config.json"]
    config = json.loads(content["config.json"])
    config["module"] = "os"
    config["config"]["layers"][5]["config"]["function"] = {"class_name": "__lambda__", "config": {"code": "!"}}
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "evil.keras", "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    assert read_keras_archive(tmp_path / "evil.keras").keys() == read_keras_archive(FIXTURES / "tiny.keras").keys()


@pytest.mark.parametrize("file", ["tiny.h5", "tiny.weights.h5"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.95])
def test_a_file_cut_short_is_an_error(tmp_path, file, share):
    content = (FIXTURES / file).read_bytes()
    (tmp_path / file).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_hdf5(tmp_path / file)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_an_archive_cut_short_is_an_error(tmp_path, share):
    content = (FIXTURES / "tiny.keras").read_bytes()
    (tmp_path / "tiny.keras").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="no zip file, damaged or cut short"):
        read_keras_archive(tmp_path / "tiny.keras")


def test_a_turned_bit_in_an_archive_is_noticed(tmp_path):
    content = bytearray((FIXTURES / "tiny.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "tiny.keras").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or cut short: Bad CRC-32"):
        read_keras_archive(tmp_path / "tiny.keras")


def test_what_is_not_of_keras_is_an_error_that_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        read_hdf5(tmp_path / "none.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["measurements"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="holds no weights of Keras"):
        read_hdf5(tmp_path / "other.h5")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(CheckpointError, match=r"no archive of Keras: .*config\.json"):
        read_keras_archive(tmp_path / "other.keras")
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["vars/0"] = np.zeros(1)
    with zipfile.ZipFile(tmp_path / "odd.keras", "w") as archive:
        archive.writestr("config.json", "[1]")
        archive.writestr("model.weights.h5", weights.getvalue())
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a model"):
        read_keras_archive(tmp_path / "odd.keras")


def test_two_layers_of_one_name_are_an_error(tmp_path):
    shutil.copy(FIXTURES / "tiny.weights.h5", tmp_path / "twice.weights.h5")
    with h5py.File(tmp_path / "twice.weights.h5", "r+") as file:
        file["layers/dense/vars"].attrs["name"] = "stem"
    with pytest.raises(CheckpointError, match="holds two arrays called stem/"):
        read_hdf5(tmp_path / "twice.weights.h5")


@pytest.mark.parametrize(
    ("name", "place", "byte"),
    [("tiny.weights.h5", 16419, 234), ("tiny.weights.h5", 20403, 174), ("tiny.h5", 11245, 255)],
    ids=["address", "type of numbers", "name"],
)
def test_a_changed_byte_of_the_structure_is_an_error_that_names_the_file(tmp_path, name, place, byte):
    """At each of these, h5py raises another of Python's own errors."""
    content = bytearray((FIXTURES / name).read_bytes())
    content[place] = byte
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged or cut short"):
        read_hdf5(tmp_path / name)
