"""How far a run has come: written into its checkpoints as a whole, and gone on from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from auxtasks import checkpoint
from auxtasks.data.loaders import BatchSource, Shard
from auxtasks.training.best import BestWeights
from auxtasks.training.objective import Objective
from auxtasks.training.store import CheckpointStore, write_training

__all__ = ["Checkpoints", "Progress"]


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        done: steps, those of earlier, interrupted runs included.
        metrics: of the last log line and the last validation.
        laid_by: the optimizer's state of what does not train now, by parameter name.
    """

    done: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    laid_by: dict[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """A run's checkpoints, written and read by all its processes together.

    Attributes:
        store: where they are.
        accelerator, shard, feed, best: of the run.
        identity: JSON values that must be the same for a resume.
        provenance: JSON values for the manifests of what is saved.
    """

    store: CheckpointStore
    accelerator: Accelerator
    shard: Shard
    feed: BatchSource
    best: BestWeights | None
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def write(
        self, objective: Objective, progress: Progress, optimizer: Mapping[str, Tensor], *, weighed: int | None = None
    ) -> None:
        """Write a checkpoint; every process has to call it.

        Args:
            objective: whose weights.
            progress: after the checkpoint's step.
            optimizer: its whole state, by parameter name.
            weighed: how many steps are behind the weights, where these are not the last ones.
        """
        position = self.feed.position()
        positions = None if position is None else gather_object([position])  # of all processes, in order of rank
        if self.accelerator.is_main_process:
            self.store.write(
                progress.done,
                lambda folder: self._fill(folder, objective, progress, optimizer, weighed or progress.done, positions),
            )
        self.accelerator.wait_for_everyone()

    def _fill(
        self,
        folder: Path,
        objective: Objective,
        progress: Progress,
        optimizer: Mapping[str, Tensor],
        weighed: int,
        positions: list[dict[str, Any]] | None,
    ) -> None:
        objective.save(folder, {**self.provenance, "steps": weighed, "seed": self.identity["seed"]})
        training = folder / "training"
        training.mkdir()
        scaler = self.accelerator.scaler
        state = {
            "step": progress.done,
            "processes": self.shard.processes,
            "identity": self.identity,
            "scaler": scaler.state_dict() if scaler else None,
            "metrics": progress.metrics,
            **({"best": self.best.write(training)} if self.best else {}),
        }
        write_training(training, state, optimizer=optimizer, positions=positions)

    def resume(self, objective: Objective) -> Progress:
        """Go to the newest checkpoint, if there is one; return how far that is."""
        newest = self.store.newest()
        if newest is None:
            return Progress()
        state = checkpoint.read_json(newest / "training" / "state.json")
        CheckpointStore.check_identity(state["identity"], self.identity, newest)
        if self.feed.position() is not None:
            positions = checkpoint.read_json(newest / "training" / "stream.json")["processes"]
            self.feed.go_to(CheckpointStore.position_of(self.shard, positions, newest))
        objective.restore(newest)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.best:
            self.best.load(newest / "training", state["best"])
        optimizer = checkpoint.read_tensors(newest / "training" / "optimizer.safetensors")
        return Progress(int(state["step"]), dict(state["metrics"]), optimizer)
