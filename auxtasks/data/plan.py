"""Which items make step s: computed from the step's number, never replayed.

A plan has no state. A run that resumes at step 7,000 asks for step 7,000; N processes ask for the same global batch and
each takes its share. So the order of the data is the same for any number of processes, workers and interruptions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import DataError
from auxtasks.seeding import generator

__all__ = ["BatchPlan", "EpochPlan", "IdentityPlan", "Pick", "refuse_copies"]

# Times that a batch may hold each item on average. Beyond the first it learns of augmentation and dropout alone, and a
# batch size with a zero too many would take hours to read before anybody is told.
MOST_COPIES = 100


class Pick(NamedTuple):
    """One item of a step: the row to read, and the (epoch, number) that its own random numbers are made from."""

    row: int
    epoch: int
    number: int


class BatchPlan(Protocol):
    """A pure function from a step's number to its global batch.

    Example:
        >>> plan: BatchPlan = EpochPlan(4, 2, seed=0)
        >>> plan.batch_size, sorted(pick.row for step in range(2) for pick in plan.batch(step))
        (2, [0, 1, 2, 3])
    """

    @property
    def batch_size(self) -> int:
        """Items in every global batch."""
        ...

    def batch(self, step: int) -> list[Pick]:
        """Return the items of a step, in order."""
        ...


def refuse_copies(batch_size: int, items: int, there_are: str) -> None:
    """Refuse a batch that is far larger than all there is.

    Args:
        batch_size: items in a batch.
        items: that there are.
        there_are: these in words, for the message.

    Raises:
        DataError: says how large a batch may be.

    Example:
        >>> refuse_copies(64, 8, "8 pictures")
        >>> refuse_copies(1_000_000, 8, "8 pictures")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: a batch of 1,000,000 would hold each item 125,000 times: there are 8 pictures...
    """
    if batch_size > MOST_COPIES * items:
        raise DataError(
            f"a batch of {batch_size:,} would hold each item {batch_size // items:,} times: there are {there_are}. Set "
            f"the batch size to at most {MOST_COPIES * items:,}."
        )


class EpochPlan:
    """Every item once an epoch, in a fresh random order; batches run on across the end of an epoch.

    Args:
        items: number of items.
        batch_size: of the global batch; it may be larger than `items`.
        seed: the run's seed.
        shuffle: False keeps the order of the rows.

    Raises:
        DataError: no items, or no batch.

    Example:
        >>> plan = EpochPlan(items=3, batch_size=2, seed=0)
        >>> rows = [pick.row for step in range(3) for pick in plan.batch(step)]
        >>> (sorted(rows[:3]), sorted(rows[3:]))
        ([0, 1, 2], [0, 1, 2])
    """

    def __init__(self, items: int, batch_size: int, seed: int, *, shuffle: bool = True) -> None:
        if items < 1 or batch_size < 1:
            raise DataError(f"a plan needs items and a batch size of at least 1, found {items} and {batch_size}.")
        self._items = items
        self._batch_size = batch_size
        self._order = _Permutations(items, seed, "order") if shuffle else None

    @property
    def batch_size(self) -> int:
        """Items in every global batch."""
        return self._batch_size

    def batch(self, step: int) -> list[Pick]:
        """Return the items of a step, in order."""
        positions = range(step * self._batch_size, (step + 1) * self._batch_size)
        return [self._pick(*divmod(position, self._items)) for position in positions]

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the rows of a step's items, (B,), in order: what `batch` says, without the numbers for chance."""
        epochs, offsets = np.divmod(np.arange(step * self._batch_size, (step + 1) * self._batch_size), self._items)
        if self._order is None:
            return offsets
        parts = [self._order.of_epoch(int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)

    def _pick(self, epoch: int, offset: int) -> Pick:
        row = self._order.item(epoch, offset) if self._order else offset
        return Pick(row, epoch, row)


class IdentityPlan:
    """P identities with K photos each, so that a batch holds pairs of the same person and of different people.

    Every identity with two or more photos comes up once an epoch (see `favour`), in a fresh random order, with K of
    its photos drawn anew. One with fewer than K photos shows each of them as evenly as can be; the copies differ by
    augmentation. People with a single photo, and rows without a label, fill a fixed share of the places: two
    augmentations of one photo are then the positive pair. When nobody has two photos, they fill all places.

    Args:
        labels: (N,) identity of each row; negative means unlabelled, each such row an identity of its own.
        identities: P, people in a batch.
        photos: K, photos of each.
        seed: the run's seed.
        single_share: share of the P places for people with one photo.
        favour: who has n photos comes up (n / 2) ** favour times an epoch, rounded: 0 takes all people equally often,
            1 nearly all photos.

    Raises:
        DataError: fewer than two people, so that no pair of different people exists; P or K too small.

    Example:
        >>> plan = IdentityPlan([0, 0, 0, 1, 1], identities=2, photos=2, seed=0)
        >>> sorted(plan.label_of(pick.row) for pick in plan.batch(0))
        [0, 0, 1, 1]
    """

    def __init__(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        identities: int,
        photos: int,
        seed: int,
        *,
        single_share: float = 0.0,
        favour: float = 0.0,
    ) -> None:
        if identities < 2 or photos < 2:
            raise DataError(f"pairs need at least 2 people with 2 photos a batch, found {identities} x {photos}.")
        if not 0 <= single_share <= 1:
            raise DataError(f"single_share is a share between 0 and 1, found {single_share}.")
        if not 0 <= favour <= 1:
            raise DataError(f"favour is an exponent between 0 and 1, found {favour}.")
        self._labels = np.asarray(labels, dtype=np.int64)
        self._photos = photos
        self._seed = seed
        groups = _rows_by_identity(self._labels)
        if len(groups) < 2:
            raise DataError(
                f"found {len(groups)} person in {len(self._labels)} photos: without a second person there is no pair "
                "of different people. Check the label column, or add people."
            )
        several = [rows for rows in groups if len(rows) > 1]
        single = [rows for rows in groups if len(rows) == 1]
        single_places = round(identities * single_share) if several else identities
        if not single:
            single_places = 0
        self._pools = [
            _Pool(several, identities - single_places, seed, "several", favour),
            _Pool(single, single_places, seed, "single", favour),
        ]
        photos_there = f"{len(groups):,} people with {len(self._labels):,} photos"
        refuse_copies(identities * photos, len(self._labels), photos_there)
        people = sum(len(pool.groups) for pool in self._pools if pool.places)
        if people < 2:
            raise DataError(
                f"batches would hold {people} person only: {len(several)} people have several photos, {len(single)} "
                f"have one, and single_share={single_share} gives the latter {single_places} of {identities} places."
            )

    @property
    def batch_size(self) -> int:
        """Photos in every global batch: P times K."""
        return self._photos * sum(pool.places for pool in self._pools)

    def label_of(self, row: int) -> int:
        """Return a row's label."""
        return int(self._labels[row])

    def batch(self, step: int) -> list[Pick]:
        """Return the photos of a step, person by person."""
        return [
            pick for pool in self._pools for place in range(pool.places) for pick in self._person(pool, step, place)
        ]

    def _person(self, pool: _Pool, step: int, place: int) -> list[Pick]:
        epoch, offset = divmod(step * pool.places + place, len(pool.turns))
        group, turn = pool.turns[pool.order.item(epoch, offset)]
        rows = pool.groups[group]
        # A row of the person's own names the turn, whatever else is in the pool; nobody has more turns than photos.
        name = int(rows[turn])
        rng = generator(self._seed, "photos", epoch, name)
        return [
            Pick(int(row), epoch, name * self._photos + k)
            for k, row in enumerate(_draw_evenly(rows, self._photos, rng))
        ]


class _Pool:
    """People who take turns in a number of places of every batch."""

    def __init__(self, groups: list[NDArray[np.int64]], places: int, seed: int, name: str, favour: float) -> None:
        self.groups = groups
        self.places = places
        self.turns = [(group, turn) for group, rows in enumerate(groups) for turn in range(_turns(len(rows), favour))]
        self.order = _Permutations(len(self.turns), seed, f"people/{name}")


def _turns(photos: int, favour: float) -> int:
    """Return how often an epoch shows a person with so many photos."""
    return max(1, round(float((photos / 2) ** favour)))


class _Permutations:
    """A permutation for every epoch; the last two are kept, since a batch can touch two epochs."""

    def __init__(self, items: int, seed: int, purpose: str) -> None:
        self.of_epoch = functools.lru_cache(maxsize=2)(lambda epoch: generator(seed, purpose, epoch).permutation(items))

    def item(self, epoch: int, offset: int) -> int:
        return int(self.of_epoch(epoch)[offset])


def _rows_by_identity(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Group row numbers by label, each unlabelled row for itself, ordered by label and row."""
    order = np.argsort(labels, kind="stable")
    known = order[labels[order] >= 0]
    starts = np.flatnonzero(np.diff(labels[known], prepend=-1))
    groups = np.split(known, starts[1:]) if len(known) else []
    return [*groups, *(np.array([row]) for row in order[labels[order] < 0])]


def _draw_evenly(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` rows so that none is drawn twice more often than another."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]
