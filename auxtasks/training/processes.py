"""The processes of a run: which one this is, and of how many."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Final, Literal

import torch
from accelerate import PartialState

from auxtasks.errors import TrainingError
from auxtasks.training.accelerate_asks import refuse_what_is_not_given

__all__ = ["join_processes", "stays_on_cpu"]

# What launchers tell each of the processes that they start: torch's, and those of MPI.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

# The others wait for the first process, which may tokenize a corpus or evaluate for hours; torch by itself gives up
# after 10 or 30 minutes. One that has ended is noticed at once all the same.
PATIENCE: Final = datetime.timedelta(days=1)


def stays_on_cpu(device: Literal["auto", "cpu"]) -> bool:
    """Return whether nothing but the CPU is wanted, or there.

    Example:
        >>> stays_on_cpu("cpu"), stays_on_cpu("auto") == (not torch.accelerator.is_available())
        (True, True)
    """
    return device == "cpu" or not torch.accelerator.is_available()


def join_processes(device: Literal["auto", "cpu"] | None = None) -> PartialState:
    """Return which process this is; the first call meets the others that a launcher has started.

    Accelerate has to be told that there is only a CPU. Otherwise it takes each of N processes on such a machine for the
    only one, and all of them would train alone and write over each other's files.

    Args:
        device: what a run computes on; None where nothing will be computed: it is the one of before, if there is one.

    Raises:
        TrainingError: a launcher started several processes that did not meet, or one where several were asked for, or
            asked for what no run here gets; or several have met for another device.

    Example:
        >>> join_processes("cpu").num_processes
        1
    """
    refuse_what_is_not_given()
    _refuse_an_only_process(os.environ)
    if device is not None:
        _leave_other_device(device)
    state = PartialState(cpu=stays_on_cpu(device or "auto"), timeout=PATIENCE)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes < started:
        raise TrainingError(
            f"{started} processes were started, but each of them takes itself for the only one. Let join_processes() "
            "be the first to make Accelerate's state; several processes need CUDA devices, or the CPU alone."
        )
    return state


def _leave_other_device(device: Literal["auto", "cpu"]) -> None:
    """Forget the state of an earlier run, if it is one of another device: Accelerate would keep to that one."""
    if not PartialState._shared_state:
        return
    state = PartialState()
    if (state.device.type == "cpu") == stays_on_cpu(device):
        return
    if state.num_processes > 1:
        raise TrainingError(
            f'these {state.num_processes} processes have met to compute on "{state.device.type}", and the run asks for '
            f'device="{device}": ask for the same in all runs of a process, or start another.'
        )
    PartialState._reset_state()


def _refuse_an_only_process(environment: Mapping[str, str]) -> None:
    """Refuse what ``accelerate launch`` does without ``--multi_gpu`` on a machine without several GPUs.

    Asked for N processes it then starts one, without a word. It tells that one where the others would meet, and nothing
    of how many there are.
    """
    launched_by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    told_where_to_meet = {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys()
    if launched_by_accelerate and told_where_to_meet and environment.keys().isdisjoint(SIZES):
        raise TrainingError(
            "accelerate launch was asked for several processes and started one. Add --multi_gpu, which starts them on "
            "CPUs as well (accelerate launch --multi_gpu --num_processes 2 --num_machines 1 -m recipes pretrain ...), "
            "or use torchrun --nproc_per_node 2. If one is what you want, unset MASTER_ADDR and MASTER_PORT."
        )
