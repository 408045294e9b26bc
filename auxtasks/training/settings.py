"""What the training loop is told and what it answers: phases, settings, a result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from auxtasks.data.loaders import BatchSource, Shard
from auxtasks.errors import TrainingError, did_you_mean
from auxtasks.training.objective import Objective
from auxtasks.training.optim import OptimizerSettings

__all__ = ["BestIs", "LoopSettings", "Phase", "TrainingResult", "check_feeds", "check_settings", "run_identity"]

BestIs = Literal["highest", "lowest"]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one choice of what trains.

    Attributes:
        steps: optimizer steps.
        begin: called on the bare objective before the phase, to freeze and unfreeze; None leaves all as it is.
        rate_scale: share of the learning rate by parameter name, for rates by depth.
        name: for the progress bar and the metrics.
        feed: where this phase's batches come from, such as what a frozen part gives, kept; its steps count on from
            those of earlier phases. None takes them from the run's feed.
    """

    steps: int
    begin: Callable[[Objective], None] | None = None
    rate_scale: Callable[[str], float] | None = None
    name: str = "train"
    feed: BatchSource | None = None


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How the loop runs.

    What is computed depends on `mixed_precision` and, by rounding, on `accumulation`; which weights a run ends with, on
    `keep_best` and what goes with it: `best_is`, `patience` and `validate_every`.

    Attributes:
        accumulation: micro-batches of a step.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"`` (GPU only).
        log_every, validate_every, checkpoint_every: in steps; 0 is never. The last step always does all three.
        keep_checkpoints: how many of the newest stay.
        trackers: names that Accelerate knows, such as ``"tensorboard"``.
        device: ``"cpu"`` stays off a GPU that is there.
        show_progress: False never draws a bar.
        keep_best: name of a validation metric, such as ``"pair_accuracy"``. The run then ends with the weights that had
            the best value of it, among equals the earliest, not with the last ones; NaN is never the best. Every
            `validate_every` steps and after the last one it is compared; a copy of the weights is kept on the CPU, and
            with every checkpoint.
        best_is: whether the ``"highest"`` or the ``"lowest"`` value is the best.
        patience: so many validations in a row without a new best end the run; None does all its steps.
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
    keep_best: str | None = None
    best_is: BestIs = "highest"
    patience: int | None = None


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a run ended with.

    Attributes:
        steps: optimizer steps in all, those of earlier, interrupted runs included; fewer than the phases have where
            `patience` ended the run.
        metrics: of the last log line, and of the last validation under ``validation/``; with `keep_best`, of the best.
        seconds: of this process, without earlier, interrupted runs.
        samples_per_second: of this process, over all processes.
        best_step: the step with the best validation, whose weights these are; None without `keep_best`.
    """

    steps: int
    metrics: dict[str, float]
    seconds: float
    samples_per_second: float
    best_step: int | None = None


def check_settings(objective: Objective, settings: LoopSettings, *, validates: bool = True) -> None:
    """Refuse settings that cannot be met.

    Args:
        objective: what is to be trained.
        settings: see `LoopSettings`.
        validates: whether there are held-out data, or a finished run that needs none.

    Raises:
        TrainingError: an accumulation that is no number of micro-batches, or that would make another objective; a best
            validation where there is nothing to choose from.
    """
    _check_keep_best(settings, validates)
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


def check_feeds(feed: BatchSource, phases: Sequence[Phase], shard: Shard) -> None:
    """Refuse feeds that a run cannot train on.

    Raises:
        TrainingError: batches that cannot be split for the shard; a phase's own feed that is a stream, whose place no
            checkpoint would hold.
    """
    feed.check(shard)
    for place, phase in enumerate(phases, start=1):
        if phase.feed is None or phase.feed is feed:
            continue
        phase.feed.check(shard)
        if phase.feed.position() is not None:
            raise TrainingError(
                f'phase {place} of {len(phases)}, "{phase.name}", has a feed of its own that is a stream: a run that '
                "was stopped could not go on in it. Stream the run's feed, and give a phase one that follows steps."
            )


def _check_keep_best(settings: LoopSettings, validates: bool) -> None:
    if settings.best_is not in get_args(BestIs):
        raise TrainingError(
            f'best_is is one of {", ".join(get_args(BestIs))}, found "{settings.best_is}".'
            f"{did_you_mean(settings.best_is, get_args(BestIs))}"
        )
    if settings.patience is not None and settings.keep_best is None:
        raise TrainingError(
            f"patience={settings.patience} waits for a new best validation: set keep_best to the metric that says "
            "which is the best."
        )
    if settings.patience is not None and settings.patience < 1:
        raise TrainingError(f"patience is a number of validations, at least 1, found {settings.patience}.")
    if settings.keep_best is not None and settings.validate_every < 1:
        raise TrainingError(
            f'keep_best="{settings.keep_best}" chooses among validations, but with validate_every='
            f"{settings.validate_every} there is only that of the last step. Set validate_every to a number of steps."
        )
    if settings.keep_best is not None and not validates:
        raise TrainingError(
            f'keep_best="{settings.keep_best}" is a metric of held-out data, and there is none. Pass validation data, '
            "or leave keep_best out."
        )


def run_identity(
    given: Mapping[str, Any],
    settings: LoopSettings,
    *,
    seed: int,
    phases: Sequence[Phase],
    optimizer: OptimizerSettings,
    batch_size: int,
) -> dict[str, Any]:
    """Return all that must be the same for a resume, as it comes back from JSON: tuples become lists.

    When it is validated is no part of it, unless that decides which weights are kept.
    """
    identity = {**given, "seed": seed, "steps": [phase.steps for phase in phases],
                "optimizer": dataclasses.asdict(optimizer), "mixed_precision": settings.mixed_precision,
                "accumulation": settings.accumulation, "batch_size": batch_size}  # fmt: skip
    if any(phase.feed and phase.feed.batch_size != batch_size for phase in phases):
        identity["batch_sizes"] = [phase.feed.batch_size if phase.feed else batch_size for phase in phases]
    if settings.keep_best is not None:  # not as None: runs without it have the identity that they always had
        names = ("keep_best", "best_is", "patience", "validate_every")
        identity.update({name: getattr(settings, name) for name in names})
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found
