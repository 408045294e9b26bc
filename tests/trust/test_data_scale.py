"""A stream is trained on row by row in flat memory and resumed without a replay, pictures are listed unopened."""

import itertools
import re
from pathlib import Path

import pytest

from trust.counted_opens import opened_below, opened_while_indexing
from trust.data_scale import Corpus, _each_row_once, prove, prove_pictures, prove_stream
from trust.streamed_run import BATCH

pytestmark = pytest.mark.processes


def test_a_stream_is_read_whole_in_flat_memory_and_pictures_are_indexed_unopened(tmp_path):
    rows, memory, resumed, pictures = prove(tmp_path, full=False)
    assert [proof.failures for proof in (rows, memory, resumed, pictures)] == [()] * 4
    assert (rows.times, memory.times, resumed.times, pictures.times) == (200_000, 10, 3, 20_000)
    assert pictures.result.endswith(", 0 files opened")
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]  # the corpus and the pictures are gone


def test_a_run_that_keeps_its_rows_is_found_out(tmp_path):
    corpus = Corpus(tmp_path / "corpus", 200_000, 8)
    corpus.write()
    _, memory = itertools.islice(prove_stream(corpus, tmp_path / "runs", leaks=True), 2)
    (failure,) = memory.failures
    said = re.search(r"([+-][\d.]+) bytes a row", failure)
    assert float(said[1]) > 300  # of 20 copies of each


@pytest.mark.parametrize(("rows", "holds"), [([0, 1, 2, 3], True), ([0, 0, 3, 3], False), ([1, 2, 2], False)])
def test_rows_that_are_left_out_or_come_twice_are_found_out(rows, holds):
    corpus = Corpus(Path(), 2 * BATCH, 1)
    others = range(4, corpus.rows)
    sums = [sum(rows) + sum(others), sum(row**2 for row in rows) + sum(row**2 for row in others)]
    failures, _ = _each_row_once(corpus, {"sums": sums, "losses": [1.0, 0.01], "seconds": 1.0})
    assert (failures == ()) == holds


def test_a_reader_that_opens_a_picture_is_found_out(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.png").touch()
    with opened_below(tmp_path) as opened:
        (tmp_path / "a" / "1.png").read_bytes()
        Path(__file__).read_bytes()  # of another folder
    assert opened == [str(tmp_path / "a" / "1.png")]
    assert opened_while_indexing(tmp_path)[:2] == ([], (3, 3))


def test_a_picture_that_is_missing_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr("trust.counted_opens.index_folder", lambda folder: (["0.png"], [None]))
    proof = prove_pictures(tmp_path / "pictures", 20, 2)
    assert proof.failures == ("index_folder and load_source found (1, 20) of 20 pictures",)
