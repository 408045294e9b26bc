"""Which checkpoint is the newest whole one, and which may go."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError
from auxtasks.training.file_list import FILE_LIST
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


# Damage


def flip(folder):
    content = bytearray((folder / "sub" / "b.bin").read_bytes())
    content[3] ^= 1
    (folder / "sub" / "b.bin").write_bytes(bytes(content))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "a bit turned": (flip, r"sub/b\.bin is damaged: its content is not what was written \(another SHA-256\)"),
    "cut short": (lambda f: (f / "a.txt").write_text("who"), r"a\.txt is damaged: 3 bytes are there, 5 were written"),
    "emptied": (lambda f: (f / "a.txt").write_text(""), r"a\.txt is damaged: 0 bytes are there, 5 were written"),
    "a file gone": (lambda f: (f / "sub" / "b.bin").unlink(), r"b\.bin is missing: the folder .*-9 is not complete"),
    "a folder gone": (lambda f: shutil.rmtree(f / "sub"), r"b\.bin is missing: the folder .*-9 is not complete"),
    "a folder for a file": (
        lambda f: ((f / "a.txt").unlink(), (f / "a.txt").mkdir()),
        r"a\.txt is missing: the folder .*-9 is not complete",
    ),
    "all gone": (empty, rf"{FILE_LIST} is missing: the folder .*-9 is not complete"),
    "the list gone": (lambda f: (f / FILE_LIST).unlink(), rf"{FILE_LIST} is missing: the folder .*-9 is not complete"),
    "the list and a file gone": (
        lambda f: ((f / FILE_LIST).unlink(), (f / "a.txt").unlink()),
        rf"{FILE_LIST} is missing: the folder .*-9 is not complete",
    ),
    "the list cut short": (lambda f: (f / FILE_LIST).write_text("{"), rf"{FILE_LIST} is damaged"),
    "another list": (lambda f: (f / FILE_LIST).write_text("[]"), rf"{FILE_LIST} is damaged: it is not a list of files"),
}


def fill_two(text):
    def write(folder):
        (folder / "a.txt").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.bin").write_bytes(bytes(range(100)))

    return write


@pytest.fixture
def two(tmp_path):
    """A store of two checkpoints."""
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (5, 9):
        store.write(step, fill_two("whole"))
    return store


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_checkpoint_is_told_set_aside_and_the_one_before_is_taken(two, kind, caplog):
    damage, message = DAMAGE[kind]
    assert two.newest_whole() == two.place(9)
    assert two.is_whole(9)
    damage(two.place(9))
    assert not two.is_whole(9)
    assert two.newest_whole() == two.place(5)
    (told,) = caplog.records
    assert told.levelname == "WARNING"
    assert re.search(message.replace("-9", "-00000009"), told.getMessage())
    assert f"going on from {two.place(5)}." in told.getMessage()
    assert sorted(path.name for path in two.folder.iterdir()) == ["damaged-step-00000009", "step-00000005"]
    assert two.steps() == [5]


def test_what_was_set_aside_is_never_overwritten_nor_counted(two):
    for _ in range(3):
        flip(two.place(9))
        assert two.newest_whole() == two.place(5)
        two.write(9, fill_two("whole"))
    aside = sorted(path.name for path in two.folder.glob("damaged-*"))
    assert aside == ["damaged-step-00000009", "damaged-step-00000009-2", "damaged-step-00000009-3"]
    two.write(10, fill_two("whole"))
    assert two.steps() == [9, 10]


def test_where_none_is_whole_all_are_named_and_nothing_is_moved(two):
    flip(two.place(9))
    (two.place(5) / "a.txt").unlink()
    message = r"no whole checkpoint is left in .*: .*-00000009/sub/b\.bin is damaged.*-00000005/a\.txt is missing.*Put"
    with pytest.raises(CheckpointError, match=message):
        two.newest_whole()
    assert two.steps() == [5, 9]


# What may go, and does not


def test_an_old_checkpoint_that_cannot_be_renamed_stays_and_is_told(tmp_path, monkeypatch, caplog):
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    store.write(5, fill("old"))
    rename = Path.rename

    def failing(path, target):
        if "removing" in str(target):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert store.write(6, fill("new")).is_dir()
    (told,) = caplog.records
    assert told.getMessage() == f"the old checkpoint {store.place(5)} could not be removed: Device or resource busy."
    assert [store.is_whole(step) for step in store.steps()] == [True, True]
    monkeypatch.undo()
    store.write(7, fill("newer"))
    assert store.steps() == [7]


def leave_a_part(folder, ignore_errors=False):
    """Remove as a network file system does where a file is still open."""
    if Path(folder).is_dir():
        (Path(folder) / "a.txt").unlink()
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))


def test_an_old_checkpoint_that_is_removed_in_part_is_none_and_is_swept_away(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.write(5, fill("old"))
    monkeypatch.setattr(shutil, "rmtree", leave_a_part)
    store.write(6, fill("new"))
    monkeypatch.undo()
    assert store.steps() == [6]
    assert len(list(tmp_path.iterdir())) == 2
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from auxtasks.training.store import CheckpointStore

def remove(folder, ignore_errors=False):
    if Path(folder).is_dir():
        (Path(folder) / "a.txt").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

shutil.rmtree = remove
CheckpointStore(Path(sys.argv[1]), keep=1).write(6, lambda folder: (folder / "a.txt").write_text("new"))
"""


@pytest.mark.processes
def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_part_of_one(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.write(5, fill("old"))
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path]).returncode == -signal.SIGKILL
    assert store.steps() == [6]
    assert store.newest_whole() == store.place(6)
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]
