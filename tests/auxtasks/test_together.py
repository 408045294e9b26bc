"""One process of several cannot go on: all end with its error, none waits for it, and one tells it."""

import json
import pickle
import signal
from pathlib import Path

import pytest

from auxtasks.errors import CheckpointError, NonFiniteError, RecipeError, TrainingError, TrainingStoppedError
from auxtasks.training.run_lock import LOCK
from auxtasks.training.together import all_or_none, first_process_first
from trust.launched import launch

SCRIPT = Path(__file__).parent / "distributed" / "together.py"


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("a: b"),
        RecipeError(["one: wrong.", "two: wrong."]),
        NonFiniteError("step 7", step=7, rows=[3], layer="net.0"),
        TrainingStoppedError("stopped", signal=signal.SIGTERM, checkpoint=Path("step-00000003")),
    ],
)
def test_an_error_comes_to_another_process_as_it_is(error):
    error.told = True
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    assert vars(found)["told"] is True


@pytest.mark.parametrize("block", [all_or_none, first_process_first])
def test_a_single_process_raises_its_own_error_and_tells_it(block):
    with pytest.raises(TrainingError, match="full") as caught, block():
        raise TrainingError("full")
    assert not caught.value.told
    with block():
        done = True
    assert done


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    out = launch(SCRIPT, tmp_path_factory.mktemp("together"), 2)
    first, second = (json.loads((out / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert not (out / "was here").exists()
    assert not list(out.rglob(LOCK))
    return {name: (first[name], second[name]) for name in first}


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "kind", "words", "told"),
    [
        ("the_second_fails", "RecipeError", "one: wrong.\ntwo: wrong.", [True, False]),
        ("another_library_fails", "TrainingError", "process 0 failed with KeyError: 'x'", [None, True]),
        ("all_fail", "CheckpointError", "the same", [False, True]),
        ("the_first_fails_first", "CheckpointError", "refused before the others came", [False, True]),
        ("the_second_fails_behind_the_first", "CheckpointError", "not found", [True, False]),
        ("the_folder_is_taken", "CheckpointError", "taken is in use by another run: process ", [False, True]),
        ("the_layer_is_taken", "CheckpointError", "hidden1 is in use by another run: process ", [False, True]),
        ("the_disk_takes_nothing", "CheckpointError", "stages.json: File too large", [False, True]),
        ("the_disk_takes_no_checkpoint", "CheckpointError", "step-00000001: File too large", [False, True]),
    ],
)
def test_what_one_process_cannot_do_ends_all_and_is_told_once(said, name, kind, words, told):
    both = said[name]
    assert [flag for _, _, flag in both] == told
    own = told.index(True) ^ 1
    other = both[own ^ 1]
    assert other[0] == kind
    assert words in other[1]
    if told[own] is False:
        assert both[own][:2] == other[:2]


@pytest.mark.processes
def test_where_nobody_fails_all_go_on(said):
    assert said["nobody_gives_up_on_the_first"] == (None, None)
    assert said["nobody_fails"] == (None, None)
