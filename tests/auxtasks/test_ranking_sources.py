"""Rankings read: as nested loops over the rows find them, with nothing left out unsaid."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import transformers

from auxtasks.data.feature_columns import encode_features
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.ranking_sources import read_item_pairs, read_lists, read_text_pairs
from auxtasks.data.rankings import RankingTable
from auxtasks.data.sources import load_source
from auxtasks.data.texts import TextTable, encode_texts
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import ColumnError, DataError

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "and", "then", "slept", "ate", "fish"]


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return train_tokenizer([" ".join(WORDS)] * 2, size=200)


def lists(seed: int, queries: int = 60) -> datasets.Dataset:
    """Queries of 1 to 6 items, some of one grade, not numbered in order."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(1000)[:queries]
    qids = np.repeat(numbers, rng.integers(1, 7, size=queries))
    grades = rng.integers(0, 3, size=len(qids))
    features = rng.normal(size=(len(qids), 4)).astype(np.float32)
    return datasets.Dataset.from_dict({"qid": qids, "grade": grades, "features": list(features)})


def said(table: RankingTable) -> dict[str, list[tuple[float, list[float]]]]:
    """Each query's name with its grades and features, as records hold them."""
    return {
        table.names[query]: [
            (float(grade), record["items"].values[place].tolist())
            for place, grade in zip(record["places"], record["grades"], strict=True)
        ]
        for query in range(len(table))
        for record in [table.record(query)]
    }


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_lists_are_those_of_a_loop(seed: int) -> None:
    dataset = lists(seed)
    queries: dict[str, list[tuple[float, list[float]]]] = {}
    for row in dataset:
        queries.setdefault(str(row["qid"]), []).append((row["grade"], row["features"]))
    telling = {name: items for name, items in queries.items() if len({grade for grade, _ in items}) > 1}
    alone = sum(len(items) == 1 for items in queries.values())
    table = read_lists(dataset, items=encode_features)
    assert said(table) == telling
    assert table.left_out == {"one item": alone, "all grades equal": len(queries) - len(telling) - alone}
    assert all(table.left_out.values())  # both kinds were there
    assert (table.places.dtype, table.grades.dtype, table.margins.dtype) == (np.int64, np.float32, np.float32)
    assert np.isnan(table.margins).all()
    everything = read_lists(dataset, items=encode_features, keep_silent=True)
    assert said(everything) == queries
    assert list(everything.names) == list(queries)
    assert everything.left_out == {"one item": 0, "all grades equal": 0}


@pytest.mark.parametrize(
    ("qids", "names"),
    [
        (["b", "b", "a", "a"], ("b", "a")),
        ([7, 7, -1, -1], ("7", "-1")),
        ([7.0, 7.0, 3.0, 3.0], ("7", "3")),
    ],
)
def test_kinds_of_query(qids: list[object], names: tuple[str, ...]) -> None:
    dataset = datasets.Dataset.from_dict({"qid": qids, "grade": [0, 1, 1, 0], "features": [[1.0]] * 4})
    table = read_lists(dataset, items=encode_features)
    assert (table.names, table.offsets.tolist()) == (names, [0, 2, 4])


@pytest.mark.parametrize(
    ("labels", "role"),
    [
        ([2.5, 0.0, 1.0], "grade"),
        ([10, 2, 9], "label"),  # class labels, whose codes are in another order than their names
        (["10", "2", "9"], "label"),
        (["0.5", "-1", "3"], "label"),
        ([True, False, True], "grade"),
    ],
)
def test_kinds_of_grade(labels: list[object], role: str) -> None:
    dataset = load_source(
        {"q": [1, 1, 1], "y": labels, "features": [[1.0], [2.0], [3.0]]},
        columns={"qid": "q", role: "y", "features": "features"},
    )
    assert isinstance(dataset.features[role], datasets.ClassLabel) == (role == "label")
    table = read_lists(dataset, items=encode_features)
    assert table.grades.tolist() == [float(label) for label in labels]


def test_a_grade_is_read_before_a_label() -> None:
    dataset = datasets.Dataset.from_dict({"qid": [1, 1], "label": [5, 6], "grade": [1, 0], "features": [[1.0]] * 2})
    assert read_lists(dataset, items=encode_features).grades.tolist() == [1, 0]


def test_items_may_be_pictures_or_texts(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    pictures = [np.full((8, 8), grey, dtype=np.uint8) for grey in (10, 200, 30, 40)]
    rows = {"qid": [1, 1, 2, 2], "grade": [0, 1, 2, 0], "text": ["a cat", "", "a dog", "the cat"], "image": pictures}
    dataset = load_source(rows, columns={name: name for name in rows})
    table = read_lists(dataset, items=lambda d: decode_images(d, size=(4, 4), channels=1, workers=1))
    assert isinstance(table.items, ImageTable)
    assert table.items.pixels[table.record(0)["places"], 0, 0, 0].tolist() == [10, 200]
    # An item that its reader left out leaves its query with one.
    table = read_lists(dataset, items=lambda d: encode_texts(d, tokenizer, length=8, on_error="skip"))
    assert isinstance(table.items, TextTable)
    assert (table.names, table.left_out) == (("2",), {"one item": 1, "all grades equal": 0})
    assert [table.items.texts[place] for place in table.places] == ["a dog", "the cat"]


def test_items_that_are_left_out_altogether(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    rows = {"qid": [1, 1, 2, 2], "grade": [0, 1, 2, 0], "text": ["", "", "a dog", "the cat"]}
    dataset = load_source(rows, columns={name: name for name in rows})
    for keep_silent in (False, True):
        table = read_lists(
            dataset,
            items=lambda d: encode_texts(d, tokenizer, length=8, on_error="skip"),
            keep_silent=keep_silent,
        )
        assert (table.names, table.left_out["no item"], table.grades.tolist()) == (("2",), 1, [2, 0])


def test_missing_grades_may_be_skipped() -> None:
    rows = {"qid": [1, 1, 1, 2, 2], "grade": [1.0, None, 0.0, np.nan, 2.0], "features": [[float(i)] for i in range(5)]}
    dataset = datasets.Dataset.from_dict(rows)
    with pytest.raises(DataError, match=r"row 1 holds nan in the column 'grade'; .* \(2 of 5 rows have none\).*skip"):
        read_lists(dataset, items=encode_features)
    table = read_lists(dataset, items=encode_features, on_error="skip")
    assert (table.names, table.places.tolist(), table.grades.tolist()) == (("1",), [0, 2], [1, 0])
    assert table.left_out == {"one item": 1, "all grades equal": 0}
    assert table.items.skipped == ("row 1: no finite grade", "row 3: no finite grade")


def test_rows_of_items_in_another_order() -> None:
    dataset = lists(0)
    backwards = read_lists(dataset, items=lambda d: encode_features(d).subset(np.arange(len(d))[::-1]))
    assert said(backwards) == said(read_lists(dataset, items=encode_features))


def test_fingerprint_of_lists() -> None:
    base = {"qid": [1, 1, 2, 2], "grade": [0, 1, 2, 0], "features": [[1.0], [2.0], [3.0], [4.0]]}
    variants = [
        {},
        {"qid": [1, 1, 3, 3]},
        {"qid": [1, 1, 1, 1]},
        {"grade": [1, 0, 2, 0]},
        {"features": [[1.0], [2.0], [3.0], [5.0]]},
    ]
    prints = [
        read_lists(datasets.Dataset.from_dict({**base, **variant}), items=encode_features).fingerprint
        for variant in (*variants, {})
    ]
    assert len(set(prints)) == len(variants)
    assert prints[0] == prints[-1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"qid": None}, ColumnError, r"there is no column 'qid'; there are grade, features"),
        ({"grade": None}, ColumnError, r"there is no column 'grade' or 'label'; there are qid, features"),
        (
            {"qid": [4, 7, 7, 4]},
            DataError,
            r"the query 4 begins in row 0, and comes back in row 3 after other queries\. .*sort the rows by qid",
        ),
        ({"qid": ["x", "x", None, "y"]}, DataError, r"row 2 has no query in the column 'qid' \(1 of 4 have none\)"),
        ({"qid": [1.0, 1.0, None, 2.0]}, DataError, r"row 2 has no query"),
        ({"qid": [1.5, 1.5, 2.0, 2.0]}, ColumnError, r"'qid' holds float64; expected whole numbers or strings"),
        ({"qid": [[1], [1], [2], [2]]}, ColumnError, r"'qid' holds List; expected whole numbers"),
        ({"grade": ["a", "b", "a", "b"]}, ColumnError, r"'grade' holds string; expected numbers, the higher"),
        ({"grade": [0, np.inf, 1, 2]}, DataError, r"row 1 holds inf in the column 'grade'; expected a finite grade"),
        ({"grade": [0, 1 << 24, (1 << 24) + 1, 2]}, DataError, r"grades up to 16,777,217 in size; float32 does not"),
        ({"grade": [0.0, 1e200, 0.0, 1.0]}, DataError, r"float32 does not tell all of these apart"),
        (
            {"grade": [1, 1, 2, 2]},
            DataError,
            r"none of 2 queries says which item is better \(all grades equal: 2\)",
        ),
        ({"qid": [], "grade": [], "features": []}, DataError, r"there are no rows, so no queries"),
    ],
)
def test_lists_that_will_not_do(changes: dict[str, list[object] | None], error: type[DataError], message: str) -> None:
    rows = {"qid": [1, 1, 2, 2], "grade": [0, 1, 2, 0], "features": [[1.0]] * 4, **changes}
    with pytest.raises(error, match=message):
        read_lists(
            datasets.Dataset.from_dict({name: column for name, column in rows.items() if column is not None}),
            items=encode_features,
        )


def test_classes_that_are_no_grades_and_a_wrong_choice() -> None:
    source = load_source(
        {"qid": [1, 1], "label": ["good", "bad"], "features": [[1.0], [2.0]]},
        columns={"qid": "qid", "label": "label", "features": "features"},
    )
    with pytest.raises(ColumnError, match=r"'label' holds classes that are no numbers .*'bad'"):
        read_lists(source, items=encode_features)
    with pytest.raises(DataError, match=r"on_error is 'raise' or 'skip'; found 'ignore'"):
        read_lists(lists(0), items=encode_features, on_error="ignore")
    with pytest.raises(DataError, match=r"items made a table of rows up to \d+, but there are 10 rows"):
        read_lists(lists(0).select(range(10)), items=lambda _: encode_features(lists(0)))


def test_built_in_lists() -> None:
    roles = {"qid": "qid", "grade": "grade", "features": "features"}
    table = read_lists(load_source("builtin:severity", columns=roles, options={"split": "test"}), items=encode_features)
    assert (len(table), table.left_out) == (8, {"one item": 0, "all grades equal": 0})


# --- pairs of texts --------------------------------------------------------------------------------------------------


def sentences(seed: int, count: int, longest: int = 3) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest + 1))) for _ in range(count)]


@pytest.mark.parametrize("prompted", [False, True])
def test_pairs_are_those_of_a_loop(tokenizer: transformers.PreTrainedTokenizerFast, prompted: bool) -> None:
    rows: dict[str, list[object]] = {"chosen": sentences(0, 300), "rejected": sentences(1, 300)}
    prompts: list[str | None] = [None] * 300
    if prompted:
        rng = np.random.default_rng(2)
        prompts = [None if rng.random() < 0.3 else text for text in sentences(3, 300, longest=5)]
        rows["prompt"] = prompts
    rows["margin"] = [None if row % 3 else row / 10 for row in range(300)]
    table = read_text_pairs(datasets.Dataset.from_dict(rows), tokenizer, 9)
    kept = [row for row in range(300) if rows["chosen"][row] != rows["rejected"][row]]
    assert 0 < len(kept) < 300
    assert table.names == tuple(map(str, kept))
    assert table.left_out == {"both the same": 300 - len(kept), "the same tokens": 0}
    keys = {}
    cut = set()
    for pair, row in enumerate(kept):
        record = table.record(pair)
        assert record["grades"].tolist() == [1, 0]
        for name, place in zip(("chosen", "rejected"), record["places"], strict=True):
            prompt, text = prompts[row], rows[name][row]
            given = (text,) if prompt is None else (prompt, text)
            expected = tokenizer(*given, truncation=True, max_length=9)["input_ids"]
            assert table.items.tokens[int(place)].tolist() == expected
            assert table.items.texts[place] == "\n".join(given)
            assert keys.setdefault(given, place) == place  # one item for one text after one prompt
            if len(tokenizer(*given)["input_ids"]) > 9:
                cut.add(given)
        margin = rows["margin"][row]
        assert np.isnan(record["margin"]) if margin is None else record["margin"] == np.float32(margin)
    assert len(table.items) == len(keys) < 2 * len(kept)
    assert table.items.truncated == len(cut)
    assert prompted == (len(cut) > 0)
    firsts = [min(row for row in kept if items_of(table, kept.index(row)) & {place}) for place in range(5)]
    assert table.items.rows[:5].tolist() == firsts


def items_of(table: RankingTable, query: int) -> set[int]:
    return set(table.record(query)["places"].tolist())


def test_pairs_that_differ_in_nothing_the_model_sees(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    rows = {
        "chosen": ["a cat sat on the mat", "The dog", "a cat", "a fish"],
        "rejected": ["a cat sat on the tree", "the dog", "a dog", "a fish"],
    }
    dataset = datasets.Dataset.from_dict(rows)
    table = read_text_pairs(dataset, tokenizer, length=6)
    assert (table.names, table.left_out) == (("2",), {"both the same": 1, "the same tokens": 2})
    assert read_text_pairs(dataset, tokenizer, length=20).left_out == {"both the same": 1, "the same tokens": 1}
    with pytest.raises(DataError, match=r"row 1 prefers an item to its equal \(2 of 4 rows do\).*on_equal=\"skip\""):
        read_text_pairs(dataset, tokenizer, length=20, on_equal="raise")


def test_pairs_in_both_directions_stay(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    dataset = datasets.Dataset.from_dict({"chosen": ["a cat", "a dog"], "rejected": ["a dog", "a cat"]})
    table = read_text_pairs(dataset, tokenizer, length=8)
    assert (table.places.tolist(), len(table.items)) == ([0, 1, 1, 0], 2)


def test_empty_texts(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    rows = {"chosen": ["a cat", "a dog", "a fish"], "rejected": ["a dog", " \n\u200b", None]}
    dataset = datasets.Dataset.from_dict(rows)
    with pytest.raises(DataError, match=r"row 1 holds an empty text in the column 'rejected' \(2 of 3 rows do\)"):
        read_text_pairs(dataset, tokenizer, 8)
    table = read_text_pairs(dataset, tokenizer, 8, on_error="skip")
    assert (table.names, table.left_out) == (("0",), {"both the same": 0, "the same tokens": 0, "an empty text": 2})
    with pytest.raises(DataError, match=r"none of 2 pairs says which item is better \(an empty text: 2\)"):
        read_text_pairs(dataset.select([1, 2]), tokenizer, 8, on_error="skip")


def test_conversations(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    question = {"role": "user", "content": "the cat ate"}
    rows = {
        "chosen": [[question, {"role": "assistant", "content": "a fish"}]],
        "rejected": [[question, {"role": "assistant", "content": "the mat"}]],
    }
    table = read_text_pairs(datasets.Dataset.from_dict(rows), tokenizer, 20)
    assert table.items.texts == ("the cat ate\na fish", "the cat ate\nthe mat")
    assert table.items.tokens[0].tolist() == tokenizer("the cat ate", "a fish")["input_ids"]


def test_fingerprint_of_pairs(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    base = {
        "chosen": ["a cat", "a dog"],
        "rejected": ["a dog", "a fish"],
        "margin": [1.0, 1.0],
        "prompt": ["the", "on"],
    }
    variants = [
        {},
        {"margin": [1.0, None]},
        {"prompt": ["the", "the"]},
        {"prompt": [None, "on"], "chosen": ["the\na cat", "a dog"]},
        {"rejected": ["a dog", "a cat"]},
    ]
    prints = [
        read_text_pairs(datasets.Dataset.from_dict({**base, **variant}), tokenizer, 12).fingerprint
        for variant in (*variants, {})
    ]
    assert len(set(prints)) == len(variants)
    assert prints[0] == prints[-1]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"chosen": ["a"]}, ColumnError, r"there is no column 'rejected'; there are chosen"),
        ({"chosen": [], "rejected": []}, DataError, r"there are no rows, so no pairs"),
        (
            {"chosen": ["a"] * 3, "rejected": ["the"] * 3, "margin": [1.0, None, -0.5]},
            DataError,
            r"row 2 has the margin -0\.5; expected a finite number .* \(1 of 3 rows .*the other way round",
        ),
        ({"chosen": ["a"], "rejected": ["the"], "margin": [np.inf]}, DataError, r"row 0 has the margin inf"),
        ({"chosen": ["a"], "rejected": ["the"], "margin": [np.nan]}, DataError, r"row 0 has the margin nan"),
        ({"chosen": ["a"], "rejected": ["the"], "margin": ["1"]}, ColumnError, r"'margin' holds string; expected numb"),
        ({"chosen": ["a", "the"], "rejected": ["a", "the"]}, DataError, r"none of 2 pairs .*\(both the same: 2\)"),
    ],
)
def test_pairs_that_will_not_do(
    tokenizer: transformers.PreTrainedTokenizerFast,
    columns: dict[str, list[object]],
    error: type[DataError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        read_text_pairs(datasets.Dataset.from_dict(columns), tokenizer, 8)


def test_length_padding_and_choices() -> None:
    tokenizer = train_tokenizer([" ".join(WORDS)] * 2, size=200)
    pairs = datasets.Dataset.from_dict({"chosen": ["a"], "rejected": ["the"]})
    prompted = pairs.add_column("prompt", ["cat"])
    with pytest.raises(DataError, match=r"length=2 leaves no room for text"):
        read_text_pairs(pairs, tokenizer, 2)
    with pytest.raises(DataError, match=r"length=4 leaves no room for a prompt and a text: .* adds 3 special tokens"):
        read_text_pairs(prompted, tokenizer, 4)
    assert len(read_text_pairs(prompted, tokenizer, 5)) == 1
    for name in ("on_error", "on_equal"):
        with pytest.raises(DataError, match=rf"{name} is 'raise' or 'skip'; found 'no'"):
            read_text_pairs(pairs, tokenizer, 8, **{name: "no"})
    tokenizer.pad_token = None
    with pytest.raises(DataError, match=r"the tokenizer has no padding token"):
        read_text_pairs(pairs, tokenizer, 8)


# --- pairs of feature vectors ----------------------------------------------------------------------------------------


def test_item_pairs_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(-1, 2, size=(12, 3)).astype(np.float32) * np.float32(0.1)  # holds -0
    chosen, rejected = pool[rng.integers(12, size=(2, 80))]
    dataset = datasets.Dataset.from_dict({"chosen": list(chosen), "rejected": list(rejected)})
    table = read_item_pairs(dataset)
    kept = [row for row in range(80) if chosen[row].tolist() != rejected[row].tolist()]
    assert table.names == tuple(map(str, kept))
    assert table.left_out == {"both the same": 80 - len(kept)}
    assert len(kept) < 80
    for pair, row in enumerate(kept):
        good, bad = table.items.values[table.record(pair)["places"]]
        np.testing.assert_array_equal(good, chosen[row])
        np.testing.assert_array_equal(bad, rejected[row])
    assert len({tuple(value) for value in table.items.values.tolist()}) == len(table.items)
    for item, row in enumerate(table.items.rows):
        values = table.items.values[item].tolist()
        assert values in (chosen[row].tolist(), rejected[row].tolist())
        assert not any(values in (chosen[r].tolist(), rejected[r].tolist()) for r in range(row))


@pytest.mark.parametrize(
    ("columns", "on_equal", "error", "message"),
    [
        ({"chosen": [[1.0]]}, "skip", ColumnError, r"there is no column 'rejected'"),
        ({"chosen": [], "rejected": []}, "skip", DataError, r"there are no rows, so no pairs"),
        (
            {"chosen": [[1.0]], "rejected": [[1.0, 2.0]]},
            "skip",
            DataError,
            r"'chosen' holds 1 numbers a row, 'rejected' 2; expected as many of both",
        ),
        ({"chosen": [[1.0]], "rejected": [[np.nan]]}, "skip", DataError, r"row 0 holds nan .*column 'rejected'"),
        ({"chosen": [[1.0], [0.0]], "rejected": [[2.0], [-0.0]]}, "raise", DataError, r"row 1 prefers an item to its"),
        ({"chosen": [[0.0]], "rejected": [[0.0]]}, "skip", DataError, r"none of 1 pairs .*\(both the same: 1\)"),
        ({"chosen": [[1.0]], "rejected": [[0.0]]}, "no", DataError, r"on_equal is 'raise' or 'skip'; found 'no'"),
    ],
)
def test_item_pairs_that_will_not_do(
    columns: dict[str, list[object]], on_equal: str, error: type[DataError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_item_pairs(datasets.Dataset.from_dict(columns), on_equal=on_equal)


# --- real data -------------------------------------------------------------------------------------------------------

real = pytest.mark.skipif("AUXTASKS_DATA" not in os.environ, reason="AUXTASKS_DATA is not set")


@pytest.mark.data
@real
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_real_lists(part: str, tmp_path: Path) -> None:
    file = Path(os.environ["AUXTASKS_DATA"]) / "ranking" / "lambdarank" / f"{part}.parquet"
    roles = {"qid": "qid", "grade": "label", "features": "features"}
    dataset = load_source(file, columns=roles, cache_dir=tmp_path)
    table = read_lists(dataset, items=lambda d: encode_features(d, width=300))
    qids, grades = np.array(dataset["qid"][:]), np.array(dataset["grade"][:])
    found = Counter()
    for qid in dict.fromkeys(qids.tolist()):
        one = grades[qids == qid]
        found["one item" if len(one) == 1 else "all grades equal" if len(set(one)) == 1 else "kept"] += 1
    assert len(table) == found["kept"] > 0
    assert table.left_out == {reason: found[reason] for reason in ("one item", "all grades equal")}
    assert part != "train" or all(table.left_out.values())
    np.testing.assert_array_equal(table.grades, grades[table.items.rows[table.places]])
    # The classes that a label becomes say the same.
    labelled = load_source(file, columns={"qid": "qid", "label": "label", "features": "features"}, cache_dir=tmp_path)
    np.testing.assert_array_equal(read_lists(labelled, items=encode_features).grades, table.grades)


@pytest.mark.data
@real
def test_real_pairs(tmp_path: Path) -> None:
    file = Path(os.environ["AUXTASKS_DATA"]) / "ranking" / "ukp_arguments" / "validation.parquet"
    dataset = load_source(file, columns={"chosen": "chosen", "rejected": "rejected"}, cache_dir=tmp_path)
    texts = [*dataset["chosen"][:], *dataset["rejected"][:]]
    tokenizer = train_tokenizer(texts, size=2000)
    table = read_text_pairs(dataset, tokenizer, 128)
    assert len(table) + sum(table.left_out.values()) == len(dataset)
    assert len(table.items) <= len(set(texts)) < len(texts) / 2  # an argument is in many pairs
    for pair in range(0, len(table), 50):
        good, bad = table.record(pair)["places"]
        row = dataset[int(table.names[pair])]
        assert (table.items.texts[good], table.items.texts[bad]) == (row["chosen"], row["rejected"])
