"""What the section on resumes proves, and that it finds a state that is not restored."""

import dataclasses
import shutil

import numpy as np
import pytest

from auxtasks.data.streams import StreamFeed
from auxtasks.tasks.backbone_task import BackboneTask
from auxtasks.training.best import BestWeights
from auxtasks.training.tracking import MetricsLog
from trust.resumes import UNCUT, differences, draw_settings, outcome, prove, stop_and_resume, stop_at
from trust.small_runs import BEST, RUNS, Settings

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


@pytest.mark.processes  # loader workers
def test_stopped_runs_end_as_straight_ones_and_workers_change_no_bit(tmp_path):
    workers, resumes = prove(tmp_path, full=False)
    assert resumes.failures == ()
    assert workers.failures == ()
    assert resumes.times >= 9
    assert workers.times == 6
    assert resumes.holds
    assert workers.holds


def test_combinations_differ_and_hold_every_choice():
    drawn = [(name, draw_settings(name, np.random.default_rng(number))) for number in range(40) for name in RUNS]
    assert len({repr(pair) for pair in drawn}) == len(drawn)
    loops = [settings.loop for _, settings in drawn]
    assert {loop.accumulation for loop in loops} == {1, 2, 4}
    assert {loop.mixed_precision for loop in loops} == {"no", "bf16"}
    assert {loop.patience for loop in loops} == {None, 1, 2, 3}
    assert {settings.optimizer.name for _, settings in drawn} == {"adamw", "sgd"}
    assert {settings.optimizer.schedule for _, settings in drawn} == {"cosine", "linear", "constant"}
    assert {settings.optimizer.warmup_steps for _, settings in drawn} == {0, 2}
    assert all(settings.loop.accumulation == 1 for name, settings in drawn if name in UNCUT)
    assert BEST.keys() == RUNS.keys()


def skip(*_, **__):
    """Restore nothing."""


def restore_without_head(task, folder):
    head = {name: tensor.clone() for name, tensor in task.state_dict().items() if not name.startswith("backbone.")}
    restore(task, folder)
    task.load_state_dict(head, strict=False)


restore = BackboneTask.restore


# Each leaves one thing out of what a resumed run goes on with.
@pytest.mark.parametrize(
    ("name", "owner", "method", "fault", "found"),
    [
        ("sentences, streamed", StreamFeed, "go_to", skip, "backbone/model.safetensors"),
        ("face pairs", BackboneTask, "restore", restore_without_head, "task/model.safetensors"),
        ("ranking of vectors", BestWeights, "load", skip, "metrics"),
        ("ranking of vectors", MetricsLog, "rewind", skip, "metrics.jsonl:"),
    ],
    ids=["a stream's place", "the head", "the best weights", "the log"],
)
def test_a_state_that_is_not_restored_is_found(tmp_path, monkeypatch, name, owner, method, fault, found):
    settings = Settings()
    if owner is BestWeights:
        loop = dataclasses.replace(settings.loop, validate_every=1, keep_best=BEST[name][0], best_is=BEST[name][1])
        settings = dataclasses.replace(settings, loop=loop)
    with stop_at(None) as passes:
        straight = outcome(tmp_path / "straight", RUNS[name](tmp_path / "straight", settings))

    def stopped(folder):
        draws = Late(passes[0])
        found = stop_and_resume(name, settings, folder, draws, passes=passes[0], stops=1)
        assert (found.resumed, found.from_checkpoint, found.began_anew) == (1, 1, False)
        return differences(found.left, straight)

    assert stopped(tmp_path / "whole") == []
    monkeypatch.setattr(owner, method, fault)
    assert any(found in what for what in stopped(tmp_path / "faulty"))


def test_a_run_that_begins_anew_beside_its_checkpoints_is_found(tmp_path, monkeypatch):
    name, settings = "ranking of vectors", Settings()
    with stop_at(None) as passes:
        straight = outcome(tmp_path / "straight", RUNS[name](tmp_path / "straight", settings))

    def forgetful(folder, settings):
        shutil.rmtree(folder, ignore_errors=True)
        return run(folder, settings)

    run = RUNS[name]
    monkeypatch.setattr("trust.resumes.RUNS", {name: forgetful})
    found = stop_and_resume(name, settings, tmp_path / "stopped", Late(passes[0]), passes=passes[0], stops=1)
    assert differences(found.left, straight) == []  # which is why bits alone do not tell
    assert found.began_anew


class Late:
    """Draws a moment late in a run, and a checkpoint every five steps."""

    def __init__(self, passes):
        self.passes = passes

    def integers(self, low, high=None):
        return self.passes * 2 // 3 if high == self.passes + 1 else 5

    def random(self):
        return 1.0


def test_what_differs_is_named():
    one = {"a.safetensors": {"w": "1", "b": "2"}, "metrics": {"loss": float("nan")}, "log:1": {"loss": 1.0}}
    other = {"a.safetensors": {"w": "1", "b": "3"}, "metrics": {"loss": float("nan")}}
    assert differences(one, one) == []
    assert differences(one, other) == ["a.safetensors: b", "log:1"]
