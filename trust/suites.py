"""Counts of what test files try: each runs as pytest runs it, and its report is read."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from trust import ROOT
from trust.proof import Proof

__all__ = ["Outcome", "count", "run_tests"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call of pytest left.

    Attributes:
        cases: the cases that ran, as its report has them; not those that were skipped.
        failed: names of those that failed, and why; of a call that ran none, its last words.
    """

    cases: list[ElementTree.Element]
    failed: list[str]

    def recorded(self, name: str) -> list[float]:
        """Return what cases have recorded under a name."""
        found = [entry for case in self.cases for entry in case.iter("property") if entry.get("name") == name]
        return [float(entry.get("value", "")) for entry in found]


def run_tests(
    tests: Sequence[str],
    *,
    extra: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Outcome:
    """Run tests in a process of their own.

    Args:
        tests: files, ``tests/test_a.py``, or single tests with all of their cases, ``tests/test_a.py::test_b``.
        extra: arguments for pytest, such as ``-k``.
        environment: of the tests; None inherits this process's.
        root: of the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # The older family of reports holds what a case has recorded of itself.
        plain = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *plain, *extra, *tests]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        every = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    cases = [case for case in every if case.find("skipped") is None]
    failed = [f"{case.get('classname')}.{case.get('name')}: {why}" for case in cases if (why := _why_failed(case))]
    if not failed and (done.returncode or not cases):
        failed = [f"pytest ended with exit code {done.returncode}: {(done.stdout + done.stderr)[-500:]}"]
    return Outcome(cases, failed)


def _why_failed(case: ElementTree.Element) -> str:
    """Return the first line of what a case failed with; nothing if it did not fail."""
    problems = [found for kind in ("failure", "error") if (found := case.find(kind)) is not None]
    lines = (problems[0].get("message") or "it says nothing").splitlines() if problems else [""]
    return lines[0][:200]


def count(
    part: str,
    tried: str,
    tests: Sequence[str],
    *,
    extra: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Proof:
    """Run tests, and count their cases.

    A case counts as one, or as the number of tries that it recorded by ``record_property("inputs", number)``. The
    largest value that a case recorded as ``largest_difference`` is the result.

    Args:
        part, tried: see `Proof`; name single tests where a file holds others than what it says.
        tests, extra, environment: see `run_tests`.
    """
    outcome = run_tests(tests, extra=extra, environment=environment)
    differences, inputs = outcome.recorded("largest_difference"), outcome.recorded("inputs")
    result = f"largest relative difference {max(differences):.1e}" if differences else ""
    return Proof(part, tried, len(outcome.cases) - len(inputs) + int(sum(inputs)), tuple(outcome.failed), result)
