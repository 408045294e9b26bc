"""One run at a time on a folder, whatever becomes of the processes."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from auxtasks.errors import CheckpointError
from auxtasks.training.run_lock import LOCK, only_run

HOLD = (
    "import sys, time; from pathlib import Path; from auxtasks.training.run_lock import only_run\n"
    "with only_run(Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(600)\n"
)


@pytest.mark.processes
def test_the_second_is_refused_and_told_who_is_first_until_that_one_dies(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as first:
        try:
            assert first.stdout.readline() == b"held\n"
            who = rf"process {first.pid} on {socket.gethostname()}, since 20\d\d-\d\d-\d\dT"
            with (
                pytest.raises(CheckpointError, match=f"{tmp_path} is in use by another run: {who}"),
                only_run(tmp_path),
            ):
                pass
        finally:
            os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == first.pid  # it could clear nothing away
    with only_run(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_a_process_that_was_forked_off_does_not_hold_it(tmp_path):
    context = multiprocessing.get_context("fork")
    with only_run(tmp_path):
        child = context.Process(target=time.sleep, args=(600,))
        child.start()
    try:
        assert child.is_alive()
        with only_run(tmp_path):  # as if the first had died and left its loader worker behind
            pass
    finally:
        child.kill()
        child.join()


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError, match="by zero"), only_run(tmp_path / "new"):
        raise ZeroDivisionError("by zero")
    assert not (tmp_path / "new").exists()  # it was empty
    with only_run(tmp_path / "new"):
        (tmp_path / "new" / "a").write_text("")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_lock_that_is_not_signed_yet_is_refused_too(tmp_path):
    handle = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(CheckpointError, match="in use by another run: one that has just begun"), only_run(tmp_path):
        pass
    os.close(handle)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"could not write .*file/\.lock: (Not a directory|File exists)\. A run needs an output folder"
    with pytest.raises(CheckpointError, match=message), only_run(tmp_path / "file"):
        pass


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    def refuse(handle, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_run(tmp_path):
        pass
    assert caplog.messages == [f"{tmp_path} takes no locks: a second run on it would not be noticed."]
