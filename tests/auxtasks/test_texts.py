"""Texts: tokenised as the library does it one at a time, cut where they are too long, and never lost without a word."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import transformers

from auxtasks.data import texts as texts_module
from auxtasks.data.ragged import Ragged
from auxtasks.data.sources import load_source
from auxtasks.data.texts import TextTable, encode_texts, table_of_texts, tokenise
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import ColumnError, DataError

TEXTS = ["the cat sat", "a dog", "the cat and the dog sat and sat", "sat", "a cat and a dog and a cat"]
LABELS = ["x", "y", "x", None, "y"]


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, size=60)


@pytest.fixture
def table(tokenizer: transformers.PreTrainedTokenizerFast) -> TextTable:
    return encode_texts(_source(TEXTS, LABELS), tokenizer, length=6)


def _source(texts: list[str], labels: list[str | None]) -> datasets.Dataset:
    columns = {"text": "text", "label": "label"}
    return load_source({"text": texts, "label": labels}, columns=columns, allow_unlabelled=True)


def test_tokens_are_those_of_one_text_at_a_time(
    table: TextTable, tokenizer: transformers.PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [tokenizer(text, truncation=True, max_length=6)["input_ids"] for text in TEXTS]
    assert [row.tolist() for row in table.tokens] == expected
    assert table.truncated == sum(len(tokenizer(text)["input_ids"]) > 6 for text in TEXTS) == 2
    assert table.tokens.lengths.max() == 6
    assert all(row[-1] == tokenizer.sep_token_id for row in table.tokens)
    monkeypatch.setattr(texts_module, "TOKENISED_AT_A_TIME", 2)
    tokens, truncated = tokenise(TEXTS, tokenizer, 6)
    np.testing.assert_array_equal(tokens.values, table.tokens.values)
    np.testing.assert_array_equal(tokens.offsets, table.tokens.offsets)
    assert truncated == 2


def test_labels_rows_and_texts(table: TextTable) -> None:
    assert (len(table), table.texts, table.class_names, table.skipped) == (5, tuple(TEXTS), ("x", "y"), ())
    assert table.labels.tolist() == [0, 1, 0, -1, 1]
    assert table.rows.tolist() == [0, 1, 2, 3, 4]
    record = table.record(1)
    assert (record["label"], record["tokens"].dtype) == (1, np.int32)
    record["tokens"][:] = 0  # a copy
    assert table.tokens[1].any()


def test_without_labels(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    table = table_of_texts(TEXTS, tokenizer, 6)
    assert (table.labels.tolist(), table.class_names) == ([-1] * 5, ())
    assert len(table_of_texts([], tokenizer, 6)) == 0


def test_subset(table: TextTable) -> None:
    part = table.subset([4, 0, 4])
    assert part.texts == (TEXTS[4], TEXTS[0], TEXTS[4])
    assert [row.tolist() for row in part.tokens] == [table.tokens[row].tolist() for row in (4, 0, 4)]
    assert (part.labels.tolist(), part.rows.tolist()) == ([1, 0, 1], [4, 0, 4])
    assert len(table.subset([])) == 0
    prints = {table.fingerprint, part.fingerprint, table.subset([0, 4, 4]).fingerprint}
    assert len(prints) == 3
    for wrong in ([5], [-1]):
        with pytest.raises(DataError, match=rf"indices run from {wrong[0]} to {wrong[0]}, but there are 5 texts"):
            table.subset(wrong)


def test_fingerprint_tells_texts_tokens_and_labels_apart(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    variants = [(TEXTS, LABELS, 6), (TEXTS, LABELS, 5), (TEXTS, LABELS[::-1], 6), ([*TEXTS[:4], "A dog"], LABELS, 6)]
    prints = [
        encode_texts(_source(texts, labels), tokenizer, length=length).fingerprint for texts, labels, length in variants
    ]
    assert len(set(prints)) == len(variants)
    assert encode_texts(_source(TEXTS, LABELS), tokenizer, length=6).fingerprint == prints[0]
    # The same tokens of another spelling are another text.
    spelled = [table_of_texts([text], tokenizer, 6) for text in ("a dog", "A dog")]
    assert spelled[0].tokens.values.tolist() == spelled[1].tokens.values.tolist()
    assert spelled[0].fingerprint != spelled[1].fingerprint


def test_empty_texts(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    # Blank, missing, and of control characters alone, which the tokenizer drops.
    source = datasets.Dataset.from_dict({"text": ["a dog", " \n", None, "\u200b\u200b", "sat"]})
    with pytest.raises(DataError, match=r"row 1 holds an empty text \(3 of 5 rows do\)\. .*on_error=\"skip\""):
        encode_texts(source, tokenizer, length=6)
    table = encode_texts(source, tokenizer, length=6, on_error="skip")
    assert (table.texts, table.rows.tolist()) == (("a dog", "sat"), [0, 4])
    assert table.skipped == tuple(f"row {row}: an empty text" for row in (1, 2, 3))
    with pytest.raises(DataError, match=r"row 0 holds an empty text \(2 of 2 rows do\)"):
        encode_texts(datasets.Dataset.from_dict({"text": ["", " "]}), tokenizer, length=6, on_error="skip")


def test_columns_that_are_no_texts(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    with pytest.raises(ColumnError, match=r"no column 'text'; there are sentence"):
        encode_texts(datasets.Dataset.from_dict({"sentence": ["a"]}), tokenizer, length=6)
    with pytest.raises(ColumnError, match=r"the column 'text' holds int64; expected strings"):
        encode_texts(datasets.Dataset.from_dict({"text": [1]}), tokenizer, length=6)
    with pytest.raises(ColumnError, match=r"the column 'label' is Value\('string'\), not class labels"):
        encode_texts(datasets.Dataset.from_dict({"text": ["a"], "label": ["b"]}), tokenizer, length=6)


def test_tokenizer_or_length_that_will_not_do() -> None:
    tokenizer = train_tokenizer(TEXTS, size=60)
    with pytest.raises(DataError, match=r"length=2 leaves no room for text: the tokenizer adds 2 special tokens"):
        table_of_texts(TEXTS, tokenizer, 2)
    tokenizer.pad_token = None
    with pytest.raises(DataError, match=r"the tokenizer has no padding token"):
        table_of_texts(TEXTS, tokenizer, 6)


# --- Ragged ----------------------------------------------------------------------------------------------------------


def test_ragged_is_a_list_of_lists() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 99, size).tolist() for size in (3, 0, 5, 1, 0, 2)]
    rows = Ragged.of(lists)
    assert [row.tolist() for row in rows] == lists
    assert rows.lengths.tolist() == [3, 0, 5, 1, 0, 2]
    assert (rows.values.dtype, rows.offsets.dtype) == (np.int32, np.int64)
    for order in ([5, 4, 3, 2, 1, 0], [2, 2, 1, 0], [1, 4], []):
        taken = rows.take(order)
        assert [row.tolist() for row in taken] == [lists[row] for row in order]
        assert len(taken) == len(order)


def test_ragged_of_nothing() -> None:
    assert len(Ragged.of([])) == 0
    assert [row.tolist() for row in Ragged.of([[], []])] == [[], []]


def test_ragged_knows_its_rows() -> None:
    rows = Ragged.of([[1], [2, 3]])
    with pytest.raises(IndexError, match=r"row -1 of 2"):
        rows[-1]
    for wrong in ([0, 2], [-1, 0]):
        with pytest.raises(IndexError, match=rf"rows run from {min(wrong)} to {max(wrong)}, but there are 2"):
            rows.take(wrong)
