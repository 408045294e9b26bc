"""Progress shown to who waits at a terminal, and to nobody else."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import Progress, TaskID

__all__ = ["ProgressBar"]


class ProgressBar:
    """A bar on a terminal's standard error, from the second second on; nothing anywhere else.

    Example:
        >>> with ProgressBar("reading", total=10) as bar:
        ...     bar.advance(10)
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._done = 0
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count so many more as done."""
        self._done += count
        if self._bar is None and sys.stderr.isatty() and time.monotonic() - self._started > 1:
            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._title, total=self._total)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)
