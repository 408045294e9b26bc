"""SIGTERM and SIGINT while training: what was begun is finished and kept before the process goes."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from auxtasks.errors import TrainingStoppedError

__all__ = ["GPU_READ_EVERY", "StopRequest", "stop_requests", "stopped"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# Several processes with GPUs look every so many steps whether one of them was asked: looking waits for the GPU.
GPU_READ_EVERY: Final = 10


@dataclasses.dataclass
class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        signal: the number of the signal that asked; None so far.

    Example:
        >>> with stop_requests() as request:
        ...     request == StopRequest()
        True
    """

    signal: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Take note of SIGINT and SIGTERM, in place of what they did before; behind the block they do that again.

    A second SIGINT is not waited with: it does at once what it did before. A second SIGTERM is, since launchers and
    schedulers send one to each of a run's processes and one to the launcher, which passes it on. A request that the
    block did not meet with a `TrainingStoppedError`, since it ended by itself, is made again behind it. In a thread
    other than the main one, which gets no signals, nothing is noted; a signal that is ignored stays ignored.

    Example:
        >>> with stop_requests() as request:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     asked = request.signal
        ...     raise stopped(asked, step=3, checkpoint=None)
        Traceback (most recent call last):
        auxtasks.errors.TrainingStoppedError: stopped by SIGTERM after step 3: nothing is kept, for want of a folder.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: handler
        for number in SIGNALS
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)  # None: not one of Python's
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if request.signal is not None and number == signal.SIGINT:
            restore()
            signal.raise_signal(number)
        request.signal = request.signal or number

    try:
        for number in before:
            signal.signal(number, note)
        yield request
    finally:
        restore()
    if request.signal is not None:
        signal.raise_signal(request.signal)


def stopped(number: int, *, step: int, checkpoint: Path | None) -> TrainingStoppedError:
    """Return the error that says where training has stopped.

    Args:
        number: of the signal.
        step: the last one that was done.
        checkpoint: of that step; None where nothing is kept.
    """
    kept = (
        "nothing is kept, for want of a folder."
        if checkpoint is None
        else f"kept in {checkpoint}; the same command goes on from there."
    )
    return TrainingStoppedError(
        f"stopped by {signal.Signals(number).name} after step {step}: {kept}", signal=number, checkpoint=checkpoint
    )
