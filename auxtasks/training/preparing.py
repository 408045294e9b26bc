"""A phase's optimizer, and its objective wrapped for the processes and the precision of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from accelerate import Accelerator
from torch import Tensor

from auxtasks.training.objective import Objective
from auxtasks.training.optim import OptimizerSettings, build_optimizer, restore_state
from auxtasks.training.settings import Phase
from auxtasks.training.steps import Prepared

__all__ = ["prepared"]


@contextlib.contextmanager
def prepared(
    objective: Objective,
    accelerator: Accelerator,
    phase: Phase,
    settings: OptimizerSettings,
    optimizer_state: Mapping[str, Tensor],
    batch_size: int,
) -> Iterator[Prepared]:
    """Prepare an objective for a phase; behind it, also after an error, the objective is bare again.

    Args:
        objective: what trains; the phase has frozen and unfrozen it already.
        accelerator: of the run.
        phase: which learning rates it has.
        settings: of the optimizer.
        optimizer_state: what the optimizer goes on with, by parameter name; that of frozen parameters is passed over.
        batch_size: of the phase's global batches.
    """
    # What is frozen now would keep its last gradient, and clipping would count it: not so in a run that is resumed.
    objective.zero_grad()
    bare = build_optimizer(objective.named_parameters(), settings, phase.rate_scale)
    # Prepared anew in every phase: DDP would not synchronise what was frozen when it wrapped the module.
    model, wrapped = accelerator.prepare(objective, bare)
    restore_state(bare, objective.named_parameters(), optimizer_state)
    try:
        # Accelerate's wrapper looks for an optional package at every step, half a millisecond; it is for the scaler.
        yield Prepared(model, bare if accelerator.scaler is None else wrapped, bare, batch_size)
    finally:
        # Also after an error: the caller's module would otherwise keep this run's mixed precision.
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        # Of a module with this mark the next phase's `prepare` returns what it gets, without mixed precision.
        vars(objective).pop("_is_accelerate_prepared", None)
        accelerator.free_memory()
