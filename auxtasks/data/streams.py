"""Batches of a corpus that does not fit a disk: read from start to end, shuffled on the way, resumed where it stood.

The shards (files) of an epoch are permuted and dealt out to the processes in turn. A process reads its shards one after
the other, in blocks of some thousand rows. A block is permuted, sorted into batches of like length, and the batches are
permuted. What does not fill a batch goes into the next block, also across the ends of shards and epochs: so every row
comes once an epoch, and a process whose shards run dry begins its next epoch while the others finish theirs.

The place in a stream cannot be computed from the step, as a `Feed`'s can. It is a small JSON value that goes along with
every batch, so that reading ahead does not move it, and that every checkpoint keeps for every process. Unlike the
library's own shuffle buffer, which is empty after a resume, it loses no row.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from datasets import IterableDataset
from numpy.typing import NDArray
from torch.utils import data as torch_data

from auxtasks.data.length_plan import cut_by_length
from auxtasks.data.loaders import Records, Shard
from auxtasks.data.stream_rows import Row, is_shuffled, rows_of
from auxtasks.data.worker_errors import Failed, failure_as_item, raising
from auxtasks.data.worker_sockets import check_worker_sockets
from auxtasks.errors import DataError
from auxtasks.seeding import generator
from auxtasks.signals import begin_loader_worker, loader_start_method

__all__ = ["BLOCK_ROWS", "Block", "StreamFeed"]

logger = logging.getLogger("auxtasks")

BLOCK_ROWS = 4096
_LOGGED_EVERY_ROWS = 1_000_000
# So many batches does the reading process keep ready, to bridge the time that it takes to read a block.
_READ_AHEAD = 16
# Of so many steps the rows are remembered, for messages about one that went wrong.
_REMEMBERED_STEPS = 64
# A row's number in an epoch is its shard times this, and its place in the shard.
_MOST_ROWS_OF_A_SHARD = 1 << 40


class Block(Records, Protocol):
    """What a task makes of some rows: records, as of a whole data set.

    Example:
        >>> class Words:
        ...     def __init__(self, texts):
        ...         self.texts, self.rows, self.left_out = texts, np.arange(len(texts)), {}
        ...     def __len__(self):
        ...         return len(self.texts)
        ...     def record(self, index):
        ...         return {"words": self.texts[index].split()}
        ...     def token_lengths(self):
        ...         return np.array([len(text.split()) for text in self.texts])
        >>> block: Block = Words(["a b", "c"])
        >>> block.token_lengths().tolist(), block.record(0)
        ([2, 1], {'words': ['a', 'b']})
    """

    @property
    def rows(self) -> NDArray[np.int64]:
        """Which of the rows each record is, (N,), ascending."""
        ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many rows became no record, by reason."""
        ...

    def token_lengths(self) -> NDArray[np.int64]:
        """Return how long each record is, (N,)."""
        ...


@dataclasses.dataclass(frozen=True)
class _Held:
    """A row that waits for its batch, with the (epoch, number) that its random numbers are made from."""

    row: Row
    epoch: int
    number: int


class _Ready(NamedTuple):
    """A block that was read: its records, the row of each, and batches of places in them.

    Attributes:
        block, kept, batches: as said.
        held: rows that filled no batch.
        left_out: rows of the stream so far that became no record, by reason.
    """

    block: Block
    kept: tuple[_Held, ...]
    batches: list[NDArray[np.int64]]
    held: tuple[_Held, ...]
    left_out: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Position:
    """Where a process stands in a stream: at the beginning of a block, and how many of its batches are done.

    Attributes:
        epoch, place, block: of this process; `place` counts its shards of the epoch.
        state: of the library's reader before the block; None at the beginning of a shard.
        held: rows from earlier blocks that filled no batch.
        read: rows so far, earlier epochs included.
        left_out: how many of them, by reason.
        batches: of the block, done.
    """

    epoch: int = 0
    place: int = 0
    block: int = 0
    state: Mapping[str, Any] | None = None
    held: tuple[_Held, ...] = ()
    read: int = 0
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    batches: int = 0

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> _Position:
        return cls(**{**value, "held": tuple(_Held(**held) for held in value["held"])})


@dataclasses.dataclass(eq=False)
class StreamFeed:
    """Where the training loop gets the batches of a stream from.

    Attributes:
        dataset: rows; neither shuffled nor split by process yet. What a row holds goes into checkpoints, as JSON, for
            the few rows that wait for a batch: select the columns that are needed.
        read_block: rows, and whether they are this process's first ones (worth a closer check), to records.
        transform: (record, rng) to item, as of a `Feed`.
        collate: items to batch; picklable.
        batch_size: of the global batch.
        seed: the run's seed.
        batch_tokens: make global batches of about so many tokens, padding and all rows of an item included, see
            `LengthPlan`. Each process holds its share of them, so the longest text must fit that.
        most_left_out: the share of rows that may become no record, over all blocks so far.
        workers: 0 reads in this process, 1 in another one, ahead; the result is the same.
        block_rows: rows that are read, shuffled and sorted together.
        rows_per_item: rows of like length that `collate` makes of an item, see `LengthPlan`.

    Raises:
        DataError: settings that no stream can meet; a stream that is shuffled already.
    """

    dataset: IterableDataset
    read_block: Callable[[Sequence[Row], bool], Block]
    transform: Callable[[Mapping[str, Any], np.random.Generator], Any]
    collate: Callable[[Sequence[Any]], Any]
    batch_size: int
    seed: int
    batch_tokens: int | None = None
    most_left_out: float = 0.05
    workers: int = 0
    block_rows: int = BLOCK_ROWS
    rows_per_item: int = 1

    def __post_init__(self) -> None:
        if self.workers not in (0, 1):
            raise DataError(
                f"a stream is read by one process beside each training process at most, else its order would depend on "
                f"their number: workers is 0 or 1, found {self.workers}."
            )
        if min(self.batch_size, self.block_rows) < 1:
            raise DataError(f"batch_size and block_rows are at least 1, found {self.batch_size} and {self.block_rows}.")
        if is_shuffled(self.dataset):
            raise DataError(
                "the stream is shuffled by the library, whose buffer loses rows on a resume: pass it unshuffled "
                "(without .shuffle()); shards and blocks of rows are shuffled here."
            )
        self._position = _Position()
        self._rows: dict[int, list[list[int]]] = {}  # of the newest steps

    def check(self, shard: Shard) -> None:
        """Refuse a shard that the batches, or the files, cannot be split for.

        Raises:
            TrainingError: the batch cannot be split evenly, or a worker could send nothing.
            DataError: fewer files than processes.
        """
        if self.workers:
            check_worker_sockets()
        shard.micro_batch_size(self.batch_size)
        if self.dataset.num_shards < shard.processes:
            raise DataError(
                f"the stream has {self.dataset.num_shards} shards for {shard.processes} processes, and each needs one "
                f"of its own: write the corpus in {shard.processes} files or more, best in a multiple of that number."
            )
        if shard.processes > 1 and shard.rank == 0:
            logger.info("each of %d processes reads files of its own: the batches are not those of one process.",
                        shard.processes)  # fmt: skip

    def position(self) -> dict[str, Any]:
        """Return where this process stands behind the last batch that was taken, as JSON."""
        return self._position.as_json()

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Go on from what `position` returned."""
        self._position = _Position.of_json(position)

    def rows(self, step: int, shard: Shard) -> list[list[int]]:
        """Return the rows of a step's micro-batches of this process; none of a step long ago, or yet to come."""
        del shard  # a stream has been read by one already
        return self._rows.get(step, [])

    def spell_row(self, row: int) -> str:
        """Return a row's shard and its place in it, both from 0.

        Example:
            >>> from datasets import Dataset
            >>> rows = Dataset.from_dict({"text": ["a", "b"]}).to_iterable_dataset()
            >>> feed = StreamFeed(rows, lambda rows, first: None, dict, list, batch_size=1, seed=0)
            >>> feed.spell_row((2 << 40) + 5)
            '5 of shard 2'
        """
        shard, place = divmod(row, _MOST_ROWS_OF_A_SHARD)
        return f"{place} of shard {shard}"

    def _remember(self, step: int, rows: list[int]) -> None:
        if step not in self._rows:
            self._rows.pop(step - _REMEMBERED_STEPS, None)
        self._rows.setdefault(step, []).append(rows)

    def batches(self, start: int, stop: int, shard: Shard) -> Iterator[Any]:
        """Yield the micro-batches of steps `start` to `stop` - 1 for one process, in order, from where it stands.

        Raises:
            DataError: more rows than allowed cannot be used, or a shard cannot be read; the same for 0 and 1 workers.
        """
        loader: Any = torch_data.DataLoader(
            _Reading(self, start, stop, shard, self._position),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            multiprocessing_context=loader_start_method(self.workers),
            prefetch_factor=_READ_AHEAD if self.workers else None,
            generator=torch.Generator(),  # without one the loader draws a seed from torch's global generator
            worker_init_fn=begin_loader_worker,
        )
        logged = self._position.read // _LOGGED_EVERY_ROWS
        self._rows.clear()  # of steps that may come again
        for batch, position, step, rows in raising(loader):
            self._position = position
            self._remember(step, rows)
            if position.read // _LOGGED_EVERY_ROWS > logged:
                logged = position.read // _LOGGED_EVERY_ROWS
                logger.info("read %s rows in this process (epoch %d); left out: %s.", f"{position.read:,}",
                            position.epoch, _spell_left_out(position.left_out))  # fmt: skip
            yield batch


_Read = tuple[Any, _Position, int, list[int]]


class _Reading(torch_data.IterableDataset[_Read | Failed]):
    """The micro-batches of one process from a position on, each with the position behind its step, it, and its rows."""

    def __init__(self, feed: StreamFeed, start: int, stop: int, shard: Shard, position: _Position) -> None:
        self._feed = feed
        self._steps = range(start, stop)
        self._shard = shard
        self._position = position
        self._local_batch = shard.micro_batch_size(feed.batch_size) * shard.accumulation
        self._local_tokens = None if feed.batch_tokens is None else feed.batch_tokens // shard.processes

    def __iter__(self) -> Iterator[_Read | Failed]:
        return failure_as_item(self._micro_batches())

    def _micro_batches(self) -> Iterator[_Read]:
        batches = self._batches(self._position)
        for step in self._steps:
            ready, places, position = next(batches)
            for part in np.split(places, self._shard.accumulation):
                items = [self._item(ready.block.record(place), ready.kept[place], step) for place in part.tolist()]
                rows = [ready.kept[place].number for place in part.tolist()]
                yield self._feed.collate(items), position, step, rows

    def _item(self, record: Mapping[str, Any], held: _Held, step: int) -> Any:
        rng = generator(self._feed.seed, "transform", held.epoch, held.number)
        return self._feed.transform({**record, "row": held.number, "step": step}, rng)

    def _batches(self, position: _Position) -> Iterator[tuple[_Ready, NDArray[np.int64], _Position]]:
        """Yield blocks, the places in them of the next batch, and the position behind it, endlessly."""
        done = position.batches
        for before, ready in self._blocks(dataclasses.replace(position, batches=0)):
            for place in range(done, len(ready.batches)):
                yield ready, ready.batches[place], dataclasses.replace(before, batches=place + 1)
            done = 0

    def _blocks(self, here: _Position) -> Iterator[tuple[_Position, _Ready]]:
        """Yield the position before each block, and the block, from a position on."""
        dataset, first = self._feed.dataset, True
        while True:
            read_before = here.read if (here.place, here.block) == (0, 0) else None
            permuted = generator(self._feed.seed, "shards", here.epoch).permutation(dataset.num_shards)
            shards = permuted[self._shard.rank :: self._shard.processes].tolist()
            for number in shards[here.place :]:
                source = dataset.shard(num_shards=dataset.num_shards, index=number)
                if here.state is not None:
                    source.load_state_dict(dict(here.state))
                for rows in rows_of(source, self._feed.block_rows, number):
                    state = source.state_dict()  # the reader is behind these rows, and has not gone on
                    ready = self._read(rows, here, number, first)
                    first = False
                    yield here, ready
                    here = dataclasses.replace(here, block=here.block + 1, state=state, held=ready.held,
                                               read=here.read + len(rows), left_out=ready.left_out)  # fmt: skip
                here = dataclasses.replace(here, place=here.place + 1, block=0, state=None)
            if here.read == read_before:
                raise DataError(f"no row is in the shards of this process: {', '.join(map(str, shards))}.")
            here = dataclasses.replace(here, epoch=here.epoch + 1, place=0)

    def _read(self, rows: Sequence[Row], here: _Position, shard: int, first: bool) -> _Ready:
        """Shuffle a block, make records of it and of the rows that waited, and cut them into batches."""
        number = shard * _MOST_ROWS_OF_A_SHARD + here.block * self._feed.block_rows
        rng = generator(self._feed.seed, "block", here.epoch, number)
        order = rng.permutation(len(rows)).tolist()
        # Those that waited stand first, so that none waits for ever.
        candidates = [*here.held, *(_Held(rows[place], here.epoch, number + place) for place in order)]
        block = self._feed.read_block([candidate.row for candidate in candidates], first)
        kept = tuple(candidates[place] for place in block.rows.tolist())
        left_out = {name: here.left_out.get(name, 0) + count for name, count in block.left_out.items()}
        self._judge(here, here.read + len(rows), left_out)
        full = len(kept) // self._local_batch * self._local_batch
        batches = cut_by_length(
            np.arange(full),
            block.token_lengths()[:full],
            self._local_batch,
            self._local_tokens,
            rows_per_item=self._feed.rows_per_item,
        )
        mixed = [batches[place] for place in rng.permutation(len(batches))]
        return _Ready(block, kept, mixed, kept[full:], left_out)

    def _judge(self, here: _Position, read: int, left_out: Mapping[str, int]) -> None:
        """Refuse a stream of which more is left out than was allowed, once there is a block's worth to judge by."""
        lost = sum(left_out.values())
        enough = read >= self._feed.block_rows or here.epoch > 0
        if enough and (lost > self._feed.most_left_out * read or lost == read):
            raise DataError(
                f"{lost:,} of {read:,} rows so far cannot be used ({_spell_left_out(left_out)}); "
                f"{self._feed.most_left_out:.0%} may be left out. Clean the corpus, or allow more (most_left_out)."
            )


def _spell_left_out(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count) or "none"


def _as_it_is(value: Any) -> Any:
    return value
