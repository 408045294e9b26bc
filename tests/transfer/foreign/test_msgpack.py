"""Flax's msgpack: the same arrays as its .npz, every kind of leaf, and files that are damaged."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from auxtasks.errors import CheckpointError
from transfer.foreign import read_foreign
from transfer.foreign.flax_msgpack import read_flax_msgpack
from transfer.foreign.load import load_foreign

FIXTURES = Path(__file__).parent / "fixtures" / "jax"


def test_the_tree_is_that_of_the_npz():
    found = read_foreign(FIXTURES / "vit.msgpack")
    assert found.kind == "flax-msgpack"
    plain = read_foreign(FIXTURES / "vit.npz").tensors
    assert found.tensors.keys() == {*plain, "step"}
    assert found.tensors["step"] == 12
    for name, array in plain.items():
        np.testing.assert_array_equal(found.tensors[name], array)


def test_it_loads_with_the_same_rules():
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2, num_classes=3, no_embed_class=True
    )
    plan = load_foreign(FIXTURES / "vit.msgpack", network, "vit-big-vision", least_share=1.0)
    assert plan.left_out == ("step",)
    assert plan.missing == plan.unexpected == ()


def test_leaves_of_other_types():
    found = read_flax_msgpack(FIXTURES / "halves.msgpack")
    assert found["scale"].equal(torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16))
    np.testing.assert_array_equal(found["counts"], [0, 1, 2])
    assert found["on"].dtype == bool
    assert found["on"].item() is True
    assert "note" not in found


def test_chunks_are_joined():
    np.testing.assert_array_equal(read_flax_msgpack(FIXTURES / "chunked.msgpack")["big"], np.arange(15.0).reshape(3, 5))


def tree(value):
    """Pack {"a": value}."""
    return b"\x81\xa1a" + value


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (b"\x07", 7), (b"\xff", -1), (b"\xcc\xff", 255), (b"\xcd\x01\x00", 256), (b"\xce\x00\x01\x00\x00", 65536),
        (b"\xcf" + b"\x00" * 7 + b"\x05", 5), (b"\xd0\x80", -128), (b"\xd1\xff\xfe", -2),
        (b"\xd2\xff\xff\xff\xfd", -3), (b"\xd3" + b"\xff" * 8, -1), (b"\xca" + struct.pack(">f", 1.5), 1.5),
        (b"\xcb" + struct.pack(">d", -0.1), -0.1), (b"\xc2", False), (b"\xc3", True),
    ],
)  # fmt: skip
def test_numbers_of_every_width(tmp_path, packed, expected):
    path = tmp_path / "number.msgpack"
    path.write_bytes(tree(packed))
    assert read_flax_msgpack(path)["a"] == expected


def test_lists_and_long_texts_and_trees(tmp_path):
    path = tmp_path / "list.msgpack"
    path.write_bytes(b"\xde\x00\x03" + b"\xd9\x01a\xdc\x00\x02\x01\x02" + b"\xda\x00\x01b\xc0" + b"\xa1c\xc4\x01\x00")
    assert {name: int(value) for name, value in read_flax_msgpack(path).items()} == {"a/0": 1, "a/1": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1 bytes are expected at byte 0"),
        (tree(b"\x01") + b"\x00", "1 bytes follow the tree"),
        (b"\x93\x01\x02\x03", "no tree of names, but list"),
        (tree(b"\xc1"), "begins with byte 0xc1"),
        (b"\x81\x01\x01", "a name is expected, found int"),
        (tree(b"\xd4\x07\x00"), "an extension of type 7"),
        (tree(b"\xd4\x01\x05"), "its shape, dtype and bytes"),
        (tree(b"\xc7\x08\x01\x93\x91\x05\xa2u1\xc4\x01\x00"[:3] + b"\x93\x91\x05\xa2u1\xc0"), "cut short"),
        (tree(b"\xc7\x0c\x01\x93\x91\x05\xa5uint8\xc4\x01\x00"), r"an array \(5,\) of uint8 in 1 bytes"),
        (tree(b"\xc7\x09\x01\x93\x91\x01\xa2zz\xc4\x01\x00"), "an array of unknown type 'zz'"),
        (b"\x81\xa1a" * 150 + b"\x01", "more than 100 levels"),
    ],
)
def test_what_is_no_flax_file_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.msgpack"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_flax_msgpack(path)


def test_every_cut_is_noticed(tmp_path):
    whole, path = (FIXTURES / "halves.msgpack").read_bytes(), tmp_path / "cut.msgpack"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.msgpack is damaged or cut short"):
            read_flax_msgpack(path)


def test_missing_chunks_are_noticed(tmp_path):
    path = tmp_path / "chunked.msgpack"
    path.write_bytes((FIXTURES / "chunked.msgpack").read_bytes().replace(b"\xa6chunks", b"\xa6chunkz"))
    with pytest.raises(CheckpointError, match="the chunks of big do not make an array"):
        read_flax_msgpack(path)
