"""Commands that are stopped by a signal: they end at once but in order, so that nothing temporary is left behind."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

__all__ = ["SIGNALS", "Interruption", "interruptions"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interruption(BaseException):
    """A signal asked a command to stop while nothing was trained.

    Attributes:
        signal: its number.

    Example:
        >>> try:
        ...     with interruptions():
        ...         signal.raise_signal(signal.SIGINT)
        ... except Interruption as stop:
        ...     print(stop, stop.signal)
        stopped by SIGINT. 2
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}.")
        self.signal = number


@contextlib.contextmanager
def interruptions() -> Iterator[None]:
    """Raise an `Interruption` where SIGINT or SIGTERM arrives in the block, in the main thread.

    While it clears away behind itself, only a second SIGINT breaks in.

    Example:
        >>> with interruptions():
        ...     signal.raise_signal(signal.SIGTERM)
        Traceback (most recent call last):
        recipes.interruptions.Interruption: stopped by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        if before[signal.SIGTERM] is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Interruption(number)

    for number, handler in before.items():
        if handler not in (None, signal.SIG_IGN):  # None: not one of Python's
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
