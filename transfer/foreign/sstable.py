"""LevelDB's sorted table, in which TensorFlow keeps the index of a checkpoint: keys and values, read in order.

A file is a row of blocks and a footer of 48 bytes that says where the index block is; its values say where the blocks
of data are. A block's entries share the beginnings of their keys, and it ends with a type (0 plain, 1 Snappy) and a
masked CRC-32C of all that.

Reference: Dean and Ghemawat, LevelDB, `doc/table_format.md`; TensorFlow, `tensorflow/core/lib/io/table.cc`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from auxtasks.errors import CheckpointError
from transfer.foreign.crc32c import crc32c, masked
from transfer.foreign.protobuf import read_varint

__all__ = ["MAGIC", "read_sstable"]

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)  # the last 8 bytes of every such file
FOOTER = 48  # bytes
TRAILER = 5  # bytes behind a block: its type and its checksum
PLAIN, SNAPPY = 0, 1
_SNAPPY_FOLD = 32  # the most that it packs: 64 bytes into a copy of 3


def read_sstable(path: Path) -> dict[bytes, memoryview]:
    """Read all keys and values of a table.

    Raises:
        CheckpointError: no such file, no sorted table, cut short, or a block whose checksum does not fit.

    Example:
        >>> read_sstable(Path("no_such.ckpt"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.ckpt...
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if len(data) < FOOTER or bytes(data[-8:]) != MAGIC:
        raise CheckpointError(
            f"{path} does not end as a sorted table of TensorFlow does: it is cut short, or something else."
        )
    try:
        return dict(_entries(data))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _entries(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    footer = data[-FOOTER:]
    for _ in range(2):  # the index of metadata, which is empty in these files, lies in front
        start, at = read_varint(footer, at)
        size, at = read_varint(footer, at)
    for _, handle in _block_entries(_block(data, start, size)):
        start, at = read_varint(handle, 0)
        size, _ = read_varint(handle, at)
        yield from _block_entries(_block(data, start, size))


def _block(data: memoryview, start: int, size: int) -> memoryview:
    """Return a block's bytes, checked and unpacked."""
    end = start + size
    if end + TRAILER > len(data) - FOOTER:
        raise CheckpointError(f"damaged or cut short: a block ends at byte {end + TRAILER} of {len(data) - FOOTER}.")
    (stored,) = struct.unpack("<I", data[end + 1 : end + TRAILER])
    if masked(crc32c(data[start : end + 1])) != stored:
        raise CheckpointError(f"damaged: the checksum of the block at byte {start} does not fit its {size} bytes.")
    kind = data[end]
    if kind == PLAIN:
        return data[start:end]
    if kind == SNAPPY:
        return _unpacked(data[start:end])
    raise CheckpointError(f"the block at byte {start} is packed in a way that is not known here: type {kind}.")


def _unpacked(packed: memoryview) -> memoryview:
    import pyarrow as pa  # comes with datasets

    size, _ = read_varint(packed, 0)  # Snappy's own first field
    if size > _SNAPPY_FOLD * len(packed) + 64:
        raise CheckpointError(f"damaged: a block of {len(packed)} bytes, packed with Snappy, is said to hold {size}.")
    try:
        # As bytes: a view of Arrow's own buffer counts its bytes from -128.
        return memoryview(pa.decompress(packed, decompressed_size=size, codec="snappy", asbytes=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"damaged: a block packed with Snappy cannot be unpacked: {error}.") from error


def _block_entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield a block's keys and values; behind them stand the places where a key is whole, which only a search needs."""
    if len(block) < 4:
        raise CheckpointError(f"damaged: a block of {len(block)} bytes.")
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise CheckpointError(f"damaged: a block of {len(block)} bytes with {restarts} restarts.")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        own, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or at + own + size > end:
            raise CheckpointError("damaged: an entry reaches beyond its block.")
        key = key[:shared] + bytes(block[at : at + own])
        yield key, block[at + own : at + own + size]
        at += own + size
