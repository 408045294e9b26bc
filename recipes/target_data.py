"""A target as a run loads it, and what every kind of pretraining offers to a run."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from datasets import IterableDataset

from auxtasks.backbones import Backbone
from auxtasks.data.loaders import Records
from auxtasks.features.batches import Table
from auxtasks.tasks.base import AuxTask
from recipes.folder import RunFolder
from recipes.schema import Target
from transfer.spaces import Pretrained

__all__ = ["Pretraining", "TargetData"]


@dataclasses.dataclass(frozen=True)
class TargetData:
    """What labels are drawn from, what is tested on (None: what is left over), and notes for the report."""

    table: Table
    test: Table | None
    notes: list[str]


class Pretraining(Protocol):
    """The data of a run's pretraining, and what depends on its kind."""

    @property
    def task(self) -> AuxTask:
        """What is trained, with its backbone."""
        ...

    @property
    def trained(self) -> Records | IterableDataset:
        """What it is trained on; a stream where it does not fit a disk."""
        ...

    @property
    def held_out(self) -> Records:
        """What it is validated on; it may be empty."""
        ...

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

    def evaluate(self, folder: RunFolder) -> dict[str, float]:
        """Return what the task has learnt, beyond the metrics of its validation."""
        ...

    def target(self, name: str, target: Target, backbone: Backbone) -> TargetData:
        """Load a target."""
        ...

    def leaks(self, name: str, data: TargetData) -> list[str]:
        """Look for what pretraining and the target share; return notes."""
        ...
