"""Loader workers that are killed, most often since memory ran out: said in words of what can be done."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from auxtasks.errors import TrainingError

__all__ = ["lost_workers_told"]

# What torch's loader says; from its signal handler, so anywhere in the process that waits for batches.
_LOST = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal|exited unexpectedly).*", re.DOTALL)


@contextlib.contextmanager
def lost_workers_told() -> Iterator[None]:
    """Turn what torch raises in the block when a loader worker was killed into an error of ours.

    Raises:
        TrainingError: a worker is gone; says which, and what to do.

    Example:
        >>> with lost_workers_told():  # doctest: +ELLIPSIS
        ...     raise RuntimeError("DataLoader worker (pid 71) is killed by signal: Killed. ")
        Traceback (most recent call last):
            ...
        auxtasks.errors.TrainingError: a process that reads data was lost: DataLoader worker (pid 71) is killed ...
    """
    try:
        yield
    except RuntimeError as error:
        if not (said := _LOST.search(str(error))):
            raise
        words = " ".join(said.group().split()).removesuffix(".")
        raise TrainingError(
            f"a process that reads data was lost: {words}. If nobody ended it, memory ran out: fewer workers "
            "(training.workers) and smaller batches need less. The same command goes on from the newest checkpoint."
        ) from error
