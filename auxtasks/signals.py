"""How processes that belong together meet the signals that end them. It imports nothing heavy."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

__all__ = ["begin_loader_worker", "die_with_parent"]

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent dies, however that happens; only on Linux.

    Args:
        number: which signal.

    Example:
        >>> thread = threading.Thread(target=die_with_parent)  # Linux asks for each thread: this one asks for itself
        >>> thread.start()
        >>> thread.join()
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:  # it died in between, and nobody was told
        signal.raise_signal(number)


def begin_loader_worker(worker: int) -> None:
    """Let a loader worker live as long as the step that needs it, and no longer than its parent.

    A terminal's Ctrl-C, and the SIGTERM of a launcher or a scheduler, reach all processes of a group. The training
    process stops after its step, and needs its workers until then: they leave when that one says so.

    Args:
        worker: its number, as torch gives it.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader([1, 2, 3, 4], batch_size=2, worker_init_fn=begin_loader_worker)  # called in workers
        >>> [batch.tolist() for batch in loader]
        [[1, 2], [3, 4]]
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()
        die_with_parent()


def _end_when_told(parent: int) -> None:
    """Wait for a SIGTERM that a process's parent has sent itself."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
