"""The proof that two processes do what one does, on one kind of task; and that it would tell if they did not."""

import json
import shutil

import pytest

from trust import processes, whole_runs
from trust.processes import SMALL, compare_runs, prove
from trust.whole_runs import numbers, trained_by

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return folder, list(prove(folder, full=False))


def test_a_whole_run_of_two_processes_has_the_numbers_of_one(proven):
    folder, (proof,) = proven
    assert proof.failures == ()
    assert proof.holds
    assert proof.times == len(numbers(folder / SMALL / "1")) > 200
    assert "largest difference" in proof.result


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


def test_a_run_that_one_process_did_alone_is_told(proven, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "run", lambda _, out, __: shutil.copytree(proven[0] / SMALL / "1", out))
    (proof,) = prove(tmp_path, full=False)
    assert proof.failures == ("it was to train in 2 processes, its checkpoints say [1]",)


def test_a_run_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(whole_runs.RUNS, SMALL, ("no_such_recipe", ()))
    (proof,) = prove(tmp_path, full=False)
    (failure,) = proof.failures
    assert failure.startswith("python -m recipes run no_such_recipe --out ")
    assert "ended with exit code 2: error: no_such_recipe" in failure
