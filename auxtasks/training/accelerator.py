"""A run's Accelerator, and the seed of what its forward draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin

from auxtasks.errors import TrainingError, did_you_mean
from auxtasks.training.accelerate_asks import refuse_other_settings
from auxtasks.training.processes import join_processes, stays_on_cpu
from auxtasks.training.settings import LoopSettings

__all__ = ["make_accelerator", "seed_forward"]


def make_accelerator(settings: LoopSettings, folder: Path | None) -> Accelerator:
    """Make a run's Accelerator; an earlier run in this process may have had another precision.

    Args:
        settings: see `LoopSettings`.
        folder: of the run, where trackers write to.

    Raises:
        TrainingError: a precision that the device does not have, a tracker that is not installed, or a launcher that
            asked for other settings.

    Example:
        >>> make_accelerator(LoopSettings(device="cpu"), None).num_processes
        1
        >>> make_accelerator(LoopSettings(device="cpu", mixed_precision="fp16"), None)
        Traceback (most recent call last):
            ...
        auxtasks.errors.TrainingError: mixed_precision="fp16" needs a GPU; on a CPU use "bf16" or "no".
    """
    _refuse_absent_trackers(settings.trackers)
    refuse_other_settings(settings.mixed_precision, settings.accumulation)
    join_processes(settings.device)
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=stays_on_cpu(settings.device),
        # Its own way to accumulate stays off: else a variable of the environment would divide every gradient.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=list(settings.trackers) or None,
        project_dir=str(folder) if folder else None,
    )
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError('mixed_precision="fp16" needs a GPU; on a CPU use "bf16" or "no".')
    if settings.trackers:
        accelerator.init_trackers("auxtasks")
    return accelerator


def _refuse_absent_trackers(names: Sequence[str]) -> None:
    """Refuse what Accelerate would leave out without a word."""
    there = sorted({"all", *(str(kind.value) for kind in get_available_trackers())})
    for name in names:
        if name not in there:
            raise TrainingError(
                f'trackers: "{name}" is not among those that are installed here: {", ".join(there)}.'
                f"{did_you_mean(name, there)}"
            )


def seed_forward(value: int, device: torch.device) -> None:
    """Seed what draws inside the network; on a CPU without asking after every accelerator, a hundred times as fast.

    Example:
        >>> kept = torch.random.get_rng_state()
        >>> drawn = []
        >>> for _ in range(2):
        ...     seed_forward(7, torch.device("cpu"))
        ...     drawn.append(torch.rand(3))
        >>> torch.equal(*drawn)
        True
        >>> torch.random.set_rng_state(kept)
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(value)
    else:
        torch.manual_seed(value)
