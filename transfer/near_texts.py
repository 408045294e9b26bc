"""Texts that are nearly the same: a word changed, added or left out, as against the same words in another sentence.

Candidates come from MinHash signatures of a text's words and pairs of neighbouring words; each is confirmed by how many
of its words stand in the same order in both texts.

References: Broder, "On the resemblance and containment of documents", 1997 (MinHash); Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3 (bands of a signature).
"""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from auxtasks.seeding import generator

__all__ = ["near_texts", "text_signatures", "words_of"]

Signatures = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]

BANDS, ROWS = 16, 4  # a pair of Jaccard similarity .7 becomes a candidate with 99 % probability, one of .3 with 12 %
_BLOCK = 20_000  # texts
_ODD = np.uint64(0x9E3779B97F4A7C15)  # spreads what it multiplies over all bits (Knuth's multiplicative hashing)


def words_of(text: str) -> list[str]:
    """Return a text's words and marks, whatever their case and their way of encoding.

    Example:
        >>> words_of("Don't  panic!")
        ['don', "'", 't', 'panic', '!']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def text_signatures(texts: Sequence[str]) -> Signatures:
    """Return MinHash signatures, (N, 64).

    Two of them agree in about that share of their numbers which the texts have in common of their words and pairs of
    neighbouring words.

    Example:
        >>> first, second, third = text_signatures(["the cat sat on a mat", "The cat sat on the mat", "no way"])
        >>> bool(np.mean(first == second) > np.mean(first == third))
        True
    """
    drawn = generator(0, "minhash")
    factors = drawn.integers(1, 1 << 63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty((len(texts), BANDS * ROWS), np.uint32)
    known: dict[str, int] = {}
    for start in range(0, len(texts), _BLOCK):
        shingles, offsets = _shingles(texts[start : start + _BLOCK], known)
        for place, factor in enumerate(factors):
            mixed = shingles * factor
            mixed ^= mixed >> np.uint64(29)  # a product alone would order numbers nearly alike for several factors
            mixed = ((mixed * _ODD) >> np.uint64(32)).astype(np.uint32)
            found[start : start + _BLOCK, place] = np.minimum.reduceat(mixed, offsets)
    return found


def _shingles(texts: Sequence[str], known: dict[str, int]) -> tuple[npt.NDArray[np.uint64], Rows]:
    """Return the hashes of all words and pairs of words of texts, one after the other, and where each text begins."""
    numbers: list[npt.NDArray[np.uint64]] = []
    for text in texts:
        words = words_of(text) or [""]  # a text of blanks has a signature too
        for word in words:
            if word not in known:
                known[word] = _number(word)
        single = np.array([known[word] for word in words], np.uint64)
        pairs = single[:-1] * _ODD ^ (single[1:] >> np.uint64(7))
        numbers.append(np.concatenate([single, pairs]))
    lengths = np.array([len(entry) for entry in numbers])
    return np.concatenate(numbers), np.concatenate([[0], np.cumsum(lengths)[:-1]])


def _number(word: str) -> int:
    """Return 64 bits that are the same on every machine, as Python's own hash is not."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def near_texts(
    seen: Sequence[str],
    test: Sequence[str],
    *,
    seen_signatures: Signatures | None = None,
    test_signatures: Signatures | None = None,
    least: float = 0.8,
    shortest: int = 8,
) -> list[tuple[int, int, float]]:
    """Find texts of a test set that nearly are texts that were seen.

    Args:
        seen, test: texts.
        seen_signatures, test_signatures: of these texts, where they are kept; computed if None.
        least: share of the words that stand in the same order in both texts, of 1, from which on a candidate counts.
        shortest: words and marks that both texts have at least: short ones are alike by chance ("That was for sure.").

    Returns:
        (seen row, test row, share), the best pair of each test row that has one, in order of test rows.

    Example:
        >>> seen = ["A dog ran over the green field this morning .", "It rains ."]
        >>> near_texts(seen, ["Nothing .", "A dog ran over the brown field this morning ."])
        [(0, 1, 0.9)]
    """
    if not len(seen) or not len(test):
        return []
    first = text_signatures(seen) if seen_signatures is None else seen_signatures
    second = text_signatures(test) if test_signatures is None else test_signatures
    best: dict[int, tuple[int, int, float]] = {}
    compared: set[tuple[int, int]] = set()
    # Short ones would be refused below; "Thank you." a thousand times in both makes a million candidates of them first.
    long = np.flatnonzero([len(words_of(text)) >= shortest for text in test])
    for seen_row, place in _candidates(first, second[long]):
        test_row = int(long[place])
        if (seen_row, test_row) in compared:
            continue
        compared.add((seen_row, test_row))
        words, others = words_of(seen[seen_row]), words_of(test[test_row])
        if min(len(words), len(others)) < shortest:
            continue
        alike = _agreement(words, others, least)
        if alike >= least and (test_row not in best or alike > best[test_row][2]):
            best[test_row] = (seen_row, test_row, alike)
    return [best[row] for row in sorted(best)]


def _candidates(seen: Signatures, test: Signatures) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose signatures agree in all numbers of a band."""
    for band in range(BANDS):
        columns = slice(band * ROWS, (band + 1) * ROWS)
        first, second = _band_keys(seen[:, columns]), _band_keys(test[:, columns])
        order = np.argsort(first, kind="stable")
        begin = np.searchsorted(first[order], second, side="left")
        end = np.searchsorted(first[order], second, side="right")
        for row in np.flatnonzero(end > begin):
            for place in range(begin[row], end[row]):
                yield int(order[place]), int(row)


def _band_keys(numbers: Signatures) -> npt.NDArray[np.uint64]:
    """Return one number for the four of a band."""
    keys = np.zeros(len(numbers), np.uint64)
    for column in numbers.T:
        keys = (keys ^ column.astype(np.uint64)) * _ODD
        keys ^= keys >> np.uint64(29)
    return keys


def _agreement(first: Sequence[str], second: Sequence[str], least: float) -> float:
    """Return the share of words that stand in the same order in both, of their mean number; 0 if surely below."""
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
        return 0.0
    return matcher.ratio()
