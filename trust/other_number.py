"""A command that is stopped in its middle, and gone on with in another number of processes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from torch import Tensor

from auxtasks.checkpoint import read_json, read_tensors
from trust.launched import ALLOWED, relative_difference
from trust.proof import Proof
from trust.restartable import PATIENCE, Command, wait_until
from trust.whole_runs import differing, numbers

__all__ = ["STEPS", "prove_other_number"]

STEPS: Final = 300  # enough that it is not at its end when the signal has come through
STOP_AT: Final = 20
# Nothing in it is random but the order of its rows, and no weight is so small that rounding is all there is to it.
RECIPE: Final = ("ranking_demo", f"training.steps={STEPS}", "training.log_every=1", "training.checkpoint_every=50",
                 "training.keep_best=null", "training.device=cpu")  # fmt: skip


def _command(out: Path, processes: int) -> Command:
    """Return the command that trains into a folder in N processes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("run", *RECIPE, "--processes", str(processes), "--out", str(out))
    return Command(arguments, out, {"OMP_NUM_THREADS": "1", "AUXTASKS_CACHE": str(out.parent / "cache")})


def prove_other_number(part: str, folder: Path, before: int, after: int) -> Proof:
    """Stop a run of N processes by SIGTERM, go on with it in M, and compare how it ends with one that was left alone.

    Args:
        part: of the table.
        folder: for the runs; that of one process, left alone, is made if it is not there.
        before, after: N and M.
    """
    tried = f"auxtasks run --processes {before} stopped by SIGTERM, gone on with by --processes {after}"
    alone, out = folder / "alone", folder / f"{before} then {after}"
    problem = (None if alone.is_dir() else _command(alone, 1).finish()) or _stop(_command(out, before))
    if problem:
        return Proof(part, tried, 1, (problem,))
    kept, logged, trained_by = _newest(out), _log(out), [_processes(out)]
    if problem := _command(out, after).finish():
        return Proof(part, tried, 1, (problem,))
    failures = differing(numbers(out), numbers(alone))
    trained_by.append(_processes(out))
    if trained_by != [before, after]:
        failures.append(f"it was to train in {before} processes, then in {after}; its checkpoints say in {trained_by}")
    # A run that begins anew ends with the same numbers; but it logs its first steps again, with other times.
    if not _log(out).startswith(logged):
        failures.append(f"it began anew, though it had {kept.name}")
    difference = relative_difference(_tensors(out), _tensors(alone))
    if difference > ALLOWED:
        failures.append(f"weights and moments differ by {difference:.1e} of themselves")
    result = f"stopped at {kept.name} of {STEPS}; largest relative difference {difference:.1e} (allowed {ALLOWED:.0e})"
    return Proof(part, tried, 1, tuple(failures), result)


def _stop(command: Command) -> str | None:
    """Stop a command on its way; return what went wrong."""
    with command.begun() as process:
        wait_until(lambda: command.logged[1] > 0 and command.last_step >= STOP_AT, process)
        process.terminate()
        process.join(PATIENCE)
        code = process.exitcode
    if code == 128 + signal.SIGTERM and STOP_AT <= command.kept_step < STEPS:
        return None
    said = command.last_words()
    return f"it was to be stopped on its way; it ended with {code}, and kept step {command.kept_step}: {said}"


def _log(out: Path) -> str:
    return (out / "metrics.jsonl").read_text(encoding="utf-8")


def _newest(out: Path) -> Path:
    return max((out / "checkpoints").glob("step-*"))


def _processes(out: Path) -> int:
    """Return how many processes wrote a run's newest checkpoint."""
    return int(read_json(_newest(out) / "training" / "state.json")["processes"])


def _tensors(out: Path) -> dict[str, Tensor]:
    """Return every tensor of a run's newest checkpoint: weights, and the optimizer's moments."""
    return {
        f"{path.relative_to(_newest(out))}/{name}": tensor
        for path in _newest(out).rglob("*.safetensors")
        for name, tensor in read_tensors(path).items()
    }
