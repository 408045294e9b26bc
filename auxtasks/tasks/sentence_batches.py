"""Sentences beside their corruptions, as rows of a batch.

Legend for shapes: B rows of a batch (sentences and their corruptions), T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.text import TokenBatch, pad_tokens
from auxtasks.data.corruptions import KINDS, Corrupted, out_of_place, predecessors
from auxtasks.data.lexicon import Lexicon
from auxtasks.tasks.order_head import IGNORED

__all__ = ["GOOD", "SentenceBatch", "SentenceItem", "SentenceRow", "collate_sentences", "put_back", "sentence_item"]

KIND_NUMBERS: Final = {kind: number for number, kind in enumerate(KINDS)}
GOOD: Final = -1  # the kind of a sentence as it was


class SentenceRow(NamedTuple):
    """One sentence or corruption: tokens (T,), which begin a word, and for each of those what became of the word."""

    tokens: NDArray[np.int32]
    begins_word: NDArray[np.bool_]
    out_of_place: NDArray[np.bool_]
    replaced: NDArray[np.bool_]
    predecessors: NDArray[np.int64]
    kind: int


class SentenceItem(NamedTuple):
    """A sentence, first, and its corruptions; and the token id of padding."""

    rows: tuple[SentenceRow, ...]
    pad_id: int


class SentenceBatch(NamedTuple):
    """Rows of several sentences, each with its corruptions behind it.

    Attributes:
        tokens: B rows.
        counted: (B, T) bool, the first token of each word.
        out_of_place, replaced: (B, T) bool, what the token head is to find at the counted tokens.
        before: (B, T) which token began the word that stood before each counted one in the sentence as it was, T for
            the start of the sentence, `IGNORED` for other tokens, where there is no answer, and in sentences as they
            are, where it is always the word to the left.
        kinds: (B,) number of the corruption in `KINDS`, -1 for a sentence as it was.
        sentence: (B,) which sentence of the batch a row is, or is a corruption of.
    """

    tokens: TokenBatch
    counted: Tensor
    out_of_place: Tensor
    replaced: Tensor
    before: Tensor
    kinds: Tensor
    sentence: Tensor


def sentence_item(
    words: NDArray[np.int32], corruptions: Sequence[tuple[str, Corrupted]], lexicon: Lexicon, length: int
) -> SentenceItem:
    """Spell a sentence and its corruptions; one of which the cut leaves the sentence itself is left out.

    Args:
        words: (N,) of the sentence, all of them.
        corruptions: kind, and what became of all words, M of them: N, one fewer or one more.
        lexicon: spells them.
        length: most tokens of a row, special ones included.

    Returns:
        Rows of T <= `length` tokens, the sentence first, then each corruption that differs from it: its last word
        twice, for one, may be cut to the sentence.

    Example:
        >>> from auxtasks.data.lexicon import build_lexicon
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> lexicon = build_lexicon(["a", "b", "c"], train_tokenizer(["a b c"] * 2, size=20))
        >>> words, as_they_are = np.array([0, 1, 2]), np.zeros(4, dtype=bool)
        >>> twice = [np.array([0, 0, 1, 2]), np.array([0, 1, 2, 2])]  # the first word, the last word
        >>> corruptions = [("duplicate", Corrupted(words[origin], origin, as_they_are)) for origin in twice]
        >>> [len(sentence_item(words, corruptions, lexicon, length).rows) for length in (6, 5)]
        [3, 2]
    """
    spelled = lexicon.spell(words, length)
    nowhere = np.zeros(int(spelled.begins_word.sum()), dtype=bool)
    good = SentenceRow(*spelled, nowhere, nowhere, np.arange(len(nowhere)) - 1, GOOD)
    bad = [_row(corrupted, KIND_NUMBERS[kind], lexicon, length) for kind, corrupted in corruptions]
    seen = [row for row in bad if not np.array_equal(row.tokens, good.tokens)]
    return SentenceItem((good, *seen), lexicon.pad_id)


def put_back(corrupted: Corrupted, words: NDArray[np.int32], movable: slice) -> Corrupted:
    """Put what may move back between the words that stay.

    Args:
        corrupted: what became of the words that may move, M of them.
        words: (N,) of the sentence as it was.
        movable: which of those may move.

    Returns:
        What became of all words, N - (movable ones) + M of them, with places counted in the whole sentence.

    Example:
        >>> swapped = Corrupted(np.array([8, 7]), np.array([1, 0]), np.zeros(2, dtype=bool))
        >>> whole = put_back(swapped, np.array([5, 7, 8, 6]), slice(1, 3))
        >>> whole.words.tolist(), whole.origin.tolist()
        ([5, 8, 7, 6], [0, 2, 1, 3])
    """
    before, after = np.arange(movable.start), np.arange(movable.stop, len(words))
    stays = np.zeros(len(before), dtype=bool), np.zeros(len(after), dtype=bool)
    return Corrupted(
        words=np.concatenate([words[before], corrupted.words, words[after]]),
        origin=np.concatenate([before, corrupted.origin + movable.start, after]),
        replaced=np.concatenate([stays[0], corrupted.replaced, stays[1]]),
    )


def _row(corrupted: Corrupted, kind: int, lexicon: Lexicon, length: int) -> SentenceRow:
    spelled = lexicon.spell(corrupted.words, length)
    words = int(spelled.begins_word.sum())  # fewer than there are where the sentence was cut
    return SentenceRow(
        tokens=spelled.tokens,
        begins_word=spelled.begins_word,
        out_of_place=out_of_place(corrupted)[:words],
        replaced=corrupted.replaced[:words],
        predecessors=predecessors(corrupted)[:words],
        kind=kind,
    )


def collate_sentences(items: Sequence[SentenceItem]) -> SentenceBatch:
    """Pad the rows of all items to the longest, rounded up to a multiple of 8.

    Example:
        >>> def row(tokens: list[int], kind: int) -> SentenceRow:
        ...     flags, size = np.zeros(len(tokens), np.bool_), len(tokens)
        ...     return SentenceRow(np.array(tokens, np.int32), ~flags, flags, flags, np.arange(size) - 1, kind)
        >>> item = SentenceItem((row([2, 7, 8, 3], -1), row([2, 8, 7, 3], 0)), pad_id=0)
        >>> batch: SentenceBatch = collate_sentences([item])
        >>> tuple(batch.tokens.ids.shape), batch.kinds.tolist(), batch.sentence.tolist()
        ((2, 8), [-1, 0], [0, 0])
    """
    rows = [row for item in items for row in item.rows]
    tokens = pad_tokens([row.tokens for row in rows], pad_id=items[0].pad_id)
    counted, moved, new = np.zeros((3, *tokens.ids.shape), dtype=bool)
    before = np.full(tokens.ids.shape, IGNORED, dtype=np.int64)
    for place, row in enumerate(rows):
        begins = np.flatnonzero(row.begins_word)
        counted[place, begins] = True
        moved[place, begins] = row.out_of_place
        new[place, begins] = row.replaced
        if row.kind != GOOD:
            before[place, begins] = _tokens_before(row.predecessors, begins, before.shape[1])
    return SentenceBatch(
        tokens=tokens,
        counted=torch.from_numpy(counted),
        out_of_place=torch.from_numpy(moved),
        replaced=torch.from_numpy(new),
        before=torch.from_numpy(before),
        kinds=torch.tensor([row.kind for row in rows]),
        sentence=torch.tensor([place for place, item in enumerate(items) for _ in item.rows]),
    )


def _tokens_before(words: NDArray[np.int64], begins: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Turn places among the words into places among the tokens; words that were cut off are no answer."""
    known = (words >= 0) & (words < len(begins))
    found = np.where(known, begins[np.where(known, words, 0)], IGNORED)
    return np.where(words == -1, width, found)
