"""Pairs of pictures to verify: read from a file, or drawn from labels for validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from auxtasks.data.sources import load_source
from auxtasks.errors import DataError, LeakError
from auxtasks.seeding import generator

__all__ = ["Pairs", "balanced_pairs", "hold_out", "load_pairs", "refuse_trained_people"]

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """N pairs of rows of a data set.

    Attributes:
        left, right: (N,) rows.
        same: (N,) 1 for the same person, 0 for two people.
        folds: (N,) fold of each pair, or None where the protocol has none.
    """

    left: Rows
    right: Rows
    same: Rows
    folds: Rows | None = None

    def __len__(self) -> int:
        return len(self.left)

    @property
    def rows(self) -> Rows:
        """All rows that occur in a pair, each once, in order."""
        return np.unique(np.concatenate([self.left, self.right]))


def hold_out(labels: Sequence[int] | Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Split rows by identity: all photos of a person are on the same side; unlabelled rows are never held out.

    Args:
        labels: (N,) identity of each row; negative is unlabelled.
        share: of the people to hold out, between 0 and 1; rounded to whole people.
        seed: which people.

    Returns:
        Rows to train on, rows held out.

    Example:
        >>> trained, held = hold_out([0, 0, 1, 1, 2, 2, 3, 3], share=0.25, seed=0)
        >>> (len(trained), len(held))
        (6, 2)
    """
    labels = np.asarray(labels, dtype=np.int64)
    people = np.unique(labels[labels >= 0])
    chosen = generator(seed, "hold out").permutation(people)[: round(share * len(people))]
    held = np.isin(labels, chosen)
    return np.flatnonzero(~held), np.flatnonzero(held)


def balanced_pairs(labels: Sequence[int] | Rows, seed: int, *, photos: int = 5, limit: int = 20_000) -> Pairs:
    """Draw as many pairs of the same person as of two people.

    Args:
        labels: (N,) identity of each row; unlabelled rows are left out.
        seed: of the draw.
        photos: at most so many photos of a person, or those with many would be most of the pairs.
        limit: at most so many pairs of each kind.

    Raises:
        DataError: nobody with two photos, or one person only.

    Example:
        >>> pairs = balanced_pairs([0, 0, 1, 1], seed=0)
        >>> sorted(pairs.same.tolist())
        [0, 0, 1, 1]
    """
    labels = np.asarray(labels, dtype=np.int64)
    rng = generator(seed, "balanced pairs")
    groups = [rng.permutation(np.flatnonzero(labels == person))[:photos] for person in np.unique(labels[labels >= 0])]
    same = [(a, b) for group in groups for place, a in enumerate(group) for b in group[place + 1 :]]
    if not same or len(groups) < 2:
        several = sum(len(group) > 1 for group in groups)
        raise DataError(
            "verification needs two people, one of them with two photos; found "
            f"{np.count_nonzero(labels >= 0)} labelled photos of {len(groups)} people, of whom {several} have two or "
            "more. Hold out more people."
        )
    chosen = np.array(same)[rng.permutation(len(same))[:limit]]
    pool = np.concatenate(groups)
    different: list[NDArray[np.int64]] = []
    while sum(len(part) for part in different) < len(chosen):
        drawn = rng.choice(pool, size=(len(chosen), 2))
        different.append(drawn[labels[drawn[:, 0]] != labels[drawn[:, 1]]])
    others = np.concatenate(different)[: len(chosen)]
    both = np.concatenate([chosen, others])
    truth = np.repeat([1, 0], [len(chosen), len(others)])
    return Pairs(left=both[:, 0], right=both[:, 1], same=truth)


def load_pairs(
    path: str | Path | Mapping[str, Sequence[Any]],
    dataset: Dataset,
    *,
    key: str = "file",
    protocol: str | None = None,
) -> Pairs:
    """Read a file of pairs.

    Its columns are ``left`` and ``right`` (values of the pictures' `key` column), ``same``, and optionally ``fold`` and
    ``protocol``.

    Args:
        path: anything that `load_source` opens.
        dataset: the pictures; rows of the result are its rows.
        key: the column of `dataset` that pairs refer to.
        protocol: keep the pairs of this protocol only.

    Raises:
        ColumnError: a column is missing.
        DataError: a pair names a picture that is not there (says which and how many), or one that several rows are
            called by; or ``same`` is neither 0 nor 1, or a fold no whole number.

    Example:
        >>> photos = Dataset.from_dict({"file": ["a1.png", "a2.png", "b1.png"]})
        >>> told = {"left": ["a1.png", "a1.png"], "right": ["a2.png", "b1.png"], "same": [1, 0]}
        >>> pairs: Pairs = load_pairs(told, photos)
        >>> pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist()
        ([0, 0], [1, 2], [1, 0])
    """
    where = {"protocol": protocol} if protocol is not None else None
    roles = {name: name for name in ("left", "right", "same")}
    table = load_source(path, columns=roles, where=where)
    if key not in dataset.column_names:
        raise DataError(
            f'the pairs name pictures by a column "{key}", which the pictures do not have; their columns: '
            f"{', '.join(dataset.column_names)}."
        )
    row_of = {value: row for row, value in enumerate(dataset[key])}
    names = [*table["left"], *table["right"]]
    for place, name in enumerate(names):
        if not isinstance(name, str | int):
            raise DataError(
                f"row {place % len(table)} of the pairs names no picture, but {name!r}; expected a value of the column "
                f"{key!r}."
            )
    absent = sorted({name for name in names if name not in row_of}, key=str)
    if absent:
        raise DataError(
            f"{len(absent)} pictures of the pairs file are not among the {len(row_of)} pictures, such as {absent[0]!r} "
            f"(looked up in the column {key!r}). A filter on the pictures may have taken them out."
        )
    if len(row_of) < len(dataset):
        _refuse_several(list(dataset[key]), set(names), key)
    rows = np.array([row_of[name] for name in names], dtype=np.int64).reshape(2, -1)
    folds = _whole_numbers(list(table["fold"]), "fold") if "fold" in table.column_names else None
    if folds is not None and len(np.unique(folds)) < 2:
        folds = None  # a single fold, or the -1 of pairs outside the folds
    return Pairs(left=rows[0], right=rows[1], same=_truths(list(table["same"])), folds=folds)


def _refuse_several(values: Sequence[object], wanted: Collection[object], key: str) -> None:
    """Refuse pairs of pictures whose name is that of several rows: which one is meant, nobody knows."""
    seen: set[object] = set()
    for row, value in enumerate(values):
        if value in seen and value in wanted:
            raise DataError(
                f"the pairs name {value!r}, which is in several rows of the column {key!r}, row {row} among them; "
                "pairs need a column with a value of its own in each row."
            )
        seen.add(value)


def _truths(values: Sequence[object]) -> Rows:
    found = _whole_numbers(values, "same")
    wrong = np.flatnonzero((found != 0) & (found != 1))
    if len(wrong):
        raise DataError(
            f"row {wrong[0]} of the pairs holds {values[wrong[0]]!r} in the column 'same'; expected 1 for the same "
            "person and 0 for two."
        )
    return found


def _whole_numbers(values: Sequence[object], name: str) -> Rows:
    """Return whole numbers, whatever type a table keeps them in."""
    for row, value in enumerate(values):
        if not isinstance(value, int | float) or not float(value).is_integer():
            raise DataError(f"row {row} of the pairs holds {value!r} in the column {name!r}; expected a whole number.")
    return np.array(values, dtype=np.float64).astype(np.int64)


def refuse_trained_people(people_in_pairs: Collection[str], trained: Collection[str]) -> None:
    """Refuse pairs of people that were trained on: their scores would say nothing about strangers.

    Raises:
        LeakError: how many, and who for example.

    Example:
        >>> refuse_trained_people({"ada"}, trained={"bob"})
        >>> refuse_trained_people({"ada", "bob"}, trained={"bob"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.LeakError: 1 of the 2 people in the pairs were trained on, such ...
    """
    seen = sorted(set(people_in_pairs) & set(trained))
    if seen:
        raise LeakError(
            f"{len(seen)} of the {len(set(people_in_pairs))} people in the pairs were trained on, such as {seen[0]!r}. "
            "Evaluate on people that pretraining never saw: train on another part, or take other pairs."
        )
