"""The same batches for any number of workers, and N processes together see the batches of one."""

import dataclasses
import gc
import multiprocessing
import sys

import numpy as np
import pytest
import torch

from auxtasks.data.length_plan import LengthPlan
from auxtasks.data.loaders import Feed, Shard, read
from auxtasks.data.plan import EpochPlan, Pick
from auxtasks.errors import ColumnError, ImageError, NonFiniteError, TrainingError


class Numbers:
    """Records that are their own number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> dict[str, int]:
        return {"value": 10 * index}


def transform(record, rng):
    return record["row"], record["value"], rng.random()


def collate(items):
    rows, values, noise = zip(*items, strict=True)
    return torch.tensor(rows), torch.tensor(values), torch.tensor(noise, dtype=torch.float64)


def feed(workers: int = 0, batch_size: int = 12, seed: int = 0):
    return Feed(Numbers(17), EpochPlan(17, batch_size, seed=4), transform, collate, seed=seed, workers=workers)


def batches(feed, start=0, stop=5, shard=None):
    return list(feed.batches(start, stop, shard or Shard()))


def join(parts):
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (12, 1)])
def test_a_split_gives_every_pick_to_one_process_once_and_keeps_the_order(processes, accumulation):
    picks = [Pick(row, 0, row) for row in range(12)]
    parts = [Shard(rank, processes, accumulation).micro_batches(picks) for rank in range(processes)]
    assert {len(micros) for micros in parts} == {accumulation}
    assert {len(micro) for micros in parts for micro in micros} == {12 // (processes * accumulation)}
    in_order = [pick for micro in range(accumulation) for rank in range(processes) for pick in parts[rank][micro]]
    assert in_order == picks


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(TrainingError, match=r"batch of 12 items .* 2 processes x 4 micro-batches: .* a multiple of 8"):
        Shard(0, 2, 4).micro_batches([Pick(row, 0, row) for row in range(12)])


def test_a_feed_is_refused_for_the_smallest_batch_not_only_the_first():
    plan = LengthPlan(np.full(19, 8), batch_size=2, seed=4, batch_tokens=64)
    assert sorted(len(plan.batch(step)) for step in range(3)) == [2, 8, 8]
    first = next(step for step in range(2) if len(plan.batch(step)) == 8)
    source = Feed(Numbers(17), Later(plan, first), transform, collate, seed=0)
    source.check(Shard(0, 2, 1))
    with pytest.raises(TrainingError, match="a global batch of 2 items cannot be split evenly over 2 processes x 2"):
        source.check(Shard(0, 2, 2))


class Later:
    """A plan that begins with a later step."""

    def __init__(self, plan: LengthPlan, first: int) -> None:
        self.plan, self.first, self.batch_size = plan, first, plan.batch_size

    def batch(self, step: int) -> list[Pick]:
        return self.plan.batch(self.first + step)


@pytest.mark.parametrize(("processes", "accumulation"), [(2, 1), (1, 2), (2, 2), (3, 2)])
def test_processes_together_see_the_batches_of_one(processes, accumulation):
    whole = batches(feed())
    parts = [batches(feed(), shard=Shard(rank, processes, accumulation)) for rank in range(processes)]
    joined = [
        join([parts[rank][step * accumulation + micro] for micro in range(accumulation) for rank in range(processes)])
        for step in range(5)
    ]
    assert_equal(joined, whole)


# More workers than cores only cost time: torch warns of them on a machine with one or two.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_bit(workers):
    assert_equal(batches(feed(workers)), batches(feed(0)))


def test_beginning_late_gives_the_rest():
    assert_equal(batches(feed(), start=3), batches(feed())[3:])


def test_an_item_s_noise_depends_on_seed_and_epoch_and_not_on_its_batch():
    def by_item(batch_size, seed=0):
        rows, _, values = join(batches(feed(batch_size=batch_size, seed=seed), stop=204 // batch_size))
        return {
            (place // 17, int(row)): float(value) for place, (row, value) in enumerate(zip(rows, values, strict=True))
        }

    assert by_item(12) == by_item(3)
    assert len(set(by_item(12).values())) == len(by_item(12)) == 204  # no two items of twelve epochs share their noise
    assert not set(by_item(12).values()) & set(by_item(12, seed=1).values())


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_left_alone(workers):
    torch.manual_seed(3)
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global generator is the point
    assert len(batches(feed(workers))) == 5
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_a_record_carries_its_row_and_the_step():
    assert read(Numbers(3), 2) == {"value": 20, "row": 2, "step": 0}
    assert read(Numbers(3), 2, 7) == {"value": 20, "row": 2, "step": 7}


class Holes(Numbers):
    """Records of which one cannot be read, with the other errors that a feed may meet behind it."""

    def record(self, index):
        if index == 9:
            raise ImageError("row 9 is no picture")
        return super().record(index)


def refuse(record, rng):
    error = NonFiniteError("row 3 is NaN", rows=[3])
    raise error from ValueError("of the library below")


def refuse_batch(items):
    raise ColumnError("the rows have no 'text'")


BROKEN = {
    "record": (Holes, transform, collate, ImageError, "row 9 is no picture"),
    "transform": (Numbers, refuse, collate, NonFiniteError, "row 3 is NaN"),
    "collate": (Numbers, transform, refuse_batch, ColumnError, "the rows have no 'text'"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("where", BROKEN)
def test_an_error_of_ours_is_the_same_for_any_number_of_workers(where, workers):
    records, change, join_items, kind, says = BROKEN[where]
    plan = EpochPlan(17, 4, seed=0, shuffle=False)
    source = Feed(records(17), plan, change, join_items, seed=0, workers=workers)
    found = source.batches(0, 5, Shard())
    if where == "record":
        assert [len(next(found)[0]) for _ in range(2)] == [4, 4]  # those before it are whole
    with pytest.raises(kind) as caught:
        next(found)
    assert type(caught.value) is kind
    assert str(caught.value) == says
    assert getattr(caught.value, "rows", ()) == ((3,) if where == "transform" else ())


def worker_while_a_feed_fails():
    source = Feed(Holes(17), EpochPlan(17, 4, seed=0, shuffle=False), transform, collate, seed=0, workers=1)
    before = multiprocessing.active_children()
    found = source.batches(0, 5, Shard())
    (worker,) = set(multiprocessing.active_children()) - set(before)
    try:
        list(found)
    except ImageError:
        return worker
    return None


def test_the_worker_of_a_feed_that_failed_ends_with_it():
    gc.disable()  # which would come at any time, and wait for the worker
    try:
        worker = worker_while_a_feed_fails()
        assert worker is not None
        assert not worker.is_alive()
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="others have no fork, or none that is safe")
def test_workers_are_forked_whatever_else_python_would_do(monkeypatch):
    # As from 3.14 on. What cannot be pickled goes to a forked process alone.
    monkeypatch.setattr(
        multiprocessing.context._default_context, "_actual_context", multiprocessing.get_context("spawn")
    )
    unpicklable = dataclasses.replace(feed(1), transform=lambda record, rng: transform(record, rng))
    assert_equal(batches(unpicklable), batches(feed(0)))


def test_an_error_in_a_worker_is_told():
    broken = Feed(Numbers(17), EpochPlan(17, 4, seed=0), lambda record, rng: 1 // 0, collate, seed=0, workers=1)
    with pytest.raises(ZeroDivisionError, match=r"integer (division|modulo)"):
        batches(broken)
