"""An auxiliary task: a backbone, a head, and labels that cost nothing.

To add a task:

1. subclass `AuxTask` in a file of its own here, and export it in ``auxtasks/tasks/__init__.py``;
2. give it `prepare`, `plan`, `transform`, `collate`, `forward` and `evaluator`;
3. give it options in ``recipes/schema.py`` and a line in ``recipes/build.py``; where its data is of another kind, a
   file such as ``recipes/sentences.py``, which `read_pretraining` in ``recipes/run.py`` chooses;
4. write a recipe in ``recipes/configs`` and put its name in ``tests/recipes/test_configs.py``;
5. show in ``tests/auxtasks`` that it learns, that shuffled labels do not, and that 2 processes equal 1.
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

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.data.loaders import Records, read
from auxtasks.data.plan import BatchPlan
from auxtasks.data.streams import StreamFeed
from auxtasks.errors import DataError
from auxtasks.training.objective import Objective
from auxtasks.training.processes import join_processes

__all__ = ["AuxTask", "Evaluator"]


class Evaluator(Protocol):
    """Metrics over a whole set, gathered over processes."""

    def update(self, batch: Any) -> None:
        """Take in one batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the metrics of all that was taken in, the same on every process."""
        ...


class AuxTask(Objective):
    """Owns a backbone and a head. The backbone is exported alone; the head is kept beside it.

    Args:
        backbone: what is pretrained.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    @abstractmethod
    def description(self) -> str:
        """What a backbone from here was pretrained on, in a few words, for its model card."""

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is; a run resumes with the same ones only. Subclasses add theirs."""
        return {"backbone": self.backbone.family.name, "backbone arguments": dict(self.backbone.family.arguments)}

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

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write ``backbone/`` and ``task/`` into a folder."""
        self.backbone.provenance = dict(provenance)
        self.backbone.save_pretrained(folder / "backbone")
        head = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("backbone.")}
        with checkpoint.atomic_folder(folder / "task") as place:
            checkpoint.write_tensors(place / "model.safetensors", head)
            checkpoint.write_json(place / "config.json", {"task": type(self).__name__})

    def restore(self, folder: Path) -> None:
        """Read ``backbone/`` and ``task/`` into this task."""
        weights = checkpoint.read_tensors(folder / "backbone" / "model.safetensors")
        head = checkpoint.read_tensors(folder / "task" / "model.safetensors")
        prefixed = {f"backbone.module.{name}": tensor for name, tensor in weights.items()}
        checkpoint.load_strictly(self, {**prefixed, **head}, folder)
