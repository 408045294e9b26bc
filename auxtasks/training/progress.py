"""How far a run has come: written into its checkpoints as a whole, and gone on from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from auxtasks import checkpoint
from auxtasks.data.loaders import BatchSource, Shard
from auxtasks.training.best import BestWeights
from auxtasks.training.objective import Objective
from auxtasks.training.run_lock import only_run
from auxtasks.training.store import CheckpointStore, read_sums, write_training
from auxtasks.training.together import all_or_none, entered_by_first
from auxtasks.training.window import Window, share_of_sums

__all__ = ["Checkpoints", "Progress"]


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        done: steps, those of earlier, interrupted runs included.
        metrics: of the last log line and the last validation.
        laid_by: the optimizer's state of what does not train now, by parameter name.
        warnings: what was told of a collapse.
        in_a_row: what was counted of one, see `CollapseWatch`.
    """

    done: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    laid_by: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    in_a_row: list[tuple[str, str, int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """A run's checkpoints, written and read by all its processes together.

    Attributes:
        store: where they are.
        accelerator, shard, feed, best: of the run.
        identity: JSON values that must be the same for a resume.
        provenance: JSON values for the manifests of what is saved.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.plan import EpochPlan
        >>> from auxtasks.data.row_feed import RowFeed
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> from auxtasks.training.accelerator import make_accelerator
        >>> from auxtasks.training.settings import LoopSettings
        >>> task = LayerAutoencoder(mlp(width=2, hidden=[1], activation="sigmoid"), "hidden1")
        >>> feed = RowFeed(lambda rows: torch.zeros(len(rows), 2), EpochPlan(8, batch_size=4, seed=0))
        >>> store = CheckpointStore(Path(tempfile.mkdtemp()) / "run" / "checkpoints")
        >>> accelerator = make_accelerator(LoopSettings(device="cpu"), None)
        >>> run = Checkpoints(store, accelerator, Shard(), feed, best=None, identity={"seed": 0}, provenance={})
        >>> with run.only_ours():
        ...     run.resume(task, Window()).done
        ...     run.write(task, Progress(done=3, metrics={"loss": 0.5}), {}, Window())
        ...     run.resume(task, Window())
        0
        Progress(done=3, metrics={'loss': 0.5}, laid_by={}, warnings=[], in_a_row=[])
        >>> sorted(path.name for path in store.newest().iterdir())
        ['backbone', 'files.json', 'task', 'training']
    """

    store: CheckpointStore
    accelerator: Accelerator
    shard: Shard
    feed: BatchSource
    best: BestWeights | None
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def only_ours(self) -> contextlib.AbstractContextManager[None]:
        """Keep other runs off the folder, and clear away what killed ones have left half written.

        Raises:
            CheckpointError: another run is on it, and which; it cannot be written.
        """
        return entered_by_first(self._alone())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with only_run(self.store.folder, of=self.store.folder.parent):
            checkpoint.sweep(self.store.folder)
            checkpoint.sweep(self.store.folder.parent)
            yield

    def write(
        self,
        objective: Objective,
        progress: Progress,
        optimizer: Mapping[str, Tensor],
        window: Window,
        *,
        weighed: int | None = None,
    ) -> None:
        """Write a checkpoint; every process has to call it.

        Args:
            objective: whose weights.
            progress: after the checkpoint's step.
            optimizer: its whole state, by parameter name.
            window: what is summed up for the next log line.
            weighed: how many steps are behind the weights, where these are not the last ones.
        """
        position = self.feed.position()
        positions = None if position is None else gather_object([position])  # of all processes, in order of rank
        sums = gather_object([window.sums()])
        with all_or_none():
            if self.accelerator.is_main_process:
                self.store.write(
                    progress.done,
                    lambda folder: self._fill(
                        folder, objective, progress, optimizer, weighed or progress.done, positions, sums
                    ),
                )

    def _fill(
        self,
        folder: Path,
        objective: Objective,
        progress: Progress,
        optimizer: Mapping[str, Tensor],
        weighed: int,
        positions: list[dict[str, Any]] | None,
        sums: list[dict[str, Tensor]],
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
            **({"warnings": progress.warnings} if progress.warnings else {}),
            **({"in_a_row": progress.in_a_row} if progress.in_a_row else {}),
            **({"best": self.best.write(training)} if self.best else {}),
        }
        write_training(training, state, optimizer=optimizer, positions=positions, sums=sums)

    def resume(self, objective: Objective, window: Window) -> Progress:
        """Go to the newest whole checkpoint, if there is one; return how far that is.

        Raises:
            CheckpointError: all are damaged, or of another run.
        """
        newest = self._newest_whole()
        if newest is None:
            return Progress()
        with all_or_none():
            return self._go_on(newest, objective, window)

    def _go_on(self, newest: Path, objective: Objective, window: Window) -> Progress:
        state = checkpoint.read_json(newest / "training" / "state.json")
        CheckpointStore.check_identity(state["identity"], self.identity, newest)
        if self.feed.position() is not None:
            positions = checkpoint.read_json(newest / "training" / "stream.json")["processes"]
            self.feed.go_to(CheckpointStore.position_of(self.shard, positions, newest))
        objective.restore(newest)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        window.go_on(share_of_sums(read_sums(newest / "training", state), self.shard), self.accelerator.device)
        if self.best:
            self.best.load(newest / "training", state["best"])
        optimizer = checkpoint.read_tensors(newest / "training" / "optimizer.safetensors")
        return Progress(
            int(state["step"]),
            dict(state["metrics"]),
            optimizer,
            list(state.get("warnings", ())),
            [(kind, says, count) for kind, says, count in state.get("in_a_row", ())],
        )

    def _newest_whole(self) -> Path | None:
        """Return the newest whole checkpoint, as the first process finds it."""
        newest: Path | None = None
        with all_or_none():
            if self.accelerator.is_main_process:
                newest = self.store.newest_whole()
        agreed: list[Path | None] = broadcast_object_list([newest])
        return agreed[0]
