"""From texts to sentences as words: split, tokenised word by word, and checked that something can be shuffled."""

from __future__ import annotations

import hashlib
import json
import logging
import string
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.lexicon import CLOSING, GLUED, Lexicon, build_lexicon, lexicon_digest, tells_the_start
from auxtasks.data.ragged import Ragged
from auxtasks.data.sentence_table import LEFT_OUT, SentenceRecord, SentenceTable, load_sentences, save_sentences
from auxtasks.data.tokenizers import check_characters, tokenizer_digest
from auxtasks.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LEFT_OUT", "SentenceRecord", "SentenceTable", "read_block", "read_sentences", "split_words"]

logger = logging.getLogger("auxtasks")

# Part of every cache key: raise it when the same texts would be read otherwise.
_READER_VERSION = 2
_CHECKED_SENTENCES = 1000
_MOST_MISMATCHES = 0.2


def read_sentences(
    texts: Iterable[str | None],
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
        keep_initial: keep the first word in its place; None does so where the tokenizer would give it away, by its
            capital or by the space it lacks. The punctuation that ends a sentence always stays.
        most_left_out: the share of sentences that may be left out because nothing in them can be shuffled.
        cache: folder in which what was read is kept, memory-mapped, in a sub-folder named by texts and tokenizer.

    Raises:
        DataError: no sentence is left, or more were left out than allowed (says why, with counts); something that is
            no text; or a tokenizer whose tokens of a text are not those of its words.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> texts = ["The dog barks.", "no no no", "Yes.", "A cat sleeps here."]
        >>> table = read_sentences(texts, train_tokenizer(texts, size=60), length=32, most_left_out=0.5)
        >>> len(table), dict(table.left_out), table.record(0)["movable"]
        (2, {'empty': 0, 'one word': 1, 'no other order': 1}, slice(0, 3, None))
    """
    all_texts = _strings(texts)
    keep = _tells_the_first_word(tokenizer) if keep_initial is None else keep_initial
    key = _key(all_texts, tokenizer, length, keep)
    table = load_sentences(cache / key) if cache is not None else None
    if table is None:
        table = _read(all_texts, tokenizer, length, keep, key)
        if cache is not None:
            save_sentences(table, cache / key)
            table = load_sentences(cache / key) or table
    _check_share(table, len(all_texts), most_left_out)
    return table


def _strings(texts: Iterable[str | None]) -> list[str]:
    """Return the texts, a missing one as an empty one."""
    if isinstance(texts, str):
        raise DataError("found one string; expected many sentences.")
    found = [text or "" for text in texts]
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise DataError(f"row {row} holds {text!r}; expected a sentence.")
        check_characters(text, f"row {row}")
    return found


def read_block(
    texts: Iterable[str | None],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    keep_initial: bool | None = None,
    check_spelling: bool = True,
) -> SentenceTable:
    """Read some sentences of a larger corpus, with a lexicon of their own; how many are left out is not judged.

    Args:
        texts: N sentences.
        tokenizer: the backbone's.
        length: most tokens of a sentence, special ones included.
        keep_initial: see `read_sentences`.
        check_spelling: compare some sentences with the tokenizer's own; once a corpus is enough.

    Raises:
        DataError: a tokenizer whose tokens of a text are not those of its words.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> table = read_block(["no no no", "A cat sleeps."], train_tokenizer(["A cat sleeps."], size=60), length=32)
        >>> len(table), table.rows.tolist()
        (1, [1])
    """
    keep = _tells_the_first_word(tokenizer) if keep_initial is None else keep_initial
    return _read(_strings(texts), tokenizer, length, keep, key="", check_spelling=check_spelling)


def _read(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    keep: bool,
    key: str,
    *,
    check_spelling: bool = True,
) -> SentenceTable:
    special = tokenizer.num_special_tokens_to_add()
    if length <= special:
        raise DataError(f"length={length} leaves no room for text: the tokenizer adds {special} special tokens.")
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers)) for word in split_words(text)] for text in texts]
    lexicon = build_lexicon(list(numbers), tokenizer)
    if check_spelling:
        _check_spelling(texts, rows, lexicon, tokenizer)
    words = Ragged.of(rows)
    words = _seen(words, lexicon)
    words, truncated = _cut(words, lexicon, length)
    good, left_out = _can_be_shuffled(words, lexicon, keep)
    kept = np.flatnonzero(good)
    words = words.take(kept)
    return SentenceTable(
        words=words,
        lexicon=lexicon,
        rows=kept,
        left_out=left_out,
        truncated=truncated,
        keep_initial=keep,
        fingerprint=_fingerprint(key, words, lexicon, kept, keep),
    )


def split_words(text: str) -> list[str]:
    """Split a sentence at its spaces, and the punctuation that closes it from its last word.

    Example:
        >>> [word.replace(GLUED, "|") for word in split_words("Who, me? Yes, you!?")]
        ['Who,', 'me?', 'Yes,', 'you', '|!?']
    """
    words = _normal(text).split()
    if not words:
        return []
    last = words.pop()
    bare = len(last)
    while bare and _is_punctuation(last[bare - 1]):
        bare -= 1
    if bare == len(last) or not (words or bare):
        return [*words, last]
    return [*words, last[:bare], GLUED + last[bare:]] if bare else [*words, CLOSING + last]


def _normal(text: str) -> str:
    """Return a text with single spaces, without the two characters that mark closing punctuation."""
    return " ".join(text.replace(GLUED, " ").replace(CLOSING, " ").split())


def _is_punctuation(character: str) -> bool:
    # As BERT has it, which makes a word of each; byte-level tokenizers split at these as well.
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _seen(words: Ragged, lexicon: Lexicon) -> Ragged:
    """Return the words as the model sees them.

    Words with the same tokens are one: swapping "The" and "the" of an uncased tokenizer changes nothing. Words without
    any, such as a control character between spaces, are none.
    """
    some = lexicon.inner.lengths_of(words.values) > 0
    before = np.concatenate([[0], np.cumsum(some)])
    return Ragged(lexicon.same_as[words.values[some]], before[words.offsets])


def _cut(words: Ragged, lexicon: Lexicon, length: int) -> tuple[Ragged, int]:
    """Leave out the last words of sentences that are too long; return how many were."""
    too_long = np.flatnonzero(lexicon.token_lengths(words) > length)
    room = length - len(lexicon.prefix) - len(lexicon.suffix)
    counts = words.lengths
    for row in too_long:
        sizes = lexicon.inner.lengths_of(words[int(row)])
        counts[row] = max(1, int(np.searchsorted(np.cumsum(sizes), room, side="right")))
    return words.head(counts), len(too_long)


def _can_be_shuffled(words: Ragged, lexicon: Lexicon, keep_initial: bool) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which sentences have two different words that may move, (N,), and how many have not, by reason."""
    lengths = words.lengths
    closed = np.zeros(len(words), dtype=bool)
    filled = lengths > 0  # a corpus of nothing but spaces has no word to look at
    closed[filled] = lexicon.closes[words.values[words.offsets[1:][filled] - 1]]
    starts = words.offsets[:-1] + int(keep_initial)
    stops = words.offsets[1:] - closed
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
    """Compare sentences put together from words with the tokenizer's own; refuse one that works otherwise.

    Runs of spaces count as one space, since words do not know them.
    """
    some = [place for place in range(0, len(texts), max(1, len(texts) // _CHECKED_SENTENCES)) if rows[place]]
    if not some:
        return
    whole = tokenizer([_normal(texts[place]) for place in some], verbose=False)["input_ids"]
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


def _tells_the_first_word(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the first word of a sentence can be told from its tokens: by its capital, or by the space it lacks."""
    small, capital = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the", "The"))
    return bool(small != capital) or tells_the_start(tokenizer)


def _fingerprint(key: str, words: Ragged, lexicon: Lexicon, rows: NDArray[np.int64], keep: bool) -> str:
    digest = hashlib.sha256(f"{key}|{lexicon_digest(lexicon)}|{keep}|{len(words)}|".encode())
    for values in (words.values, words.offsets, rows):
        digest.update(np.ascontiguousarray(values).data)  # not copied
    return digest.hexdigest()


def _key(texts: list[str], tokenizer: PreTrainedTokenizerBase, length: int, keep: bool) -> str:
    digest = hashlib.sha256(f"{_READER_VERSION}|{tokenizer_digest(tokenizer)}|{length}|{keep}|".encode())
    for start in range(0, len(texts), 10_000):
        digest.update(json.dumps(texts[start : start + 10_000]).encode())  # which tells "a", "b" from "a\nb"
    return digest.hexdigest()[:32]
