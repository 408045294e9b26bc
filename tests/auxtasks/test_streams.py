"""A corpus that does not fit a disk: every row once an epoch, in an order of the seed, resumed to the bit."""

import collections
import dataclasses
import json
import logging
import multiprocessing
import sys

import numpy as np
import pytest
from datasets import Dataset, IterableDataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from auxtasks.data.loaders import Shard
from auxtasks.data.stream_rows import describe_stream, first_row
from auxtasks.data.stream_sources import open_stream
from auxtasks.data.streams import StreamFeed
from auxtasks.errors import ColumnError, DataError, TrainingError


class Words:
    """A block of texts; those with an "x" in them are left out. Its records count what was read before it."""

    blocks = 0

    def __init__(self, rows, first):
        self.texts = [row["text"] for row in rows]
        self.rows = np.array([place for place, text in enumerate(self.texts) if "x" not in text], dtype=np.int64)
        self.left_out = {"with x": len(rows) - len(self.rows)}
        self.first = first

    def __len__(self):
        return len(self.rows)

    def record(self, index):
        return {"text": self.texts[self.rows[index]], "block": tuple(self.texts)}

    def token_lengths(self):
        return np.array([len(self.texts[row]) for row in self.rows], dtype=np.int64)


def transform(record, rng):
    return (record["row"], record["text"], record["step"], int(rng.integers(1 << 60)), hash(record["block"]))


def numbered(count):
    return [f"{number} " + "w" * (number * 7 % 13) for number in range(count)]


def stream_of(texts, shards=5):
    return Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=shards)


def generated(texts, parts):
    for part in parts:
        for text in texts[part::5]:
            yield {"text": text}


def make_feed(dataset=None, *, batch_size=4, seed=0, **options):
    dataset = stream_of(numbered(103)) if dataset is None else dataset
    return StreamFeed(dataset, Words, transform, list, batch_size, seed, **{"block_rows": 9, **options})


ALONE = Shard()


def take(feed, steps, shard=ALONE, start=0):
    return list(feed.batches(start, start + steps, shard))


def texts_of(batches):
    return [text for batch in batches for _, text, *_ in batch]


# Which rows


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_row_comes_exactly_once_an_epoch(processes, workers):
    batch_size = {1: 4, 2: 4, 5: 10}[processes]
    shards = [Shard(rank, processes) for rank in range(processes)]
    seen = collections.defaultdict(list)
    for shard in shards:
        for batch in take(make_feed(batch_size=batch_size, workers=workers), 60, shard):
            assert len(batch) == batch_size // processes
            for number, text, *_ in batch:
                seen[text].append(number)
    assert len(seen) == 103  # no row is missing
    assert len({numbers[0] for numbers in seen.values()}) == 103
    assert all(len(set(numbers)) == 1 for numbers in seen.values())  # a row has one number, in every process
    assert max(map(len, seen.values())) - min(map(len, seen.values())) <= 2  # of the epoch that is not yet over


def test_epochs_follow_each_other_without_a_gap_and_in_another_order():
    seen = texts_of(take(make_feed(batch_size=1, block_rows=1), 309))
    epochs = [seen[start : start + 103] for start in (0, 103, 206)]
    assert all(sorted(epoch) == sorted(numbered(103)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_decides_the_order():
    orders = [texts_of(take(make_feed(seed=seed), 25)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0], key=lambda text: int(text.split()[0]))


def test_two_processes_read_different_shards():
    first, second = ([int(text.split()[0]) // 21 for text in texts_of(take(make_feed(), 10, Shard(rank, 2)))]
                     for rank in (0, 1))  # fmt: skip
    assert set(first) & set(second) == set()


def test_batches_hold_rows_of_like_length():
    texts = ["w" * (number * 7 % 64 + 1) for number in range(512)]
    batches = take(make_feed(stream_of(texts, 1), batch_size=8, block_rows=512), 64)
    spread = [max(len(text) for _, text, *_ in batch) - min(len(text) for _, text, *_ in batch) for batch in batches]
    assert max(spread) <= 1
    means = [np.mean([len(text) for _, text, *_ in batch]) for batch in batches]
    assert abs(np.corrcoef(means, range(64))[0, 1]) < 0.4  # not from the short to the long ones


def test_no_row_waits_for_ever():
    # Of each block of 9 one is too much for the batches of 4, and so on: the longest may not be the one, every time.
    texts = [*numbered(90), "w" * 99]
    seen = texts_of(take(make_feed(stream_of(texts, 1), batch_size=4), 100))
    assert 3 <= seen.count("w" * 99) <= 5


def test_batches_can_be_counted_in_tokens():
    feed = make_feed(batch_size=2, batch_tokens=200, block_rows=50, rows_per_item=2)
    batches = take(feed, 60)
    computed = [2 * -(-max(len(text) for _, text, *_ in batch) // 8) * 8 * len(batch) for batch in batches]
    assert 150 < max(computed) <= 200
    assert all(len(batch) % 2 == 0 for batch in batches)
    assert len({len(batch) for batch in batches}) > 2
    with pytest.raises(DataError, match=r"batch_tokens=10 is too few for 2 texts of \d+ tokens, each computed as 1 x"):
        take(make_feed(batch_size=2, batch_tokens=10), 60)


def test_micro_batches_split_a_step():
    whole = take(make_feed(batch_size=8), 5)
    parts = list(make_feed(batch_size=8).batches(0, 5, Shard(accumulation=4)))
    assert len(parts) == 20
    assert [[item for part in parts[step * 4 : step * 4 + 4] for item in part] for step in range(5)] == whole


def test_an_item_knows_its_step_and_has_random_numbers_of_its_own():
    batches = take(make_feed(), 60)
    assert [step for batch in batches for step in {item[2] for item in batch}] == list(range(60))
    assert len({item[3] for batch in batches for item in batch}) == 240  # also those of the second epoch


def test_one_process_with_few_rows_gathers_a_batch_over_epochs():
    batches = take(make_feed(stream_of(["a", "bb", "c"], 3), batch_size=5), 3)
    assert collections.Counter(texts_of(batches)) == {"a": 5, "bb": 5, "c": 5}


# Where it stands


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_resumed_anywhere_goes_on_to_the_bit(processes, workers):
    shard = Shard(processes - 1, processes)
    steps = 40 * processes  # past an epoch's end
    straight, positions = [], []
    feed = make_feed(workers=0)
    for batch in feed.batches(0, steps, shard):
        straight.append(batch)
        positions.append(json.loads(json.dumps(feed.position())))
    assert {position["epoch"] for position in positions} >= {0, 1}
    assert max(position["batches"] for position in positions) > 1  # in the middle of a block too
    assert any(position["held"] for position in positions)
    for step in range(1, steps, 1 if workers == 0 else 17):
        resumed = make_feed(workers=workers)
        resumed.go_to(positions[step - 1])
        assert take(resumed, steps - step, shard, start=step) == straight[step:], step
        assert json.loads(json.dumps(resumed.position())) == positions[-1]


def test_reading_ahead_does_not_move_the_position():
    ahead, here = make_feed(workers=1), make_feed()
    pairs = zip(ahead.batches(0, 30, Shard()), here.batches(0, 30, Shard()), strict=True)
    for step, (first, second) in enumerate(pairs):
        assert first == second
        assert ahead.position() == here.position(), step


def sources(tmp_path, kind, count=60):
    texts = numbered(count)
    rows = [texts[part::4] for part in range(4)]
    if kind == "generator":
        return IterableDataset.from_generator(generated, gen_kwargs={"texts": tuple(texts), "parts": [0, 1, 2, 3, 4]})
    if kind == "concatenated":
        return concatenate_datasets([stream_of(texts[:20], 2), stream_of(texts[20:], 3)])
    if kind == "mapped":
        return (
            stream_of(texts, 4).map(lambda row: {"text": row["text"] + "!"}).filter(lambda row: "3" not in row["text"])
        )
    for part, some in enumerate(rows):
        path = tmp_path / f"part-{part}.{ {'parquet': 'parquet', 'json': 'jsonl', 'text': 'txt'}[kind] }"
        if kind == "parquet":
            Dataset.from_dict({"line": some, "id": list(range(len(some)))}).to_parquet(path, batch_size=4)
        elif kind == "json":
            path.write_text("".join(json.dumps({"line": text, "id": 3}) + "\n" for text in some))
        else:
            path.write_text("\n\n".join(some), encoding="utf-8-sig")
    return open_stream(tmp_path, column="text" if kind == "text" else "line")


@pytest.mark.parametrize("kind", ["parquet", "json", "text", "generator", "concatenated", "mapped"])
def test_every_source_is_read_whole_and_resumed_to_the_bit(tmp_path, kind):
    dataset = sources(tmp_path, kind)
    assert dataset.num_shards >= 4
    expected = sorted(row["text"] for row in dataset)
    assert len(expected) >= 30
    straight, positions = [], []
    feed = make_feed(dataset, batch_size=2, block_rows=4)
    for batch in feed.batches(0, 40, Shard()):
        straight.append(batch)
        positions.append(json.loads(json.dumps(feed.position())))
    assert set(texts_of(straight)) == set(expected)
    for step in range(1, 40, 3):
        resumed = make_feed(dataset, batch_size=2, block_rows=4)
        resumed.go_to(positions[step - 1])
        assert take(resumed, 40 - step, start=step) == straight[step:], step


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=2, max_size=6).filter(lambda sizes: sum(sizes[:2]) > 0),
    block=st.integers(1, 7),
    batch=st.integers(1, 6),
)
def test_shards_of_any_size_give_every_row_once(sizes, block, batch):
    texts = [f"{part} {row}" for part, size in enumerate(sizes) for row in range(size)]
    parts = [[text for text in texts if text.startswith(f"{part} ")] for part in range(len(sizes))]

    def rows(parts):
        for part in parts:
            yield from ({"text": text} for text in part)

    dataset = IterableDataset.from_generator(rows, gen_kwargs={"parts": parts})
    feed = make_feed(dataset, batch_size=batch, block_rows=block)
    steps = -(-2 * len(texts) // batch)
    seen = collections.Counter(texts_of(take(feed, steps)))
    # A batch runs on across the end of an epoch, and up to a batch of rows waits.
    assert set(seen) == set(texts) or sum(seen.values()) < len(texts) + batch
    assert max(seen.values()) - min(seen[text] for text in texts) <= -(-2 * batch // len(texts)) + 1


# What is left out, and what is refused


def test_what_is_left_out_is_counted_and_judged_over_all_blocks(caplog):
    texts = [f"{number} x" if number % 10 == 0 else f"{number}" for number in range(100)]
    feed = make_feed(stream_of(texts, 1), block_rows=20, most_left_out=0.1)
    batches = take(feed, 30)
    assert not any("x" in text for text in texts_of(batches))
    position = feed.position()
    assert position["left_out"] == {"with x": position["read"] // 10}
    with pytest.raises(DataError, match=r"2 of 20 rows so far cannot be used \(2 with x\); 9% may be left out"):
        take(make_feed(stream_of(texts, 1), block_rows=20, most_left_out=0.09), 30)
    # A shard with less than a block's worth is no sample: only with the others it is judged.
    few = [*["x"] * 2, *numbered(98)]
    take(make_feed(stream_of(few, 33), block_rows=50), 20)
    with pytest.raises(DataError, match="cannot be used"):
        take(make_feed(stream_of(["x"] * 10, 2), block_rows=50, most_left_out=1.0), 1)


def test_what_is_left_out_is_told_now_and_then(caplog, monkeypatch):
    monkeypatch.setattr("auxtasks.data.streams._LOGGED_EVERY_ROWS", 50)
    with caplog.at_level(logging.INFO, "auxtasks"):
        take(make_feed(stream_of([*numbered(95), *["x"] * 5]), most_left_out=0.5), 60)
    assert 2 <= len(caplog.messages) <= 5
    assert "left out: 5 with x" in caplog.messages[1]


def test_a_block_is_looked_at_closely_once_a_run():
    seen = []

    def watch(rows, first):
        seen.append(first)
        return Words(rows, first)

    feed = dataclasses.replace(make_feed(), read_block=watch)
    take(feed, 20)
    assert seen[0]
    assert sum(seen) == 1 < len(seen)


def test_fewer_shards_than_processes_are_refused():
    feed = make_feed(stream_of(numbered(10), 2), batch_size=6)
    feed.check(Shard(1, 2))
    with pytest.raises(DataError, match=r"has 2 shards for 3 processes.*write the corpus in 3 files or more"):
        feed.check(Shard(0, 3))
    with pytest.raises(TrainingError, match=r"batch of 6 items cannot be split evenly over 2 processes x 2"):
        feed.check(Shard(0, 2, 2))


def test_what_a_stream_cannot_do_is_refused():
    with pytest.raises(DataError, match="workers is 0 or 1, found 2"):
        make_feed(workers=2)
    with pytest.raises(DataError, match="at least 1, found 0 and 9"):
        make_feed(batch_size=0)
    for shuffled in (stream_of(numbered(9)).shuffle(), stream_of(numbered(9)).shuffle().map(dict)):
        with pytest.raises(DataError, match="whose buffer loses rows on a resume"):
            make_feed(shuffled)


def empty_parts(parts):
    yield from ()


def broken_parts(parts):
    yield {"text": "a b"}
    raise OSError("the disk is gone")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_empty_and_a_broken_stream_are_named(workers):
    empty = IterableDataset.from_generator(empty_parts, gen_kwargs={"parts": [0, 1]})
    with pytest.raises(DataError, match="the stream holds no rows"):
        first_row(empty)
    with pytest.raises(DataError, match=r"^no row is in the shards of this process: [01], [01]\.$"):
        take(make_feed(empty, workers=workers), 1)
    broken = IterableDataset.from_generator(broken_parts, gen_kwargs={"parts": [0]})
    with pytest.raises(DataError, match=r"^shard 0 of the stream cannot be read: OSError: the disk is gone"):
        take(make_feed(broken, workers=workers), 1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("where", ["transform", "collate"])
def test_an_error_of_ours_comes_behind_the_batches_before_it_for_any_number_of_workers(where, workers):
    def change(record, rng):
        if where == "transform" and record["step"] == 2:
            raise ColumnError("the third batch is none")
        return transform(record, rng)

    def collate(items):
        if items[0][2] == 2:
            raise ColumnError("the third batch is none")
        return items

    feed = make_feed(workers=workers)
    feed.transform, feed.collate = change, collate
    found = feed.batches(0, 5, ALONE)
    assert [next(found), next(found)] == take(make_feed(), 2)
    with pytest.raises(ColumnError, match=r"^the third batch is none$"):
        next(found)


@pytest.mark.skipif(sys.platform != "linux", reason="others have no fork, or none that is safe")
def test_the_worker_is_forked_whatever_else_python_would_do(monkeypatch):
    # As from 3.14 on. What cannot be pickled goes to a forked process alone.
    monkeypatch.setattr(
        multiprocessing.context._default_context, "_actual_context", multiprocessing.get_context("spawn")
    )
    feed = make_feed(workers=1)
    feed.transform = lambda record, rng: transform(record, rng)
    assert take(feed, 5) == take(make_feed(), 5)


def test_a_stream_is_described_by_what_it_begins_with():
    described = {describe_stream(stream) for stream in (stream_of(["a"], 1), stream_of(["b"], 1), stream_of("ab", 2))}
    assert len(described) == 3
    assert describe_stream(stream_of(["a", "c"], 1)) in described


def test_sources_that_do_not_stream_are_refused(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds nothing that streams; .* Pictures and CSV do not stream"):
        open_stream(tmp_path)
    with pytest.raises(DataError, match="builtin:sentences does not stream: it fits into memory"):
        open_stream("builtin:sentences")
    with pytest.raises(DataError, match="is not there: no such file or folder"):
        open_stream(tmp_path / "gone.txt")
    (tmp_path / "a.jsonl").write_text('{"line": "a b", "id": 3}\n')
    with pytest.raises(ColumnError, match=r"has no column 'lines'; it has line, id\. Did you mean \"line\"\?"):
        open_stream(tmp_path, column="lines")
    with pytest.raises(ColumnError, match=r"the column 'id' of .* holds int; expected strings"):
        open_stream(tmp_path / "a.jsonl", column="id")
    (tmp_path / "b.txt").write_text("a b\n")
    with pytest.raises(DataError, match="holds files of the kinds json, text; expected"):
        open_stream(tmp_path)
    assert first_row(open_stream(tmp_path, kind="text")) == {"text": "a b"}
