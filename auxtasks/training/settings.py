"""What the training loop is told and what it answers: phases, settings, a result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from auxtasks.data.loaders import BatchSource, Shard
from auxtasks.errors import TrainingError, did_you_mean
from auxtasks.training.memory import PeakMemory
from auxtasks.training.objective import Objective
from auxtasks.training.optim import OptimizerSettings

__all__ = [
    "BestIs",
    "LoopSettings",
    "Phase",
    "Sharding",
    "TrainingResult",
    "check_feeds",
    "check_settings",
    "run_identity",
]

BestIs = Literal["highest", "lowest"]
Sharding = Literal["none", "full"]


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
        keep_checkpoints: how many of the newest stay, at least 1.
        trackers: names that Accelerate knows, such as ``"tensorboard"``.
        device: ``"cpu"`` stays off a GPU that is there.
        show_progress: False never draws a bar.
        keep_best: name of a validation metric, such as ``"pair_accuracy"``. The run then ends with the weights that had
            the best value of it, among equals the earliest, not with the last ones; NaN is never the best. Every
            `validate_every` steps and after the last one it is compared; a copy of the weights is kept on the CPU, and
            with every checkpoint.
        best_is: whether the ``"highest"`` or the ``"lowest"`` value is the best.
        patience: so many validations in a row without a new best end the run; None does all its steps.
        gradient_checkpointing: a stage of the backbone keeps its input alone, and computes the rest again when its
            gradients are asked for: less memory, about a third more time, and the same bits.
        sharding: ``"full"`` deals weights, gradients and the optimizer's state out to the processes, instead of giving
            each of them all; see `auxtasks.training.sharding`. Any number of processes goes on from its checkpoints.

    Example:
        >>> import torch
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.plan import EpochPlan
        >>> from auxtasks.data.row_feed import RowFeed
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> from auxtasks.training.engine import train
        >>> values = torch.linspace(0, 1, 16).reshape(8, 2)
        >>> feed = RowFeed(lambda rows: values[rows], EpochPlan(8, batch_size=4, seed=0))
        >>> task = LayerAutoencoder(mlp(width=2, hidden=[1], activation="sigmoid"), "hidden1", noise=None)
        >>> settings = LoopSettings(accumulation=2, log_every=1, device="cpu", show_progress=False)
        >>> result: TrainingResult = train(task, feed, [Phase(3), Phase(2, name="again")], seed=0, loop=settings)
        >>> result.steps, result.best_step, sorted(result.metrics)
        (5, None, ['data_wait_share', 'loss', 'reconstruction_error', 'samples_per_second'])
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
    gradient_checkpointing: bool = False
    sharding: Sharding = "none"


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
        memory: the most that there was, see `PeakMemory`; zeros where nothing was trained.
        warnings: what was told of a collapse, see `CollapseWatch`; earlier, interrupted runs included.
    """

    steps: int
    metrics: dict[str, float]
    seconds: float
    samples_per_second: float
    best_step: int | None = None
    memory: PeakMemory = dataclasses.field(default_factory=PeakMemory)
    warnings: tuple[str, ...] = ()


def check_settings(objective: Objective, settings: LoopSettings, *, validates: bool = True) -> None:
    """Refuse settings that cannot be met.

    Args:
        objective: what is to be trained.
        settings: see `LoopSettings`.
        validates: whether there are held-out data, or a finished run that needs none.

    Raises:
        TrainingError: an accumulation that is no number of micro-batches, or that would make another objective; a best
            validation where there is nothing to choose from; no checkpoint to keep; what the network cannot do.
    """
    _check_keep_best(settings, validates)
    _check_gradient_checkpointing(objective, settings)
    _check_sharding(settings)
    if settings.keep_checkpoints < 1:
        raise TrainingError(f"keep_checkpoints is a number, at least 1, found {settings.keep_checkpoints}.")
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

    Example:
        >>> from auxtasks.data.plan import EpochPlan
        >>> from auxtasks.data.row_feed import RowFeed
        >>> feed = RowFeed(list, EpochPlan(8, batch_size=4, seed=0))
        >>> check_feeds(feed, [Phase(1)], Shard(0, processes=2))
        >>> try:
        ...     check_feeds(feed, [Phase(1)], Shard(0, processes=3))
        ... except TrainingError as error:
        ...     print(str(error).partition(":")[0])
        a global batch of 4 items cannot be split evenly over 3 processes x 1 micro-batches
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


def _check_gradient_checkpointing(objective: Objective, settings: LoopSettings) -> None:
    if not settings.gradient_checkpointing:
        return
    if objective.network is None:
        raise TrainingError(
            f"gradient_checkpointing computes a backbone's stages again, and {type(objective).__name__} does not run "
            "through them one by one: it would save nothing. Leave it out."
        )
    if not objective.network.can_be_cut:
        family = objective.network.family
        raise TrainingError(
            f"gradient_checkpointing computes a backbone's stages again, and {family.name} {dict(family.arguments)} "
            "has none that can be computed alone (see Backbone.can_be_cut). Leave it out, or take another network."
        )


def _check_sharding(settings: LoopSettings) -> None:
    if settings.sharding not in get_args(Sharding):
        raise TrainingError(
            f'sharding is one of {", ".join(get_args(Sharding))}, found "{settings.sharding}".'
            f"{did_you_mean(settings.sharding, get_args(Sharding))}"
        )
    if settings.sharding == "full" and settings.mixed_precision == "fp16":
        raise TrainingError(
            'sharding="full" takes no mixed_precision="fp16", whose gradients would have to be scaled over shards: use '
            '"bf16", which needs no scaling, or "no".'
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

    Example:
        >>> phases = [Phase(5), Phase(2)]
        >>> found = run_identity(
        ...     {"task": "T"}, LoopSettings(), seed=3, phases=phases, optimizer=OptimizerSettings(), batch_size=8
        ... )
        >>> found["task"], found["steps"], found["optimizer"]["schedule"]
        ('T', [5, 2], 'cosine')
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
