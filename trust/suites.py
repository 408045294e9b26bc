"""Counts of what test files try: each runs as pytest runs it, and its report is read."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from trust.proof import Proof

__all__ = ["count"]

ROOT = Path(__file__).parent.parent


def count(
    part: str,
    tried: str,
    tests: Sequence[str],
    *,
    extra: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Proof:
    """Run test files, and count their cases.

    A case counts as one, or as the number that it recorded as its property ``inputs``. The largest value that a case
    recorded as ``largest_difference`` is the result.

    Args:
        part, tried: see `Proof`.
        tests: files or names of tests, as pytest takes them.
        extra: arguments for pytest, such as ``-k``.
        environment: of the tests; None inherits this process's.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *extra,
            *tests,
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not report.is_file():
            return Proof(part, tried, 0, (f"pytest ended with exit code {done.returncode}: {done.stdout[-500:]}",))
        cases = list(ElementTree.parse(report).iter("testcase"))
    return _proof(part, tried, cases)


def _proof(part: str, tried: str, cases: Sequence[ElementTree.Element]) -> Proof:
    run = [case for case in cases if case.find("skipped") is None]
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in run
        if case.find("failure") is not None or case.find("error") is not None
    ]
    differences = _recorded(run, "largest_difference")
    result = f"largest relative difference {max(differences):.1e}" if differences else ""
    inputs = _recorded(run, "inputs")
    # A case that recorded a number of inputs counts as so many.
    return Proof(part, tried, len(run) - len(inputs) + int(sum(inputs)), tuple(failed), result)


def _recorded(cases: Sequence[ElementTree.Element], name: str) -> list[float]:
    """Return what cases have recorded under a name."""
    return [
        float(entry.get("value", "")) for case in cases for entry in case.iter("property") if entry.get("name") == name
    ]
