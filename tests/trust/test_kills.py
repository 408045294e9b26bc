"""Commands that are killed and resumed end like one left alone; and the comparison would see if they did not."""

import dataclasses
import functools
import json
import re
import shutil
import signal

import pytest
import torch

from auxtasks import checkpoint
from auxtasks.training.file_list import FILE_LIST, write_file_list
from trust.kills import KINDS, Tally, _before, _trains, damage_once, judge_writing, prove, stop_once, try_kind
from trust.restartable import Command

pytestmark = pytest.mark.processes


def test_five_kills_change_nothing(tmp_path):
    (proof,) = prove(tmp_path, full=False)
    assert proof.failures == ()
    assert proof.times == 5
    assert "ended with the same bits; seen to go on from a checkpoint" in proof.result
    assert int(proof.result.split()[-2]) >= 1


class Logs:
    """Stands for a process that logs the next step each time that it is looked at."""

    def __init__(self, log, step):
        self.log, self.step = log, step

    @property
    def exitcode(self):
        with self.log.open("a") as log:
            log.write(json.dumps({"step": self.step}) + "\n")
        self.step += 1


@pytest.mark.parametrize(("begins_at", "failures"), [(7, 0), (1, 1)], ids=["goes on", "begins anew"])
def test_a_command_that_begins_anew_is_seen(tmp_path, begins_at, failures):
    command, tally = Command((), tmp_path, {}), Tally()
    (tmp_path / "checkpoints" / "step-00000006").mkdir(parents=True)
    before = _before(command)
    assert _trains(command, Logs(tmp_path / "metrics.jsonl", begins_at), before, tally)
    assert tally.gone_on == 1
    assert len(tally.failures) == failures
    assert all("it began anew, though it had a checkpoint of step 6" in failure for failure in tally.failures)


def test_kills_of_which_none_left_a_checkpoint_half_written_prove_nothing_of_that():
    assert judge_writing([Tally(done=5), Tally(done=7, in_writing=2)]).times == 2
    none = judge_writing([Tally(done=5), Tally(done=7)])
    assert not none.holds
    assert none.failures == ("none of 12 kills did",)


def forget_the_optimizer(kind, command, rng, tally):
    """Leave what a resume would find that had lost the optimizer's state, with a list of files that agrees to it."""
    assert command.finish() is None
    checkpoints = command.folder / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000008")
    (command.folder / "pretrain.json").unlink()
    place = checkpoints / "step-00000006" / "training" / "optimizer.safetensors"
    state = checkpoint.read_tensors(place)
    assert any(tensor.count_nonzero() for tensor in state.values())
    checkpoint.write_tensors(place, {name: torch.zeros_like(tensor) for name, tensor in state.items()})
    (checkpoints / "step-00000006" / FILE_LIST).unlink()
    write_file_list(checkpoints / "step-00000006")
    tally.done += 1
    return False


def test_a_resume_that_forgot_the_optimizer_would_be_seen(tmp_path):
    kind = dataclasses.replace(KINDS["one"], steps=8)
    tally = try_kind(kind, tmp_path, times=1, disturb=forget_the_optimizer, seed=0)
    assert tally.runs == 1
    (failure,) = tally.failures
    assert "model.safetensors: " in failure
    state = tmp_path / "disturbed-0" / "checkpoints" / "step-00000008" / "training" / "state.json"
    assert json.loads(state.read_text())["step"] == 8  # it had gone on, and to the end


def test_a_damaged_checkpoint_that_is_used_all_the_same_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("trust.kills._damage", lambda checkpoint, rng: "nothing was done")
    tally = try_kind(KINDS["one"], tmp_path, times=1, disturb=damage_once, seed=0)
    failures = [failure for failure in tally.failures if failure.startswith("nothing was done: it went on: True")]
    assert failures


def test_a_signal_that_is_not_heard_would_be_seen(tmp_path):
    kind = dataclasses.replace(KINDS["one"], steps=200)
    disturb = functools.partial(stop_once, number=signal.SIGCHLD)  # which no command hears
    tally = try_kind(kind, tmp_path, times=1, disturb=disturb, seed=0)
    assert tally.done == 0
    assert any(re.fullmatch(r"SIGCHLD at step \d+ of 200 was not heard", failure) for failure in tally.failures)
