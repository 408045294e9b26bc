"""svmlight files: what scikit-learn wrote comes back, and a damaged line is told by its number."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import datasets
import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file

from auxtasks.data.feature_columns import encode_features
from auxtasks.data.ranking_sources import read_lists
from auxtasks.data.sources import load_source
from auxtasks.data.svmlight import read_svmlight
from auxtasks.errors import DataError

LETOR = b"""# a comment
2 qid:10 1:0.3 5:1.2 # doc7
0 qid:10 2:4 3:0

1 qid:11 1:-1.5e-2
0.5 qid:11 4:7
"""
DENSE = [[0.3, 0, 0, 0, 1.2], [0, 4, 0, 0, 0], [-0.015, 0, 0, 0, 0], [0, 0, 0, 7, 0]]
ROLES = {"qid": "qid", "grade": "label", "features": "features"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fold1.letor"
    path.write_bytes(LETOR)
    return path


def test_lines_become_rows(file: Path) -> None:
    dataset = load_source(file, columns=ROLES)
    assert dataset["qid"][:] == [10, 10, 11, 11]
    assert dataset["grade"][:] == [2, 0, 1, 0.5]
    np.testing.assert_array_equal(encode_features(dataset).values, np.array(DENSE, dtype=np.float32))
    assert dataset.features["qid"] == datasets.Value("int64")
    assert dataset.features["grade"] == datasets.Value("float32")
    assert dataset.features["features"] == datasets.List(datasets.Value("float32"), length=5)
    assert load_source(file, columns=ROLES, split="train[1:3]")["qid"][:] == [10, 11]


@pytest.mark.parametrize(
    ("name", "pack", "kind"),
    [
        ("a.svm", bytes, "auto"),
        ("a.svmlight", bytes, "auto"),
        ("a.LIBSVM", bytes, "auto"),
        ("a.txt", bytes, "svmlight"),
        ("a.svm.gz", gzip.compress, "auto"),
        ("a.txt.gz", gzip.compress, "svmlight"),
        ("a.letor.bz2", bz2.compress, "auto"),
    ],
)
def test_suffixes_and_packing(tmp_path: Path, name: str, pack: object, kind: str) -> None:
    (tmp_path / name).write_bytes(pack(LETOR))
    table = read_lists(load_source(tmp_path / name, kind=kind, columns=ROLES), items=encode_features)
    assert (table.names, table.grades.tolist()) == (("10", "11"), [2, 0, 1, 0.5])


@pytest.mark.parametrize("zero_based", [False, True])
def test_what_scikit_learn_writes_comes_back(tmp_path: Path, zero_based: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 7)) * (rng.random((30, 7)) < 0.3)
    values[:, 0] = values[:, 6] = 0  # neither the first nor the last index occurs
    grades, queries = rng.integers(5, size=30), np.repeat([3, 9, 4], 10)
    path = tmp_path / "dumped.svm"
    dump_svmlight_file(values, grades, str(path), query_id=queries, zero_based=zero_based)
    dataset = read_svmlight(path, {"width": 7, "zero_based": zero_based})
    np.testing.assert_allclose(np.array(dataset["features"][:]), values, rtol=1e-6)
    assert (dataset["label"][:], dataset["qid"][:]) == (grades.tolist(), queries.tolist())


def test_width_is_the_largest_index_or_what_is_said(file: Path) -> None:
    wide = load_source(file, columns=ROLES, options={"width": 8})
    np.testing.assert_array_equal(encode_features(wide).values, np.pad(np.float32(DENSE), [(0, 0), (0, 3)]))
    with pytest.raises(DataError, match=r"fold1\.letor has 5 features, more than the options' width=4"):
        load_source(file, columns=ROLES, options={"width": 4})
    # A part of another width, asked for with that of the training table.
    with pytest.raises(DataError, match=r"holds 5 numbers a row; expected 8\. .*load it with options=\{'width': 8\}"):
        encode_features(load_source(file, columns=ROLES), width=8)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"2 qid:10 1:0.3 5:x", r"line 1503 \('2 qid:10 1:0\.3 5:x'\): .*x"),
        (b"good qid:10 1:0.3", r"line 1503 .*good"),
        (b"2 qid:ten 1:0.3", r"line 1503 .*ten"),
        (b"2 qid:10 5:1 3:1", r"line 1503 .*sorted and unique.* Expected lines such as 2 qid:10 1:0\.3"),
        (b"2 qid:10 3", r"line 1503 "),
        (b"2 1:0.3", r"line 1503 \('2 1:0\.3'\): it has no query \(qid:\.\.\.\)"),
        (
            b"2 qid:10 0:1",
            r"line 1503 .*It has the index 0: if it counts from 0, pass options=\{\"zero_based\": True\}",
        ),
        (b"x" * 500, r"line 1503 \('x{60}\.\.\.'\)"),
    ],
)
def test_a_damaged_line_is_told(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "damaged.svm"
    path.write_bytes(b"# head\n\n" + b"1 qid:1 1:2\n" * 1500 + line + b"\n" + b"0 qid:1 1:1\n" * 10)
    with pytest.raises(DataError, match=r"damaged\.svm cannot be read as svmlight: " + message):
        load_source(path, columns=ROLES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.svm", b"", r"a\.svm is empty"),
        ("a.svm", b"1 qid:1\n0 qid:1\n", r"a\.svm has no features"),
        ("a.svm", b"# nothing\n", r"a\.svm has no features"),
        ("a.svm.gz", gzip.compress(LETOR * 50, mtime=0)[:-20], r"a\.svm\.gz cannot be read as svmlight: "),
        ("a.svm.gz", LETOR, r"a\.svm\.gz cannot be read as svmlight: Not a gzipped file"),
    ],
)
def test_files_that_hold_nothing_or_are_cut_off(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_source(tmp_path / name, columns=ROLES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 5}, r"svmlight has no option 'widht'; allowed are width, zero_based\. Did you mean \"width\"\?"),
        ({"width": True}, r"svmlight: width must be int, found True"),
        ({"zero_based": 1}, r"svmlight: zero_based must be bool, found 1"),
        ({"width": 0}, r"width must be at least 1, found 0"),
    ],
)
def test_wrong_options(file: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_source(file, columns=ROLES, options=options)


def test_a_folder_and_options_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; .*Name the svmlight file"):
        load_source(tmp_path, kind="svmlight", columns=ROLES)
    (tmp_path / "a.csv").write_text("qid\n1\n")
    with pytest.raises(DataError, match=r"options belong to a built-in source, or to a file in svmlight format"):
        load_source(tmp_path / "a.csv", columns={"qid": "qid"}, options={"width": 3})
