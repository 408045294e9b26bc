"""The processes of a run: which one this is, and of how many."""

from __future__ import annotations

import os
from typing import Literal

import torch
from accelerate import PartialState

from auxtasks.errors import TrainingError

__all__ = ["join_processes", "stays_on_cpu"]


def stays_on_cpu(device: Literal["auto", "cpu"]) -> bool:
    """Return whether nothing but the CPU is wanted, or there."""
    return device == "cpu" or not torch.accelerator.is_available()


def join_processes(device: Literal["auto", "cpu"] = "auto") -> PartialState:
    """Return which process this is; the first call meets the others that a launcher has started.

    Accelerate has to be told that there is only a CPU. Otherwise it takes each of N processes on such a machine for the
    only one, and all of them would train alone and write over each other's files.

    Raises:
        TrainingError: a launcher started several processes that did not meet.

    Example:
        >>> join_processes().num_processes
        1
    """
    state = PartialState(cpu=stays_on_cpu(device))
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes < started:
        raise TrainingError(
            f"{started} processes were started, but each of them takes itself for the only one. Let join_processes() "
            "be the first to make Accelerate's state; several processes need CUDA devices, or the CPU alone."
        )
    return state
