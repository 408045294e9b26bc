"""Whether what should be unseen was seen: pictures, texts, vectors and people shared between pretraining and test.

Two pictures are one when their decoded pixels are equal, whatever their file format, name or folder. A resized,
cropped or recompressed copy is not found; people's names are the second line of defence. Two texts are one when they
have the same words and punctuation, whatever their case, blanks and way of encoding; a paraphrase is not found. Two
vectors are one when all their numbers are equal in float32.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.texts import TextTable
from auxtasks.errors import LeakError, TransferError
from auxtasks.features.batches import Table

__all__ = ["Leaks", "SharedItems", "comparable_items", "find_leaks", "pixel_digest", "text_digest", "vector_digest"]

Picture: TypeAlias = npt.NDArray[np.uint8]
Vector: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Comparable: TypeAlias = Iterable[Picture | str | Vector]
Noun: TypeAlias = Literal["pictures", "texts", "vectors"]

_MOST_EXAMPLES = 5


@dataclass(frozen=True)
class SharedItems:
    """Pictures, texts or vectors that two collections share.

    Attributes:
        seen_rows: rows of the collection that was seen first (pretraining, or the support), all of them.
        test_rows: rows of the test set that are among them, all of them.
        examples: up to five pairs (seen row, test row).

    Example:
        >>> found: SharedItems = find_leaks(["The cat sat."], ["the cat sat.", "A dog ran."]).pretraining
        >>> found.count, found.test_rows, found.examples
        (1, (0,), ((0, 0),))
    """

    seen_rows: tuple[int, ...]
    test_rows: tuple[int, ...]
    examples: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """Number of test items that were seen."""
        return len(self.test_rows)


@dataclass(frozen=True)
class Leaks:
    """What `find_leaks` found.

    Attributes:
        pretraining: items of the test set that pretraining saw.
        support: items of the test set that are in the support too; None when no support was given.
        validation: items of the test set that are in the validation set too; None when none was given.
        chosen_on: items of the validation set that are in the support too; None without either. They make choices
            worse, not the test: they are told, and are no leak.
        identities: names that both pretraining and the target have, in the target's spelling, sorted; None when names
            were not given.
        pretraining_items: how many items pretraining has.
        test_items: how many items were looked for.
        noun: what the items are.

    Example:
        >>> found: Leaks = find_leaks(["A bird sang."], ["The cat sat.", "A dog ran."])
        >>> found.pretraining.count, found.test_items
        (0, 2)
        >>> found.raise_if_any()
    """

    pretraining: SharedItems
    support: SharedItems | None
    identities: tuple[str, ...] | None
    pretraining_items: int
    test_items: int
    noun: Noun = "pictures"
    validation: SharedItems | None = None
    chosen_on: SharedItems | None = None

    def __bool__(self) -> bool:
        labelled = (self.support, self.validation)
        return bool(self.pretraining.count or any(part and part.count for part in labelled) or self.identities)

    def describe(self) -> str:
        """Return what was looked for and what was found, one line each; for a report's notes."""
        lines = [
            f"{self.noun} in pretraining and test: {self.pretraining.count} of {self.test_items} test {self.noun}"
            f"{_examples(self.pretraining, 'pretraining row')}"
        ]
        if self.support is not None:
            lines.append(
                f"{self.noun} in support and test: {self.support.count}{_examples(self.support, 'support row')}"
            )
        if self.validation is not None:
            lines.append(
                f"{self.noun} in validation and test: {self.validation.count}"
                f"{_examples(self.validation, 'validation row')}"
            )
        if self.chosen_on is not None and self.chosen_on.count:
            lines.append(
                f"{self.noun} in support and validation: {self.chosen_on.count}"
                f"{_examples(self.chosen_on, 'support row', 'validation row')}"
            )
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
        if any(part is not None and part.count for part in (self.support, self.validation)):
            remedies.append(
                "remove the duplicates from the pool that labels are drawn from, and from the validation set"
            )
        raise LeakError(
            f"the test set is not unseen, so its scores would be too good:\n{self.describe()}\n"
            f"What to do: {'; '.join(remedies)}."
        )


def find_leaks(
    pretraining: Comparable,
    test: Comparable,
    *,
    support: Comparable | None = None,
    validation: Comparable | None = None,
    pretraining_names: Iterable[str] | None = None,
    target_names: Iterable[str] | None = None,
) -> Leaks:
    """Look for pictures, texts or vectors, and identities, that pretraining, or the support, shares with the test set.

    Items are read once and one at a time, so a data set that does not fit in memory can be passed as a generator; of
    each a digest is kept.

    Args:
        pretraining: (N, H, W, C) uint8, or N arrays (H, W, C) of any sizes; N texts; or vectors (N, D) of floats. For
            what a table holds see `comparable_items`.
        test: the items that scores are computed on, likewise.
        support: the pool that labels are drawn from, likewise.
        validation: items that choices are made on, likewise.
        pretraining_names: names of the classes pretraining saw; only real names of people or things, since "0" of two
            data sets is not the same class. Case, accents, underscores and spaces do not matter.
        target_names: names of the target's classes.

    Raises:
        TransferError: a picture that is not uint8, the type of decoded pixels; items of two kinds.

    Example:
        >>> seen = np.zeros((2, 4, 4, 3), dtype=np.uint8)
        >>> test = np.stack([seen[1], seen[1] + 1])
        >>> leaks = find_leaks(seen, test, pretraining_names=["Ada_Lovelace"], target_names=["ada lovelace"])
        >>> (leaks.pretraining.count, leaks.identities)
        (1, ('ada lovelace',))
        >>> find_leaks(["The cat  sat."], ["the cat sat.", "A dog ran."]).describe().splitlines()[0]
        'texts in pretraining and test: 1 of 2 test texts (pretraining row 0 = test row 0)'
    """
    digests, nouns = _digests(test)
    seen, seen_nouns = _digests(pretraining)
    labelled, labelled_nouns = (None, set[Noun]()) if support is None else _digests(support)
    held, held_nouns = (None, set[Noun]()) if validation is None else _digests(validation)
    nouns |= seen_nouns | labelled_nouns | held_nouns
    if len(nouns) > 1:
        raise TransferError(
            f"{' and '.join(sorted(nouns))} cannot be compared: pass the same kind for pretraining, test and support."
        )
    named = pretraining_names is not None and target_names is not None
    return Leaks(
        pretraining=_shared_items(seen, digests),
        support=None if labelled is None else _shared_items(labelled, digests),
        identities=_shared_names(pretraining_names or (), target_names or ()) if named else None,
        pretraining_items=len(seen),
        test_items=len(digests),
        noun=nouns.pop() if nouns else "pictures",
        validation=None if held is None else _shared_items(held, digests),
        chosen_on=None if held is None or labelled is None else _shared_items(labelled, held),
    )


def comparable_items(table: Table) -> Comparable:
    """Return what `find_leaks` compares of a table: pixels, texts or vectors, and of pairs those of the items in them.

    Example:
        >>> values = np.float32([[1, 2], [3, 4], [5, 6]])
        >>> table = FeatureTable(values, np.full(3, -1), (), np.arange(3), (), "three rows")
        >>> find_leaks(comparable_items(table.subset([0, 2])), comparable_items(table)).pretraining.test_rows
        (0, 2)
    """
    if isinstance(table, PairTable):
        return comparable_items(table.compact().items)
    if isinstance(table, TextTable):
        return table.texts
    return table.values if isinstance(table, FeatureTable) else table.pixels


def _digests(items: Comparable) -> tuple[list[bytes], set[Noun]]:
    """Return a digest of each item, and of which kinds they are."""
    found: list[bytes] = []
    nouns: set[Noun] = set()
    each: Iterable[Picture | str | Vector] = items
    for row, item in enumerate(each):
        if isinstance(item, str):
            nouns.add("texts")
            found.append(text_digest(item))
        elif item.ndim == 1 and np.issubdtype(item.dtype, np.floating):
            nouns.add("vectors")
            found.append(vector_digest(item))
        else:
            nouns.add("pictures")
            found.append(pixel_digest(item, row))
    return found, nouns


def text_digest(text: str) -> bytes:
    """Return a digest of a text that is the same whatever its case, its blanks and its way of encoding characters.

    Example:
        >>> text_digest("Eine  Straße ") == text_digest("eine STRASSE")
        True
        >>> text_digest("a cat.") == text_digest("a cat")
        False
    """
    if not text.isascii():  # most texts are, and need no normal form
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # 16 bytes: a chance below 1e-25 that any two of a million different texts agree.
    return hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def vector_digest(vector: Vector | Picture) -> bytes:
    """Return a digest of a vector's numbers (D,) in float32, 0 and -0 being the same.

    Example:
        >>> vector_digest(np.array([0.1, 0.0])) == vector_digest(np.array([0.1, -0.0], dtype=np.float32))
        True
    """
    numbers = np.asarray(vector, dtype=np.float32) + np.float32(0)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()


def pixel_digest(picture: Picture | Vector, row: int = 0) -> bytes:
    """Return the SHA-256 of a picture's shape and pixels.

    Args:
        picture: (H, W, C) or (H, W) uint8.
        row: named in the error.

    Raises:
        TransferError: another type than uint8.

    Example:
        >>> black, white = np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 255, np.uint8)
        >>> pixel_digest(black) == pixel_digest(black.copy()), pixel_digest(black) == pixel_digest(white)
        (True, False)
    """
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        raise TransferError(
            f"picture {row} is {pixels.dtype}: decoded pixels are uint8. Compare pictures before they are normalised."
        )
    # The shape too: a 2x8 and a 4x4 picture of one colour have the same bytes.
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def _shared_items(seen: list[bytes], test: list[bytes]) -> SharedItems:
    first_seen: dict[bytes, int] = {}
    for row, digest in enumerate(seen):
        first_seen.setdefault(digest, row)
    test_rows = [row for row, digest in enumerate(test) if digest in first_seen]
    in_test = {test[row] for row in test_rows}
    return SharedItems(
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


def _examples(shared: SharedItems, seen_as: str, found_as: str = "test row") -> str:
    """Return the first pairs in words, or nothing."""
    if not shared.count:
        return ""
    return f" ({_first([f'{seen_as} {seen} = {found_as} {test}' for seen, test in shared.examples], shared.count)})"


def _first(words: Iterable[str], total: int | None = None) -> str:
    listed = list(words)
    shown = listed[:_MOST_EXAMPLES]
    return ", ".join(shown) + (", ..." if (len(listed) if total is None else total) > len(shown) else "")
