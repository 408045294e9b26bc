"""Feature columns: the numbers as they were, from every kind of list, and what is wrong told by its row."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from auxtasks.data.feature_columns import encode_features, feature_values
from auxtasks.data.sources import load_source
from auxtasks.errors import ColumnError, DataError

ROWS = [[1.5, 2.0, -3.0], [0.0, 4.0, 5.0], [7.0, 8.0, 1e-3]]


def stored(kind: str) -> datasets.Dataset:
    match kind:
        case "list of float64":
            return datasets.Dataset.from_dict({"features": ROWS})
        case "large list":
            feature = datasets.LargeList(datasets.Value("float32"))
        case "fixed length":
            feature = datasets.List(datasets.Value("float32"), length=3)
        case _:
            feature = datasets.List(datasets.Value("float16"))
    return datasets.Dataset.from_dict({"features": ROWS}, datasets.Features({"features": feature}))


@pytest.mark.parametrize("kind", ["list of float64", "large list", "fixed length", "float16"])
def test_values_are_those_of_the_rows(kind: str) -> None:
    table = encode_features(stored(kind))
    np.testing.assert_allclose(table.values, np.array(ROWS, dtype=np.float32), rtol=1e-3)
    assert (table.values.dtype, table.values.flags.c_contiguous) == (np.float32, True)
    assert (table.labels.tolist(), table.class_names, table.rows.tolist()) == ([-1] * 3, (), [0, 1, 2])
    # Rows that were selected, in an order of their own, and put together of several pieces.
    chosen = encode_features(stored(kind).select([2, 0]))
    np.testing.assert_array_equal(chosen.values, table.values[[2, 0]])
    doubled = encode_features(datasets.concatenate_datasets([stored(kind), stored(kind).select([1, 2])]))
    np.testing.assert_array_equal(doubled.values, table.values[[0, 1, 2, 1, 2]])


def test_whole_numbers_and_class_labels() -> None:
    source = load_source(
        {"features": [[1, 2], [3, 4], [5, 6]], "kind": ["b", None, "a"]},
        columns={"features": "features", "label": "kind"},
        allow_unlabelled=True,
    )
    table = encode_features(source, width=2)
    assert table.values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (table.labels.tolist(), table.class_names) == ([1, -1, 0], ("a", "b"))


def test_grades_are_no_labels() -> None:
    table = encode_features(datasets.Dataset.from_dict({"features": [[1.0]], "label": [3]}))
    assert (table.labels.tolist(), table.class_names) == ([-1], ())


def test_fingerprint_changes_with_values_labels_names_and_shape() -> None:
    def fingerprint(features: list[list[float]], labels: list[str]) -> str:
        columns = {"features": "features", "label": "label"}
        return encode_features(load_source({"features": features, "label": labels}, columns=columns)).fingerprint

    variants = [
        ([[1.0, 2.0], [3.0, 4.0]], ["a", "b"]),
        ([[1.0, 2.0], [3.0, 5.0]], ["a", "b"]),
        ([[1.0, 2.0], [3.0, 4.0]], ["b", "a"]),
        ([[1.0, 2.0], [3.0, 4.0]], ["a", "c"]),
        ([[1.0], [2.0], [3.0], [4.0]], ["a", "b", "a", "b"]),
    ]
    assert len({fingerprint(*variant) for variant in variants}) == len(variants)
    assert fingerprint(*variants[0]) == fingerprint(*variants[0])


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"values": [[1.0]]}, ColumnError, r"there is no column 'features'; there are values"),
        ({"features": ["a"]}, ColumnError, r"'features' holds string \(string\); expected a list of numbers"),
        ({"features": [1.0]}, ColumnError, r"'features' holds float64"),
        ({"features": [["a"]]}, ColumnError, r"'features' holds List .*string.*; expected a list of numbers"),
        ({"features": [[[1.0]]]}, ColumnError, r"'features' holds List"),
        ({"features": [[True]]}, ColumnError, r"expected a list of numbers"),
        ({"features": []}, DataError, r"there are no rows, so no features in the column 'features'"),
        ({"features": [[1.0], None, []]}, DataError, r"row 1 has no features in .* \(2 of 3 rows have none\)"),
        (
            {"features": [[1.0, 2.0], [1.0, 2.0], [1.0], [3.0]]},
            DataError,
            r"row 2 has 1 features in the column 'features', row 0 has 2 \(2 of 4 rows have not 2\)",
        ),
        (
            {"features": [[1.0, 2.0], [1.0, np.nan], [np.inf, 2.0]]},
            DataError,
            r"row 1 holds nan as feature 1 \(from 0\) of the column 'features'; 2 of 3 rows hold",
        ),
        ({"features": [[1.0], [None]]}, DataError, r"row 1 holds nan as feature 0"),
        ({"features": [[1e300]]}, DataError, r"row 0 holds inf as feature 0 .*beyond float32"),
    ],
)
def test_columns_that_will_not_do(columns: dict[str, list[object]], error: type[DataError], message: str) -> None:
    with pytest.raises(error, match=message):
        encode_features(datasets.Dataset.from_dict(columns))


def test_a_missing_number_in_a_list_of_fixed_length() -> None:
    feature = datasets.List(datasets.Value("float32"), length=2)
    dataset = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [None, 2.0]]}, datasets.Features({"x": feature}))
    with pytest.raises(DataError, match=r"row 1 holds nan as feature 0 \(from 0\) of the column 'x'"):
        feature_values(dataset, "x")


def test_another_width_than_expected() -> None:
    with pytest.raises(DataError, match=r"holds 3 numbers a row; expected 5\. .*options=\{'width': 5\}"):
        encode_features(stored("fixed length"), width=5)
