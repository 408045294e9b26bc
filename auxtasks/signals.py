"""How processes that belong together meet the signals that end them. It imports nothing heavy."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from typing import Literal

__all__ = ["begin_loader_worker", "die_with_parent", "loader_start_method"]

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent dies, however that happens; only on Linux.

    Args:
        parent: its process number, from itself: it may have died before this process could ask for it.
        number: which signal.

    Example:
        >>> ask = threading.Thread(target=die_with_parent, args=(os.getppid(),))  # Linux asks for each thread
        >>> ask.start()
        >>> ask.join()
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:  # it had died before, and nobody was told
        signal.raise_signal(number)


def loader_start_method(workers: int) -> Literal["fork"] | None:
    """Return how loader workers are started, as torch's ``multiprocessing_context``; None leaves it to Python.

    On Linux by fork, which Python 3.14 no longer does by itself. There it has a server fork them, which is no worker
    and ends at the SIGTERM of a process group, and its workers with it: the step that is being done would be lost.

    Args:
        workers: how many; torch takes no start method for none.

    Example:
        >>> loader_start_method(0) is None, loader_start_method(2) == ("fork" if sys.platform == "linux" else None)
        (True, True)
    """
    return "fork" if workers and sys.platform == "linux" else None


def begin_loader_worker(worker: int) -> None:
    """Let a loader worker live as long as the step that needs it, and no longer than its parent.

    A terminal's Ctrl-C, and the SIGTERM of a launcher or a scheduler, reach all processes of a group. The training
    process stops after its step, and needs its workers until then: they leave when that one says so. Elsewhere than on
    Linux, torch's workers look every few seconds whether their parent is there.

    Args:
        worker: its number, as torch gives it; started as `loader_start_method` says.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader([1, 2, 3, 4], batch_size=2, worker_init_fn=begin_loader_worker)  # called in workers
        >>> [batch.tolist() for batch in loader]
        [[1, 2], [3, 4]]
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        parent = multiprocessing.parent_process()
        assert parent is not None  # torch starts workers by `multiprocessing`
        assert parent.pid is not None
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # also in the thread that is started here
        threading.Thread(target=_end_when_told, args=(parent.pid,), daemon=True).start()
        die_with_parent(parent.pid)


def _end_when_told(parent: int) -> None:
    """Wait for a SIGTERM that a process's parent has sent itself."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
