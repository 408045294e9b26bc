"""A run's Accelerator, and the seed of what its forward draws."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from auxtasks.errors import TrainingError
from auxtasks.training.processes import join_processes, stays_on_cpu
from auxtasks.training.settings import LoopSettings

__all__ = ["make_accelerator", "seed_forward"]


def make_accelerator(settings: LoopSettings, folder: Path | None) -> Accelerator:
    """Make a run's Accelerator; an earlier run in this process may have had another precision.

    Args:
        settings: see `LoopSettings`.
        folder: of the run, where trackers write to.

    Raises:
        TrainingError: a precision that the device does not have.
    """
    join_processes(settings.device)
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=stays_on_cpu(settings.device),
        log_with=list(settings.trackers) or None,
        project_dir=str(folder) if folder else None,
    )
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError('mixed_precision="fp16" needs a GPU; on a CPU use "bf16" or "no".')
    if settings.trackers:
        accelerator.init_trackers("auxtasks")
    return accelerator


def seed_forward(value: int, device: torch.device) -> None:
    """Seed what draws inside the network; on a CPU without asking after every accelerator, a hundred times as fast."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(value)
    else:
        torch.manual_seed(value)
