"""The proof that two processes do what one does, on one kind of task; and that it would tell if they did not."""

import json
import shutil

import pytest

from auxtasks import checkpoint
from trust import other_number, processes, whole_runs
from trust.other_number import STEPS, prove_other_number
from trust.processes import SMALL, compare_runs, prove
from trust.restartable import Command
from trust.whole_runs import numbers, trained_by

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return folder, list(prove(folder, full=False))


def test_a_whole_run_of_two_processes_has_the_numbers_of_one(proven):
    folder, (_, proof) = proven
    assert proof.failures == ()
    assert proof.holds
    compared = numbers(folder / SMALL / "1").values()
    assert proof.times == sum(isinstance(value, float) for value in compared) > 100
    assert "largest difference" in proof.result


def test_a_command_of_two_processes_that_is_stopped_goes_on_in_one(proven):
    _, (proof, _) = proven
    assert proof.failures == ()
    assert proof.times == 1
    assert f"of {STEPS}; largest relative difference" in proof.result


def test_what_is_compared_holds_both_layers_validation_and_the_report(proven):
    places = numbers(proven[0] / SMALL / "2")
    for part in (
        "layers/hidden1",
        "layers/hidden2",
        "pretrain.json/metrics",
        "transfer/report.json/targets/digits/arms",
    ):
        assert any(place.startswith(part) for place in places), part
    assert trained_by(proven[0] / SMALL / "1") == {1}
    assert trained_by(proven[0] / SMALL / "2") == {2}


def test_a_run_that_is_off_is_told(proven, tmp_path):
    one = proven[0] / SMALL / "1"
    off = shutil.copytree(one, tmp_path / "off")
    log = off / "layers" / "hidden2" / "metrics.jsonl"
    first, *others = log.read_text().splitlines()
    line = json.loads(first)
    log.write_text("\n".join([json.dumps({**line, "loss": line["loss"] * 1.001}), *others]) + "\n")
    (failure,) = compare_runs("off", one, off).failures
    assert failure.startswith("layers/hidden2/metrics.jsonl/0/loss: ")


def test_what_is_no_number_has_to_be_equal_and_is_not_counted(tmp_path):
    for name, kind, loss in (("one", "train", 40.0), ("same", "train", 40.00004), ("other", "validation", 40.0001)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 1, "kind": kind, "loss": loss}))
    same, other = (compare_runs("", tmp_path / "one", tmp_path / name) for name in ("same", "other"))
    assert (same.times, same.failures) == (1, ())
    assert other.failures == (
        "metrics.jsonl/0/kind: validation, not train",
        "metrics.jsonl/0/loss: 40.0001, not 40.0",
    )


def test_a_stopped_command_that_begins_anew_and_weights_that_are_off_are_told(proven, tmp_path, monkeypatch):
    alone = shutil.copytree(proven[0] / "stopped" / "alone", tmp_path / "alone")
    (weights,) = alone.glob(f"checkpoints/step-{STEPS:08}/backbone/*.safetensors")
    tensors = checkpoint.read_tensors(weights)
    checkpoint.write_tensors(weights, {name: tensor * 1.0001 for name, tensor in tensors.items()})

    def finish_anew(command):
        shutil.rmtree(command.folder)
        return finish(command)

    finish = Command.finish
    monkeypatch.setattr(Command, "finish", finish_anew)
    anew, off = prove_other_number("processes", tmp_path, 1, 1).failures
    assert anew.startswith("it began anew, though it had step-")
    assert off == "weights and moments differ by 1.0e-04 of themselves"


def test_a_command_that_was_not_stopped_in_its_middle_is_told(proven, tmp_path, monkeypatch):
    shutil.copytree(proven[0] / "stopped" / "alone", tmp_path / "alone")
    monkeypatch.setattr(other_number, "STOP_AT", STEPS + 1)
    (failure,) = prove_other_number("processes", tmp_path, 1, 2).failures
    assert failure.startswith(f"it was to be stopped on its way; it ended with 0, and kept step {STEPS}: ")


def test_a_command_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(other_number, "RECIPE", ("no_such_recipe",))
    (failure,) = prove_other_number("processes", tmp_path, 2, 1).failures
    assert failure.startswith("exit code 2: error: no_such_recipe")


def test_a_run_that_one_process_did_alone_is_told(proven, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "prove_other_number", lambda *_: None)
    monkeypatch.setattr(processes, "run", lambda _, out, __: shutil.copytree(proven[0] / SMALL / "1", out))
    _, proof = prove(tmp_path, full=False)
    assert proof.failures == ("it was to train in 2 processes, its checkpoints say [1]",)


def test_a_run_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "prove_other_number", lambda *_: None)
    monkeypatch.setitem(whole_runs.RUNS, SMALL, ("no_such_recipe", ()))
    _, proof = prove(tmp_path, full=False)
    (failure,) = proof.failures
    assert failure.startswith("python -m recipes run no_such_recipe --out ")
    assert "ended with exit code 2: error: no_such_recipe" in failure
