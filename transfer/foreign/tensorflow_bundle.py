"""TensorFlow's checkpoints of version 2, and a SavedModel's variables, read without TensorFlow.

A checkpoint ``model.ckpt`` is an index ``model.ckpt.index``, a sorted table from names to where an array is, and one or
more files ``model.ckpt.data-00000-of-00001`` of plain bytes. A SavedModel has one under ``variables/variables``.
Arrays are views into the mapped files: what is not copied takes no memory. No graph is read, nothing is run.

Reference: TensorFlow, `tensor_bundle.h`, `tensor_bundle.proto`, `types.proto`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import CheckpointError
from transfer.foreign.crc32c import crc32c, masked
from transfer.foreign.protobuf import Message, read_varint
from transfer.foreign.sstable import read_sstable
from transfer.foreign.tensorflow_slices import Slice, named_key, put_together
from transfer.foreign.tensorflow_types import as_array, shape_of, size_of

__all__ = ["bundle_prefix", "read_tensorflow_bundle"]

HEADER_KEY = b""
GRAPH_KEY = b"_CHECKPOINTABLE_OBJECT_GRAPH"
SLICE_KEY = b"\x00"  # what the key of a piece of a partitioned variable begins with
STRING = 7  # a type without numbers: the description of the object graph
ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"  # how the names of an object-based checkpoint end
BIG_ENDIAN = 1

Array = NDArray[Any]


def read_tensorflow_bundle(path: Path) -> dict[str, Array]:
    """Read all arrays of a checkpoint of version 2 or a SavedModel, by their names in it.

    Names of a graph's variables are as they are (``conv1/weights``). A checkpoint of objects calls its arrays by paths
    of attributes (``layer_with_weights-0/kernel``) and knows the variables' own names beside: those are taken
    (``stem/kernel``), unless two arrays have the same one, which then keep their paths. Parts of a partitioned variable
    are put together; bfloat16 becomes float32, which NumPy has. Each array's checksum is compared.

    Args:
        path: the index, a data file, the name that they have in common, a SavedModel's folder, or a folder with a file
            ``checkpoint`` that says which one is the latest.

    Raises:
        CheckpointError: no checkpoint there, a file that is missing, cut short or damaged, or a type that no array has;
            names the file and the tensor.

    Example:
        >>> read_tensorflow_bundle(Path("no_such.ckpt.index"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.ckpt.index...
    """
    prefix = bundle_prefix(path)
    if prefix is None:
        raise CheckpointError(
            f"{path} is no checkpoint of TensorFlow's version 2: expected NAME.index beside NAME.data-00000-of-00001, "
            "or a SavedModel's folder with variables/variables.index."
        )
    index = prefix.with_name(prefix.name + ".index")
    table = read_sstable(index)
    if HEADER_KEY not in table:
        raise CheckpointError(f"{index} is no index of a checkpoint of version 2: it has no header.")
    header = Message(table[HEADER_KEY], f"{index}, header")
    if header.integer(2) == BIG_ENDIAN:
        raise CheckpointError(f"{index} was written on a big-endian machine, which is not read here.")
    shards = _Shards(prefix, header.integer(1, 1))
    entries = {key: Message(value, f"{index}, {key!r}") for key, value in table.items() if key != HEADER_KEY}
    if entries and all(key.startswith(SLICE_KEY) for key in entries):  # pieces, and nothing that they are of
        raise CheckpointError(f"{index} is no index of a checkpoint of version 2, but seems to be one of version 1.")
    numbers = {key: entry for key, entry in entries.items() if _has_numbers(key, entry)}
    names = _own_names(numbers, _variables(entries, shards), index)
    return {name: _array(key, entries[key], entries, shards) for key, name in names.items()}


def bundle_prefix(path: Path) -> Path | None:
    """Return what the files of the checkpoint at a path have in common as their name, or None if there is none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "model.ckpt.index").touch()
        >>> bundle_prefix(folder / "model.ckpt.data-00000-of-00001").name
        'model.ckpt'
    """
    if os.path.isdir(path):  # noqa: PTH112
        inside = path / "variables" / "variables"
        candidates = [inside, path / "variables", *_latest(path), *_only(path)]
    else:
        candidates = [path, path.with_name(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name))]
    # Unlike a Path, it takes a name that is too long for one that is not there.
    return next((place for place in candidates if place.name and os.path.isfile(f"{place}.index")), None)  # noqa: PTH113


def _latest(folder: Path) -> list[Path]:
    """Return what the text file ``checkpoint`` calls the latest: a path, relative to its folder or not."""
    note = folder / "checkpoint"
    if not note.is_file():
        return []
    found = re.search(r'^model_checkpoint_path: "(.*)"', note.read_text(encoding="utf-8", errors="replace"), re.M)
    # By its name alone: a folder that was moved still holds its files, and what lies elsewhere is never read.
    return [folder / Path(found[1]).name] if found and Path(found[1]).name else []


def _only(folder: Path) -> list[Path]:
    """Return the one checkpoint of a folder that has no note."""
    found = sorted(folder.glob("*.index"))
    return [found[0].with_suffix("")] if len(found) == 1 else []


class _Shards:
    """The data files, mapped into memory when they are first asked for."""

    def __init__(self, prefix: Path, count: int) -> None:
        self._prefix, self._count = prefix, count
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def bytes_of(self, entry: Message, *, checked: bool = True) -> NDArray[np.uint8]:
        """Return the bytes that an entry of the index points at; a text has another checksum, which is not compared."""
        shard, offset, size = entry.integer(3), entry.integer(4), entry.integer(5)
        if not 0 <= shard < self._count:
            raise CheckpointError(f"{entry.where} is damaged: it points at shard {shard} of {self._count}.")
        path = self._path(shard)
        content = self._mapped(shard)
        if offset < 0 or size < 0 or offset + size > len(content):
            raise CheckpointError(
                f"{path} is damaged or cut short: {entry.where} needs {offset + size} bytes, it has {len(content)}."
            )
        found = content[offset : offset + size]
        if checked and masked(crc32c(found)) != entry.fixed32(6):
            raise CheckpointError(f"{path} is damaged: the checksum of {entry.where} does not fit. Fetch it again.")
        return found

    def _path(self, shard: int) -> Path:
        # One by one: a damaged index may speak of billions.
        return self._prefix.with_name(f"{self._prefix.name}.data-{shard:05d}-of-{self._count:05d}")

    def _mapped(self, shard: int) -> NDArray[np.uint8]:
        path = self._path(shard)
        if shard not in self._maps:
            try:
                # An empty file cannot be mapped; only arrays without elements can be in it.
                empty = path.stat().st_size == 0
                self._maps[shard] = np.zeros(0, np.uint8) if empty else np.memmap(path, dtype=np.uint8, mode="r")
            except OSError as error:
                raise CheckpointError(
                    f"{path} is missing or cannot be read: {error}. A checkpoint is its index and all its data files."
                ) from error
        return self._maps[shard]


def _has_numbers(key: bytes, entry: Message) -> bool:
    """Return whether an entry is an array by itself, and no piece of one."""
    return not key.startswith(SLICE_KEY) and entry.integer(1) != STRING


def _variables(entries: Mapping[bytes, Message], shards: _Shards) -> dict[str, str]:
    """Return the variables' own names by their keys, as the description of the objects has them."""
    entry = entries.get(GRAPH_KEY)
    if entry is None:
        return {}
    # A text's bytes: its length as a varint, 4 bytes of checksum of that, the text.
    content = shards.bytes_of(entry, checked=False).data
    _, at = read_varint(content, 0)
    graph = Message(content[at + 4 :], entry.where)
    attributes = (found for node in graph.messages(1, "object") for found in node.messages(2, "attribute"))
    return {found.text(3): found.text(2) for found in attributes if found.text(2)}


def _own_names(entries: Mapping[bytes, Message], variables: Mapping[str, str], index: Path) -> dict[bytes, str]:
    """Return each array's name by its key; one that is stored twice, as Keras exports it, is named once."""
    paths = {key: _text(key, index) for key in entries}
    alike: dict[str, list[bytes]] = {}
    for key, path in paths.items():
        alike.setdefault(variables.get(path, path), []).append(key)
    names: dict[bytes, str] = {}
    for name, keys in alike.items():
        one_and_the_same = len({(entries[key].fixed32(6), entries[key].integer(5)) for key in keys}) == 1
        kept = keys[:1] if one_and_the_same else keys
        names |= {key: name if one_and_the_same else paths[key].removesuffix(ATTRIBUTE) for key in kept}
    return {key: name.removesuffix(ATTRIBUTE) for key, name in names.items()}


def _text(key: bytes, index: Path) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{index} is damaged: the name {key!r} is no text.") from error


def _array(key: bytes, entry: Message, entries: Mapping[bytes, Message], shards: _Shards) -> Array:
    """Return one array, put together from its pieces where it is partitioned."""
    shape = shape_of(entry.message(2))
    if not entry.has(7):
        return as_array(shards.bytes_of(entry), entry.integer(1), shape, entry.where)
    pieces = []
    for message in entry.messages(7, "slice"):
        piece = Slice.of(message, shape)
        found = entries.get(named_key(key, piece))
        if found is None:
            raise CheckpointError(f"{entry.where} is damaged: the index lacks its piece {piece.words()}.")
        pieces.append((piece, as_array(shards.bytes_of(found), found.integer(1), piece.shape, found.where)))
    return put_together(pieces, shape, size_of(entry.integer(1), entry.where), entry.where)
