"""What a run tells while it goes: lines of metrics in a file, a bar on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from auxtasks.checkpoint import could_not_write, write_text_atomically
from auxtasks.errors import CheckpointError

__all__ = ["Meter", "MetricsLog", "ProgressBar"]


class MetricsLog:
    """A file of JSON lines, one an event; a resumed run first drops the lines of steps that it will do again.

    Args:
        path: the file; None keeps nothing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> log = MetricsLog(path)
        >>> log.write(step=10, kind="train", values={"loss": 0.5})
        >>> log.write(step=20, kind="train", values={"loss": 0.4})
        >>> log.rewind(to_step=10)
        >>> path.read_text()
        '{"step": 10, "kind": "train", "loss": 0.5}\\n'
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Append one line; a value that is not finite is written as null, which JSON has and NaN it has not.

        Raises:
            CheckpointError: the disk is full, or the file cannot be written.
        """
        if self._path is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, "kind": kind, **finite}) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as handle:
                handle.write(line)
        except OSError as error:
            raise CheckpointError(could_not_write(self._path, error, needed=len(line))) from error

    def rewind(self, to_step: int) -> None:
        """Drop lines of later steps, and a last line that was cut short when the process was killed.

        Raises:
            CheckpointError: a line is damaged otherwise, or the file cannot be written.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= to_step]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._path} is damaged: {error}. Move it away: the run goes on with a new one."
            ) from error
        write_text_atomically(self._path, "".join(kept))


class Meter:
    """Counts items, seconds, and the seconds spent waiting for data.

    Items are counted when their number is known: on a GPU no step waits for it.

    Example:
        >>> meter = Meter()
        >>> meter.count(256)
        >>> meter.wait(0.0)
        >>> found = meter.read()
        >>> found["samples_per_second"] > 0, found["data_wait_share"]
        (True, 0.0)
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._items = 0.0
        self._waited = 0.0

    def count(self, items: float) -> None:
        """Count items."""
        self._items += items

    def wait(self, seconds: float) -> None:
        """Count seconds that were waited for data."""
        self._waited += seconds

    def read(self) -> dict[str, float]:
        """Return samples a second and the share of time spent waiting for data, since the meter was made."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        return {"samples_per_second": self._items / seconds, "data_wait_share": self._waited / seconds}


class ProgressBar:
    """A bar on stderr with loss, speed, waiting and remaining time; silent when stderr is no terminal.

    Args:
        title: what is going on.
        total: steps.
        done: steps that an earlier run did.
        shown: False on all processes but the first.
    """

    def __init__(self, title: str, total: int, done: int = 0, *, shown: bool = True) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (shown and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task(title, total=total, completed=done, status="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, status: str | None = None) -> None:
        """Count one step, with a new status if there is one."""
        if status is None:
            self._bar.advance(self._task)
        else:
            self._bar.update(self._task, advance=1, status=status)
