"""What the section on networks that do not fit proves, and that it finds what is not the same."""

import contextlib
import json
import re

import pytest

from auxtasks.backbones import recomputing
from auxtasks.training import preparing
from trust import model_scale
from trust.launched import launch
from trust.model_scale import compare_recomputed, judge_shares, prove
from trust.sharded_runs import SMALL

pytestmark = pytest.mark.processes

# Cases as they are, then some with faults: gradients are clipped by the norm of a process's own share, a resume begins
# anew, a resume is not dealt out where it was to be, or is where it was not.
SCRIPT = """
import dataclasses, json, sys, types
from pathlib import Path

import torch
import torch.distributed as dist

from auxtasks.errors import NonFiniteError
from auxtasks.training import sharding
from trust import sharded_runs
from trust.launched import parts
from trust.sharded_runs import CASES, SMALL, SGD, compare, run

out = Path(sys.argv[1])
found = {name: compare(name, out / str(place)) for place, name in enumerate(SMALL)}

number = torch.nn.Parameter(torch.tensor(1.0))
number.grad = torch.tensor(1.0 + 2.0 * dist.get_rank())
sharding._average_gradient(number)
found["average"] = float(number.grad)

diverges = dataclasses.replace(CASES["ranking, SGD"], optimizer=dataclasses.replace(SGD, learning_rate=1e30))
try:
    run(diverges, out / "diverges", sharding="full")
except NonFiniteError as error:
    found["error"] = [str(error), error.step, error.layer]

sharding.dist = types.SimpleNamespace(all_reduce=lambda tensor: None)
found["planted"] = compare("ranking, accumulated, clipped", out / "planted")

sharding.dist = dist
faults = {
    "begins anew": lambda folder, dealt_out: (None, dealt_out),
    "goes on as it was": lambda folder, dealt_out: (folder, folder.name.split("-")[0]),
}
for place, (name, fault) in enumerate(faults.items()):
    def planted(case, folder, *, sharding, fault=fault):
        folder, sharding = fault(folder, sharding) if "-" in folder.name else (folder, sharding)
        return run(case, folder, sharding=sharding)

    sharded_runs.run = planted
    found[name] = compare("ranking, SGD", out / f"fault-{place}")
(out / f"found-{dist.get_rank()}.json").write_text(json.dumps(found))
parts()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launch(script, folder / "out", 2)
    return [json.loads((folder / "out" / f"found-{rank}.json").read_text()) for rank in (0, 1)]


def by_case(found, *names):
    return {name: {"processes": [facts[name] for facts in found]} for name in names}


def test_networks_that_do_not_fit_train_the_same_weights(tmp_path, found, monkeypatch):
    monkeypatch.setattr(model_scale, "run_shares", lambda _, cases: by_case(found, *cases))
    again, memory, *shares = prove(tmp_path, full=False)
    assert again.failures == memory.failures == ()
    assert [proof.failures for proof in shares] == [(), (), ()]
    assert (again.times, memory.times, [proof.times for proof in shares]) == (2, 2, [4, 4, 4])
    assert "MB computed again" in memory.result
    assert all("largest relative difference" in proof.result for proof in shares)
    assert len(SMALL) == 4


def test_gradients_that_are_clipped_by_a_share_of_their_norm_are_found(found):
    shared, resumed, _ = judge_shares(by_case(found, "planted"))
    assert any("backbone.module" in failure for failure in shared.failures)
    assert resumed.failures


def test_a_resume_that_begins_anew_is_found(found):
    straight, *resumed = judge_shares(by_case(found, "begins anew"))
    assert straight.failures == ()
    assert [proof.failures for proof in resumed] == [("begins anew: 6 of 6 steps were done",) * 2] * 2


def test_a_resume_that_goes_on_as_it_was_is_found(found):
    straight, *resumed = judge_shares(by_case(found, "goes on as it was"))
    assert straight.failures == ()
    for proof in resumed:
        assert len(proof.failures) == 2  # one of each process
        assert all(re.fullmatch(r"goes on as it was: a process held \d+ of \d+ numbers", failure)
                   for failure in proof.failures)  # fmt: skip


def test_a_setting_that_is_ignored_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_recomputing", lambda *_: contextlib.nullcontext())
    proof = compare_recomputed(tmp_path, ["face pairs"], half_precision=False, accumulation=1)
    assert proof.failures == ("face pairs with {}: nothing was computed again",)


def test_a_number_that_cannot_be_dealt_out_gets_the_mean_gradient(found):
    assert [facts["average"] for facts in found] == [2.0, 2.0]


def test_what_is_not_finite_in_a_share_is_an_error_of_every_process(found):
    (message, step, layer), other = (facts["error"] for facts in found)
    assert [message, step, layer] == other
    assert "not finite at step 2" in message


def test_stages_that_draw_other_dropout_the_second_time_are_found(tmp_path, monkeypatch):
    def forgetful(*arguments, **options):
        return checkpoint(*arguments, **options, preserve_rng_state=False)

    checkpoint = recomputing.checkpoint
    monkeypatch.setattr(recomputing, "checkpoint", forgetful)
    proof = compare_recomputed(tmp_path, ["face pairs"], half_precision=False, accumulation=1)
    assert proof.failures
    assert "face pairs" in proof.failures[0]


def test_a_run_that_holds_all_or_trains_nothing_is_found():
    ways = "full", "none, then full", "full, then none"
    held = {"none": 10, "full": 5, "none, then full": 5, "full, then none": 10}
    steps = {"none": 6, "full": 6, "none, then full": 3, "full, then none": 3}
    facts = {"apart": {way: {"weight": 0.0} for way in ways}, "moved": 3, "held": held, "steps": steps,
             "same files": True}  # fmt: skip

    def failures(**changed):
        return next(judge_shares({"a case": {"processes": [facts, {**facts, **changed}]}})).failures

    assert failures() == ()
    assert failures(held={**held, "full": 10}) == ("a case: a process held 10 of 10 numbers",)
    assert failures(moved=0) == ("a case: nothing trained",)
    assert failures(**{"same files": False}) == ("a case: its run folder holds other files",)
    assert failures(apart={**facts["apart"], "full": {"weight": float("nan")}}) == ("a case: weight is nan off",)
