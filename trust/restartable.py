"""A command of ours that can be begun again and again, each time in a process of its own that may be killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

import psutil

from auxtasks.training.store import CheckpointStore

__all__ = ["PATIENCE", "Command", "family", "wait_until"]

# Each command is a process of its own, forked off one that has imported what commands import: that takes 4.6 s.
_FORKING: Final = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["recipes.run", "recipes.cli"])
PATIENCE: Final = 600  # seconds that a command may take, on a machine that has others to serve


def _run(arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
    """Be a command: its entry point, its output in a log."""
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.update(environment)
    # Its own processes as they are everywhere, not from a server: that would live on with them when this one is killed.
    multiprocessing.set_start_method(None, force=True)
    sys.argv = ["auxtasks", *arguments]
    import torch

    from recipes.cli import main

    torch.set_num_threads(1)
    main()


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that can be begun again and again.

    Attributes:
        arguments: of the command line, the command first.
        folder: where its run is.
        environment: of its process.
        parts: where in the folder it trains, one after the other.
    """

    arguments: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    parts: tuple[str, ...] = ("",)

    @contextlib.contextmanager
    def begun(self) -> Iterator[ForkServerProcess]:
        """Begin it in a process of its own, and let nothing of it live on behind the block."""
        process = _FORKING.Process(target=_run, args=(self.arguments, dict(self.environment), self.log))
        process.start()
        try:
            yield process
        finally:
            for one in family(process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.join(PATIENCE)

    def finish(self) -> str | None:
        """Let it end by itself; return what went wrong."""
        with self.begun() as process:
            process.join(PATIENCE)
            code = process.exitcode
        return None if code == 0 else f"exit code {code}: {self.last_words()}"

    @property
    def log(self) -> Path:
        """Where it prints to."""
        return self.folder.with_suffix(".log")

    def last_words(self) -> str:
        """Return the end of what it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-400:]

    @property
    def printed(self) -> int:
        """How many bytes it has printed."""
        return self.log.stat().st_size if self.log.exists() else 0

    def words_since(self, printed: int) -> str:
        """Return what it has printed behind so many bytes."""
        return self.log.read_bytes()[printed:].decode("utf-8", errors="replace")

    @property
    def logged(self) -> tuple[tuple[int, ...], int]:
        """Which files the logs are, and how long together: something else once a step was logged."""
        logs = [log.stat() for part in self.parts if (log := self.folder / part / "metrics.jsonl").exists()]
        return tuple(log.st_ino for log in logs), sum(log.st_size for log in logs)

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is half written now."""
        try:
            return any(".writing-" in path.name for store in self.stores for path in store.folder.iterdir())
        except FileNotFoundError:
            return False

    @property
    def last_step(self) -> int:
        """The last step that is logged whole; of all parts together."""
        logs = [log.read_text(encoding="utf-8") for part in self.parts
                if (log := self.folder / part / "metrics.jsonl").exists()]  # fmt: skip
        whole = [lines for text in logs if (lines := text[: text.rfind("\n") + 1].splitlines())]
        return sum(int(json.loads(lines[-1])["step"]) for lines in whole)

    @property
    def stores(self) -> list[CheckpointStore]:
        """Where its checkpoints are, by now."""
        folders = [self.folder / part / "checkpoints" for part in self.parts]
        return [CheckpointStore(folder) for folder in folders if folder.is_dir()]

    @property
    def kept_step(self) -> int:
        """The step of the newest checkpoint, 0 if there is none; of all parts together."""
        return sum(max(store.steps(), default=0) for store in self.stores)


def family(process: ForkServerProcess) -> list[psutil.Process]:
    """Return a process, if it is there, and all below it."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def wait_until(condition: Callable[[], bool], process: ForkServerProcess, seconds: float = PATIENCE) -> bool:
    """Wait for a condition while a process lives; return whether it came."""
    end = time.monotonic() + seconds
    while process.exitcode is None and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.0005)
    return False
