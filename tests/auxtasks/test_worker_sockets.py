"""A temporary folder whose path is too long for sockets is refused: workers would send nothing, and no error come."""

import tempfile

import pytest

from auxtasks.backbones import convnet
from auxtasks.data.worker_sockets import check_worker_sockets
from auxtasks.errors import TrainingError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs


@pytest.fixture
def too_long(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/" + 75 * "x")


def test_the_longest_path_that_works_passes():
    check_worker_sockets("/" + 74 * "x")
    with pytest.raises(TrainingError, match=r"has 76 bytes, .* at most 75: /x+x\. Set TMPDIR to a shorter path"):
        check_worker_sockets("/" + 75 * "x")


def test_training_with_workers_is_refused_there_and_without_them_goes_on(faces, too_long):
    task = FacePairs(convnet(size=16, widths=[8], blocks=[1], embedding=8), photos=2)
    with pytest.raises(TrainingError, match=r"or read without workers \(training.workers=0\)"):
        pretrain(task, faces, steps=1, batch_size=8, workers=1)
    assert pretrain(task, faces, steps=1, batch_size=8, workers=0).steps == 1
