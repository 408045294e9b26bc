"""Two processes of one run: what they say of a row that one of them held, and of the memory that both took."""

import json
from pathlib import Path

import pytest

from trust.launched import launch

pytestmark = pytest.mark.processes

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    script = Path(__file__).parent / "distributed" / "health.py"
    return launch(script, tmp_path_factory.mktemp("health"), 2)


def said(folder: Path, name: str) -> list:
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


def test_all_processes_name_the_row_that_one_of_them_held(folder):
    first, second = said(folder, "error")
    assert first == second
    assert first["at"] == [2, [first["wanted"]], "backbone.module.breaks"]
    assert "In process 2 of 2: the first layer whose output is not finite is" in first["said"]


def test_the_memory_of_all_processes_is_counted_together(folder):
    first, second = said(folder, "memory")
    assert first["run"] == second["run"]  # the same on both
    own = [first["own"], second["own"]]
    largest, total, workers, gpu = first["run"]
    assert largest == pytest.approx(max(own), rel=0.05)
    assert total == pytest.approx(sum(own) + first["workers"] + second["workers"], rel=0.05)
    assert max(own) > min(own) + 150 * MEGABYTE  # the second held more, so that they can be told apart
    assert workers == max(first["workers"], second["workers"]) > MEGABYTE
    assert gpu == 0
