"""A target as a run loads it, and what every kind of pretraining offers to a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np

from auxtasks.errors import TransferError
from auxtasks.features.batches import Table
from auxtasks.seeding import generator
from auxtasks.training.settings import TrainingResult
from recipes.folder import RunFolder
from recipes.schema import Target
from transfer.spaces import Pretrained

__all__ = ["Pretraining", "TargetData"]


@dataclasses.dataclass(frozen=True)
class TargetData:
    """A target's items.

    Attributes:
        table: what labels are drawn from.
        test: what is tested on; None tests on what is left over.
        notes: for the report.
        validation: what choices are made on; None makes them inside the few labels.

    Example:
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> source = load_source("builtin:features", columns={"features": "features", "label": "label"})
        >>> iris = TargetData(encode_features(source), None, [])
        >>> apart = iris.with_set_aside(30, 0, "iris")
        >>> {part: len(table) for part, table in apart.parts.items()}
        {'': 120, 'validation': 30}
    """

    table: Table
    test: Table | None
    notes: list[str]
    validation: Table | None = None

    @property
    def parts(self) -> dict[str, Table]:
        """The tables that there are, by what a note calls them: nothing, test, validation."""
        named = {"": self.table, "test": self.test, "validation": self.validation}
        return {name: table for name, table in named.items() if table is not None}

    def with_set_aside(self, items: int | None, seed: int, name: str) -> TargetData:
        """Return the target with so many random items of its own as validation set; None changes nothing.

        Raises:
            TransferError: it has no more items than that.
        """
        if items is None:
            return self
        if items >= len(self.table):
            raise TransferError(
                f"{name}: validation_items is {items}, but there are {len(self.table)} items: labels are drawn from "
                "what is left of them."
            )
        order = generator(seed, "validation items").permutation(len(self.table))
        aside, left = np.sort(order[:items]), np.sort(order[items:])
        return dataclasses.replace(self, table=self.table.subset(left), validation=self.table.subset(aside))


class Pretraining(Protocol):
    """The data of a run's pretraining, and what depends on its kind.

    Example:
        >>> class Untrained:
        ...     described, notes, reusable = "nothing", ["Nothing was trained."], None
        ...     def train(self, place):
        ...         return TrainingResult(steps=0, metrics={}, seconds=0.0, samples_per_second=0.0)
        ...     def evaluate(self, folder):
        ...         return {}
        ...     def leaks(self, name, target, data):
        ...         return [f"{name}: nothing that it could share was seen"]
        >>> data: Pretraining = Untrained()
        >>> data.train(Path("run")).steps, data.leaks("iris", Target(path="iris"), None)
        (0, ['iris: nothing that it could share was seen'])
    """

    @property
    def described(self) -> str:
        """What was trained on, in a few words."""
        ...

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know of the data."""
        ...

    @property
    def reusable(self) -> Pretrained | None:
        """Labelled items that may serve a target without costing one of its labels."""
        ...

    def train(self, place: Path) -> TrainingResult:
        """Train the backbone in place, with checkpoints in a run's folder."""
        ...

    def evaluate(self, folder: RunFolder) -> dict[str, float]:
        """Return what the task has learnt, beyond the metrics of its validation."""
        ...

    def leaks(self, name: str, target: Target, data: TargetData) -> list[str]:
        """Look for what pretraining and the target share; return notes."""
        ...
