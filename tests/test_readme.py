"""The examples of the README run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
LONGEST = 25  # lines; more is a tutorial, not an example

_BLOCK = re.compile(r"^<!-- test -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """Return the code of each fenced block that is marked for the test."""
    return _BLOCK.findall(README.read_text(encoding="utf-8")) if README.is_file() else []


def test_there_are_examples_and_all_are_marked():
    if not README.is_file():
        pytest.skip("README.md is not written yet")
    text = README.read_text(encoding="utf-8")
    assert len(blocks()) >= 1
    assert text.count("<!-- test -->") == len(blocks())  # a mark that stands before no block tests nothing


@pytest.mark.parametrize("code", blocks(), ids=lambda code: code.splitlines()[0])
def test_an_example_is_short_and_runs(code, tmp_path, monkeypatch):
    assert len(code.splitlines()) < LONGEST
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUXTASKS_CACHE", str(tmp_path / "cache"))
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})
