"""Whether what should be unseen was seen: pictures and people shared between pretraining and test.

Two pictures are one when their decoded pixels are equal, whatever their file format, name or folder. A resized,
cropped or recompressed copy is not found; people's names are the second line of defence.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from auxtasks.errors import LeakError, TransferError

__all__ = ["Leaks", "SharedPictures", "find_leaks", "pixel_digest"]

Picture = npt.NDArray[np.uint8]

_MOST_EXAMPLES = 5


@dataclass(frozen=True)
class SharedPictures:
    """Pictures that two collections share.

    Attributes:
        seen_rows: rows of the collection that was seen first (pretraining, or the support), all of them.
        test_rows: rows of the test set that are among them, all of them.
        examples: up to five pairs (seen row, test row).
    """

    seen_rows: tuple[int, ...]
    test_rows: tuple[int, ...]
    examples: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """Number of test pictures that were seen."""
        return len(self.test_rows)


@dataclass(frozen=True)
class Leaks:
    """What `find_leaks` found.

    Attributes:
        pretraining: pictures of the test set that pretraining saw.
        support: pictures of the test set that are in the support too; None when no support was given.
        identities: names that both pretraining and the target have, in the target's spelling, sorted; None when names
            were not given.
        pretraining_pictures: how many pictures pretraining has.
        test_pictures: how many pictures were looked for.
    """

    pretraining: SharedPictures
    support: SharedPictures | None
    identities: tuple[str, ...] | None
    pretraining_pictures: int
    test_pictures: int

    def __bool__(self) -> bool:
        return bool(self.pretraining.count or (self.support and self.support.count) or self.identities)

    def describe(self) -> str:
        """Return what was looked for and what was found, one line each; for a report's notes."""
        lines = [
            f"pictures in pretraining and test: {self.pretraining.count} of {self.test_pictures} test pictures"
            f"{_examples(self.pretraining, 'pretraining row')}"
        ]
        if self.support is not None:
            lines.append(f"pictures in support and test: {self.support.count}{_examples(self.support, 'support row')}")
        if self.identities is None:
            lines.append("identities: not compared, names were not given for both")
        else:
            named = f" ({_first(self.identities)})" if self.identities else ""
            lines.append(f"identities in pretraining and target: {len(self.identities)}{named}")
        return "\n".join(lines)

    def raise_if_any(self) -> None:
        """Raise when anything was found.

        Raises:
            LeakError: says what is shared and what to do.
        """
        if not self:
            return
        remedies = []
        if self.pretraining.count or self.identities:
            remedies.append(
                "remove what is shared from pretraining, so that the test set stays comparable, and pretrain again"
            )
        if self.support is not None and self.support.count:
            remedies.append("remove the duplicates from the pool that labels are drawn from")
        raise LeakError(
            f"the test set is not unseen, so its scores would be too good:\n{self.describe()}\n"
            f"What to do: {'; '.join(remedies)}."
        )


def find_leaks(
    pretraining: Iterable[Picture],
    test: Iterable[Picture],
    *,
    support: Iterable[Picture] | None = None,
    pretraining_names: Iterable[str] | None = None,
    target_names: Iterable[str] | None = None,
) -> Leaks:
    """Look for pictures and identities that pretraining, or the support, shares with the test set.

    Pictures are read once and one at a time, so a data set that does not fit in memory can be passed as a generator.

    Args:
        pretraining: (N, H, W, C) uint8, or N arrays (H, W, C) of any sizes.
        test: the pictures that scores are computed on, likewise.
        support: the pool that labels are drawn from, likewise.
        pretraining_names: names of the classes pretraining saw; only real names of people or things, since "0" of two
            data sets is not the same class. Case, accents, underscores and spaces do not matter.
        target_names: names of the target's classes.

    Raises:
        TransferError: a picture that is not uint8, the type of decoded pixels.

    Example:
        >>> seen = np.zeros((2, 4, 4, 3), dtype=np.uint8)
        >>> test = np.stack([seen[1], seen[1] + 1])
        >>> leaks = find_leaks(seen, test, pretraining_names=["Ada_Lovelace"], target_names=["ada lovelace"])
        >>> (leaks.pretraining.count, leaks.identities)
        (1, ('ada lovelace',))
    """
    digests = [pixel_digest(picture, row) for row, picture in enumerate(test)]
    seen = [pixel_digest(picture, row) for row, picture in enumerate(pretraining)]
    labelled = None if support is None else [pixel_digest(picture, row) for row, picture in enumerate(support)]
    named = pretraining_names is not None and target_names is not None
    return Leaks(
        pretraining=_shared_pictures(seen, digests),
        support=None if labelled is None else _shared_pictures(labelled, digests),
        identities=_shared_names(pretraining_names or (), target_names or ()) if named else None,
        pretraining_pictures=len(seen),
        test_pictures=len(digests),
    )


def pixel_digest(picture: Picture, row: int = 0) -> bytes:
    """Return the SHA-256 of a picture's shape and pixels.

    Args:
        picture: (H, W, C) or (H, W) uint8.
        row: named in the error.

    Raises:
        TransferError: another type than uint8.
    """
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        raise TransferError(
            f"picture {row} is {pixels.dtype}: decoded pixels are uint8. Compare pictures before they are normalised."
        )
    # The shape too: a 2x8 and a 4x4 picture of one colour have the same bytes.
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def _shared_pictures(seen: list[bytes], test: list[bytes]) -> SharedPictures:
    first_seen: dict[bytes, int] = {}
    for row, digest in enumerate(seen):
        first_seen.setdefault(digest, row)
    test_rows = [row for row, digest in enumerate(test) if digest in first_seen]
    in_test = {test[row] for row in test_rows}
    return SharedPictures(
        seen_rows=tuple(row for row, digest in enumerate(seen) if digest in in_test),
        test_rows=tuple(test_rows),
        examples=tuple((first_seen[test[row]], row) for row in test_rows[:_MOST_EXAMPLES]),
    )


def _shared_names(pretraining: Iterable[str], target: Iterable[str]) -> tuple[str, ...]:
    seen = {_plain(name) for name in pretraining}
    return tuple(sorted({name for name in target if _plain(name) in seen}))


def _plain(name: str) -> str:
    """Return a name without case, accents, underscores and double spaces.

    Example:
        >>> _plain("Gerhard_Schröder")
        'gerhard schroder'
    """
    letters = unicodedata.normalize("NFKD", name.replace("_", " "))
    return " ".join("".join(letter for letter in letters if not unicodedata.combining(letter)).casefold().split())


def _examples(shared: SharedPictures, seen_as: str) -> str:
    """Return the first pairs in words, or nothing."""
    if not shared.count:
        return ""
    return f" ({_first([f'{seen_as} {seen} = test row {test}' for seen, test in shared.examples], shared.count)})"


def _first(words: Iterable[str], total: int | None = None) -> str:
    listed = list(words)
    shown = listed[:_MOST_EXAMPLES]
    return ", ".join(shown) + (", ..." if (len(listed) if total is None else total) > len(shown) else "")
