"""Scripts that run in one process and in several, and by how much what they leave differs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trust import ROOT

__all__ = ["ALLOWED", "environment", "keeps_gradients", "launch", "parts", "python", "relative_difference", "torchrun"]

ALLOWED = 1e-5  # relative difference of what is equal but for the order of its sums


def torchrun(processes: int) -> list[str]:
    """Return how Python is told to start N processes of what follows."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def environment() -> dict[str, str]:
    """Return the environment of processes that share two cores and see no GPU."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def python(
    *arguments: str, variables: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float | None = None
) -> str:
    """Run Python in a process of its own; return what it printed.

    Args:
        arguments: what it runs.
        variables: of its environment, beside those of `environment`.
        cwd: where it runs; None is here.
        timeout: seconds that it may take.

    Raises:
        RuntimeError: it failed; shows what it printed last.

    Example:
        >>> python("-c", "print(1 + 1)")
        '2\\n'
    """
    command, variables = [sys.executable, *arguments], {**environment(), **(variables or {})}
    done = subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        asked = " ".join(arguments)
        raise RuntimeError(f"python {asked} ended with exit code {done.returncode}: {done.stderr[-3000:]}")
    return done.stdout


def launch(script: Path, out: Path, processes: int, arguments: Sequence[str] = ()) -> Path:
    """Run a script in N processes, with a folder for what it leaves as its first argument; return that folder.

    Raises:
        RuntimeError: it failed; shows what it printed last.
    """
    out.mkdir(parents=True, exist_ok=True)
    start = torchrun(processes) if processes > 1 else []
    python(*start, str(script), str(out), *arguments, timeout=300)
    return out


def parts() -> None:
    """Take leave of the other processes; without the barrier, tearing down gloo aborts now and then."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextlib.contextmanager
def keeps_gradients(modules: Sequence[nn.Module], run: str, kept: dict[str, Tensor]) -> Iterator[None]:
    """Keep each gradient that an optimizer gets, as ``RUN/STEP/NAME``, in the order of the steps.

    Args:
        modules: whose parameters train; the list may grow until they do.
        run: name of it.
        kept: where to.
    """
    step = 0

    def keep(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001  torch passes them
        nonlocal step
        names = _names(modules)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                kept[f"{run}/{step}/{names[parameter]}"] = parameter.grad.clone()
        step += 1

    hook = register_optimizer_step_pre_hook(keep)
    try:
        yield
    finally:
        hook.remove()


def _names(modules: Sequence[nn.Module]) -> dict[Tensor, str]:
    """Return the names of all parameters; one that several modules have in common goes by its name in the first."""
    names: dict[Tensor, str] = {}
    for place, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            names.setdefault(parameter, f"{place}.{name}" if place else name)
    return names


def relative_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest norm of a difference, relative to what was expected.

    Raises:
        KeyError: other names.

    Example:
        >>> relative_difference({"a": torch.tensor([3.0, 4.5])}, {"a": torch.tensor([3.0, 4.0])})
        0.1
    """
    if found.keys() != expected.keys():
        raise KeyError(f"only one of the two has {sorted(found.keys() ^ expected.keys())}")
    return max(_off(found[name], value) for name, value in expected.items())


def _off(found: Tensor, expected: Tensor) -> float:
    difference = float((found.double() - expected.double()).norm())
    # What is nothing but rounding, such as the gradient of a bias that changes nothing, has no relative difference.
    return difference / max(float(expected.double().norm()), 1e-4)
