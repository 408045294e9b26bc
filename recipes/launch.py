"""Commands in several processes of this machine: how they are started, and how they part."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

import torch.distributed as dist

from auxtasks.errors import TrainingError
from recipes.interruptions import SIGNALS, Interruption

__all__ = ["launch", "leave_group"]

STOP_SECONDS: Final = 3600  # for a step and a checkpoint; torch's launcher would kill after 30


def launch(arguments: Sequence[str], processes: int, what: str) -> None:
    """Run a command of ours in N processes, started by torch's launcher; SIGINT and SIGTERM are theirs meanwhile.

    Args:
        arguments: of ``auxtasks``, the command first.
        processes: N.
        what: is done, for the message.

    Raises:
        SystemExit: they were stopped by a signal, as they have said; with their exit code.
        Interruption: they were stopped before they could say so.
        TrainingError: a process failed; its messages have been printed.

    Example:
        >>> from unittest.mock import patch
        >>> with patch("subprocess.Popen") as started:  # in place of two processes
        ...     started.return_value.wait.return_value = 1
        ...     try:
        ...         launch(["pretrain", "faces_demo"], 2, "pretraining")
        ...     except TrainingError as error:
        ...         print(error)
        pretraining in 2 processes ended with exit code 1; its messages are above.
        >>> command = started.call_args.args[0]
        >>> command[command.index("--nproc_per_node") + 1], command[-3:]
        ('2', ['recipes', 'pretrain', 'faces_demo'])
    """
    launcher = [sys.executable, "-m", "recipes.torch_launcher", "--standalone", "--nproc_per_node", str(processes)]
    environment = {
        **os.environ,
        "AUXTASKS_LAUNCHED": str(os.getpid()),  # whom the launcher goes with; it prints the results, once
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STOP_SECONDS),
    }
    # The launcher makes a folder for logs, which nobody asked for, and leaves it where it is.
    with tempfile.TemporaryDirectory(prefix="auxtasks-") as logs, _passing_signals_on() as passes:
        command = [*launcher, "--log-dir", logs, "-m", "recipes", *arguments]
        # In a group of its own: a terminal's Ctrl-C reaches it once, through this process.
        passes.to(subprocess.Popen(command, env=environment, process_group=0))
        code = passes.wait()
    if code in (-signal.SIGINT, -signal.SIGTERM):
        raise Interruption(-code)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise SystemExit(code)
    if code:
        raise TrainingError(f"{what} in {processes} processes ended with exit code {code}; its messages are above.")


class _Passing:
    """A launcher, and the signals for it: those that came before it was there as well."""

    def __init__(self) -> None:
        self._launcher: subprocess.Popen[bytes] | None = None
        self._waiting: list[int] = []

    def to(self, launcher: subprocess.Popen[bytes]) -> None:
        """Begin to pass signals on."""
        self._launcher = launcher
        for number in self._waiting:
            launcher.send_signal(number)

    def take(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del frame
        if self._launcher is None:
            self._waiting.append(number)
        else:
            self._launcher.send_signal(number)

    def wait(self) -> int:
        """Return the launcher's exit code, as `subprocess` has it."""
        assert self._launcher is not None  # it was named
        return self._launcher.wait()


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[_Passing]:
    """Keep signals for a launcher that is named in the block."""
    passing = _Passing()
    before = {number: signal.signal(number, passing.take) for number in SIGNALS}
    try:
        yield passing
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_group() -> None:
    """Take leave of the group of processes, if there is one.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> leave_group()
        >>> dist.is_initialized()
        False
        >>> leave_group()  # nothing to do
    """
    if dist.is_initialized():
        # Without a barrier before it, tearing down gloo aborted 3 of 17 launches.
        dist.barrier()
        dist.destroy_process_group()
