"""Wrong recipes, command lines and files: each is refused with a message and an exit code, and nothing else happens.

Each case is a test of its own; here they are counted, and the fuzz tests draw more examples than they do as tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from trust import ROOT
from trust.proof import Proof
from trust.suites import count

PART = "bad input"

# What was tried, in which tests, and how many examples each fuzz test draws in full; 0 where none is drawn.
SUITES: tuple[tuple[str, str, int], ...] = (
    ("every field of a recipe, each wrong type, bound, name and key; broken files", "recipes/test_bad_recipes.py", 0),
    ("recipes whose parts do not fit, wrong folders, every command called wrongly", "recipes/test_bad_commands.py", 0),
    ("recipes, results and models of finished runs that are damaged", "recipes/test_bad_folders.py", 0),
    ("recipes and overrides drawn at random, and shipped ones changed at random", "recipes/test_fuzz_*.py", 1000),
    ("files of data, networks and caches that are broken, hostile or of another kind", "auxtasks/test_bad_*.py", 0),
    ("files of results, scorers and other frameworks, the same", "transfer/test_bad_*.py", 0),
    ("files of data, networks and caches, changed at random places", "auxtasks/test_fuzz_*.py", 300),
    ("files of results and other frameworks, changed at random places", "transfer/test_fuzz_*.py", 300),
)


def suite_files(pattern: str) -> list[str]:
    """Return the tests that a pattern below ``tests`` finds."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob(pattern))


def prove(folder: Path, *, full: bool) -> Iterator[Proof]:
    """Run every suite; `full` draws as many examples as the table above says, else as many as the tests themselves."""
    for tried, pattern, examples in SUITES:
        found = suite_files(pattern)
        if not found:
            yield Proof(PART, tried, 0, (f"no test is called {pattern}",))
            continue
        drawn = {"AUXTASKS_FUZZ_EXAMPLES": str(examples)} if full and examples else {}
        # A folder of its own, so that what a test leaves anywhere is no other section's.
        environment = {**os.environ, **drawn, "TMPDIR": str(folder)}
        yield count(PART, tried, found, environment=environment)
