"""Texts tokenised once: what a backbone reads of a data set of texts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

import datasets
import numpy as np
from numpy.typing import NDArray

from auxtasks.data.arrow import arrow_column, spell_feature
from auxtasks.data.labels import labels_of
from auxtasks.data.ragged import Ragged
from auxtasks.errors import ColumnError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextRecord", "TextTable", "encode_texts", "table_of_texts", "tokenise"]

TOKENISED_AT_A_TIME = 10_000


class TextRecord(TypedDict):
    """One row of a `TextTable`: ``tokens`` (T,) with the special ones, ``label`` is -1 where there is none."""

    tokens: NDArray[np.int32]
    label: int


@dataclasses.dataclass(frozen=True, eq=False)
class TextTable:
    """Tokenised texts, their labels, and where they came from.

    Attributes:
        tokens: N rows of token ids, special tokens included.
        texts: the N texts as they were read: for baselines on raw text, and for finding duplicates.
        labels: (N,) int64, -1 where unlabelled.
        class_names: the name of each label.
        rows: (N,) int64, the row in the source of each text.
        skipped: one message for each text that was left out.
        truncated: how many texts were longer than the backbone takes, and were cut; a subset keeps the whole's count.
        pad_id: token id of padding.
        fingerprint: changes with any text, token, label, name or row.

    Example:
        >>> import datasets
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> tokenizer = train_tokenizer(["the old dog", "a cat"], size=40)
        >>> table: TextTable = table_of_texts(["the cat", "a dog"], tokenizer, length=8)
        >>> record: TextRecord = table.record(0)
        >>> len(table), record["label"], table.truncated
        (2, -1, 0)
        >>> rows, truncated = tokenise(["the old dog the old dog"], tokenizer, 4)
        >>> truncated
        1
    """

    tokens: Ragged
    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    skipped: tuple[str, ...]
    truncated: int
    pad_id: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> TextRecord:
        """Return one text's tokens and label."""
        return {"tokens": np.array(self.tokens[index]), "label": int(self.labels[index])}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> TextTable:
        """Return the texts at `indices`, in that order, with the same class names.

        Raises:
            DataError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(f"indices run from {chosen.min()} to {chosen.max()}, but there are {len(self)} texts.")
        digest = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()
        return dataclasses.replace(
            self,
            tokens=self.tokens.take(chosen),
            texts=tuple(self.texts[row] for row in chosen),
            labels=self.labels[chosen],
            rows=self.rows[chosen],
            fingerprint=digest,
        )


def encode_texts(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    on_error: Literal["raise", "skip"] = "raise",
) -> TextTable:
    """Tokenise all texts of a data set, once.

    Args:
        dataset: has a column ``text`` and perhaps ``label``, as `load_source` returns.
        tokenizer: the backbone's.
        length: most tokens, special ones included; longer texts are cut, and counted in `TextTable.truncated`.
        on_error: what to do about a text without any token: ``"raise"``, or ``"skip"`` it with a message.

    Raises:
        ColumnError: no column of texts.
        DataError: a text is empty (names its row), all are, or `length` leaves no room for text.

    Example:
        >>> from auxtasks.data.sources import load_source
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> source = load_source({"text": ["a b", "b a b"], "label": ["x", "y"]},
        ...                      columns={"text": "text", "label": "label"})
        >>> table = encode_texts(source, train_tokenizer(source["text"], size=20), length=4)
        >>> table.tokens.lengths.tolist(), table.truncated, table.labels.tolist()
        ([4, 4], 1, [0, 1])
    """
    texts = _texts_of(dataset)
    labels, class_names = labels_of(dataset)
    filled = np.array([row for row, text in enumerate(texts) if text.strip()], dtype=np.int64)
    tokens, cut = tokenise([texts[row] for row in filled], tokenizer, length)
    # A text of nothing but control characters is not blank, and has no token all the same.
    whole = np.flatnonzero(tokens.lengths > tokenizer.num_special_tokens_to_add())
    tokens, kept = tokens.take(whole), filled[whole]
    empty = np.setdiff1d(np.arange(len(texts)), kept)
    if len(empty) and (on_error == "raise" or not len(kept)):
        raise DataError(
            f"row {empty[0]} holds an empty text ({len(empty)} of {len(texts)} rows do). Leave such rows out, or pass "
            'on_error="skip".'
        )
    chosen = [texts[row] for row in kept]
    return TextTable(
        tokens=tokens,
        texts=tuple(chosen),
        labels=labels[kept],
        class_names=class_names,
        rows=kept,
        skipped=tuple(f"row {row}: an empty text" for row in empty),
        truncated=cut,
        pad_id=_pad_id(tokenizer),
        fingerprint=_fingerprint(tokens, chosen, labels[kept], class_names, kept),
    )


def table_of_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> TextTable:
    """Tokenise texts that have no labels into a table, as the training data was.

    Raises:
        DataError: a text is empty; names its place.
    """
    return encode_texts(datasets.Dataset.from_dict({"text": list(texts)}), tokenizer, length=length)


def tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[Ragged, int]:
    """Return the tokens of texts, at most `length` each, and how many texts were cut.

    Raises:
        DataError: `length` leaves no room beside the special tokens.
    """
    special = tokenizer.num_special_tokens_to_add()
    if length <= special:
        raise DataError(f"length={length} leaves no room for text: the tokenizer adds {special} special tokens.")
    rows: list[list[int]] = []
    truncated = 0
    for start in range(0, len(texts), TOKENISED_AT_A_TIME):
        some = list(texts[start : start + TOKENISED_AT_A_TIME])
        # Twice only where something is too long: the tokenizer says what it cut off by nothing but the length.
        found = tokenizer(some, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        long = [place for place, row in enumerate(found) if len(row) > length]
        truncated += len(long)
        if long:
            cut = tokenizer([some[place] for place in long], truncation=True, max_length=length)["input_ids"]
            for place, row in zip(long, cut, strict=True):
                found[place] = row
        rows += found
    return Ragged.of(rows), truncated


def _texts_of(dataset: datasets.Dataset) -> list[str]:
    """Return the texts, a missing one as an empty one."""
    if "text" not in dataset.column_names:
        raise ColumnError(f"there is no column 'text'; there are {', '.join(dataset.column_names)}.")
    feature = dataset.features["text"]
    if len(dataset) and getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise ColumnError(f"the column 'text' holds {spell_feature(feature)}; expected strings.")
    return [text or "" for text in arrow_column(dataset, "text").to_pylist()]


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.pad_token_id is None:
        raise DataError("the tokenizer has no padding token: give it one (tokenizer.pad_token = ...).")
    return int(tokenizer.pad_token_id)


def _fingerprint(
    tokens: Ragged,
    texts: Sequence[str],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    rows: NDArray[np.int64],
) -> str:
    digest = hashlib.sha256()
    names = [json.dumps(list(strings)).encode() for strings in (texts, class_names)]
    arrays = [array.tobytes() for array in (tokens.values, tokens.offsets, labels, rows)]
    for part in [*names, *arrays]:
        digest.update(b"%d|" % len(part))
        digest.update(part)
    return digest.hexdigest()
