"""A loader worker that the kernel ends, as it does where memory runs out, is an error that says what to do."""

import multiprocessing
import os
import signal

import pytest

from auxtasks.backbones import convnet
from auxtasks.data import lost_workers
from auxtasks.data.lost_workers import lost_workers_told
from auxtasks.errors import TrainingError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs
from auxtasks.training.settings import LoopSettings
from auxtasks.training.store import CheckpointStore


class Ended(FacePairs):
    """Face pairs whose reading process is ended once it has read some photos."""

    photos_read = 0
    most_photos = 40

    def transform(self, record, rng):
        self.photos_read += 1
        if self.photos_read > self.most_photos:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().transform(record, rng)


def reset():
    raise ConnectionResetError("Connection reset by peer")


class Broken:
    """What another process sent and can no longer hand over."""

    def __reduce__(self):
        return reset, ()


def test_a_run_tells_of_a_worker_that_was_killed_and_the_same_goes_on(faces, tmp_path):
    settings = {"steps": 8, "batch_size": 8, "workers": 1, "folder": tmp_path, "seed": 0}
    loop = LoopSettings(checkpoint_every=1, device="cpu")
    backbone = convnet(size=16, widths=[8], blocks=[1], embedding=8)
    # torch knows the signal where its handler is the first to hear of the end, as it mostly is.
    torch_says = r"DataLoader worker \(pid.*\) (is killed by signal: Killed|exited unexpectedly)"
    says = rf"^a process that reads data was lost: {torch_says}\. .*\(training\.workers\).* goes on"
    task = Ended(backbone, photos=2)
    with pytest.raises(TrainingError, match=says):
        pretrain(task, faces, loop=loop, **settings)
    assert CheckpointStore(tmp_path / "checkpoints").newest_whole()
    task.most_photos = 100
    assert pretrain(task, faces, loop=loop, **settings).steps == 8


def test_the_signal_is_told_where_only_the_cause_knows_it():
    def wait_for_a_batch():
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        except RuntimeError as error:
            raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from error

    with pytest.raises(TrainingError, match=r"worker \(pid 7\) is killed by signal: Killed\. If"), lost_workers_told():
        wait_for_a_batch()


def test_a_connection_that_broke_waits_for_the_word_of_the_end():
    def hear(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    def lose_the_connection_first():
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        reset()

    before = signal.signal(signal.SIGALRM, hear)
    try:
        with pytest.raises(TrainingError, match=r"worker \(pid 7\) is killed by signal"), lost_workers_told():
            lose_the_connection_first()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_connection_to_a_worker_that_broke_is_enough(monkeypatch):
    monkeypatch.setattr(lost_workers, "_SECONDS_TO_HEAR", 0.01)
    batches = multiprocessing.get_context("fork").Queue()
    batches.put(Broken())
    says = r"^a process that reads data was lost: its connection broke \(ConnectionResetError\)\. If"
    with pytest.raises(TrainingError, match=says), lost_workers_told():
        batches.get()


@pytest.mark.parametrize(
    "error", [RuntimeError("the loss has no gradient"), EOFError("cut off"), ConnectionResetError()]
)
def test_nothing_else_is_renamed(error, monkeypatch):
    monkeypatch.setattr(lost_workers, "_SECONDS_TO_HEAR", 0.01)
    with pytest.raises(type(error)) as told, lost_workers_told():
        raise error
    assert told.value is error
