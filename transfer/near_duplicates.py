"""What a test set shares with what was seen without being equal to it: edited copies of pictures and of texts.

Equal items are what `transfer.leaks` finds, always. Near duplicates take longer and are a matter of degree, so they are
looked for when asked for. What items are compared by is kept on disk, under a digest of all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auxtasks import checkpoint
from auxtasks.data.sealed import read_sealed, write_sealed
from auxtasks.errors import CheckpointError, LeakError, TransferError
from transfer.leaks import pixel_digest, text_digest
from transfer.near_pictures import PictureSignatures, near_pictures, picture_signatures
from transfer.near_texts import near_texts, text_signatures

__all__ = ["NearDuplicates", "find_near_duplicates"]

Pixels: TypeAlias = npt.NDArray[np.uint8]
Items: TypeAlias = Pixels | Sequence[str]

# Part of every key: raise it when the same items would get other signatures, or be kept in another way.
VERSION = 2
_MOST_EXAMPLES = 5
_SIGNATURES = "signatures.safetensors"


@dataclass(frozen=True)
class NearDuplicates:
    """Items of a test set that are nearly items that were seen, and not equal to any.

    Attributes:
        pairs: (seen row, test row, likeness up to 1), the most alike of each test row that has one.
        test_items: how many items were looked for.
        noun: what the items are.
        measure: what the likeness is.

    Example:
        >>> seen = ["The old house stood near a river in the north ."]
        >>> found: NearDuplicates = find_near_duplicates(seen, ["The old house stood by a river in the north ."])
        >>> found.noun, found.test_items, len(found.pairs)
        ('texts', 1, 1)
    """

    pairs: tuple[tuple[int, int, float], ...]
    test_items: int
    noun: str
    measure: str

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def describe(self, seen_in: str = "pretraining") -> str:
        """Return what was found, in a line for a report's notes."""
        shown = ", ".join(
            f"{seen_in} row {seen} = test row {test}, {alike:.2f}" for seen, test, alike in self.pairs[:_MOST_EXAMPLES]
        )
        more = ", ..." if len(self.pairs) > _MOST_EXAMPLES else ""
        found = f" ({self.measure}; {shown}{more})" if self.pairs else ""
        return (
            f"nearly the same {self.noun} in {seen_in} and test: {len(self.pairs)} of {self.test_items} test "
            f"{self.noun}{found}"
        )

    def raise_if_any(self, seen_in: str = "pretraining") -> None:
        """Raise when anything was found.

        Raises:
            LeakError: says what is shared and what to do.
        """
        if self:
            raise LeakError(
                f"the test set may not be unseen, so its scores would be too good:\n{self.describe(seen_in)}\n"
                f"What to do: look at these pairs. Where they are copies, remove them from {seen_in}; where they are "
                "none, report them (on_leak: report)."
            )


def find_near_duplicates(seen: Items, test: Items, *, folder: Path | None = None) -> NearDuplicates:
    """Look for edited copies: pictures that were recompressed, resized, lit or mirrored; texts with a word changed.

    Args:
        seen: pictures (N, H, W, C) uint8, or texts.
        test: likewise; may have another size.
        folder: keeps what large collections are compared by; None keeps nothing.

    Raises:
        TransferError: pictures beside texts, or neither of the two.

    Example:
        >>> seen = ["It rains .", "The old house stood near a river in the north ."]
        >>> found = find_near_duplicates(seen, ["The old house stood by a river in the north .", "It rains ."])
        >>> found.pairs[0][:2], found.test_items
        ((1, 0), 2)
    """
    if isinstance(seen, np.ndarray) and isinstance(test, np.ndarray):
        return _of_pictures(seen, test, folder)
    if not isinstance(seen, np.ndarray) and not isinstance(test, np.ndarray):
        return _of_texts(seen, test, folder)
    raise TransferError("pictures and texts cannot be compared: pass the same kind for what was seen and for the test.")


def _of_pictures(seen: Pixels, test: Pixels, folder: Path | None) -> NearDuplicates:
    for pixels in (seen, test):
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
            raise TransferError(
                f"expected pictures (N, H, W, C) uint8, found {pixels.dtype} of shape {pixels.shape}: near duplicates "
                "are looked for among decoded pictures and among texts."
            )
    signatures = [_kept_pictures(pixels, folder) for pixels in (seen, test)]
    equal = _equal([pixel_digest(one) for one in seen], [pixel_digest(one) for one in test])
    pairs = tuple(pair for pair in near_pictures(*signatures) if pair[1] not in equal)
    return NearDuplicates(pairs, len(test), "pictures", "correlation of details")


def _of_texts(seen: Sequence[str], test: Sequence[str], folder: Path | None) -> NearDuplicates:
    first, second = (_kept_texts(texts, folder) for texts in (seen, test))
    equal = _equal([text_digest(one) for one in seen], [text_digest(one) for one in test])
    found = near_texts(seen, test, seen_signatures=first, test_signatures=second)
    pairs = tuple(pair for pair in found if pair[1] not in equal)
    return NearDuplicates(pairs, len(test), "texts", "share of words in the same order")


def _equal(seen: Sequence[bytes], test: Sequence[bytes]) -> set[int]:
    """Return the rows of the test that are equal to something seen."""
    known = set(seen)
    return {row for row, digest in enumerate(test) if digest in known}


def _kept_pictures(pixels: Pixels, folder: Path | None) -> PictureSignatures:
    digest = hashlib.sha256(f"{VERSION} pictures {pixels.shape}".encode())
    for picture in pixels:
        digest.update(np.ascontiguousarray(picture).data)

    def compute() -> dict[str, Tensor]:
        found = picture_signatures(pixels)
        return {
            "hashes": torch.from_numpy(found.hashes.view(np.int64)),
            "thumbnails": torch.from_numpy(found.thumbnails),
        }

    kept = _kept(digest.hexdigest()[:32], compute, folder)
    return PictureSignatures(kept["hashes"].numpy().view(np.uint64), kept["thumbnails"].numpy())


def _kept_texts(texts: Sequence[str], folder: Path | None) -> npt.NDArray[np.uint32]:
    digest = hashlib.sha256(f"{VERSION} texts {len(texts)}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8) + encoded)

    def compute() -> dict[str, Tensor]:
        return {"minhash": torch.from_numpy(text_signatures(texts).view(np.int32))}

    return _kept(digest.hexdigest()[:32], compute, folder)["minhash"].numpy().view(np.uint32)


def _kept(key: str, compute: Callable[[], Mapping[str, Tensor]], folder: Path | None) -> Mapping[str, Tensor]:
    """Return signatures from disk, or compute and keep them."""
    if folder is None:
        return compute()
    place = folder / key
    if place.is_dir():
        with contextlib.suppress(CheckpointError, OSError):  # damaged: computed anew, and replaced below
            return _read(place)
    found = compute()
    with checkpoint.atomic_folder(place) as temporary:
        checkpoint.write_tensors(temporary / _SIGNATURES, found)
        write_sealed(temporary / "manifest.json", {"sha256": checkpoint.file_digest(temporary / _SIGNATURES)})
    return found


def _read(place: Path) -> Mapping[str, Tensor]:
    file = place / _SIGNATURES
    if read_sealed(place / "manifest.json").get("sha256") != checkpoint.file_digest(file):
        raise CheckpointError(f"{file} does not hold what was written")
    return checkpoint.read_tensors(file)
