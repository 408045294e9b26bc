"""Columns, vectors, rankings, pairs, sentences and tokenizers with something wrong: told by row and column."""

import json
import shutil

import datasets
import numpy as np
import pytest

from auxtasks.data import (
    encode_features,
    encode_texts,
    load_pairs,
    load_source,
    load_tokenizer,
    read_item_pairs,
    read_lists,
    read_sentences,
    read_text_pairs,
    train_tokenizer,
)
from auxtasks.errors import ColumnError, DataError

table = datasets.Dataset.from_dict
FOUR = [[0.0], [1.0], [2.0], [3.0]]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The dog barks at the cat.", "A cat sleeps here now."], size=80)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ({"label": ["a"], "n": 3}, DataError, r"the column 'n' in memory is int; expected a list of its values"),
        ({"label": (x for x in "ab")}, DataError, r"the column 'label' in memory is generator"),
        ({"label": "abc"}, DataError, r"the column 'label' in memory is str"),
        ({"label": ["a"], "n": [1, 2]}, DataError, r"differ in length: \{'label': 1, 'n': 2\}"),
        ({"label": ["\ud800"]}, DataError, r"cannot be made a table: .*surrogates not allowed"),
        ({"label": ["a", 1]}, DataError, r"cannot be made a table"),
        ({"label": [2**70]}, DataError, r"cannot be made a table: .*too large"),
        ({"label": [object()]}, DataError, r"cannot be made a table"),
        ({"label": []}, DataError, r"has no rows"),
        ({}, ColumnError, r"has no column 'label', .*it has none"),
        ([1, 2], DataError, r"expected a path, a datasets\.Dataset or a mapping of lists, found list"),
        (None, DataError, r"found NoneType"),
        (b"x.csv", DataError, r"found bytes"),
        ({"label": [float("nan"), 1.0]}, DataError, r"row 0 has no label in the column 'label' \(1 of 2"),
        ({"label": [float("-inf"), 1.0]}, ColumnError, r"numbers beyond 64 bits, such as 1\.0, -inf"),
        ({"label": [{"a": 1}]}, ColumnError, r"holds struct of a; expected strings"),
    ],
)
def test_what_is_in_memory_and_no_table_is_told(source, error, message):
    with pytest.raises(error, match=message):
        load_source(source, columns={"label": "label"})


def test_labels_of_any_size_are_names_of_classes():
    found = load_source({"label": [10**12, -1, 3]}, columns={"label": "label"}).features["label"]
    assert sorted(found.names) == ["-1", "1000000000000", "3"]


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"lable": "a"}, ColumnError, r"where names the column 'lable'.*Did you mean \"label\"\?"),
        ({"n": float("nan")}, DataError, r"no row has n = nan \(float\)"),
        ({"n": 10**30}, DataError, r"no row has n = 1000000000000000000000000000000"),
        ({"u": -1}, DataError, r"no row has u = -1"),
        ({"label": "\ud800"}, DataError, r"no row has label = '\\ud800'"),
        ({"label": ["a"]}, DataError, r"where compares 'label' with a text, a number or a truth value; found \['a'\]"),
        ({"n": None}, DataError, r"where compares 'n' .*found None"),
    ],
)
def test_a_condition_that_no_row_can_meet_is_told(where, error, message):
    source = {"label": ["a"], "n": [1], "u": np.array([1], np.uint8)}
    with pytest.raises(error, match=message):
        load_source(source, columns={"label": "label"}, where=where)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[1.0], [float("nan")]], DataError, r"row 1 holds nan as feature 0 .*Fill such numbers in"),
        ([[1.0], [float("-inf")]], DataError, r"row 1 holds -inf"),
        ([[1e39]], DataError, r"row 0 holds inf as feature 0 .*beyond float32"),
        ([[1.0, None]], DataError, r"row 0 holds nan as feature 1"),
        ([[1.0], [1.0, 2.0]], DataError, r"row 1 has 2 features .*row 0 has 1"),
        ([[1.0], None], DataError, r"row 1 has no features"),
        ([], DataError, r"there are no rows"),
        ([["a"]], ColumnError, r"expected a list of numbers in each row"),
        ([1.0, 2.0], ColumnError, r"holds float64 \(double\); expected a list"),
        ([[[1.0]]], ColumnError, r"expected a list of numbers"),
        ([[True]], ColumnError, r"expected a list of numbers"),
    ],
)
def test_vectors_that_are_none_are_told_by_their_row(values, error, message):
    with pytest.raises(error, match=message):
        encode_features(table({"features": values}))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"qid": [1.0, float("inf"), 2.0, 2.0]},
            ColumnError,
            r"the column 'qid' holds float64; expected whole numbers",
        ),
        ({"qid": [1.0, 1.0, 1e300, 1e300]}, ColumnError, r"the column 'qid' holds float64"),
        ({"qid": [1.5] * 4}, ColumnError, r"the column 'qid' holds float64"),
        ({"qid": [1.0, 1.0, float("nan"), 2.0]}, DataError, r"row 2 has no query in the column 'qid'"),
        ({"qid": [1, 2, 1, 2]}, DataError, r"the query 1 begins in row 0, and comes back in row 2"),
        ({"qid": [1, 2, 3, 4]}, DataError, r"none of 4 queries says which item is better \(one item: 4\)"),
        ({"grade": [1.0, float("inf"), 1.0, 0.0]}, DataError, r"row 1 holds inf in the column 'grade'"),
        ({"grade": [1e308, 2, 1, 0]}, DataError, r"grades up to 1e\+308 in size; float32 does not tell"),
        ({"grade": [10**12, 2, 1, 0]}, DataError, r"grades up to 1,000,000,000,000 in size"),
        ({"grade": ["a"] * 4}, ColumnError, r"the column 'grade' holds string; expected numbers"),
        ({"grade": [None] * 4}, DataError, r"row 0 holds nan in the column 'grade'"),
        ({"grade": [1] * 4}, DataError, r"none of 1 queries says which item is better"),
    ],
)
def test_a_ranking_that_ranks_nothing_is_told(changed, error, message):
    with pytest.raises(error, match=message):
        read_lists(table({"qid": [1] * 4, "grade": [1, 0, 2, 0], "features": FOUR, **changed}), items=encode_features)


def test_a_class_that_does_not_exist_is_no_grade():
    import pyarrow as pa

    classes = datasets.Features({"qid": datasets.Value("int64"), "grade": datasets.ClassLabel(names=["0", "1"]),
                                 "features": datasets.List(datasets.Value("float64"))})  # fmt: skip
    stored = pa.table({"qid": [1, 1], "grade": pa.array([7, -2]), "features": [[1.0], [2.0]]})
    rows = datasets.Dataset(stored, info=datasets.DatasetInfo(features=classes))
    with pytest.raises(DataError, match=r"row 0 holds nan in the column 'grade'.*\(2 of 2 rows have none\)"):
        read_lists(rows, items=encode_features)


PAIRS = {"left": ["a", "a"], "right": ["b", "c"], "same": [1, 0]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"left": ["a", "z"]}, r"1 pictures of the pairs file are not among the 3 pictures, such as 'z'"),
        ({"left": [1, 2]}, r"2 pictures of the pairs file are not among .*such as 1"),
        ({"left": ["a", None]}, r"row 1 of the pairs names no picture, but None"),
        ({"left": [["a"], ["b"]]}, r"row 0 of the pairs names no picture, but \['a'\]"),
        ({"same": ["yes", "no"]}, r"row 0 of the pairs holds 'yes' in the column 'same'; expected a whole number"),
        ({"same": [1, None]}, r"row 1 of the pairs holds None in the column 'same'"),
        ({"same": [1.0, float("nan")]}, r"row 1 of the pairs holds nan in the column 'same'"),
        ({"same": [1.0, 0.5]}, r"row 1 of the pairs holds 0\.5 in the column 'same'"),
        ({"same": [1, 2]}, r"row 1 of the pairs holds 2 in the column 'same'; expected 1 for the same person and 0"),
        ({"fold": ["x", "y"]}, r"row 0 of the pairs holds 'x' in the column 'fold'"),
        ({"fold": [1.0, float("inf")]}, r"row 1 of the pairs holds inf in the column 'fold'"),
        ({"same": None}, r"has no column 'same'"),
        ({"left": [], "right": [], "same": []}, r"has no rows"),
    ],
)
def test_pairs_that_are_none_are_told_by_their_row(changed, message):
    columns = {name: values for name, values in {**PAIRS, **changed}.items() if values is not None}
    with pytest.raises(DataError, match=message):
        load_pairs(columns, table({"file": ["a", "b", "c"]}))


def test_a_name_of_several_pictures_makes_no_pair():
    with pytest.raises(DataError, match=r"the pairs name 'a', which is in several rows of the column 'file', row 1"):
        load_pairs(PAIRS, table({"file": ["a", "a", "b", "c"]}))
    assert len(load_pairs(PAIRS, table({"file": ["a", "x", "x", "b", "c"]}))) == 2  # of no picture that is asked for


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], r"nothing can be shuffled in any of 0 sentences \(there are none\)"),
        (["word"], r"in any of 1 sentences \(1 one word\)"),
        (["   ", "\t\n"], r"in any of 2 sentences \(2 empty\)"),
        (["\x01 \x02"], r"in any of 1 sentences \(1 empty\)"),
        ([3], r"row 0 holds 3; expected a sentence"),
        ([b"a b"], r"row 0 holds b'a b'; expected a sentence"),
        ("a b", r"found one string; expected many sentences"),
        (["the cat", "the \ud800 dog"], r"row 1 holds '\\ud800', half a character"),
    ],
)
def test_sentences_that_cannot_be_shuffled_are_told(tokenizer, texts, message):
    with pytest.raises(DataError, match=message):
        read_sentences(texts, tokenizer, length=16, most_left_out=0.9)


@pytest.mark.parametrize("text", ["the cat " * 50_000, "a" * 400_000 + " the cat"])
def test_a_sentence_of_400_000_characters_is_cut(tokenizer, text):
    found = read_sentences([text, "the cat dog"], tokenizer, length=16, most_left_out=0.9)
    assert len(found) == 2
    assert found.token_lengths().max() <= 16


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["a", " "], DataError, r"row 1 holds an empty text"),
        ([None, "a"], DataError, r"row 0 holds an empty text"),
        (["\x01"], DataError, r"row 0 holds an empty text"),
        ([1], ColumnError, r"the column 'text' holds int64; expected strings"),
    ],
)
def test_texts_that_are_none_are_told_by_their_row(tokenizer, texts, error, message):
    with pytest.raises(error, match=message):
        encode_texts(table({"text": texts}), tokenizer, length=16)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"chosen": ["a b"], "rejected": ["a b"]}, DataError, r"none of 1 pairs says which item is better"),
        (
            {"chosen": ["a", None], "rejected": ["b", "c"]},
            DataError,
            r"row 1 holds an empty text in the column 'chosen'",
        ),
        ({"chosen": [1], "rejected": ["a"]}, ColumnError, r"the column 'chosen' holds int64"),
        ({"chosen": ["a"], "rejected": ["the"], "margin": [float("nan")]}, DataError, r"row 0 has the margin nan"),
        ({"chosen": ["a"], "rejected": ["the"], "margin": [-1]}, DataError, r"row 0 has the margin -1\.0"),
        ({"chosen": ["a"], "rejected": ["the"], "margin": ["x"]}, ColumnError, r"the column 'margin' holds string"),
        ({"chosen": [[{"role": "u"}]], "rejected": [[{"role": "u"}]]}, ColumnError, r"expected role and content"),
        ({"chosen": ["a"]}, ColumnError, r"there is no column 'rejected'"),
    ],
)
def test_preferences_that_prefer_nothing_are_told(tokenizer, columns, error, message):
    with pytest.raises(error, match=message):
        read_text_pairs(table(columns), tokenizer, 16)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"chosen": [[1.0]], "rejected": [[1.0]]}, r"none of 1 pairs says"),
        ({"chosen": [[float("nan")]], "rejected": [[1.0]]}, r"row 0 holds nan as feature 0 .*'chosen'"),
        ({"chosen": [[1.0, 2.0]], "rejected": [[1.0]]}, r"'chosen' holds 2 numbers a row, 'rejected' 1"),
    ],
)
def test_pairs_of_vectors_that_prefer_nothing_are_told(columns, message):
    with pytest.raises(DataError, match=message):
        read_item_pairs(table(columns))


def without_unknown(place):
    found = json.loads(place.read_text())
    del found["model"]["vocab"]["[UNK]"]
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] != "[UNK]"]
    place.write_text(json.dumps(found))


def with_code(place):
    settings = json.loads(place.read_text())
    place.write_text(json.dumps({**settings, "auto_map": {"AutoTokenizer": ["x.Y", None]}, "tokenizer_class": "Y"}))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("tokenizer.json", lambda place: place.write_bytes(place.read_bytes()[:200]), r"could not be loaded"),
        ("tokenizer.json", lambda place: place.write_text("[]"), r"could not be loaded"),
        ("tokenizer.json", lambda place: place.write_text(""), r"could not be loaded"),
        ("tokenizer_config.json", lambda place: place.write_text("[]"), r"could not be loaded"),
        ("tokenizer_config.json", with_code, r"(?s)could not be loaded: .*(code of its own|custom code)"),
        ("tokenizer.json", without_unknown, r"a character that it does not know: .*Missing \[UNK\]"),
    ],
)
def test_a_damaged_tokenizer_is_told(tokenizer, tmp_path, file, damage, message):
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").tokenize("the cat") == ["the", "cat"]
    shutil.copytree(tmp_path / "saved", tmp_path / "damaged")
    damage(tmp_path / "damaged" / file)
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path / "damaged")


@pytest.mark.parametrize("name", ["./none", "../../etc/none", "a b", "a\0b", "", "a" * 300, "-x"])
def test_a_name_that_names_no_tokenizer_is_told(name):
    with pytest.raises(DataError, match=r"tokenizer.*(could not be loaded|there is no)|there is no tokenizer folder"):
        load_tokenizer(name)


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        ([], 60, r"nothing to train a tokenizer on: 0 texts"),
        (["  "], 60, r"nothing to train a tokenizer on: 1 texts"),
        (["a", "\ud800"], 60, r"text 1 holds '\\ud800', half a character"),
        (["a", 3], 60, r"text 1 is int; expected a string"),
        (["a b"], 10**12, r"size is at most 1,000,000 tokens; found 1,000,000,000,000"),
        (["a b"], 2, r"size=2 is too small"),
    ],
)
def test_a_tokenizer_that_cannot_be_trained_is_told(texts, size, message):
    with pytest.raises(DataError, match=message):
        train_tokenizer(texts, size=size)
