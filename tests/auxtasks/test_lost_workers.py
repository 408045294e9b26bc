"""A loader worker that the kernel ends, as it does where memory runs out, is an error that says what to do."""

import os
import signal

import pytest

from auxtasks.backbones import convnet
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


def test_a_run_tells_of_a_worker_that_was_killed_and_the_same_goes_on(faces, tmp_path):
    settings = {"steps": 8, "batch_size": 8, "workers": 1, "folder": tmp_path, "seed": 0}
    loop = LoopSettings(checkpoint_every=1, device="cpu")
    backbone = convnet(size=16, widths=[8], blocks=[1], embedding=8)
    says = r"^a process that reads data was lost: DataLoader worker \(pid.* Killed\. .*\(training\.workers\).* goes on"
    task = Ended(backbone, photos=2)
    with pytest.raises(TrainingError, match=says):
        pretrain(task, faces, loop=loop, **settings)
    assert CheckpointStore(tmp_path / "checkpoints").newest_whole()
    task.most_photos = 100
    assert pretrain(task, faces, loop=loop, **settings).steps == 8


def test_nothing_else_is_renamed():
    with pytest.raises(RuntimeError, match=r"^the loss has no gradient$"), lost_workers_told():
        raise RuntimeError("the loss has no gradient")
