"""N processes compute what one does: gradients, whole runs, launchers, and a resume in another number of them."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from trust.other_number import prove_other_number
from trust.proof import Proof
from trust.suites import count
from trust.whole_runs import RUNS, differing, fine_tune, numbers, run, trained_by

__all__ = ["compare_runs", "prove"]

PART = "processes"
# What the tests run of the whole runs: with stages, and without pictures to draw.
SMALL = "layer-wise Boltzmann machine"

_OTHER_NUMBER = "tests/auxtasks/test_distributed_resume.py"
SUITES = (
    (
        "loss and every gradient of two processes, whole and in four micro-batches, against those of one",
        ("tests/auxtasks/test_distributed.py", "tests/auxtasks/test_distributed_layers.py"),
    ),
    (
        "stopped in two processes and gone on with in one, and the reverse: weights at the end",
        (f"{_OTHER_NUMBER}::test_it_ends_with_the_weights_of_the_straight_run",),
    ),
    (
        "stopped in two processes and gone on with in one, and the reverse: rows of every global batch, in order",
        (f"{_OTHER_NUMBER}::test_the_global_batches_are_the_same_rows_in_the_same_order",),
    ),
    ("fine-tuning in stages, in two processes against one", ("tests/transfer/test_staged_processes.py",)),
    (
        "--processes, torchrun, accelerate launch",
        ("tests/recipes/test_launchers.py", "tests/recipes/test_cli.py::test_two_processes_log_what_one_does"),
    ),
    ("statistics of a batch that is split are refused", ("tests/auxtasks/test_batch_norm.py",)),
)


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Compare runs of two processes with those of one; in full, all kinds of tasks, and all that the tests compare."""
    if full:
        for tried, tests in SUITES:
            yield count(PART, tried, tests)
    for before, after in ((2, 1), (1, 2)) if full else ((2, 1),):
        yield prove_other_number(PART, folder / "stopped", before, after)
    for kind in RUNS if full else (SMALL,):
        yield _prove_run(
            f"a whole run of two processes, {kind}: numbers of its logs and report", folder / kind,
            functools.partial(run, kind),
        )  # fmt: skip
    if full:
        pretrained = folder / "face pairs" / "1"
        yield _prove_run(
            "fine-tuning on all labels from the command line: numbers of its logs and report", folder / "tuned",
            functools.partial(fine_tune, pretrained, "strangers"),
        )  # fmt: skip


def _prove_run(tried: str, folder: Path, do: Callable[[Path, int], str]) -> Proof:
    """Do something in one process and in two, each into a folder of that name, and compare what they left."""
    failures = []
    try:
        for processes in (1, 2):
            place = folder / str(processes)
            do(place, processes)
            # Were it one process all the same, its numbers would agree as well.
            if (found := trained_by(place)) != {processes}:
                failures.append(f"it was to train in {processes} processes, its checkpoints say {sorted(found)}")
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return Proof(PART, tried, 1, (str(error),))
    proof = compare_runs(tried, folder / "1", folder / "2")
    return dataclasses.replace(proof, failures=(*failures, *proof.failures))


def compare_runs(tried: str, one: Path, two: Path) -> Proof:
    """Compare all that two runs have logged and reported; each number, which are counted, as it is printed."""
    expected, found = numbers(one), numbers(two)
    values = [(place, value) for place, value in expected.items() if isinstance(value, float)]
    off = [abs(value - found[place]) for place, value in values if isinstance(found.get(place), float)]
    largest = f"largest difference {max(off):.1e} (printed to 1e-04)" if off else ""
    return Proof(PART, tried, len(values), tuple(differing(found, expected)), largest)
