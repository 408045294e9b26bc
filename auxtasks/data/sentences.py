"""A corpus of sentences as words: read once, kept memory-mapped, so that wrong orders cost nothing to make."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from auxtasks import checkpoint
from auxtasks.data.lexicon import CLOSING, GLUED, Lexicon, build_lexicon, lexicon_digest
from auxtasks.data.ragged import Ragged
from auxtasks.data.tokenizers import tokenizer_digest
from auxtasks.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LEFT_OUT", "SentenceRecord", "SentenceTable", "read_sentences"]

logger = logging.getLogger("auxtasks")

# Part of every cache key: raise it when the same texts would be read otherwise.
_READER_VERSION = 1
LEFT_OUT = ("empty", "one word", "no other order")
_CHECKED_SENTENCES = 1000
_MOST_MISMATCHES = 0.2


class SentenceRecord(TypedDict):
    """One sentence: its words, which of them may move, and what it takes to spell and to replace them."""

    words: NDArray[np.int32]
    movable: slice
    lexicon: Lexicon
    corpus: NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceTable:
    """N sentences in which something can be shuffled.

    Attributes:
        words: N rows of words of the lexicon.
        lexicon: see `Lexicon`.
        rows: (N,) int64, the row in the source of each sentence.
        left_out: why (see `LEFT_OUT`) to how many sentences were left out.
        truncated: how many sentences are longer than the backbone takes, and lost their last words.
        keep_initial: whether the first word stays where it is, since its capital would tell.
        fingerprint: changes with any word, token or row.
    """

    words: Ragged
    lexicon: Lexicon
    rows: NDArray[np.int64]
    left_out: Mapping[str, int]
    truncated: int
    keep_initial: bool
    fingerprint: str

    def __len__(self) -> int:
        return len(self.words)

    def record(self, index: int) -> SentenceRecord:
        """Return one sentence."""
        words = self.words[index]
        stop = len(words) - int(self.lexicon.closes[words[-1]])
        movable = slice(int(self.keep_initial), stop)
        return {"words": words, "movable": movable, "lexicon": self.lexicon, "corpus": self.words.values}

    def token_lengths(self) -> NDArray[np.int64]:
        """Return how many tokens each sentence has, special ones included, (N,)."""
        return self.lexicon.token_lengths(self.words)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> SentenceTable:
        """Return the sentences at `indices`, in that order, with the same lexicon."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        digest = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()
        return dataclasses.replace(self, words=self.words.take(chosen), rows=self.rows[chosen], fingerprint=digest)


def read_sentences(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    keep_initial: bool | None = None,
    most_left_out: float = 0.05,
    cache: Path | None = None,
) -> SentenceTable:
    """Read a corpus: one sentence a text.

    Args:
        texts: N sentences.
        tokenizer: the backbone's.
        length: most tokens of a sentence, special ones included.
        keep_initial: keep the first word in its place; None does so where the tokenizer tells capitals from small
            letters. The punctuation that ends a sentence always stays.
        most_left_out: the share of sentences that may be left out because nothing in them can be shuffled.
        cache: folder in which what was read is kept, memory-mapped, in a sub-folder named by texts and tokenizer.

    Raises:
        DataError: no sentence is left, or more were left out than allowed (says why, with counts); or a tokenizer whose
            tokens of a text are not those of its words.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> texts = ["The dog barks.", "no no no", "Yes.", "A cat sleeps here."]
        >>> table = read_sentences(texts, train_tokenizer(texts, size=60), length=32, most_left_out=0.5)
        >>> len(table), dict(table.left_out), table.record(0)["movable"]
        (2, {'empty': 0, 'one word': 1, 'no other order': 1}, slice(0, 3, None))
    """
    all_texts = texts if isinstance(texts, list) else list(texts)
    keep = _tells_capitals(tokenizer) if keep_initial is None else keep_initial
    key = _key(all_texts, tokenizer, length, keep)
    table = _load(cache / key) if cache is not None else None
    if table is None:
        table = _read(all_texts, tokenizer, length, keep, key)
        if cache is not None:
            _save(table, cache / key)
            table = _load(cache / key) or table
    _check_share(table, len(all_texts), most_left_out)
    return table


def _read(texts: list[str], tokenizer: PreTrainedTokenizerBase, length: int, keep: bool, key: str) -> SentenceTable:
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers)) for word in split_words(text)] for text in texts]
    lexicon = build_lexicon(list(numbers), tokenizer)
    _check_spelling(texts, rows, lexicon, tokenizer)
    words = Ragged.of(rows)
    # To the model words with the same tokens are one: swapping "The" and "the" of an uncased tokenizer changes nothing.
    words = dataclasses.replace(words, values=lexicon.same_as[words.values])
    words, truncated = _cut(words, lexicon, length)
    good, left_out = _can_be_shuffled(words, lexicon, keep)
    kept = np.flatnonzero(good)
    return SentenceTable(
        words=words.take(kept),
        lexicon=lexicon,
        rows=kept,
        left_out=left_out,
        truncated=truncated,
        keep_initial=keep,
        fingerprint=hashlib.sha256((key + lexicon_digest(lexicon)).encode()).hexdigest(),
    )


def split_words(text: str) -> list[str]:
    """Split a sentence at its spaces, and the punctuation that closes it from its last word.

    Example:
        >>> [word.replace(GLUED, "|") for word in split_words("Who, me? Yes, you!?")]
        ['Who,', 'me?', 'Yes,', 'you', '|!?']
    """
    words = text.replace(GLUED, " ").replace(CLOSING, " ").split()
    if not words:
        return []
    last = words.pop()
    bare = len(last)
    while bare and not last[bare - 1].isalnum():
        bare -= 1
    if bare == len(last) or not (words or bare):
        return [*words, last]
    return [*words, last[:bare], GLUED + last[bare:]] if bare else [*words, CLOSING + last]


def _cut(words: Ragged, lexicon: Lexicon, length: int) -> tuple[Ragged, int]:
    """Leave out the last words of sentences that are too long; return how many were."""
    too_long = np.flatnonzero(lexicon.token_lengths(words) > length)
    room = length - len(lexicon.prefix) - len(lexicon.suffix)
    counts = words.lengths
    for row in too_long:
        sizes = lexicon.inner.lengths_of(words[int(row)])
        counts[row] = np.searchsorted(np.cumsum(sizes), room, side="right")
    return words.head(counts), len(too_long)


def _can_be_shuffled(words: Ragged, lexicon: Lexicon, keep_initial: bool) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which sentences have two different words that may move, (N,), and how many have not, by reason."""
    lengths = words.lengths
    last = words.values[np.maximum(words.offsets[1:] - 1, 0)] if len(words.values) else np.zeros(len(words), np.int32)
    starts = words.offsets[:-1] + int(keep_initial)
    stops = words.offsets[1:] - (lexicon.closes[last] & (lengths > 0))
    movable = stops - starts
    # How often neighbours differ before each place: between the ends of what may move, once is enough.
    changes = np.concatenate([[0, 0], np.cumsum(words.values[1:] != words.values[:-1])])
    differs = np.zeros(len(words), dtype=bool)
    several = movable > 1
    differs[several] = changes[stops[several]] > changes[starts[several] + 1]
    counts = [np.sum(lengths == 0), np.sum((lengths > 0) & ~several), np.sum(several & ~differs)]
    return differs, dict(zip(LEFT_OUT, map(int, counts), strict=True))


def _check_share(table: SentenceTable, total: int, most: float) -> None:
    """Refuse a corpus of which more is left out than was allowed; tell of the rest."""
    lost = total - len(table)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in table.left_out.items() if count)
    if not len(table):
        raise DataError(
            f"nothing can be shuffled in any of {total:,} sentences ({reasons or 'there are none'}): the corpus needs "
            "one sentence of two or more different words a row."
        )
    if lost > most * total:
        raise DataError(
            f"{lost:,} of {total:,} sentences cannot be shuffled ({reasons}), more than the {most:.0%} that may be "
            "left out. Clean the corpus, or allow more (most_left_out)."
        )
    if lost:
        logger.info("%s of %s sentences cannot be shuffled and are left out: %s.", f"{lost:,}", f"{total:,}", reasons)
    if table.truncated:
        logger.info("%s of %s sentences are too long and were cut.", f"{table.truncated:,}", f"{total:,}")


def _check_spelling(
    texts: list[str], rows: list[list[int]], lexicon: Lexicon, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Compare sentences put together from words with the tokenizer's own; refuse one that works otherwise."""
    some = [place for place in range(0, len(texts), max(1, len(texts) // _CHECKED_SENTENCES)) if rows[place]]
    if not some:
        return
    whole = tokenizer([texts[place] for place in some], verbose=False)["input_ids"]
    wrong = [
        place
        for place, tokens in zip(some, whole, strict=True)
        if lexicon.spell(np.array(rows[place]), length=len(tokens) + 999).tokens.tolist() != tokens
    ]
    if len(wrong) > _MOST_MISMATCHES * len(some):
        raise DataError(
            f"the tokenizer gives {len(wrong)} of {len(some)} sentences other tokens than those of their words, such "
            f"as {texts[wrong[0]]!r}: words cannot be moved in its texts. Use one that splits at spaces first."
        )
    if wrong:
        logger.warning(
            "the tokenizer gives %d of %d sentences other tokens than those of their words, such as %r.",
            len(wrong),
            len(some),
            texts[wrong[0]],
        )


def _tells_capitals(tokenizer: PreTrainedTokenizerBase) -> bool:
    small, capital = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the", "The"))
    return bool(small != capital)


def _key(texts: list[str], tokenizer: PreTrainedTokenizerBase, length: int, keep: bool) -> str:
    digest = hashlib.sha256(f"{_READER_VERSION}|{tokenizer_digest(tokenizer)}|{length}|{keep}|".encode())
    for start in range(0, len(texts), 10_000):
        digest.update("\n".join(texts[start : start + 10_000]).encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:32]


_ARRAYS = ("words", "offsets", "rows", "inner", "inner_offsets", "initial", "initial_offsets", "same_as", "closes",
           "prefix", "suffix")  # fmt: skip


def _save(table: SentenceTable, place: Path) -> None:
    lexicon = table.lexicon
    arrays: dict[str, NDArray[Any]] = dict(
        zip(
            _ARRAYS,
            [
                table.words.values, table.words.offsets, table.rows, lexicon.inner.values, lexicon.inner.offsets,
                lexicon.initial.values, lexicon.initial.offsets, lexicon.same_as, lexicon.closes, lexicon.prefix,
                lexicon.suffix,
            ],
            strict=True,
        )
    )  # fmt: skip
    facts = {"schema": 1, "left_out": dict(table.left_out), "truncated": table.truncated, "pad_id": lexicon.pad_id,
             "keep_initial": table.keep_initial, "fingerprint": table.fingerprint}  # fmt: skip
    with checkpoint.atomic_folder(place) as folder:
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values)
        facts["digests"] = {name: checkpoint.file_digest(folder / f"{name}.npy") for name in _ARRAYS}
        checkpoint.write_json(folder / "manifest.json", facts)


def _load(place: Path) -> SentenceTable | None:
    """Return what was kept, memory-mapped, or None when it is not there or damaged: then it is read anew."""
    if not place.is_dir():
        return None
    try:
        facts = checkpoint.read_json(place / "manifest.json")
        whole = all(checkpoint.file_digest(place / f"{name}.npy") == facts["digests"][name] for name in _ARRAYS)
    except (CheckpointError, OSError, KeyError, TypeError):
        return None
    if not whole:
        return None
    kept = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    lexicon = Lexicon(
        inner=Ragged(kept["inner"], kept["inner_offsets"]),
        initial=Ragged(kept["initial"], kept["initial_offsets"]),
        same_as=kept["same_as"],
        closes=kept["closes"],
        prefix=np.array(kept["prefix"]),
        suffix=np.array(kept["suffix"]),
        pad_id=facts["pad_id"],
    )
    return SentenceTable(
        words=Ragged(kept["words"], kept["offsets"]),
        lexicon=lexicon,
        rows=kept["rows"],
        left_out=facts["left_out"],
        truncated=facts["truncated"],
        keep_initial=facts["keep_initial"],
        fingerprint=facts["fingerprint"],
    )
