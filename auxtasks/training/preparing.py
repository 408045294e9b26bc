"""A phase's optimizer, and its objective wrapped for the processes and the precision of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from accelerate import Accelerator
from torch import Tensor

from auxtasks.data.loaders import BatchSource
from auxtasks.training.objective import Objective
from auxtasks.training.optim import OptimizerSettings, build_optimizer, restore_state
from auxtasks.training.settings import LoopSettings, Phase
from auxtasks.training.sharding import ShardedObjective
from auxtasks.training.steps import Prepared

__all__ = ["prepared"]


@contextlib.contextmanager
def prepared(
    objective: Objective,
    accelerator: Accelerator,
    phase: Phase,
    settings: OptimizerSettings,
    optimizer_state: Mapping[str, Tensor],
    feed: BatchSource,
    loop: LoopSettings,
) -> Iterator[Prepared]:
    """Prepare an objective for a phase; behind it, also after an error, the objective is bare again.

    Args:
        objective: what trains; the phase has frozen and unfrozen it already.
        accelerator: of the run.
        phase: which learning rates it has.
        settings: of the optimizer.
        optimizer_state: what the optimizer goes on with, by parameter name; that of frozen parameters is passed over.
        feed: where the phase's batches come from.
        loop: whether stages are computed again, and whether what trains is dealt out to the processes.

    Example:
        >>> import torch
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.plan import EpochPlan
        >>> from auxtasks.data.row_feed import RowFeed
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> from auxtasks.training.accelerator import make_accelerator
        >>> task = LayerAutoencoder(mlp(width=2, hidden=[1], activation="sigmoid"), "hidden1")
        >>> feed = RowFeed(lambda rows: torch.zeros(len(rows), 2), EpochPlan(8, batch_size=4, seed=0))
        >>> loop = LoopSettings(device="cpu")
        >>> accelerator = make_accelerator(loop, None)
        >>> with prepared(task, accelerator, Phase(1), OptimizerSettings(name="sgd"), {}, feed, loop) as ready:
        ...     print(type(ready.bare).__name__, sorted(ready.parameters) == sorted(dict(task.named_parameters())))
        SGD True
    """
    # What is frozen now would keep its last gradient, and clipping would count it: not so in a run that is resumed.
    objective.zero_grad()
    # A single process has nobody to deal out to.
    prepare = _dealt_out if loop.sharding == "full" and accelerator.num_processes > 1 else _wrapped
    with (
        _recomputing(objective, loop.gradient_checkpointing),
        prepare(objective, accelerator, phase, settings, optimizer_state, feed) as ready,
    ):
        yield ready


@contextlib.contextmanager
def _recomputing(objective: Objective, asked: bool) -> Iterator[None]:
    """Let the stages of the objective's backbone be computed again."""
    network = objective.network
    if network is None or not asked:
        yield
        return
    network.recomputes = True
    try:
        yield
    finally:
        network.recomputes = False


@contextlib.contextmanager
def _wrapped(
    objective: Objective,
    accelerator: Accelerator,
    phase: Phase,
    settings: OptimizerSettings,
    optimizer_state: Mapping[str, Tensor],
    feed: BatchSource,
) -> Iterator[Prepared]:
    """Let each process train all of the objective, which Accelerate wraps."""
    bare = build_optimizer(objective.named_parameters(), settings, phase.rate_scale)
    # Prepared anew in every phase: DDP would not synchronise what was frozen when it wrapped the module.
    model, wrapped = accelerator.prepare(objective, bare)
    parameters = dict(objective.named_parameters())
    restore_state(bare, parameters.items(), optimizer_state)
    try:
        # Accelerate's wrapper looks for an optional package at every step, half a millisecond; it is for the scaler.
        yield Prepared(
            model,
            bare if accelerator.scaler is None else wrapped,
            bare,
            feed,
            parameters,
            gather=lambda: None,  # they are the objective's own
        )
    finally:
        # Also after an error: the caller's module would otherwise keep this run's mixed precision.
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        # Of a module with this mark the next phase's `prepare` returns what it gets, without mixed precision.
        vars(objective).pop("_is_accelerate_prepared", None)
        accelerator.free_memory()


@contextlib.contextmanager
def _dealt_out(
    objective: Objective,
    accelerator: Accelerator,
    phase: Phase,
    settings: OptimizerSettings,
    optimizer_state: Mapping[str, Tensor],
    feed: BatchSource,
) -> Iterator[Prepared]:
    """Let each process train a share of a copy of the objective."""
    model = ShardedObjective(objective, accelerator)
    parameters = dict(model.module.named_parameters())
    bare = build_optimizer(parameters.items(), settings, phase.rate_scale)
    restore_state(bare, parameters.items(), optimizer_state)
    try:
        yield Prepared(model, bare, bare, feed, parameters, gather=model.gather)
    finally:
        objective.train(model.training)  # as the other way leaves it
