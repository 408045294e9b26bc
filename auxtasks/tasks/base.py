"""An auxiliary task: a backbone, a head, and labels that cost nothing.

To add a task:

1. subclass `AuxTask` in a file of its own here, and export it in ``auxtasks/tasks/__init__.py``;
2. give it `prepare`, `plan`, `transform`, `collate`, `forward` and `evaluator`;
3. give it options and a name in ``recipes/task_schema.py``, and a line in ``recipes/build.py``; where its data is of
   another kind, a file such as ``recipes/sentences.py``, which `read_pretraining` in ``recipes/run.py`` chooses;
4. write a recipe in ``recipes/configs`` and put its name in ``tests/recipes/test_configs.py``;
5. show in ``tests/auxtasks`` that it learns, that shuffled labels do not, and that 2 processes equal 1.

A task that trains a single layer, on what the layers below it give, is a `LayerTask` instead: give it `prepare`,
`forward`, `decode`, `reconstruction_loss` and `measure`, and a line in `make_layer_task` of ``recipes/build.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset, IterableDataset

from auxtasks.backbones.base import Backbone
from auxtasks.data.loaders import Records, read
from auxtasks.data.plan import BatchPlan
from auxtasks.data.streams import StreamFeed
from auxtasks.errors import DataError
from auxtasks.tasks.backbone_task import BackboneTask
from auxtasks.training.processes import join_processes

__all__ = ["AuxTask", "Evaluator"]


class Evaluator(Protocol):
    """Metrics over a whole set, gathered over processes.

    Example:
        >>> class Count:
        ...     def __init__(self):
        ...         self.items = 0
        ...     def update(self, batch):
        ...         self.items += len(batch)
        ...     def compute(self):
        ...         return {"items": float(self.items)}
        >>> evaluator: Evaluator = Count()
        >>> evaluator.update([1, 2, 3])
        >>> evaluator.compute()
        {'items': 3.0}
    """

    def update(self, batch: Any) -> None:
        """Take in one batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the metrics of all that was taken in, the same on every process."""
        ...


class AuxTask(BackboneTask):
    """A task on records: each is turned into a training item with chance of its own.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import MaxMarginRanking
        >>> task: AuxTask = MaxMarginRanking(mlp(width=2, hidden=[4]))
        >>> features = [[0.9, 0.1], [0.1, 0.0], [0.2, 0.2], [1.0, 0.3]]
        >>> rows = {"qid": [1, 1, 2, 2], "grade": [2.0, 0.0, 0.0, 3.0], "features": features}
        >>> records = task.prepare(Dataset.from_dict(rows))
        >>> plan = task.plan(records, batch_size=2, seed=0)
        >>> items = [task.transform(read(records, pick.row), np.random.default_rng(0)) for pick in plan.batch(0)]
        >>> float(task(task.collate(items)).weight)
        2.0
        >>> sorted(task.evaluate(records))[:2]
        ['pair_accuracy', 'queries']
    """

    @property
    def network(self) -> Backbone:
        """The backbone, whose stages `forward` runs through one by one."""
        return self.backbone

    @abstractmethod
    def prepare(self, dataset: Dataset, *, cache: Path | None = None) -> Records:
        """Turn a data set with checked columns into records that are cheap to read, once."""

    @abstractmethod
    def plan(self, records: Records, batch_size: int, seed: int) -> BatchPlan:
        """Return which records make each step."""

    def stream(self, dataset: IterableDataset, batch_size: int, seed: int, *, workers: int = 0) -> StreamFeed:
        """Return where the batches of a corpus that does not fit a disk come from.

        Raises:
            DataError: the task needs all of its data at once.
        """
        del dataset, batch_size, seed, workers
        raise DataError(
            f"{type(self).__name__} does not stream: it needs all of its data at once. Pass a datasets.Dataset."
        )

    @abstractmethod
    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> Any:
        """Turn a record into a training item, with the item's own random numbers; runs in the loader's workers."""

    @staticmethod
    @abstractmethod
    def collate(items: Sequence[Any]) -> Any:
        """Turn items into a batch, without chance."""

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """Return a fresh evaluator of whole-set metrics."""

    @abstractmethod
    def view(self, record: Mapping[str, Any]) -> Any:
        """Turn a record into an evaluation item: as `transform`, without chance."""

    def check_held_out(self, records: Records) -> None:
        """Refuse records that `evaluate` would refuse, before the training that it comes after.

        Most tasks can evaluate whatever they can prepare.

        Raises:
            DataError: says what is wrong with them.
        """

    @torch.no_grad()
    def evaluate(self, records: Records, *, batch_size: int = 256) -> dict[str, float]:
        """Return whole-set metrics of held-out records, the same on every process; records are dealt out in turn."""
        state = join_processes()
        mine = range(state.process_index, len(records), state.num_processes)
        was_training = self.training
        self.eval()
        evaluator = self.evaluator()
        for start in range(0, len(mine), batch_size):
            items = [self.view(read(records, row)) for row in mine[start : start + batch_size]]
            evaluator.update(send_to_device(self.collate(items), next(self.parameters()).device))
        self.train(was_training)
        return evaluator.compute()
