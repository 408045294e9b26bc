"""A disk that is full, or read-only: a clear error, what was there intact, and once there is room the run goes on."""

import dataclasses
import shutil
import subprocess

import pytest

from auxtasks.errors import CheckpointError
from auxtasks.training.store import CheckpointStore
from trust.resumes import differences, outcome
from trust.small_runs import RUNS, Settings

RUN = RUNS["ranking of vectors"]


def mount(place, *options):
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
    return shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, and what gives it another size, or makes it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount(place, "size=200k"):
        pytest.skip("no file system can be mounted here")

    def remount(option):
        subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True, capture_output=True)

    yield place, remount
    subprocess.run(["umount", str(place)], check=True)


def every_checkpoint_kept():
    loop = dataclasses.replace(Settings().loop, checkpoint_every=1, keep_checkpoints=100)
    return dataclasses.replace(Settings(), loop=loop)


def test_a_run_whose_disk_fills_up_keeps_its_last_checkpoint_and_ends_equal_once_there_is_room(disk, tmp_path):
    place, remount = disk
    straight = outcome(tmp_path / "straight", RUN(tmp_path / "straight", every_checkpoint_kept()))
    with pytest.raises(CheckpointError, match=r"could not write .*No space left.* are free on this disk: make room"):
        RUN(place / "run", every_checkpoint_kept())
    store = CheckpointStore(place / "run" / "checkpoints")
    assert 1 <= len(store.steps()) < 20  # the disk was not full from the start, and then it was
    assert store.is_whole(store.steps()[-1])
    assert [path.name for path in store.folder.iterdir() if path.name.startswith(".")] == []
    remount("size=10m")
    assert differences(outcome(place / "run", RUN(place / "run", every_checkpoint_kept())), straight) == []


@pytest.mark.parametrize("kilobytes", [4, 8, 24, 60, 100])  # in the recipe, the log, the first checkpoint, or behind it
def test_a_command_on_a_full_disk_says_so_in_a_line_and_goes_on_once_there_is_room(
    disk, command_line, miniature, kilobytes
):
    place, remount = disk
    remount(f"size={kilobytes}k")
    called = command_line("pretrain", miniature, "--out", place / "run")
    assert called.code == 1
    assert called.err.startswith("error: could not write ")
    assert "No space left on device" in called.err
    assert called.err.count("\n") == 1
    remount("size=10m")
    again = command_line("pretrain", miniature, "--out", place / "run")
    assert again.code == 0, again.err


def test_a_command_whose_cache_is_full_says_so_in_a_line(disk, command_line, miniature, tmp_path, monkeypatch):
    place, remount = disk
    remount("size=4k")
    monkeypatch.setenv("AUXTASKS_CACHE", str(place / "cache"))
    called = command_line("pretrain", miniature, "--out", tmp_path / "run")
    assert called.code == 1
    assert called.err.startswith("error: could not write ")
    assert called.err.count("\n") == 1


def test_a_command_on_a_read_only_disk_says_so_in_a_line(disk, command_line, miniature):
    place, remount = disk
    remount("ro")
    called = command_line("pretrain", miniature, "--out", place / "run")
    assert called.code == 1
    assert called.err.startswith(
        f"error: could not write {place}/run/.lock: Read-only file system. A run needs an output"
    )
