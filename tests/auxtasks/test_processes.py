"""A run's device is the one that it asks for, whatever another run in the process has asked for before."""

import pytest
import torch
from accelerate import PartialState

from auxtasks.errors import TrainingError
from auxtasks.training.accelerator import make_accelerator
from auxtasks.training.processes import join_processes
from auxtasks.training.settings import LoopSettings


@pytest.fixture
def on_another_device():
    """Let Accelerate's state be that of a run on a GPU, which need not be there."""
    join_processes("cpu")
    PartialState._shared_state["device"] = torch.device("cuda")
    yield
    PartialState._reset_state()
    join_processes("cpu")


def test_a_run_on_the_cpu_is_on_the_cpu_behind_one_on_a_gpu(on_another_device):
    assert make_accelerator(LoopSettings(device="cpu"), None).device.type == "cpu"


def test_who_computes_nothing_keeps_the_device_of_the_run_before(on_another_device):
    assert join_processes().device.type == "cuda"


def test_processes_that_have_met_for_another_device_are_refused(on_another_device):
    PartialState._shared_state["num_processes"] = 2
    with pytest.raises(TrainingError, match=r'these 2 processes have met to compute on "cuda", .* device="cpu": ask'):
        join_processes("cpu")
