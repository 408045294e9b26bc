"""What the processes of a run do together: where one of them cannot go on, all end, and none waits for another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from accelerate import PartialState
from accelerate.utils import gather_object

from auxtasks.errors import AuxtasksError, TrainingError

__all__ = ["all_or_none", "entered_by_first", "first_process_first"]


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Let no process go on behind the block unless all do: what one has raised in it, all raise.

    Every process has to enter it, behind `join_processes`; in the block none may wait for another. Of an error that all
    raise, those of all processes but one are marked as `told`.

    Raises:
        AuxtasksError: of the process itself, or else of the first that has raised one.
        TrainingError: another process has raised something else; says which, and what.

    Example:
        >>> with all_or_none():
        ...     raise TrainingError("the disk of this process is full")
        Traceback (most recent call last):
        auxtasks.errors.TrainingError: the disk of this process is full
    """
    found: Exception | None = None
    try:
        yield
    except Exception as error:  # Whatever it is: it is raised again behind the exchange.
        found = error
    _raise_together(found)


@contextlib.contextmanager
def entered_by_first(context: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Let the first process be in a context, such as a lock, as long as all are in the block.

    Args:
        context: the others leave theirs alone.

    Raises:
        AuxtasksError: the first could not enter it; in all processes.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from auxtasks.training.run_lock import only_run
        >>> with tempfile.TemporaryDirectory() as folder, entered_by_first(only_run(Path(folder))):
        ...     print([path.name for path in Path(folder).iterdir()])
        ['.lock']
    """
    with contextlib.ExitStack() as held:
        with all_or_none():
            if PartialState().is_main_process:
                held.enter_context(context)
        yield


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process do the block before the others do, which find in a cache what it has left there.

    Raises:
        AuxtasksError: as `all_or_none`.

    Example:
        >>> with first_process_first():
        ...     decoded = [1, 2, 3]
        >>> len(decoded)
        3
    """
    is_first = PartialState().is_main_process
    if not is_first:
        _raise_together(None)
    found: Exception | None = None
    try:
        yield
    except Exception as error:  # as above
        found = error
    if is_first:
        _raise_together(found)
    _raise_together(found)


def _raise_together(own: Exception | None) -> None:
    """Raise what this process has raised, or another one; every process has to call it."""
    state = PartialState()
    raised: list[AuxtasksError | None] = gather_object([_for_others(own)]) if state.num_processes > 1 else []
    teller = next((rank for rank, error in enumerate(raised) if error is not None), state.process_index)
    if own is None:
        if raised and (error := raised[teller]) is not None:
            error.told = True
            raise error
        return
    if isinstance(own, AuxtasksError):
        own.told = teller != state.process_index and str(own) == str(raised[teller])
    raise own


def _for_others(own: Exception | None) -> AuxtasksError | None:
    """Return what the others raise: they may not know another library's error, or how to make one."""
    if own is None or isinstance(own, AuxtasksError):
        return own
    return TrainingError(f"process {PartialState().process_index} failed with {type(own).__name__}: {own}")
