"""What the training loop is told and what it answers: phases, settings, a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from auxtasks.errors import TrainingError
from auxtasks.training.objective import Objective

__all__ = ["LoopSettings", "Phase", "TrainingResult", "check_settings"]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one choice of what trains.

    Attributes:
        steps: optimizer steps.
        begin: called on the bare objective before the phase, to freeze and unfreeze; None leaves all as it is.
        rate_scale: share of the learning rate by parameter name, for rates by depth.
        name: for the progress bar and the metrics.
    """

    steps: int
    begin: Callable[[Objective], None] | None = None
    rate_scale: Callable[[str], float] | None = None
    name: str = "train"


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How the loop runs. Only `mixed_precision` and, by rounding, `accumulation` change what is computed.

    Attributes:
        accumulation: micro-batches of a step.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"`` (GPU only).
        log_every, validate_every, checkpoint_every: in steps; 0 is never. The last step always does all three.
        keep_checkpoints: how many of the newest stay.
        trackers: names that Accelerate knows, such as ``"tensorboard"``.
        device: ``"cpu"`` stays off a GPU that is there.
        show_progress: False never draws a bar.
    """

    accumulation: int = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    log_every: int = 50
    validate_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    trackers: tuple[str, ...] = ()
    device: Literal["auto", "cpu"] = "auto"
    show_progress: bool = True


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a run ended with.

    Attributes:
        steps: optimizer steps in all, those of earlier, interrupted runs included.
        metrics: of the last log line, and of the last validation under ``validation/``.
        seconds: of this process, without earlier, interrupted runs.
        samples_per_second: of this process, over all processes.
    """

    steps: int
    metrics: dict[str, float]
    seconds: float
    samples_per_second: float


def check_settings(objective: Objective, settings: LoopSettings) -> None:
    """Refuse an accumulation that is no number of micro-batches, or that would make another objective."""
    if settings.accumulation < 1:
        raise TrainingError(f"accumulation is a number of micro-batches, at least 1, found {settings.accumulation}.")
    if settings.accumulation == 1 or objective.accumulates:
        return
    if not objective.compares_items:
        raise TrainingError(
            f"{type(objective).__name__} has a state that every forward moves on, so a batch cut into "
            f"{settings.accumulation} micro-batches would train something else. Use accumulation=1."
        )
    raise TrainingError(
        f"{type(objective).__name__} compares the items of a batch, so a batch cut into {settings.accumulation} "
        "micro-batches would be another objective (their gradients differ by a quarter and more). Use "
        "accumulation=1, with a smaller batch or more processes."
    )
