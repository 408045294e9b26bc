"""A stream is trained on row by row in flat memory and resumed without a replay, pictures are listed unopened."""

import itertools
import re
from pathlib import Path

import pytest

from trust.counted_opens import opened_below, opened_while_indexing
from trust.data_scale import (
    Corpus,
    _each_row_once,
    _no_replay,
    flat_memory,
    prove,
    prove_pictures,
    prove_stream,
    prove_task,
)
from trust.streamed_run import BATCH

pytestmark = pytest.mark.processes


def test_a_stream_is_read_whole_in_flat_memory_and_pictures_are_indexed_unopened(tmp_path):
    proofs = _, memory, _, task, pictures = tuple(prove(tmp_path, full=False))
    assert [proof.failures for proof in proofs] == [()] * 5
    assert [proof.times for proof in proofs] == [200_000, 10, 3, 20_000, 20_000]
    assert "batches of a single file" in memory.result
    assert "sentences a second" in task.result
    assert pictures.result.endswith(", 0 files opened")
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]  # the corpora and the pictures are gone


def growth_and_more(proof):
    """Return the bytes a row that a run was found to grow by, and the megabytes that it held more than a short one."""
    (failure,) = proof.failures
    bytes_a_row, more = re.search(r"([+-][\d.]+) bytes a row .* ([+-]\d+) MB against", failure).groups()
    return float(bytes_a_row), int(more)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = Corpus(tmp_path_factory.mktemp("written") / "corpus", 200_000, 8)
    corpus.write()
    return corpus


def test_a_run_that_keeps_its_rows_is_found_out(corpus, tmp_path):
    _, memory = itertools.islice(prove_stream(corpus, tmp_path / "runs", leaks="rows"), 2)
    bytes_a_row, more = growth_and_more(memory)
    assert bytes_a_row > 300  # of 20 copies of each
    assert more > 60


def test_a_run_that_loads_its_corpus_at_the_start_is_found_out(corpus, tmp_path):
    _, memory = itertools.islice(prove_stream(corpus, tmp_path / "runs", leaks="corpus"), 2)
    bytes_a_row, more = growth_and_more(memory)
    assert bytes_a_row < 100  # it does not grow
    assert more > 60


def test_a_task_whose_worker_keeps_its_rows_is_found_out(tmp_path):
    bytes_a_row, more = growth_and_more(prove_task(tmp_path / "task", 20_000, leaks=True))
    assert bytes_a_row > 1000
    assert more > 40


@pytest.mark.parametrize(
    ("late", "peak", "holds"),
    [(889, 890, True), (885 + 72, 957, False), (885, 878 + 80, False)],
    ids=["measured", "a number for each row that was read", "an order of all rows"],
)
def test_eight_bytes_for_each_of_ten_million_rows_are_too_many(late, peak, holds):
    facts = {"memory": [885_000_000, late * 1_000_000, 885_000_000], "peak": peak * 1_000_000, "processes": 1}
    failures, _ = flat_memory(10_000_000, facts, {"peak": 878_000_000})
    assert (failures == ()) == holds


@pytest.mark.parametrize(
    ("changed", "failures"),
    [
        ({}, ()),
        ({"rows_read": 900}, ()),
        ({"bytes_read": 2200}, ()),
        ({"rows_read": 50_000}, ("50,000 rows read after the resume, 800 at the start",)),
        ({"bytes_read": 5000}, ("5,000 bytes read after the resume, 1,000 at the start",)),
        ({"losses": [3.0]}, ("the losses are [3.0], those of the run that was not stopped [2.0]",)),
    ],
)
def test_a_resume_that_replays_is_found_out(changed, failures):
    begun = {"rows_read": 800, "bytes_read": 1000, "first_batch_seconds": [1.0, 1.0], "losses": [2.0]}
    found, _ = _no_replay(Corpus(Path(), 10_000, 10), 3000, [2.0], begun, {**begun, **changed})
    assert found == failures


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
