"""Weights files that mean harm, or are damaged with care: refused, by the name of what is wrong in them."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from auxtasks.errors import CheckpointError
from transfer.foreign import read_foreign

FIXTURES = Path(__file__).parent / "foreign" / "fixtures"


def zipped(place, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(place, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return place


def npy(shape, kind="<f4", content=b""):
    """An array's file that says that it is of a shape, whatever it holds."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def encrypted(place):
    """Say of the first member of an archive that a password is needed."""
    content = bytearray(place.read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    place.write_bytes(content)
    return place


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy((2**38,)), r"the array 'x' is damaged or cut short"),  # 1 TB
        (npy((2**60,)), r"the array 'x' is damaged"),
        (npy((2**70,)), r"the array 'x' is damaged"),
        (npy((-1,)), r"the array 'x' is damaged: negative dimensions"),
        (npy((1,), "|O", b"cos\nsystem\n(S'touch x'\ntR."), r"'x' is an array of Python objects, that is a pickle"),
        (
            npy((300_000_000,), "|u1", bytes(300_000_000)),
            r"would unpack from 0\.\d MB to 300 MB, as a decompression bomb",
        ),
        (b"PK\x03\x04 an archive in an archive", r"'x' is no array, but another file"),
        (
            b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'shape': (__import__('os'),)}".ljust(117) + b"\n",
            r"'x' is",
        ),
    ],
)
def test_an_array_that_lies_is_refused(tmp_path, member, message):
    with pytest.raises(CheckpointError, match=message):
        read_foreign(zipped(tmp_path / "x.npz", {"x.npy": member}))


@pytest.mark.parametrize("name", ["../../x.npy", "/etc/x.npy", "a/../../x.npy", "C:\\x.npy"])
def test_a_path_in_an_archive_is_only_a_name(tmp_path, name):
    found = read_foreign(zipped(tmp_path / "x.npz", {name: npy((1,), content=bytes(4))}))
    assert list(found.tensors) == [zipfile.ZipInfo(name).filename.removesuffix(".npy")]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]  # nothing was written


@pytest.mark.parametrize(
    ("members", "change", "message"),
    [
        ({"config.json": "{}", "model.weights.h5": b"x"}, encrypted, r"password"),
        ({"config.json": "[" * 100_000, "model.weights.h5": b"x"}, None, r"config\.json does not describe a model"),
        ({"config.json": "[]", "model.weights.h5": b"x"}, None, r"config\.json does not describe a model"),
        ({"config.json": bytes(300_000_000), "model.weights.h5": b"x"}, None, r"as a decompression bomb"),
        ({"../config.json": "{}", "model.weights.h5": b"x"}, None, r"is no archive of Keras"),
    ],
)
def test_an_archive_of_keras_that_is_none_is_refused(tmp_path, members, change, message):
    place = zipped(tmp_path / "x.keras", members)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(change(place) if change else place)


def test_an_archive_with_a_password_is_refused(tmp_path):
    place = encrypted(zipped(tmp_path / "x.npz", {"x.npy": npy((1,), content=bytes(4))}))
    with pytest.raises(CheckpointError, match="password"):
        read_foreign(place)


def external_link(file, secret):
    file["dense"] = h5py.ExternalLink(str(secret), "/")


def external_link_of_old(file, secret):
    layer = file.create_group("d")
    file.attrs["layer_names"], layer.attrs["weight_names"] = [b"d"], [b"k"]
    layer["k"] = h5py.ExternalLink(str(secret), "/vars/0")


def external_storage(file, secret):
    file.create_group("dense/vars").create_dataset("0", shape=(3,), dtype="<f4", external=[(str(secret), 0, 12)])


def virtual(file, secret):
    layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(secret), "vars/0", shape=(3,))
    file.create_group("dense/vars").create_virtual_dataset("0", layout)


@pytest.mark.parametrize("form", [external_link, external_link_of_old, external_storage, virtual])
def test_an_hdf5_file_that_reads_another_is_refused(tmp_path, form):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file.create_dataset("vars/0", data=np.ones(3))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        form(file, tmp_path / "secret.h5")
    with pytest.raises(CheckpointError, match=r"is kept in another file\. Files elsewhere are never read"):
        read_foreign(tmp_path / "x.h5")


def test_an_hdf5_file_that_unpacks_to_a_terabyte_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("dense/vars").create_dataset("0", shape=(2**38,), dtype="f4", chunks=(1024,))
    with pytest.raises(CheckpointError, match=r"would unpack to 1,099,512 MB .*decompression bomb"):
        read_foreign(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../x"}}, r"is said to be in '\.\./x'; a shard is a file beside the index"),
        ({"weight_map": {"a": "/etc/passwd"}}, r"is said to be in '/etc/passwd'"),
        ({"weight_map": {"a": ".."}}, r"is said to be in '\.\.'"),
        ({"weight_map": {"a": ""}}, r"is said to be in ''"),
        ({"weight_map": {"a": 3}}, r"is said to be in 3"),
        ({"weight_map": {"a": "x\0"}}, r"there is no file"),
        ({"weight_map": {"a": "x" * 400}}, r"there is no file"),
        ({"weight_map": [1]}, r'it has no "weight_map"'),
        ({"weight_map": {"b": "x.bin"}}, r"does not hold what the index says\. Missing: b; not in the index: a"),
        ([], r"expected names and values, found list"),
        ("[" * 100_000, r"is damaged"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path, index, message):
    torch.save({"a": torch.ones(1)}, tmp_path / "x.bin")
    text = index if isinstance(index, str) else json.dumps(index)
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(tmp_path)


def safetensors_of(header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2**31) + b"{}", safetensors_of(b"[]"),
        safetensors_of(b'{"a":' + b"[" * 50_000),
        safetensors_of({"a": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}),
        safetensors_of({"a": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_of({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, bytes(4)),
        safetensors_of({"a": {"dtype": "Z9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    ],
)  # fmt: skip
def test_a_safetensors_header_that_lies_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged or cut short"):
        read_foreign(tmp_path / "x.safetensors")


def varint(number):
    written = b""
    while True:
        written += bytes([number & 127 | (128 if number > 127 else 0)])
        number >>= 7
        if not number:
            return written


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def whole(number, value):
    return varint(number << 3) + varint(value & (1 << 64) - 1)


def onnx(shape, raw=b"", *, location=None, offset=None):
    """A model with one initializer, whose numbers are in it or in another file."""
    tensor = b"".join(whole(1, size) for size in shape) + whole(2, 1) + field(8, b"w")
    if location is None:
        return field(7, field(5, tensor + field(9, raw)))
    elsewhere = whole(14, 1) + field(13, field(1, b"location") + field(2, location))
    if offset is not None:
        elsewhere += field(13, field(1, b"offset") + field(2, offset))
    return field(7, field(5, tensor + elsewhere))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (onnx([-2, -2], bytes(16)), r"'w' has the shape \(-2, -2\), which no array has"),
        (onnx([0, 2**62, 2**62]), r"'w' has the shape .*, which no array has"),
        (onnx([2**32, 2**32]), r"'w' has the shape"),
        (onnx([2**38], bytes(4)), r"'w' has the shape \(274877906944,\) of float32, but 4 bytes"),
        (onnx([1], location=b"../../../../etc/passwd"), r"is no file in the model's own folder"),
        (onnx([1], location=b"/etc/passwd"), r"is no file in the model's own folder"),
        (onnx([1], location=b"link"), r"is no file in the model's own folder"),
        (onnx([1], location=b"."), r"is no file in the model's own folder"),
        (onnx([1], location=b"a\0b"), r"is no file in the model's own folder"),
        (onnx([1], location=b"pipe"), r"which is no file"),
        (onnx([1], location=b"a" * 5000), r"cannot be read: .*too long"),
        (onnx([1], location=b"x.onnx", offset=b"-5"), r"is said to hold 4 at -5"),
        (onnx([1], location=b"x.onnx", offset=b"9" * 30), r"is cut short"),
        (onnx([1], location=b"x.onnx", offset=b"9" * 5000), r"is damaged: where 'w' lies"),
        (onnx([2**38], location=b"x.onnx"), r"is cut short: 'w' has 1099511627776 bytes"),
    ],
)
def test_an_onnx_model_that_lies_is_refused(tmp_path, content, message):
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    "blob",
    [
        field(7, whole(1, -1) + whole(1, -1)) + field(5, bytes(4)),
        field(7, whole(1, 0) + whole(1, 2**62) + whole(1, 2**62)),
        whole(1, -1) + whole(2, -1) + whole(3, 1) + whole(4, 1) + field(5, bytes(4)),
    ],
)
def test_a_shape_of_caffe_that_no_array_has_is_refused(tmp_path, blob):
    layer = field(1, b"l") + field(2, b"Convolution") + field(7, blob)
    (tmp_path / "x.caffemodel").write_bytes(field(100, layer))
    with pytest.raises(CheckpointError, match=r"is damaged or cut short: 'l/0' has the shape"):
        read_foreign(tmp_path / "x.caffemodel")


def packed(inner):
    """A tree of msgpack with one array of Flax's."""
    return b"\x81\xa1a\xc7" + bytes([len(inner)]) + b"\x01" + inner


@pytest.mark.parametrize(
    "content",
    [
        packed(b"\x93\x92\xff\xff\xa7float32\xc4\x04" + bytes(4)),  # (-1, -1)
        packed(b"\x93\x91\xa1a\xa7float32\xc4\x04" + bytes(4)),  # ("a",)
        packed(b"\x93\x91\xca\x3f\x80\0\0\xa7float32\xc4\x04" + bytes(4)),  # (1.0,)
        packed(b"\x93\x91\xc3\xa7float32\xc4\x04" + bytes(4)),  # (True,)
        packed(b"\x93\x92\0\xcf" + b"\x7f" * 8 + b"\xa7float32\xc4\x00"),  # (0, 9e18)
        packed(b"\x93\x91\x01\xa7float32\x03"),  # a number in the place of the bytes
        packed(b"\x93\x91\x01\x03\xc4\x04" + bytes(4)),  # a number in the place of the type
        b"\x81\xa1a\xc7\x05\x02\x92\xa1a\xa1b",  # a complex number of two texts
        b"\x81\xa1a" * 3000 + b"\x01", b"\x91" * 3000 + b"\x01", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x03\xa6chunks\x80",
    ],
)  # fmt: skip
def test_msgpack_that_lies_is_refused(tmp_path, content):
    (tmp_path / "x.msgpack").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.msgpack is damaged or cut short, or not written by Flax"):
        read_foreign(tmp_path / "x.msgpack")


@pytest.mark.parametrize("note", ["{above}/types.ckpt", "../types.ckpt", "/etc/passwd", "", "..", "a" * 400])
def test_a_note_of_tensorflow_that_points_elsewhere_is_not_followed(tmp_path, note):
    for suffix in ("index", "data-00000-of-00001"):
        (tmp_path / f"types.ckpt.{suffix}").write_bytes((FIXTURES / f"tensorflow/types.ckpt.{suffix}").read_bytes())
    assert read_foreign(tmp_path / "types.ckpt").tensors
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "checkpoint").write_text(f'model_checkpoint_path: "{note.format(above=tmp_path)}"\n')
    with pytest.raises(CheckpointError, match="holds no weights that are known"):
        read_foreign(tmp_path / "folder")


@pytest.mark.parametrize(
    "suffix", ["npz", "onnx", "safetensors", "pt", "h5", "keras", "msgpack", "caffemodel", "index"]
)
@pytest.mark.parametrize("what", ["pipe", "device", "nothing", "folder", "empty", "text"])
def test_what_holds_no_weights_is_told_and_never_waited_for(tmp_path, suffix, what):
    place = tmp_path / f"x.{suffix}"
    match what:
        case "pipe":
            os.mkfifo(place)
        case "device":
            place.symlink_to("/dev/zero")
        case "folder":
            place.mkdir()
        case "empty":
            place.write_bytes(b"")
        case "text":
            place.write_text("a text, and no weights at all")
    with pytest.raises(CheckpointError, match=rf"x\.{suffix}"):
        read_foreign(place)


@pytest.mark.parametrize("name", ["a" * 400, "a\0b", "gone/x.npz"])
def test_a_path_that_is_none_is_told(tmp_path, name):
    with pytest.raises(CheckpointError, match="there is no file or folder"):
        read_foreign(tmp_path / name)
