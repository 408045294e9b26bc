"""The words of a corpus, each tokenised once: sentences are put together from words, whatever their order.

A word is what stands between spaces; the punctuation that ends a sentence is a word of its own, which closes it and may
be glued to the one before it. Tokenizers treat a word at the start of a text, inside it, and glued punctuation
differently (byte-level BPE writes a space into the token), so a lexicon keeps the tokens of each in its place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.ragged import Ragged
from auxtasks.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CLOSING", "GLUED", "Lexicon", "Spelled", "build_lexicon", "lexicon_digest", "tells_the_start"]

Ids = NDArray[np.int32]

# Begin the key of punctuation that closes a sentence, glued to the word before it or standing apart.
GLUED = "\0"
CLOSING = "\1"
TOKENISED_AT_A_TIME = 20_000


class Spelled(NamedTuple):
    """Token ids (T,) of a sentence, special ones included, and which of them begin a word, (T,) bool."""

    tokens: Ids
    begins_word: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """W words with their tokens.

    Attributes:
        inner: tokens of each word inside a text.
        initial: tokens of each word at the start of a text.
        same_as: (W,) the first word with the same tokens, such as "The" for "the" of an uncased tokenizer.
        closes: (W,) bool, whether a word is punctuation that closes a sentence.
        prefix, suffix: special tokens before and after every text.
        pad_id: token id of padding.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> tokenizer = train_tokenizer(["ab b. ab"], size=20)
        >>> lexicon: Lexicon = build_lexicon(["Ab", "b"], tokenizer)
        >>> spelled: Spelled = lexicon.spell(np.array([0, 1]), length=16)
        >>> spelled.begins_word.tolist(), len(lexicon_digest(lexicon)), tells_the_start(tokenizer)
        ([False, True, True, False], 64, False)
    """

    inner: Ragged
    initial: Ragged
    same_as: Ids
    closes: NDArray[np.bool_]
    prefix: Ids
    suffix: Ids
    pad_id: int

    def __len__(self) -> int:
        return len(self.inner)

    def spell(self, words: Ids, length: int) -> Spelled:
        """Return the tokens of a sentence, cut to at most `length`."""
        values, offsets = self.inner.values, self.inner.offsets
        # A dozen slices of a few tokens: one by one is faster than a gather, whose NumPy calls cost more than copies.
        parts = [
            values[start:stop] for start, stop in zip(offsets[words].tolist(), offsets[words + 1].tolist(), strict=True)
        ]
        parts[0] = self.initial[int(words[0])]
        starts = list(itertools.accumulate((len(part) for part in parts[:-1]), initial=len(self.prefix)))
        tokens = np.concatenate([self.prefix, *parts, self.suffix])
        if len(tokens) > length:
            kept = length - len(self.suffix)
            tokens = np.concatenate([tokens[:kept], self.suffix])
            starts = [start for start in starts if start < kept]
        begins = np.zeros(len(tokens), dtype=bool)
        begins[starts] = True
        return Spelled(tokens, begins)

    def token_lengths(self, words: Ragged) -> NDArray[np.int64]:
        """Return how many tokens each sentence has, special ones included, (N,); as inside a text throughout."""
        sizes = self.inner.lengths[words.values]
        totals = np.concatenate([[0], np.cumsum(sizes)])
        lengths: NDArray[np.int64] = totals[words.offsets[1:]] - totals[words.offsets[:-1]]
        return lengths + len(self.prefix) + len(self.suffix)


def tells_the_start(tokenizer: PreTrainedTokenizerBase, words: Sequence[str] = ("the", "dog")) -> bool:
    """Whether a tokenizer writes a word at the start of a text otherwise than inside."""
    return _tokens(words, tokenizer) != _tokens([f" {word}" for word in words], tokenizer)


def build_lexicon(keys: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Lexicon:
    """Tokenise every word in each place that it can have.

    Args:
        keys: W different words; those that begin with `GLUED` or `CLOSING` are punctuation that closes a sentence.
        tokenizer: the backbone's.

    Raises:
        DataError: a tokenizer without a padding token, or one that puts special tokens inside a text.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> lexicon = build_lexicon(["Ab", "ab", GLUED + "."], train_tokenizer(["ab b. ab"], size=20))
        >>> lexicon.same_as.tolist(), lexicon.spell(np.array([0, 1, 2]), length=16).begins_word.tolist()[:4]
        ([0, 0, 2], [False, True, True, True])
    """
    if tokenizer.pad_token_id is None:
        raise DataError("the tokenizer has no padding token: give it one (tokenizer.pad_token = ...).")
    glued = [place for place, key in enumerate(keys) if key.startswith(GLUED)]
    closes = np.array([key.startswith((GLUED, CLOSING)) for key in keys], dtype=bool)
    bare = [key.lstrip(GLUED + CLOSING) for key in keys]
    inner = _tokens([f" {word}" for word in bare], tokenizer)
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    for place, row in zip(glued, _tokens([f"a{bare[place]}" for place in glued], tokenizer), strict=True):
        inner[place] = row[len(alone) :]
    # Most tokenizers write a word at the start of a text as they do inside.
    initial = _tokens(bare, tokenizer) if tells_the_start(tokenizer, bare[:200]) else inner
    first_of: dict[tuple[int, ...], int] = {}
    same_as = [first_of.setdefault((int(closes[place]), *row), place) for place, row in enumerate(inner)]
    prefix, suffix = _special_tokens(tokenizer)
    rows = Ragged.of(inner)
    return Lexicon(
        inner=rows,
        initial=rows if initial is inner else Ragged.of(initial),
        same_as=np.array(same_as, dtype=np.int32),
        closes=closes,
        prefix=prefix,
        suffix=suffix,
        pad_id=int(tokenizer.pad_token_id),
    )


def lexicon_digest(lexicon: Lexicon) -> str:
    """Return a SHA-256 of everything that a lexicon spells with, and of which words close a sentence."""
    digest = hashlib.sha256()
    for ragged in (lexicon.inner, lexicon.initial):
        digest.update(np.ascontiguousarray(ragged.values).tobytes())
        digest.update(np.ascontiguousarray(ragged.offsets).tobytes())
    digest.update(np.ascontiguousarray(lexicon.closes).tobytes())
    digest.update(lexicon.prefix.tobytes() + b"|" + lexicon.suffix.tobytes())
    return digest.hexdigest()


def _tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(texts), TOKENISED_AT_A_TIME):
        some = list(texts[start : start + TOKENISED_AT_A_TIME])
        found += tokenizer(some, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return found


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            end = start + len(bare)
            return np.array(whole[:start], dtype=np.int32), np.array(whole[end:], dtype=np.int32)
    raise DataError(f"the tokenizer turns 'a' into {bare} alone and into {whole} with special tokens around it.")
