"""Commands in several processes of this machine: how they are started, and how they part."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import torch.distributed as dist

from auxtasks.errors import TrainingError

__all__ = ["launch", "leave_group"]


def launch(arguments: Sequence[str], processes: int, what: str) -> None:
    """Run a command of ours in N processes, started by torch's launcher.

    Args:
        arguments: of ``auxtasks``, the command first.
        processes: N.
        what: is done, for the message.

    Raises:
        TrainingError: a process failed; its messages have been printed.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
        "-m", "recipes", *arguments,
    ]  # fmt: skip
    # Their results are printed by this process, once.
    code = subprocess.run(command, env={**os.environ, "AUXTASKS_LAUNCHED": "1"}).returncode
    if code:
        raise TrainingError(f"{what} in {processes} processes ended with exit code {code}; its messages are above.")


def leave_group() -> None:
    """Take leave of the group of processes, if there is one."""
    if dist.is_initialized():
        # Without a barrier before it, tearing down gloo aborted 3 of 17 launches.
        dist.barrier()
        dist.destroy_process_group()
