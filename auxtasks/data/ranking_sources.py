"""Rankings read from data sets: lists of graded items, and pairs of a better and a worse one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import datasets
import numpy as np
from numpy.typing import NDArray

from auxtasks.data.feature_columns import feature_table_of, feature_values
from auxtasks.data.preferences import PreferenceTexts, preference_texts
from auxtasks.data.prompted_texts import Prompted, encode_prompted
from auxtasks.data.ranking_columns import check_choice, grades_of, margins_of, queries_of
from auxtasks.data.rankings import ItemTable, RankingTable
from auxtasks.errors import ColumnError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["read_item_pairs", "read_lists", "read_text_pairs"]

Rows: TypeAlias = NDArray[np.int64]


def read_lists(
    dataset: datasets.Dataset,
    *,
    items: Callable[[datasets.Dataset], ItemTable],
    on_error: Literal["raise", "skip"] = "raise",
    keep_silent: bool = False,
) -> RankingTable:
    """Read graded items, one a row; rows with the same query are next to each other.

    A query of one item, or of items that all have one grade, says nothing. Such queries are left out and counted, as
    ``"one item"`` and ``"all grades equal"`` (and ``"no item"``, where all of a query's items were left out).

    Args:
        dataset: has the columns ``qid`` (whole numbers or strings) and ``grade`` (numbers, the higher the better; if
            it is not there, ``label``, whose names are read as numbers where they are class labels), and what `items`
            reads.
        items: makes the table of items, such as `encode_features`; it may leave rows out.
        on_error: what to do with a row whose grade is missing, NaN or infinite: ``"raise"``, or ``"skip"`` it with a
            message in the table of items.
        keep_silent: keep queries that say nothing, so that every one is there to be scored.

    Raises:
        ColumnError: a column is missing, or holds something else.
        DataError: a query comes back after another one (names both rows), a row has no query or no finite grade, or no
            query says anything.

    Example:
        >>> from auxtasks.data.feature_columns import encode_features
        >>> rows = {"qid": [7, 7, 8, 9, 9], "grade": [2, 0, 1, 3, 3], "features": [[0.0], [1.0], [2.0], [3.0], [4.0]]}
        >>> table = read_lists(datasets.Dataset.from_dict(rows), items=encode_features)
        >>> table.names, table.places.tolist(), table.left_out
        (('7',), [0, 1], {'one item': 1, 'all grades equal': 1})
    """
    query_of_row, names = queries_of(dataset)
    grade_of_row = grades_of(dataset, on_error)
    table = items(dataset)
    if len(table) and not (table.rows.min() >= 0 and table.rows.max() < len(dataset)):
        raise DataError(f"items made a table of rows up to {table.rows.max()}, but there are {len(dataset)} rows.")
    ungraded = np.flatnonzero(np.isnan(grade_of_row))
    if len(ungraded):
        messages = tuple(f"row {row}: no finite grade" for row in ungraded)
        table = dataclasses.replace(table, skipped=(*table.skipped, *messages))
    places = np.argsort(table.rows, kind="stable")
    places = places[~np.isnan(grade_of_row[table.rows[places]])]
    grades, queries = grade_of_row[table.rows[places]], query_of_row[table.rows[places]]
    lengths = np.bincount(queries, minlength=len(names))
    differ = _grades_differ(grades, lengths)
    left_out = {
        "one item": int(np.sum(lengths == 1)),
        "all grades equal": int(np.sum((lengths > 1) & ~differ)),
        **({"no item": int(np.sum(lengths == 0))} if (lengths == 0).any() else {}),
    }
    kept = differ
    if keep_silent:
        kept = lengths > 0
        left_out = {reason: count if reason == "no item" else 0 for reason, count in left_out.items()}
    _check_some_are_left(int(kept.sum()), len(names), left_out, "queries")
    inside = kept[queries]
    chosen = np.flatnonzero(kept)
    return _table(
        table,
        places[inside],
        grades[inside].astype(np.float32),
        lengths[chosen],
        np.full(len(chosen), np.nan, dtype=np.float32),
        tuple(names[query] for query in chosen),
        left_out,
    )


def read_text_pairs(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    on_equal: Literal["raise", "skip"] = "skip",
) -> RankingTable:
    """Read pairs of a better and a worse text, each a query of two items with the grades 1 and 0.

    A text that is in several pairs, after the same prompt, is one item, and tokenised once. A prompt and its text are
    encoded as the tokenizer encodes a pair; of a pair that is too long, the longer of the two is cut. A pair that is
    there in both directions stays: it is what people said.

    Args:
        dataset: has the columns ``chosen``, ``rejected`` and perhaps ``prompt``, strings or conversations (see
            `preference_texts`), and perhaps ``margin``: by how much the better one should lead, null for no such
            number.
        tokenizer: the backbone's.
        length: most tokens, special ones included; longer texts are cut, and counted in the items' ``truncated``.
        on_error: what to do with a pair of which a text is empty: ``"raise"``, or ``"skip"``, counted under
            ``"an empty text"``.
        on_equal: what to do with a pair that says nothing: ``"raise"``, or ``"skip"``, counted under
            ``"both the same"``, or under ``"the same tokens"`` where the texts differ in nothing that is left once cut
            and tokenised.

    Raises:
        ColumnError: a column is missing, or holds something else.
        DataError: a text is empty, a margin is negative or not finite (names the row), `length` leaves no room for
            text, or no pair is left.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> pairs = {"chosen": ["a b", "b", "a"], "rejected": ["b", "b", "b"]}
        >>> tokenizer = train_tokenizer(pairs["chosen"], size=20)
        >>> table = read_text_pairs(datasets.Dataset.from_dict(pairs), tokenizer, length=8)
        >>> table.items.texts, table.places.tolist(), table.left_out
        (('a b', 'b', 'a'), [0, 1, 2, 1], {'both the same': 1, 'the same tokens': 0})
    """
    _check_pairs(dataset)
    check_choice("on_error", on_error)
    check_choice("on_equal", on_equal)
    margins = margins_of(dataset)
    texts = preference_texts(dataset)
    filled = _filled(texts, on_error)
    differ = np.array([good != bad for good, bad in zip(texts.chosen, texts.rejected, strict=True)], dtype=bool)
    rows = np.flatnonzero(filled & differ)
    numbers: dict[Prompted, int] = {}
    first_rows: list[int] = []
    places = np.empty((len(rows), 2), dtype=np.int64)
    for pair, row in enumerate(rows):
        for side, column in enumerate((texts.chosen, texts.rejected)):
            number = numbers.setdefault((texts.prompts[row], column[row]), len(numbers))
            places[pair, side] = number
            if number == len(first_rows):
                first_rows.append(int(row))
    items = encode_prompted(list(numbers), np.array(first_rows, dtype=np.int64), tokenizer, length)
    told_apart = np.array(
        [not np.array_equal(items.tokens[good], items.tokens[bad]) for good, bad in places.tolist()], dtype=bool
    )
    left_out = {
        "both the same": int(np.sum(filled & ~differ)),
        "the same tokens": int(np.sum(~told_apart)),
        **({"an empty text": int(np.sum(~filled))} if on_error == "skip" else {}),
    }
    silent = np.sort(np.concatenate([np.flatnonzero(filled & ~differ), rows[~told_apart]]))
    return _pair_table(items, places[told_apart], rows[told_apart], margins, silent, on_equal, left_out)


def read_item_pairs(dataset: datasets.Dataset, *, on_equal: Literal["raise", "skip"] = "skip") -> RankingTable:
    """Read pairs of a better and a worse feature vector, each a query of two items with the grades 1 and 0.

    Args:
        dataset: has the columns ``chosen`` and ``rejected``, lists of D numbers each, and perhaps ``margin``: by how
            much the better one should lead, null for no such number. Vectors that are equal to the bit are one item.
        on_equal: what to do with a pair of equal vectors: ``"raise"``, or ``"skip"``, counted as ``"both the same"``.

    Raises:
        ColumnError: a column is missing, or holds something else.
        DataError: as `encode_features`; a margin is negative or not finite (names the row), or no pair is left.

    Example:
        >>> pairs = {"chosen": [[1, 0], [1, 1]], "rejected": [[0, 0], [0, 0]], "margin": [None, 0.5]}
        >>> table = read_item_pairs(datasets.Dataset.from_dict(pairs))
        >>> table.items.values.tolist(), table.places.tolist(), table.margins.tolist()
        ([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], [0, 1, 2, 1], [nan, 0.5])
    """
    _check_pairs(dataset)
    check_choice("on_equal", on_equal)
    margins = margins_of(dataset)
    chosen, rejected = (feature_values(dataset, name) for name in ("chosen", "rejected"))
    if chosen.shape != rejected.shape:
        raise DataError(
            f"the column 'chosen' holds {chosen.shape[1]} numbers a row, 'rejected' {rejected.shape[1]}; expected as "
            "many of both."
        )
    # 0 is added since -0 is 0 in other bits.
    values = np.stack([chosen, rejected], axis=1).reshape(-1, chosen.shape[1]) + np.float32(0)
    numbers: dict[bytes, int] = {}
    places = np.array([numbers.setdefault(value.tobytes(), len(numbers)) for value in values], dtype=np.int64)
    firsts = np.unique(places, return_index=True)[1]
    items = feature_table_of(values[firsts], np.full(len(firsts), -1, dtype=np.int64), (), firsts // 2)
    places = places.reshape(-1, 2)
    differ = places[:, 0] != places[:, 1]
    rows = np.flatnonzero(differ)
    silent = np.flatnonzero(~differ)
    return _pair_table(items, places[differ], rows, margins, silent, on_equal, {"both the same": len(silent)})


def _grades_differ(grades: NDArray[np.float64], lengths: Rows) -> NDArray[np.bool_]:
    """Return which queries, of so many items each, have items of different grades, (Q,)."""
    differ = np.zeros(len(lengths), dtype=bool)
    filled = np.flatnonzero(lengths)
    if len(filled):
        starts = (np.cumsum(lengths) - lengths)[filled]
        differ[filled] = np.maximum.reduceat(grades, starts) > np.minimum.reduceat(grades, starts)
    return differ


def _check_pairs(dataset: datasets.Dataset) -> None:
    for name in ("chosen", "rejected"):
        if name not in dataset.column_names:
            raise ColumnError(f"there is no column {name!r}; there are {', '.join(dataset.column_names) or 'none'}.")
    if not len(dataset):
        raise DataError("there are no rows, so no pairs.")


def _filled(texts: PreferenceTexts, on_error: str) -> NDArray[np.bool_]:
    """Return which pairs have two texts, (N,)."""
    filled = np.array(
        [_has_text(good) and _has_text(bad) for good, bad in zip(texts.chosen, texts.rejected, strict=True)], dtype=bool
    )
    if on_error == "raise" and not filled.all():
        row = int(np.flatnonzero(~filled)[0])
        name = "rejected" if _has_text(texts.chosen[row]) else "chosen"
        raise DataError(
            f"row {row} holds an empty text in the column {name!r} ({np.sum(~filled)} of {len(filled)} rows do). Leave "
            'such rows out, or pass on_error="skip".'
        )
    return filled


def _has_text(text: str) -> bool:
    # Control characters, which tokenizers drop, are not printable; a space is.
    return any(character.isprintable() and not character.isspace() for character in text)


def _pair_table(
    items: ItemTable,
    places: NDArray[np.int64],
    rows: Rows,
    margins: NDArray[np.float32],
    silent: Rows,
    on_equal: str,
    left_out: Mapping[str, int],
) -> RankingTable:
    """Make a table of pairs, the better one first; `silent` rows say nothing, and are an error if so wished."""
    if len(silent) and on_equal == "raise":
        raise DataError(
            f"row {silent[0]} prefers an item to its equal ({len(silent)} of {len(margins)} rows do). Leave such rows "
            'out, or pass on_equal="skip".'
        )
    _check_some_are_left(len(rows), len(margins), left_out, "pairs")
    return _table(
        items,
        places.reshape(-1),
        np.tile(np.array([1, 0], dtype=np.float32), len(rows)),
        np.full(len(rows), 2),
        margins[rows],
        tuple(map(str, rows)),
        left_out,
    )


def _check_some_are_left(kept: int, total: int, left_out: Mapping[str, int], what: str) -> None:
    if not kept:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items() if count)
        raise DataError(f"none of {total} {what} says which item is better ({reasons}).")


def _table(
    items: ItemTable,
    places: NDArray[np.int64],
    grades: NDArray[np.float32],
    lengths: Rows,
    margins: NDArray[np.float32],
    names: tuple[str, ...],
    left_out: Mapping[str, int],
) -> RankingTable:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    digest = hashlib.sha256(f"{items.fingerprint}|{json.dumps(names)}|".encode())
    for array in (places, grades, offsets, margins):
        digest.update(b"%d|" % len(array))
        digest.update(np.ascontiguousarray(array).data)
    return RankingTable(items, places, grades, offsets, margins, names, dict(left_out), digest.hexdigest())
