"""Faults planted in a copy of the code, one at a time: a test that guards the core has to find each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from trust import ROOT
from trust.mutants import MUTANTS, Mutant
from trust.proof import Proof
from trust.suites import run_tests

__all__ = ["prove", "prove_mutants", "replaced"]

_COPIED = ("auxtasks", "transfer", "recipes", "tests", "trust", "pyproject.toml", "README.md")


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Plant all faults, or of each kind the first."""
    kinds = {mutant.what.partition(":")[0]: mutant for mutant in reversed(MUTANTS)}
    yield prove_mutants(folder, MUTANTS if full else tuple(kinds.values()))


def prove_mutants(folder: Path, mutants: Sequence[Mutant]) -> Proof:
    """Plant faults; one that no test finds is a failure, and so is a test that fails without any."""
    copy = folder / "copy"
    copy.mkdir(parents=True)
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy / name)
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    failures = [f"without any fault, {name} fails" for name in _failing(copy, tests)]
    failures += [f"not found: {mutant.what}" for mutant in mutants if not _is_found(copy, mutant)]
    return Proof("mutations", "faults planted in the core, each found by a test", len(mutants), tuple(failures))


def _is_found(copy: Path, mutant: Mutant) -> bool:
    """Plant a fault, and ask whether a test fails; the file is as it was afterwards."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(replaced(text, mutant), encoding="utf-8")
    try:
        return bool(_failing(copy, mutant.tests))
    finally:
        path.write_text(text, encoding="utf-8")


def replaced(text: str, mutant: Mutant) -> str:
    """Return a file's text with the fault in it.

    Raises:
        ValueError: what it replaces does not stand there once.
    """
    if text.count(mutant.right) != 1:
        raise ValueError(f"{mutant.file} holds {text.count(mutant.right)} times, not once: {mutant.right}")
    return text.replace(mutant.right, mutant.wrong)


def _failing(copy: Path, tests: Sequence[str]) -> list[str]:
    """Return which tests fail on the copy; the first is enough."""
    # The copy's packages come before those that are installed; compiled files would outlive the fault.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return run_tests(tests, extra=["-x"], environment=environment, root=copy).failed
