"""What the readers of TensorFlow's files stand on: checksums, sorted tables, protocol buffers, keys of pieces."""

import struct

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auxtasks.errors import CheckpointError
from transfer.foreign.crc32c import crc32c, masked
from transfer.foreign.protobuf import Message, read_varint
from transfer.foreign.rule_set import Implied, RuleSet
from transfer.foreign.sstable import MAGIC, read_sstable
from transfer.foreign.tensorflow_slices import Slice, named_key, put_together
from transfer.foreign.tensorflow_types import as_array, shape_of

# --- checksums


def bit_by_bit(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(  # RFC 3720, B.4
    ("data", "wanted"),
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
     (bytes(range(31, -1, -1)), 0x113FDB5C)],
)  # fmt: skip
def test_checksums_are_those_of_the_standard(data, wanted):
    assert crc32c(data) == wanted


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 3 * 1024, 5 * 1024 + 7, 40_000])
def test_pieces_side_by_side_are_the_whole_bit_by_bit(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert crc32c(data) == bit_by_bit(data.tolist())
    assert crc32c(data[size // 3 :], crc32c(data[: size // 3])) == crc32c(data)


def test_more_than_one_round_of_pieces():
    data = np.random.default_rng(0).integers(0, 256, 9 * 2**20 + 5, dtype=np.uint8)
    halves = crc32c(data[4_000_001:], crc32c(data[:4_000_001]))
    assert crc32c(data) == halves
    data[8 * 2**20 + 1] ^= 1
    assert crc32c(data) != halves


# --- sorted tables


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def block(entries, kind=0):
    """Write a block whose keys share their beginnings; return it with its trailer, and its size."""
    body, last = b"", b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    body += struct.pack("<II", 0, 1)
    if kind == 1:
        body = pyarrow.compress(body, codec="snappy", asbytes=True)
    return body + bytes([kind]) + struct.pack("<I", masked(crc32c(body + bytes([kind])))), len(body)


def table(blocks, kind=0):
    out, handles = b"", []
    for entries in blocks:
        written, size = block(entries, kind)
        handles.append((entries[-1][0], varint(len(out)) + varint(size)))
        out += written
    meta, meta_size = block([])
    index, index_size = block(handles)
    footer = varint(len(out)) + varint(meta_size) + varint(len(out) + len(meta)) + varint(index_size)
    return out + meta + index + footer.ljust(40, b"\0") + MAGIC


ENTRIES = [[(b"", b"head"), (b"conv/a", b"1"), (b"conv/ab", b"2" * 300)], [(b"dense", b""), (b"dense/x", b"3")]]


@pytest.mark.parametrize("kind", [0, 1])
def test_a_table_of_several_blocks_plain_or_packed(tmp_path, kind):
    (tmp_path / "t").write_bytes(table(ENTRIES, kind))
    read = {key: bytes(value) for key, value in read_sstable(tmp_path / "t").items()}
    assert read == {key: value for entries in ENTRIES for key, value in entries}


def test_a_block_of_an_unknown_kind_and_one_that_does_not_unpack(tmp_path):
    (tmp_path / "t").write_bytes(table(ENTRIES, 7))
    with pytest.raises(CheckpointError, match="not known here: type 7"):
        read_sstable(tmp_path / "t")
    body = b"\x10\xff\xff"
    broken = body + b"\x01" + struct.pack("<I", masked(crc32c(body + b"\x01")))
    index, size = block([(b"k", varint(0) + varint(len(body)))])
    footer = varint(0) + varint(0) + varint(len(broken)) + varint(size)
    (tmp_path / "t").write_bytes(broken + index + footer.ljust(40, b"\0") + MAGIC)
    with pytest.raises(CheckpointError, match="packed with Snappy cannot be unpacked"):
        read_sstable(tmp_path / "t")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"none cannot be read"):
        read_sstable(tmp_path / "none")


# --- protocol buffers


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_any_size(value):
    written = varint(value)
    assert read_varint(memoryview(written), 0) == (value, len(written))
    signed = value - 2**64 if value >= 2**63 else value
    assert Message(b"\x08" + written, "m").integer(1) == signed
    assert Message(b"\x0a" + varint(len(written)) + written, "m").integers(1) == [signed]  # packed


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_clear_error(data):
    try:
        message = Message(data, "these bytes")
    except CheckpointError:
        with pytest.raises(CheckpointError, match="these bytes is damaged or cut short"):
            Message(data, "these bytes")
    else:
        assert all(message.has(number) for number in message.numbers())


def test_floats_packed_and_one_by_one():
    packed = b"\x2a\x08" + struct.pack("<ff", 1.5, -2)
    single = b"\x2d" + struct.pack("<f", 1.5) + b"\x2d" + struct.pack("<f", -2)
    for data in (packed, single):
        assert Message(data, "m").floats(5).tolist() == [1.5, -2]
    assert Message(b"\x31" + struct.pack("<d", 0.1), "m").doubles(6).tolist() == [0.1]
    assert Message(b"", "m").floats(5).shape == (0,)


def test_a_field_of_another_type_is_an_error():
    with pytest.raises(CheckpointError, match="field 1 should hold bytes, but is of wire type 0"):
        Message(b"\x08\x01", "m").text(1)
    with pytest.raises(CheckpointError, match="field 1 should hold numbers of 4 bytes, but is of wire type 2"):
        Message(b"\x0a\x03abc", "m").floats(1)
    with pytest.raises(CheckpointError, match="field 1 is no text"):
        Message(b"\x0a\x01\xff", "m").text(1)
    with pytest.raises(CheckpointError, match="is of wire type 3, which nobody writes"):
        Message(b"\x0b", "m")
    with pytest.raises(CheckpointError, match="more than 64 bits"):
        read_varint(memoryview(b"\xff" * 11), 0)
    with pytest.raises(CheckpointError, match=r"the outer, part 0 is damaged or cut short: .* has 5 bytes, of which 1"):
        Message(b"\x0a\x03\x0a\x05a", "the outer").messages(1, "part")


def test_the_last_of_a_single_value_counts_and_inner_messages_read():
    message = Message(b"\x08\x01\x08\x02\x12\x02\x08\x07", "m")
    assert message.integer(1) == 2
    assert message.message(2).integer(1) == 7
    assert message.message(3).numbers() == ()
    assert message.integer(9, 4) == 4


# --- pieces of a variable, shapes, numbers


@pytest.mark.parametrize(
    ("value", "written"),  # worked out by hand from ordered_code.cc
    [(0, b"\x80"), (63, b"\xbf"), (-1, b"\x7f"), (-64, b"\x40"), (64, b"\xc0\x40"), (-65, b"\x3f\xbf"),
     (8191, b"\xdf\xff"), (8192, b"\xe0\x20\x00"), (2**20, b"\xf0\x10\0\0"), (2**40, b"\xfd\0\0\0\0\0")],
)  # fmt: skip
def test_numbers_in_keys(value, written):
    key = named_key(b"w", Slice((value,), (1,), (1,)))
    assert key == b"\x00w\x00\x01\x01\x01" + written + b"\x81"


@given(st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=8))
def test_keys_sort_as_numbers_do(values):
    keys = {value: named_key(b"w", Slice((value,), (1,), (1,))) for value in values}
    assert sorted(keys, key=keys.__getitem__) == sorted(keys)


def test_pieces_that_lack_or_overlap_are_an_error():
    one, two = Slice((0,), (2,), (2,)), Slice((1,), (2,), (2,))
    values = np.ones(2, np.float32)
    with pytest.raises(CheckpointError, match=r"w is damaged or incomplete: its 1 pieces .* \(3,\) exactly: 0,2"):
        put_together([(one, values)], (3,), np.dtype("f4"), "w")
    with pytest.raises(CheckpointError, match="its 2 pieces do not make up"):
        put_together([(one, values), (two, values)], (3,), np.dtype("f4"), "w")
    with pytest.raises(CheckpointError, match=r"m is damaged: \(5,\) \+ \(-1,\) is no part of \(3,\)"):
        Slice.of(Message(b"\x0a\x02\x08\x05", "m"), (3,))


def test_bytes_that_do_not_fit_their_shape_and_unknown_types():
    content = np.zeros(6, np.uint8)
    with pytest.raises(CheckpointError, match=r"w is damaged: 6 bytes for the shape \(2,\) of float32, which needs 8"):
        as_array(content, 1, (2,), "w")
    with pytest.raises(CheckpointError, match="w is of TensorFlow's type 20, of which no array is made here"):
        as_array(content, 20, (2,), "w")
    with pytest.raises(CheckpointError, match="m: a shape that is not settled"):
        shape_of(Message(b"\x18\x01", "m"))


# --- rule sets


def test_what_is_stored_wins_over_what_is_implied_and_pictures_are_turned():
    ones = Implied("(.*)/beta", r"\1/gamma", 1.0)
    rules = RuleSet("toy", "", "mlp", (), "", "", implied=(ones,), bgr=("stem",), pointwise=("logits",))
    tensors = {
        "a/beta": np.zeros(2, np.float32), "b/beta": np.zeros(2, np.float32), "b/gamma": np.full(2, 3, np.float32),
        "stem": np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2), "logits": np.zeros((1, 1, 4, 5), np.float32),
    }  # fmt: skip
    ready = rules.prepare(tensors)
    assert ready["a/gamma"].tolist() == [1, 1]
    assert ready["b/gamma"].tolist() == [3, 3]
    assert ready["stem"].tolist() == [[[[4, 5], [2, 3], [0, 1]]]]
    assert ready["logits"].shape == (4, 5)
    assert tensors.keys() == {"a/beta", "b/beta", "b/gamma", "stem", "logits"}  # the given table stays as it is
