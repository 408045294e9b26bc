"""Processes that go with the one that they belong to, whenever that is killed, and stay while it needs them."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from auxtasks.training.store import CheckpointStore

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="Linux ends them")]

READING = """
import time
from torch.utils.data import DataLoader
from auxtasks.signals import begin_loader_worker, loader_start_method

loader = iter(DataLoader(range(100), num_workers=2, worker_init_fn=begin_loader_worker,
                         multiprocessing_context=loader_start_method(2)))
next(loader), next(loader)  # one of each
print(*(worker.pid for worker in loader._workers), flush=True)
time.sleep(600)
"""
TRAINING = """
import multiprocessing, sys, time
from pathlib import Path
from auxtasks.backbones import convnet
from auxtasks.data import load_source
from auxtasks.errors import TrainingStoppedError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs
from auxtasks.training.settings import LoopSettings

class SlowlyRead(FacePairs):
    def transform(self, record, rng):
        time.sleep(0.02)  # so that the step waits for its worker when the signal comes
        return super().transform(record, rng)

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")  # as Python 3.14 would
    columns, options = {"image": "image", "label": "label"}, {"people": 8, "photos": 4, "size": 20}
    people = load_source("builtin:drawn_faces", columns=columns, options=options)
    task = SlowlyRead(convnet(size=16, widths=[8], blocks=[1], embedding=8), photos=2)
    loop = LoopSettings(log_every=1, device="cpu", show_progress=False)
    try:
        pretrain(task, people, steps=1_000_000, batch_size=8, workers=1, folder=Path(sys.argv[1]), loop=loop)
    except TrainingStoppedError as stop:
        print(stop)
"""
ASKING = "from auxtasks.signals import die_with_parent; import sys; die_with_parent(int(sys.argv[1])); print('lives')"


@contextlib.contextmanager
def begun(*arguments):
    """Begin Python as the head of a group of its own; nothing of the group outlives the block."""
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def workers_of(process):
    workers = [psutil.Process(int(number)) for number in process.stdout.readline().split()]
    assert len(workers) == 2
    return workers


def test_loader_workers_do_not_outlive_a_killed_parent():
    with begun("-c", READING) as parent:
        workers = workers_of(parent)
        parent.kill()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive


def test_loader_workers_end_when_their_parent_says_so_and_not_when_others_do():
    leaving = READING.replace("time.sleep(600)", "time.sleep(2); del loader; print('left')")
    with begun("-c", leaving) as parent:
        workers = workers_of(parent)
        for worker in workers:
            worker.terminate()
            worker.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(workers, timeout=0.5)
        assert len(alive) == 2
        assert parent.stdout.read() == "left\n"
        assert parent.wait() == 0


def test_a_run_whose_whole_group_is_terminated_keeps_its_step(tmp_path):
    script, log = tmp_path / "training.py", tmp_path / "run" / "metrics.jsonl"
    script.write_text(TRAINING)  # a file, which a server of workers could import
    with begun(script, tmp_path / "run") as process:
        while not log.exists() or log.read_text().count("\n") < 3:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=60)[0]
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    (step,) = store.steps()
    assert said == (
        f"stopped by SIGTERM after step {step}: kept in {store.place(step)}; the same command goes on from there.\n"
    )
    assert process.returncode == 0
    assert store.is_whole(step)


def test_a_process_whose_parent_died_before_it_could_ask_dies_too():
    for parent, code, says in [(os.getpid(), 0, "lives\n"), (1, -signal.SIGKILL, "")]:
        done = subprocess.run([sys.executable, "-c", ASKING, str(parent)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (code, says)
