"""Protocol buffers read without their compiled classes: fields by number, from the bytes on the wire.

A message is a row of (number, type, value). Four types are in use: 0 a varint, 1 eight bytes, 2 a length and that many
bytes (texts, bytes, inner messages, packed numbers), 5 four bytes. What a number means is in the framework's `.proto`
file; each reader here names the few that it needs. Large values are views into the file's bytes, never copies.

Reference: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import CheckpointError

__all__ = ["Message", "read_varint"]

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # wire types; 3 and 4, groups, are of another age
LONGEST_VARINT = 10  # bytes: seven bits each, for 64


class _DamagedError(Exception):
    """Where and how the bytes do not read as a message; becomes a CheckpointError that names the file."""


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned number, seven bits a byte, lowest first; return it and the position behind it.

    Raises:
        CheckpointError: the bytes end inside the number, or it has more than 64 bits.

    Example:
        >>> read_varint(memoryview(bytes([0b10101100, 0b00000010])), 0)  # 0101100 + 10 x 128
        (300, 2)
    """
    try:
        return _varint(data, at)
    except _DamagedError as error:
        raise CheckpointError(f"damaged or cut short: {error}.") from error


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(LONGEST_VARINT):
        if at + place >= len(data):
            raise _DamagedError(f"the bytes end inside a number at byte {at}")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise _DamagedError(f"a number at byte {at} has more than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield (number, wire type, value) of a message's fields in the order of the file."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _DamagedError(f"byte {start} starts a field of number 0")
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == LENGTH:
            size, at = _varint(data, at)
        elif wire in (FOUR_BYTES, EIGHT_BYTES):
            size = 4 if wire == FOUR_BYTES else 8
        else:
            raise _DamagedError(f"field {number} at byte {start} is of wire type {wire}, which nobody writes")
        if at + size > len(data):
            raise _DamagedError(f"field {number} at byte {start} has {size} bytes, of which {len(data) - at} are there")
        yield number, wire, data[at : at + size]
        at += size


class Message:
    """The fields of one message by their numbers.

    A field that is not there reads as empty (lists) or as the default that is given (single values), as protobuf has
    it; of a single value that is there more than once, the last counts.

    Args:
        data: the message's bytes.
        where: what they are of, for errors ("model.onnx", "model.onnx, initializer 3").

    Raises:
        CheckpointError: the bytes are no message, or end too early; by the reading methods also: a field holds another
            type than the one it is read as.

    Example:
        >>> message = Message(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69]), "an example")
        >>> message.integer(1), message.text(2), message.integers(3)
        (150, 'hi', [])
    """

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self.where = where
        self._values: dict[int, list[tuple[int, int | memoryview]]] = {}
        try:
            for number, wire, value in _fields(memoryview(data)):
                self._values.setdefault(number, []).append((wire, value))
        except _DamagedError as error:
            raise CheckpointError(f"{where} is damaged or cut short: {error}.") from error

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of the fields that are there, sorted."""
        return tuple(sorted(self._values))

    def has(self, number: int) -> bool:
        """Return whether a field is there."""
        return number in self._values

    def integers(self, number: int) -> list[int]:
        """Return the varints of a repeated field (int32, int64, enum, bool), packed or one by one, signed."""
        found = []
        for wire, value in self._values.get(number, []):
            if wire == VARINT and isinstance(value, int):
                found.append(_signed(value))
            else:
                found += self._packed_varints(number, wire, value)
        return found

    def integer(self, number: int, default: int = 0) -> int:
        """Return a single varint."""
        return (self.integers(number) or [default])[-1]

    def blobs(self, number: int) -> list[memoryview]:
        """Return the bytes of a repeated field of type bytes, text or message, as views."""
        return [self._bytes(number, wire, value) for wire, value in self._values.get(number, [])]

    def blob(self, number: int) -> memoryview:
        """Return the bytes of a single field; empty when it is not there."""
        return (self.blobs(number) or [memoryview(b"")])[-1]

    def texts(self, number: int) -> list[str]:
        """Return the texts of a repeated field."""
        try:
            return [bytes(blob).decode("utf-8") for blob in self.blobs(number)]
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.where} is damaged: field {number} is no text: {error}.") from error

    def text(self, number: int, default: str = "") -> str:
        """Return a single text."""
        return (self.texts(number) or [default])[-1]

    def messages(self, number: int, name: str = "") -> list[Message]:
        """Return the inner messages of a repeated field; `name` says in errors what they are."""
        label = name or f"field {number}"
        return [Message(blob, f"{self.where}, {label} {place}") for place, blob in enumerate(self.blobs(number))]

    def message(self, number: int, name: str = "") -> Message:
        """Return a single inner message; one without fields when it is not there."""
        return Message(self.blob(number), f"{self.where}, {name or f'field {number}'}")

    def floats(self, number: int) -> NDArray[np.float32]:
        """Return the floats of a repeated field, packed or one by one: shape (count,)."""
        return self._fixed(number, FOUR_BYTES, np.dtype("<f4")).astype(np.float32, copy=False)

    def doubles(self, number: int) -> NDArray[np.float64]:
        """Return the doubles of a repeated field, packed or one by one: shape (count,)."""
        return self._fixed(number, EIGHT_BYTES, np.dtype("<f8")).astype(np.float64, copy=False)

    def fixed32(self, number: int, default: int = 0) -> int:
        """Return a single unsigned number of four bytes."""
        found = self._fixed(number, FOUR_BYTES, np.dtype("<u4"))
        return int(found[-1]) if len(found) else default

    def _fixed(self, number: int, wire: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        parts = []
        for found, value in self._values.get(number, []):
            if isinstance(value, int) or found not in (wire, LENGTH) or len(value) % dtype.itemsize:
                raise self._of_another_type(number, f"numbers of {dtype.itemsize} bytes", found)
            parts.append(np.frombuffer(value, dtype=dtype))
        if len(parts) == 1:
            return parts[0]  # the usual case, packed: a view, however large
        return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)

    def _packed_varints(self, number: int, wire: int, value: int | memoryview) -> list[int]:
        blob, at, found = self._bytes(number, wire, value), 0, []
        try:
            while at < len(blob):
                one, at = _varint(blob, at)
                found.append(_signed(one))
        except _DamagedError as error:
            raise CheckpointError(f"{self.where} is damaged: field {number}: {error}.") from error
        return found

    def _bytes(self, number: int, wire: int, value: int | memoryview) -> memoryview:
        if wire != LENGTH or isinstance(value, int):
            raise self._of_another_type(number, "bytes", wire)
        return value

    def _of_another_type(self, number: int, wanted: str, wire: int) -> CheckpointError:
        return CheckpointError(
            f"{self.where} is not what it is read as: field {number} should hold {wanted}, but is of wire type {wire}. "
            "Is this a file of another framework?"
        )


def _signed(value: int) -> int:
    """Return the number that 64 bits stand for in two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value
