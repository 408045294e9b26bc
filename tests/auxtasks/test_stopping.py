"""SIGTERM and SIGINT while training: the step is finished and kept, and nobody's handlers are lost."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from auxtasks import checkpoint
from auxtasks.data.loaders import FollowsSteps
from auxtasks.errors import CheckpointError, TrainingError, TrainingStoppedError
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.run_lock import only_run
from auxtasks.training.settings import LoopSettings, Phase
from auxtasks.training.stopping import stop_requests

STEPS = 8
LOOP = LoopSettings(log_every=1, checkpoint_every=3, show_progress=False)


class Network(Objective):
    """A layer with dropout, which sends this process a signal in a step of one's choice."""

    def __init__(self, number=None, step=0, again=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.number, self.step, self.again = number, step, again
        self.forwards = 0

    def forward(self, batch):
        self.forwards += 1
        if self.number is not None and self.forwards == self.step:
            os.kill(os.getpid(), self.number)
            if self.again is not None:
                os.kill(os.getpid(), self.again)
        loss = self.net(batch).square().sum()
        return StepOutput(loss, loss.new_tensor(float(len(batch))), {})

    def save(self, folder, provenance):
        checkpoint.write_tensors(folder / "net.safetensors", self.net.state_dict())

    def restore(self, folder):
        self.net.load_state_dict(checkpoint.read_tensors(folder / "net.safetensors"))


class Points(FollowsSteps):
    batch_size = 4

    def check(self, shard):
        pass

    def batches(self, start, stop, shard):
        for step in range(start, stop):
            yield torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def run(network, folder=None, phases=None):
    optimizer = OptimizerSettings(learning_rate=0.05, warmup_steps=0)
    return train(network, Points(), phases or [Phase(STEPS)], seed=0, optimizer=optimizer, loop=LOOP, folder=folder)


@pytest.fixture(autouse=True)
def handlers_are_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 2, 3, 7])  # before any checkpoint, just before one is due, then, later
def test_the_step_is_finished_and_kept_and_the_run_goes_on_from_there(tmp_path, number, step):
    straight = Network()
    run(straight, tmp_path / "straight")
    stopped = Network(number, step)
    with pytest.raises(TrainingStoppedError, match=f"stopped by {number.name} after step {step}: kept in ") as caught:
        run(stopped, tmp_path / "stopped")
    assert stopped.forwards == step
    assert caught.value.signal == number
    assert caught.value.checkpoint == tmp_path / "stopped" / "checkpoints" / f"step-{step:08d}"
    assert caught.value.checkpoint.is_dir()
    assert str(caught.value).endswith("the same command goes on from there.")
    resumed = Network()
    assert run(resumed, tmp_path / "stopped").steps == STEPS
    assert resumed.forwards == STEPS - step
    assert checkpoint.tensors_digest(resumed.state_dict()) == checkpoint.tensors_digest(straight.state_dict())


def test_who_trains_can_catch_it_as_any_end_of_training():
    assert issubclass(TrainingStoppedError, TrainingError)


def test_without_a_folder_it_says_that_nothing_is_kept():
    with pytest.raises(TrainingStoppedError, match=r"stopped by SIGTERM after step 2: nothing is kept, for want") as e:
        run(Network(signal.SIGTERM, 2))
    assert e.value.checkpoint is None


def test_a_signal_between_two_phases_stops_behind_the_first_step_of_the_second(tmp_path):
    def ask(objective):
        os.kill(os.getpid(), signal.SIGTERM)

    phases = [Phase(4), Phase(4, begin=ask)]
    with pytest.raises(TrainingStoppedError, match="after step 5: kept in"):
        run(Network(), tmp_path, phases)
    resumed = Network()
    assert run(resumed, tmp_path, [Phase(4), Phase(4)]).steps == STEPS
    assert resumed.forwards == 3


def test_a_second_interrupt_is_immediate(tmp_path):
    network = Network(signal.SIGINT, 5, again=signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(network, tmp_path)
    assert network.forwards == 5
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-00000003"]


def test_a_second_sigterm_waits_for_the_step_like_the_first(tmp_path):
    with pytest.raises(TrainingStoppedError, match="after step 5: kept in"):
        run(Network(signal.SIGTERM, 5, again=signal.SIGTERM), tmp_path)


def test_a_signal_in_the_last_step_is_not_lost(tmp_path):
    # The run is over: there is nothing to stop, but whoever called it was asked to stop as well.
    with pytest.raises(KeyboardInterrupt):
        run(Network(signal.SIGINT, STEPS), tmp_path)
    assert (tmp_path / "checkpoints" / f"step-{STEPS:08d}").is_dir()


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run(Network(signal.SIGTERM, 2)).steps == STEPS
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_than_the_main_one_trains_without_handlers():
    results = []
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Looking(Network):
        def forward(self, batch):
            seen.append(signal.getsignal(signal.SIGTERM))
            return super().forward(batch)

    thread = threading.Thread(target=lambda: results.append(run(Looking())))
    thread.start()
    thread.join()
    assert results[0].steps == STEPS
    assert set(seen) == {before}


def fail_after_a_signal():
    with stop_requests() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal == signal.SIGTERM
        raise ZeroDivisionError("by zero")


def test_an_error_of_the_block_goes_before_a_request():
    with pytest.raises(ZeroDivisionError, match="by zero"):
        fail_after_a_signal()


def test_training_into_a_folder_that_another_run_is_on_is_refused_before_anything_is_done(tmp_path):
    network = Network()
    with only_run(tmp_path / "checkpoints"):
        with pytest.raises(CheckpointError, match=rf"{tmp_path} is in use by another run: process {os.getpid()} on "):
            run(network, tmp_path)
        assert network.forwards == 0
    assert run(network, tmp_path).steps == STEPS
