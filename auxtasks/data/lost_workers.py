"""Loader workers that are killed, most often since memory ran out: said in words of what can be done."""

from __future__ import annotations

import contextlib
import multiprocessing.queues
import re
import time
import traceback
from collections.abc import Iterator

from auxtasks.errors import TrainingError

__all__ = ["lost_workers_told"]

# What torch's loader says; from its signal handler, so anywhere in the process that waits for batches.
_LOST = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal|exited unexpectedly).*", re.DOTALL)

# The kernel closes a killed process's connections before it tells its parent: how long to wait for that word.
_SECONDS_TO_HEAR = 5.0


@contextlib.contextmanager
def lost_workers_told() -> Iterator[None]:
    """Turn what is raised in the block when a loader worker was killed into an error of ours.

    Any other error goes on as it is; one of a broken connection or file end after up to 5 seconds, in which a word of a
    lost worker could come.

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
    except (RuntimeError, ConnectionError, EOFError) as error:
        told = error if isinstance(error, RuntimeError) else _heard_after(error)
        if not (words := _words(told)):
            raise
        raise TrainingError(
            f"a process that reads data was lost: {words}. If nobody ended it, memory ran out: fewer workers "
            "(training.workers) and smaller batches need less. The same command goes on from the newest checkpoint."
        ) from told


def _heard_after(error: Exception) -> Exception:
    """Return what torch's signal handler raises soon after a connection broke, or the error itself if that is all."""
    try:
        time.sleep(_SECONDS_TO_HEAR)
    except RuntimeError as told:
        return told
    return error


def _words(error: Exception) -> str | None:
    """Return what is known of a lost worker, or None where the error is of something else."""
    said = _LOST.search(str(error))
    if said is None:
        return f"its connection broke ({type(error).__name__})" if _from_a_worker(error) else None
    # The signal, where only what the error came from knows it.
    cause = _LOST.search(str(error.__cause__))
    return " ".join((cause or said).group().split()).removesuffix(".")


def _from_a_worker(error: Exception) -> bool:
    """Whether a connection broke through which batches come from a worker.

    Asked where torch says nothing: its handler may run while a destructor does, and errors in those are dropped.
    """
    if isinstance(error, RuntimeError):
        return False
    waits = multiprocessing.queues.Queue.get.__code__
    return any(frame.f_code is waits for frame, _ in traceback.walk_tb(error.__traceback__))
