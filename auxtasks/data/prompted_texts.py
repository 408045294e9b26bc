"""Texts that answer prompts, tokenised once: each pair of a prompt and a text as the tokenizer encodes a pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.ragged import Ragged
from auxtasks.data.texts import TOKENISED_AT_A_TIME, TextTable, tokenise
from auxtasks.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prompted", "encode_prompted"]

Prompted: TypeAlias = tuple[str | None, str]  # a prompt, and what answers it


def encode_prompted(
    items: Sequence[Prompted], rows: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase, length: int
) -> TextTable:
    """Tokenise texts, those with a prompt as the tokenizer encodes a pair.

    Of a prompt and a text that are too long together, the longer one is cut (``"longest_first"``). The table's texts
    are then the prompt and the text, a line each.

    Args:
        items: N prompts, None for none, and texts.
        rows: (N,) where each is from.
        tokenizer: the backbone's.
        length: most tokens, special ones included; how many items were cut is the table's ``truncated``.

    Raises:
        DataError: `length` leaves no room for text, or the tokenizer has no padding token.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b", "b a b"], size=20)
        >>> table = encode_prompted([("a b", "b"), (None, "a")], np.arange(2), tokenizer, length=8)
        >>> tokenizer.convert_ids_to_tokens(table.tokens[0]), table.texts
        (['[CLS]', 'a', 'b', '[SEP]', 'b', '[SEP]'], ('a b\\nb', 'a'))
    """
    if tokenizer.pad_token_id is None:
        raise DataError("the tokenizer has no padding token: give it one (tokenizer.pad_token = ...).")
    alone = [place for place, (prompt, _) in enumerate(items) if prompt is None]
    after = [place for place, (prompt, _) in enumerate(items) if prompt is not None]
    first, cut = tokenise([items[place][1] for place in alone], tokenizer, length)
    second, more_cut = _tokenise_after([items[place] for place in after], tokenizer, length)
    joined = Ragged(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]),
    )
    tokens = joined.take(np.argsort([*alone, *after]))
    texts = tuple(text if prompt is None else f"{prompt}\n{text}" for prompt, text in items)
    digest = hashlib.sha256(json.dumps(items).encode())
    for array in (tokens.values, tokens.offsets, rows):
        digest.update(b"|%d|" % len(array))
        digest.update(array.data)
    return TextTable(
        tokens=tokens,
        texts=texts,
        labels=np.full(len(items), -1, dtype=np.int64),
        class_names=(),
        rows=rows,
        skipped=(),
        truncated=cut + more_cut,
        pad_id=int(tokenizer.pad_token_id),
        fingerprint=digest.hexdigest(),
    )


def _tokenise_after(items: Sequence[Prompted], tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[Ragged, int]:
    """Return the tokens of prompts with their texts, at most `length` each, and how many were cut."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if items and length < special + 2:
        raise DataError(
            f"length={length} leaves no room for a prompt and a text: the tokenizer adds {special} special tokens."
        )
    rows: list[list[int]] = []
    truncated = 0
    for start in range(0, len(items), TOKENISED_AT_A_TIME):
        prompts, texts = (list(side) for side in zip(*items[start : start + TOKENISED_AT_A_TIME], strict=True))
        found = tokenizer(prompts, texts, truncation=False, verbose=False)["input_ids"]
        long = [place for place, row in enumerate(found) if len(row) > length]
        truncated += len(long)
        if long:
            some = ([side[place] for place in long] for side in (prompts, texts))
            cut = tokenizer(*some, truncation="longest_first", max_length=length)["input_ids"]
            for place, row in zip(long, cut, strict=True):
                found[place] = row
        rows += found
    return Ragged.of(rows), truncated
