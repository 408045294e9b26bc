"""A folder is whole or not there, whatever happens while it is written."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from auxtasks import checkpoint
from auxtasks.checkpoint import (
    atomic_folder,
    file_digest,
    load_strictly,
    read_json,
    read_tensors,
    tensors_digest,
    write_json,
    write_tensors,
    write_text_atomically,
)
from auxtasks.errors import CheckpointError
from auxtasks.training.tracking import MetricsLog


def write(place: Path, text: str) -> None:
    with atomic_folder(place) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)


def content(place: Path) -> str:
    return (place / "sub" / "a.txt").read_text()


@pytest.fixture
def place(tmp_path):
    """A folder that is there already."""
    write(tmp_path / "result", "old")
    return tmp_path / "result"


def assert_old(place: Path) -> None:
    assert content(place) == "old"
    assert [path.name for path in place.parent.iterdir()] == [place.name]  # nothing temporary is left


# Folders


def test_a_folder_appears_when_the_block_ends_and_not_before(tmp_path):
    place = tmp_path / "deep" / "result"
    with atomic_folder(place) as folder:
        (folder / "a.txt").write_text("new")
        assert not place.exists()
        assert folder.parent == place.parent  # the same file system, so that a rename is enough
    assert (place / "a.txt").read_text() == "new"
    assert [path.name for path in place.parent.iterdir()] == ["result"]


def test_a_folder_replaces_the_old_one_as_a_whole(place):
    with atomic_folder(place) as folder:
        (folder / "b.txt").write_text("new")
        assert content(place) == "old"
    assert [path.name for path in place.iterdir()] == ["b.txt"]
    assert [path.name for path in place.parent.iterdir()] == ["result"]


def test_every_file_is_flushed_before_the_rename(tmp_path, monkeypatch):
    place = tmp_path / "result"
    flushed = []
    flush = checkpoint._flush_to_disk
    monkeypatch.setattr(
        checkpoint, "_flush_to_disk", lambda path: (flushed.append((path, place.exists())), flush(path))
    )
    write(place, "new")
    assert [(path.name, renamed) for path, renamed in flushed] == [
        ("sub", False),
        ("a.txt", False),
        (f".result.writing-{os.getpid()}", False),  # else the renamed folder may be empty after a power cut
        (tmp_path.name, True),
    ]


def test_an_error_in_the_block_leaves_the_old_folder(place):
    with pytest.raises(ZeroDivisionError, match="by zero"), atomic_folder(place) as folder:
        (folder / "half.txt").write_text(str(1 // 0))
    assert_old(place)


def test_a_full_disk_leaves_the_old_folder(place, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"could not write .*result: No space left on device\. .* are free .* What was there"
    ):
        write(place, "new")
    assert_old(place)


def test_a_rename_that_fails_puts_the_old_folder_back(place, monkeypatch):
    rename = Path.rename

    def failing(path, target):
        if "writing" in path.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match=r"Input/output error\. What was there before is unchanged"):
        write(place, "new")
    assert_old(place)


def test_a_parent_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"could not write .*file/result: (File exists|Not a directory)"):
        write(tmp_path / "file" / "result", "new")
    with pytest.raises(CheckpointError, match=r"could not write .*file/sub/a\.txt: Not a directory"):
        write_text_atomically(tmp_path / "file" / "sub" / "a.txt", "new")


def test_leftovers_of_a_killed_process_do_not_stop_the_next(place):
    leftover = place.parent / f".{place.name}.writing-{os.getpid()}"
    leftover.mkdir()
    (leftover / "half.txt").write_text("half")
    write(place, "new")
    assert content(place) == "new"
    assert not (place / "half.txt").exists()


@pytest.mark.processes
def test_a_killed_process_leaves_the_old_folder(place):
    code = (
        "import os, signal, sys; from pathlib import Path; from auxtasks.checkpoint import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'b.txt').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, place]).returncode == -signal.SIGKILL
    assert content(place) == "old"
    assert not (place / "b.txt").exists()


@contextlib.contextmanager
def disk_that_fills_up():
    """No file may grow beyond 4096 bytes: the real error from the operating system, not one of ours.

    Not a fixture: pytest would report the test while the limit holds, and fail where its output goes to a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_tensors_that_do_not_fit_the_disk_are_a_clear_error(place):
    message = r"could not write .*model\.safetensors: .*(too large|No space)"
    with disk_that_fills_up(), pytest.raises(CheckpointError, match=message), atomic_folder(place) as folder:
        write_tensors(folder / "model.safetensors", {"w": torch.zeros(100_000)})
    assert_old(place)


def test_text_that_does_not_fit_the_disk_leaves_the_old_text(tmp_path):
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")
    with disk_that_fills_up(), pytest.raises(CheckpointError, match=r"could not write .*a\.txt: File too large"):
        write_text_atomically(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


# What killed processes leave behind


def test_leftovers_of_dead_processes_are_swept_and_those_of_living_ones_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getpid(), os.getppid()):
        (tmp_path / f".a.writing-{process}").mkdir()
        (tmp_path / f".a.writing-{process}" / "half.txt").write_text("half")
        (tmp_path / f".b.txt.writing-{process}").write_text("half")
    others = ["a", ".hidden", ".writing-1", "b.writing-1", ".c.writing-x"]
    for name in others:
        (tmp_path / name).write_text("")
    checkpoint.sweep(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".a.writing-{os.getppid()}", f".b.txt.writing-{os.getppid()}", *others}
    checkpoint.sweep(tmp_path / "not there")


@pytest.mark.processes
def test_a_folder_killed_between_stepping_aside_and_being_replaced_is_put_back(place):
    code = (
        "import os, signal, sys; from pathlib import Path; from auxtasks.checkpoint import atomic_folder\n"
        "rename = Path.rename\n"
        "def dying(path, target):\n"
        "    if 'writing' in path.name: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(path, target)\n"
        "Path.rename = dying\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'b.txt').write_text('new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, place]).returncode == -signal.SIGKILL
    assert not place.exists()  # the fault was there
    checkpoint.sweep(place.parent)
    assert_old(place)


# A disk that is full


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_says_what_was_needed_and_what_is_free_and_goes_on_once_there_is_room(small_disk):
    write(small_disk / "result", "old")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(800_000))
    message = r"could not write .*model\.safetensors: .*No space left.* It takes 400\.0 kB\. .* are free on this disk"
    with pytest.raises(CheckpointError, match=message), atomic_folder(small_disk / "result") as folder:
        write_tensors(folder / "model.safetensors", {"w": torch.zeros(100_000)})
    assert content(small_disk / "result") == "old"
    with pytest.raises(
        CheckpointError, match=r"a\.txt: No space left on device\. It takes 900\.0 kB\. 2.* kB are free"
    ):
        write_text_atomically(small_disk / "a.txt", "new" * 300_000)
    assert {path.name for path in small_disk.iterdir()} == {"result", "ballast"}  # nothing half written takes room
    ballast.unlink()
    write(small_disk / "result", "new")
    assert content(small_disk / "result") == "new"


def log_for_long(log):
    for step in range(2, 100_000):
        log.write(step, "train", {"loss": 0.5})


def test_a_log_on_a_full_disk_says_so_and_is_read_as_far_as_it_was_written(small_disk):
    log = MetricsLog(small_disk / "metrics.jsonl")
    log.write(1, "train", {"loss": 0.5})
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    with pytest.raises(CheckpointError, match=r"could not write .*metrics\.jsonl: No space left on device\. It takes"):
        log_for_long(log)
    assert (small_disk / "metrics.jsonl").stat().st_size > 1000
    (small_disk / "ballast").unlink()
    log.rewind(to_step=1)
    assert (small_disk / "metrics.jsonl").read_text() == '{"step": 1, "kind": "train", "loss": 0.5}\n'


# Files


def test_json_is_read_back_and_nan_is_refused(tmp_path):
    value = {"a": [1, 2.5, None, "ü"], "b": {"c": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})


@pytest.mark.parametrize("damaged", [b'{"a": 1', b"", b"\xff\xfe{}"])
def test_damaged_json_is_named(tmp_path, damaged):
    (tmp_path / "a.json").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_tensors_are_read_back_with_their_types(tmp_path):
    base = torch.arange(12, dtype=torch.float32).view(3, 4)
    tensors = {
        "view": base.t(),
        "row": base[1],
        "half": base.bfloat16(),
        "flag": torch.tensor([True, False]),
        "step": torch.tensor(7.0),
        "none": torch.zeros(0, 3),
        "learned": nn.Parameter(base.clone()),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    found = read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_a_missing_file_says_that_the_folder_is_not_complete(tmp_path, name):
    read = read_json if name.endswith("json") else read_tensors
    with pytest.raises(CheckpointError, match=rf"{name} is missing: the folder .* is not complete"):
        read(tmp_path / name)


def test_tensors_cut_short_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged or cut short"):
        read_tensors(path)


def test_loading_lists_what_does_not_fit(tmp_path):
    module = nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 5), "other": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"the weights in .* do not fit") as raised:
        load_strictly(module, state, tmp_path)
    for said in ('Missing key(s) in state_dict: "bias"', 'Unexpected key(s) in state_dict: "other"', "size mismatch"):
        assert said in str(raised.value)


# Digests


def test_a_digest_changes_with_name_type_shape_and_value_and_with_nothing_else():
    base = {"w": torch.arange(4.0), "b": torch.zeros(2)}
    digest = tensors_digest(base)
    assert tensors_digest(dict(reversed(base.items()))) == digest
    assert tensors_digest({name: tensor.clone().requires_grad_() for name, tensor in base.items()}) == digest
    assert tensors_digest({**base, "w": torch.arange(8.0)[:4]}) == digest
    others = [
        {"v": base["w"], "b": base["b"]},
        {**base, "w": base["w"].double()},
        {**base, "w": base["w"].view(2, 2)},
        {**base, "w": base["w"] + torch.tensor([0, 0, 0, 1e-6])},
        {"w": base["w"]},
        {**base, "w": base["w"].bfloat16()},
        {**base, "c": torch.zeros(0)},
        {**base, "b": torch.tensor([0.0, -0.0])},
    ]
    assert len({digest, *map(tensors_digest, others)}) == len(others) + 1


def test_a_file_s_digest_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
