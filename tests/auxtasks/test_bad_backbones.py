"""Saved backbones that are damaged, and names and arguments that make none: told, whatever is wrong."""

import json
import shutil
import struct

import pytest
import safetensors.torch
import torch

from auxtasks.backbones import Backbone, build, mlp
from auxtasks.backbones.weights import read_weights
from auxtasks.errors import BackboneError, CheckpointError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return mlp(width=2, hidden=[3], seed=0).save_pretrained(tmp_path_factory.mktemp("saved") / "backbone")


def damaged(saved, tmp_path, file, damage):
    place = shutil.copytree(saved, tmp_path / "damaged")
    damage(place / file)
    return place


def with_text(text):
    return lambda place: place.write_text(text)


def with_values(**values):
    """Change keys of a JSON file."""
    return lambda place: place.write_text(json.dumps({**json.loads(place.read_text()), **values}))


def with_argument(**values):
    def damage(place):
        found = json.loads(place.read_text())
        place.write_text(json.dumps({**found, "arguments": {**found["arguments"], **values}}))

    return damage


def with_tensors(change):
    return lambda place: safetensors.torch.save_file(change(safetensors.torch.load_file(place)), place)


def folder_instead(place):
    place.unlink()
    place.mkdir()


@pytest.mark.parametrize("file", ["manifest.json", "config.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_text("[]"), r"is damaged: expected names and values, found list"),
        (with_text("3"), r"is damaged: expected names and values, found int"),
        (with_text("null"), r"is damaged: expected names and values, found NoneType"),
        (with_text(""), r"is damaged: "),
        (with_text('{"a":'), r"is damaged: "),
        (with_text("[" * 100_000), r"is damaged: .*recursion"),
        (with_text("1" * 5000), r"is damaged: .*4300 digits"),
        (lambda place: place.write_bytes(b'{"\xff": 1}'), r"is damaged: .*utf-8"),
        (lambda place: place.unlink(), r"is missing: the folder .* is not complete"),
        (folder_instead, r"cannot be read: Is a directory"),
    ],
)
def test_a_damaged_description_is_named(saved, tmp_path, file, damage, message):
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.") + " " + message):
        Backbone.from_pretrained(damaged(saved, tmp_path, file, damage))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("manifest.json", with_values(schema=2), r"has schema 2; this version of auxtasks reads schema 1"),
        ("manifest.json", with_values(schema="1"), r"has schema 1; this version"),
        ("manifest.json", with_values(weights_digest="0"), r"does not match the digest in manifest\.json"),
        ("manifest.json", with_values(weights_digest=None), r"does not match the digest"),
        ("manifest.json", with_values(provenance=[1]), r"manifest\.json is damaged: provenance is \[1\]"),
        ("config.json", with_values(family="mlpp"), r"holds family 'mlpp'; known are .*mlp"),
        ("config.json", with_values(family=[]), r"holds family \[\]; known are"),
        ("config.json", with_values(family="../mlp"), r"holds family '\.\./mlp'"),
        ("config.json", with_values(arguments=[1]), r"does not describe a mlp"),
        ("config.json", with_values(arguments=None), r"does not describe a mlp"),
        ("config.json", with_argument(wdth=3), r"does not describe a mlp: .*wdth"),
        ("config.json", with_argument(width="a"), r"does not describe a mlp"),
        ("config.json", with_argument(width=-1), r"does not describe a mlp: width must be at least 1, found -1"),
        ("config.json", with_argument(width=10**30), r"does not describe a mlp"),
        ("config.json", with_argument(hidden="abc"), r"does not describe a mlp"),
        ("config.json", with_argument(hidden=[None]), r"does not describe a mlp"),
        ("config.json", with_argument(seed="x"), r"does not describe a mlp"),
        ("config.json", with_argument(seed=10**40), r"does not describe a mlp"),
        ("config.json", with_argument(width=7), r"do not fit this module: .*size mismatch"),
        ("model.safetensors", lambda place: place.unlink(), r"model\.safetensors is missing"),
        ("model.safetensors", lambda place: place.write_bytes(b""), r"is damaged or cut short"),
        ("model.safetensors", folder_instead, r"model\.safetensors (cannot be read|is damaged)"),
        ("model.safetensors", lambda place: place.write_bytes(struct.pack("<Q", 2**62) + b"{}"), r"header too large"),
        ("model.safetensors", with_tensors(lambda state: {}), r"do not fit this module: .*Missing"),
        ("model.safetensors", with_tensors(lambda state: {**state, "x": torch.zeros(1)}), r"Unexpected key"),
        ("model.safetensors", with_tensors(lambda state: {name: torch.zeros(7) for name in state}), r"size mismatch"),
        ("model.safetensors", with_tensors(lambda state: {name: value + 1 for name, value in state.items()}),
         r"does not match the digest in manifest\.json: it was changed"),
    ],
)  # fmt: skip
def test_a_damaged_backbone_is_told(saved, tmp_path, file, damage, message):
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        Backbone.from_pretrained(damaged(saved, tmp_path, file, damage))


def test_weights_cut_at_any_byte_are_never_loaded(saved, tmp_path, record_property):
    place = shutil.copytree(saved, tmp_path / "cut")
    whole = (place / "model.safetensors").read_bytes()
    for length in range(len(whole)):
        (place / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short"):
            Backbone.from_pretrained(place)
    (place / "model.safetensors").write_bytes(whole)
    assert Backbone.from_pretrained(place).layer_names == ("hidden1",)
    record_property("inputs", len(whole))


@pytest.mark.parametrize("name", ["none", "a" * 400, "a\0b", ""])
def test_a_folder_that_is_no_backbone_is_told(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"is not a folder|manifest\.json is missing"):
        Backbone.from_pretrained(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["", "/", "\0", "timm", "hf", "timm/", "timm/../x", "timm/a\0b", "timm/hf-hub:a/b", "timm/local-dir:/tmp",
     "timm/resnet18.", "timm/resnet18.nothing", "hf/", "hf/../../etc", "hf/a/b/c", "hf/a\0", "hf/" + "x" * 300,
     "torchvision/", "torchvision/../x", "torchvision/resnet18.x", "facenet/", "facenet/../x", "../../etc/passwd",
     "x" * 10_000],
)  # fmt: skip
def test_a_name_that_names_no_backbone_is_told(name):
    with pytest.raises(BackboneError, match=r".{20}"):  # in words
        build(name)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mlp", {"width": 10**30}, r"mlp cannot be built from width=1000000000000000000000000000000: "),
        ("mlp", {"width": 4, "seed": 10**40}, r"mlp cannot be built from width=4, seed=1000"),
        ("mlp", {"width": 4, "hidden": [-1]}, r"at least 1, found -1"),
        ("mlp", {"width": True}, r"width must be .*int.*, found True"),
        ("torchvision/resnet18", {"size": 10**9}, r"torchvision cannot be built from .*size=1000000000: "),
        ("torchvision/resnet18", {"weights": "/dev/zero"}, r"there is no file /dev/zero"),
        ("torchvision/resnet18", {"weights": "x" * 5000}, r"there is no file x+"),
        ("torchvision/resnet18", {"weights": "a\0b"}, r"there is no file a"),
    ],
)
def test_arguments_that_make_no_backbone_are_told(name, arguments, message):
    with pytest.raises(BackboneError, match=message):
        build(name, **arguments)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02]q\x00.", b"not a file of weights", bytes(99)]
)
def test_a_file_that_holds_no_weights_is_told(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(BackboneError, match=r"weights: .*x\.pt"):
        read_weights(tmp_path / "x.pt")
