"""Entries of the cache: whole or not there, gone on with, shared by processes, removed only when nobody reads them."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError, DataError
from auxtasks.features import reading, writing
from auxtasks.features.cache import FeatureCache
from auxtasks.features.computation import Computation
from auxtasks.features.entries import entries, remove
from auxtasks.features.locks import exclusive, try_exclusive

ROWS, WIDTH, BLOCKS = 50, 4, 5
ORDER = np.random.default_rng(0).permutation(ROWS)  # texts are computed in the order of their lengths
SHAPES = {"a": (ROWS, WIDTH), "b": (ROWS, 2)}
BYTES = 128 * 2 + ROWS * 6 * 4  # with the headers of both files


def value(rows, width, scale=1.0):
    return (scale * np.sqrt(rows)[:, None] + np.arange(width)).astype(np.float32)


def computation(done=None, interrupt=None, scale=1.0):
    """Compute blocks of both arrays, and write down which; at one block something happens first."""

    def rows(block):
        return ORDER[block * 10 : (block + 1) * 10]

    def values(block):
        if interrupt is not None:
            interrupt(block)
        if done is not None:
            done.append(block)
        return {"a": value(rows(block), WIDTH, scale), "b": value(rows(block), 2, scale)}

    return Computation(BLOCKS, rows, values, "the numbers")


def keep(folder, key="key", of=None, *, limit=None, save_seconds=10.0, shapes=SHAPES):
    cache = FeatureCache(folder, limit, save_seconds=save_seconds)
    return cache.arrays(key, shapes, of or computation(), about={"holds": "numbers"})


def assert_right(kept, scale=1.0):
    for name, width in (("a", WIDTH), ("b", 2)):
        np.testing.assert_array_equal(kept[name].whole(), value(np.arange(ROWS), width, scale))


def stops_at(block, error):
    def interrupt(found):
        if found == block:
            raise error

    return interrupt


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt("by the user"), RuntimeError("out of memory")])
def test_an_interrupted_computation_goes_on_at_the_last_whole_block(tmp_path, error):
    first, second = [], []
    with pytest.raises(type(error), match=str(error)):
        keep(tmp_path, of=computation(first, stops_at(3, error)))
    (left,) = entries(tmp_path)
    assert (left.state, left.key, left.about) == ("unfinished", "key", {"holds": "numbers"})
    assert_right(keep(tmp_path, of=computation(second)))
    assert (first, second) == ([0, 1, 2], [3, 4])
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["a.npy", "b.npy", "manifest.json"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_feature_entries import computation, keep
def interrupt(block):
    if block == 3:
        os.kill(os.getpid(), signal.SIGKILL)
keep(Path({folder!r}), of=computation(None, interrupt), save_seconds={save_seconds})
"""


@pytest.mark.processes
@pytest.mark.parametrize(("save_seconds", "lost"), [(0, 0), (1e9, 3)])
def test_a_killed_process_leaves_what_was_saved_and_no_lock(tmp_path, save_seconds, lost):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), save_seconds=save_seconds)
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    done = []
    assert_right(keep(tmp_path, of=computation(done)))
    assert done == list(range(3 - lost, BLOCKS))
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("damage", ["array", "progress", "cut", "blocks"])
def test_what_is_damaged_before_it_is_finished_is_computed_from_the_start(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        keep(tmp_path, of=computation(interrupt=stops_at(3, KeyboardInterrupt("stopped"))))
    array, progress = (tmp_path / ".key.unfinished" / name for name in ("b.npy", "progress.json"))
    done = []
    match damage:
        case "array":
            content = bytearray(array.read_bytes())
            content[128 + 8 * int(ORDER[0])] ^= 1
            array.write_bytes(bytes(content))
            with pytest.warns(UserWarning, match=r"\.key\.unfinished is damaged; it is computed anew from the start"):
                keep(tmp_path, of=computation(done))
        case "progress":
            progress.write_text("{")
        case "cut":
            array.write_bytes(array.read_bytes()[:50])
        case "blocks":
            progress.write_text(progress.read_text().replace('"blocks": 5', '"blocks": 6'))
    assert_right(keep(tmp_path, of=computation(done)))
    assert done == list(range(BLOCKS))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "posix_fallocate", full, raising=False)
    with pytest.raises(CheckpointError, match=r"could not write .*key: No space left on device"):
        keep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"could not write .*Choose another cache folder"):
        keep(tmp_path / "file" / "below")


# --- shared -----------------------------------------------------------------------------------------------------------


def test_whoever_comes_second_waits_and_reads(tmp_path):
    done = []
    start = threading.Barrier(4)
    found = []

    def work():
        start.wait()
        found.append(keep(tmp_path, of=computation(done, lambda _: time.sleep(0.02))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == list(range(BLOCKS))
    assert len(found) == 4
    for kept in found:
        assert_right(kept)


SHARED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_feature_entries import assert_right, computation, keep
done = []
folder = Path({folder!r})
Path({folder!r} + "-" + sys.argv[1]).touch()
while not all(Path({folder!r} + "-" + number).exists() for number in "01"):
    time.sleep(0.01)
assert_right(keep(folder, of=computation(done, lambda _: time.sleep(0.1))))
print(done)
"""


@pytest.mark.processes
def test_processes_that_share_a_folder_compute_once(tmp_path):
    code = SHARED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "kept"))
    running = [
        subprocess.Popen([sys.executable, "-c", code, number], stdout=subprocess.PIPE, text=True) for number in "01"
    ]
    printed = sorted(process.communicate()[0].strip() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert printed == ["[0, 1, 2, 3, 4]", "[]"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["key"]


def test_a_lock_is_had_by_one_at_a_time_and_leaves_no_file(tmp_path):
    path = tmp_path / ".lock"
    inside, most = [], []

    def work():
        for _ in range(20):
            with exclusive(path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 60
    with exclusive(path), try_exclusive(path) as had:
        assert not had
    with try_exclusive(path) as had:
        assert had
    assert not list(tmp_path.iterdir())


def test_contents_are_compared_with_their_digest_once_a_process(tmp_path, monkeypatch):
    keep(tmp_path)
    monkeypatch.setattr(reading, "_TRUSTED", set())  # as another process
    compared = []
    digest = checkpoint.file_digest
    monkeypatch.setattr(checkpoint, "file_digest", lambda path: compared.append(path.name) or digest(path))
    for _ in range(3):
        assert_right(keep(tmp_path))
    assert compared == ["a.npy", "b.npy"]
    os.utime(tmp_path / "key" / "b.npy", ns=(1, 1))  # written since, for all that can be seen
    keep(tmp_path)
    assert compared == ["a.npy", "b.npy", "b.npy"]


# --- room -------------------------------------------------------------------------------------------------------------


def total_of(count):
    """Return bytes for so many entries with their manifests, but not for one more."""
    return count * (BYTES + 700)


def test_the_least_recently_used_entries_make_room(tmp_path):
    for age, key in ((3000, "first"), (2000, "second"), (1000, "third")):
        keep(tmp_path, key, limit=total_of(3))
        then = time.time() - age
        os.utime(tmp_path / key / "manifest.json", (then, then))
    assert [entry.key for entry in entries(tmp_path)] == ["first", "second", "third"]
    keep(tmp_path, "first", limit=total_of(3))  # used now
    assert [entry.key for entry in entries(tmp_path)] == ["second", "third", "first"]
    keep(tmp_path, "fourth", limit=total_of(3))
    assert [entry.key for entry in entries(tmp_path)] == ["third", "first", "fourth"]
    assert sum(entry.bytes for entry in entries(tmp_path)) <= total_of(3)


def test_an_entry_in_use_is_never_removed(tmp_path):
    used = keep(tmp_path, "used", limit=total_of(1))
    part = used["a"].whole()[3:5]  # a view is enough
    with pytest.raises(DataError, match="the numbers would take 0 MB; 0 MB are allowed or free"):
        keep(tmp_path, "other", limit=total_of(1))
    assert [(entry.key, remove(entry)) for entry in entries(tmp_path)] == [("used", False)]
    del used
    gc.collect()
    with pytest.raises(DataError, match="the numbers would take"):
        keep(tmp_path, "other", limit=total_of(1))
    np.testing.assert_array_equal(part, value(np.arange(3, 5), WIDTH))
    del part
    gc.collect()
    keep(tmp_path, "other", limit=total_of(1))
    assert [entry.key for entry in entries(tmp_path)] == ["other"]


def test_what_fits_in_no_case_removes_nothing(tmp_path):
    keep(tmp_path, "small", limit=total_of(2))
    with pytest.raises(DataError, match=r"would take 0 MB; 0 MB are allowed or free.*dtype=\"bfloat16\""):
        keep(tmp_path, "large", limit=total_of(2), shapes={"a": (10 * ROWS, WIDTH), "b": (ROWS, 2)})
    assert [entry.key for entry in entries(tmp_path)] == ["small"]


def test_what_somebody_keeps_beside_the_entries_is_neither_counted_nor_removed(tmp_path):
    beside = [tmp_path / "holidays", tmp_path / ".git", tmp_path / "backbone"]
    for place in beside:
        place.mkdir()
        (place / "manifest.json").write_text("{}" + " " * total_of(1))
        (place / "model.safetensors").write_text("mine")
    keep(tmp_path, "old", limit=total_of(1))
    gc.collect()
    keep(tmp_path, "new", limit=total_of(1))
    assert [entry.key for entry in entries(tmp_path)] == ["new"]
    assert all((place / "model.safetensors").read_text() == "mine" for place in beside)


def test_an_entry_of_which_a_file_goes_while_it_is_counted_is_counted_all_the_same(tmp_path):
    keep(tmp_path)
    (before,) = entries(tmp_path)
    (tmp_path / "key" / "gone.npy").symlink_to(tmp_path / "nowhere")
    (after,) = entries(tmp_path)
    assert after.bytes == before.bytes


def test_what_was_begun_makes_room_too_unless_it_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        keep(tmp_path, "begun", of=computation(interrupt=stops_at(3, KeyboardInterrupt("stopped"))), limit=total_of(1))
    (begun,) = entries(tmp_path)

    def while_it_goes_on(block):
        assert not remove(begun)
        with pytest.raises(DataError, match="would take"):
            keep(tmp_path, "other", limit=total_of(1))

    keep(tmp_path, "begun", of=computation(interrupt=while_it_goes_on), limit=total_of(1))
    assert [(entry.key, entry.state) for entry in entries(tmp_path)] == [("begun", "whole")]
    assert not remove(begun) or not begun.place.exists()
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        keep(tmp_path, "more", of=computation(interrupt=stops_at(3, KeyboardInterrupt("stopped"))), limit=total_of(2))
    gc.collect()
    keep(tmp_path, "other", limit=total_of(1))
    assert [(entry.key, entry.state) for entry in entries(tmp_path)] == [("other", "whole")]


def test_what_a_removal_left_over_is_listed_and_removed(tmp_path):
    left = tmp_path / ".key.removed-1-2"
    left.mkdir()
    (left / "a.npy").write_bytes(b"1234")
    (entry,) = entries(tmp_path)
    assert (entry.key, entry.state, entry.bytes) == ("key", "left over", 4)
    assert remove(entry)
    assert entries(tmp_path) == []


def test_a_damaged_entry_that_somebody_reads_is_replaced_and_read_on(tmp_path):
    mapped = keep(tmp_path)["a"]
    manifest = tmp_path / "key" / "manifest.json"
    manifest.write_text("{}")
    with pytest.warns(UserWarning, match=r"key is damaged \('shapes'\); it is computed anew"):
        assert_right(keep(tmp_path, of=computation(scale=2.0)), scale=2.0)
    np.testing.assert_array_equal(mapped.whole(), value(np.arange(ROWS), WIDTH))
