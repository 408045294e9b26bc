"""Which checkpoint is the newest whole one, and which may go."""

import pytest

from auxtasks.errors import CheckpointError
from auxtasks.training.store import CheckpointStore


def fill(text):
    return lambda folder: (folder / "a.txt").write_text(text)


def test_the_newest_stay_and_the_others_go(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.newest() is None
    for step in (5, 10, 100):
        store.write(step, fill(str(step)))
    assert store.steps() == [10, 100]
    assert store.newest() == tmp_path / "checkpoints" / "step-00000100"
    assert (store.newest() / "a.txt").read_text() == "100"


def test_what_is_not_whole_is_not_seen(tmp_path):
    store = CheckpointStore(tmp_path)
    store.write(5, fill("whole"))
    (tmp_path / ".step-00000009.writing-123").mkdir()
    (tmp_path / "step-12").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert store.steps() == [5]


def test_an_error_while_writing_keeps_all_older_ones(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.write(5, fill("old"))
    with pytest.raises(CheckpointError, match=r"could not write .*step-00000006: .*No space left"):
        store.write(6, lambda folder: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert store.steps() == [5]


def test_the_same_step_is_replaced(tmp_path):
    store = CheckpointStore(tmp_path)
    store.write(5, fill("old"))
    store.write(5, fill("new"))
    assert (store.newest() / "a.txt").read_text() == "new"


def test_other_settings_are_all_listed(tmp_path):
    CheckpointStore.check_identity({"a": 1, "b": [2]}, {"b": [2], "a": 1}, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"other settings: a: 1 there, 2 asked; c: None there, 3 asked; d: 4 there"
    ):
        CheckpointStore.check_identity({"a": 1, "b": 1, "d": 4}, {"a": 2, "b": 1, "c": 3}, tmp_path)
