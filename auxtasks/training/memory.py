"""How much memory a run took at its peak."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import torch
from accelerate.utils import gather_object

__all__ = ["PeakMemory", "WorkerMemory", "own_peak_memory", "peak_memory"]


SECONDS_BETWEEN_LOOKS = 10.0


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """The most memory that processes had resident, in bytes.

    What the operating system counts, since each process was started: Python, its libraries, and pages of mapped files
    that are in memory, which processes on one machine share and each counts.

    Attributes:
        largest: of the training process that had the most.
        total: the sum over all processes of a run and their loader workers, as if all had their peaks at one time: an
            upper bound.
        workers: of the loader workers of the process whose workers had the most: what is theirs alone, not what they
            share with it. Looked at now and then, and on Linux only; 0 without any.
        gpu: of the tensors of the process that had the most on its GPU, as PyTorch allocated them; 0 without a GPU.

    Example:
        >>> PeakMemory(largest=5, total=8).at_most(PeakMemory(largest=6, total=6)).as_cost()
        {'peak_memory_bytes': 6, 'peak_memory_bytes_all_processes': 8}
    """

    largest: int = 0
    total: int = 0
    workers: int = 0
    gpu: int = 0

    def at_most(self, other: PeakMemory) -> PeakMemory:
        """Return the larger figures of two measurements."""
        return PeakMemory(*map(max, dataclasses.astuple(self), dataclasses.astuple(other)))

    def as_cost(self) -> dict[str, int]:
        """Return it by the names that it has in a report; without what there is none of, or what says nothing new."""
        named = {
            "peak_memory_bytes": self.largest,
            "peak_memory_bytes_all_processes": self.total,
            "peak_memory_bytes_workers": self.workers,
            "peak_gpu_memory_bytes": self.gpu,
        }
        if self.total == self.largest:
            del named["peak_memory_bytes_all_processes"]
        return {name: value for name, value in named.items() if value}


class WorkerMemory:
    """What a process's loader workers hold, as far as it was looked at while they ran.

    Attributes:
        largest: bytes of all of them together.

    Example:
        >>> memory = WorkerMemory()
        >>> memory.look()
        >>> memory.largest
        0
    """

    def __init__(self) -> None:
        self.largest = 0
        self._next = 0.0

    def look(self) -> None:
        """Measure, unless that was done a moment ago: the kernel adds up all pages of a process for it."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS
        self.largest = max(self.largest, sum(_private(child.pid) for child in multiprocessing.active_children()))


def peak_memory(workers: WorkerMemory | None = None) -> PeakMemory:
    """Measure all processes of a run; every one of them has to call it.

    Args:
        workers: of this process, as they were looked at.

    Example:
        >>> peak_memory().largest > 2**20
        True
    """
    found: list[PeakMemory] = gather_object([own_peak_memory(workers)])
    largest = functools.reduce(PeakMemory.at_most, found)
    return dataclasses.replace(largest, total=sum(one.total for one in found))


def own_peak_memory(workers: WorkerMemory | None = None) -> PeakMemory:
    """Measure this process alone.

    Args:
        workers: of this process, as they were looked at.

    Example:
        >>> own_peak_memory().largest > 2**20
        True
    """
    own = _most_resident()
    held = workers.largest if workers else 0
    # Not the kernel's own figure for children: it counts for each what its parent held when it was forked.
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return PeakMemory(own, own + held, held, gpu)


def _most_resident() -> int:
    """Return the most bytes that this process had resident."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        status = ""
    # What all systems tell counts, on Linux, what the process was before it became this program: a copy of its parent.
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    if lines:
        return int(lines[0].split()[1]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _private(process: int | None) -> int:
    """Return the bytes that a process shares with no other; 0 where the system does not tell, or it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
