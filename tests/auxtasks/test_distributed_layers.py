"""Layer by layer, two processes with half a batch each compute what one does with all of it, whole or in parts."""

import json
from pathlib import Path

import pytest
import torch

from auxtasks import checkpoint
from trust.launched import ALLOWED, launch, relative_difference

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).parent / "distributed" / "layer_tasks.py"
STAGES = ("hidden1", "hidden2", "unrolled")
STEPS = 8  # of each stage
WHOLE = ["autoencoder", "untied", "machine", "sparse", "divergence"]
ACCUMULATED = ["autoencoder", "untied", "divergence"]
RUNS = pytest.mark.parametrize("run", [*WHOLE, *(f"{name}_accumulated" for name in ACCUMULATED)])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[int, Path]:
    """Pretrain layer by layer in one process and in two."""
    folder = tmp_path_factory.mktemp("layers")
    return {processes: launch(SCRIPT, folder / str(processes), processes) for processes in (1, 2)}


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(folder / f"{name}.safetensors")


def lines(folder: Path, kind: str) -> list[dict[str, float]]:
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    timed = {"samples_per_second", "data_wait_share", "kind"}
    return [{k: v for k, v in line.items() if k not in timed} for line in found if line["kind"] == kind]


def gradients_of(folder: Path, run: str, named: str | None = None) -> dict[str, torch.Tensor]:
    found = tensors(folder, "gradients-0").items()
    return {name.replace(run, named or run, 1): g for name, g in found if name.startswith(f"{run}/")}


def assert_same_gradients(found, expected, record_property) -> None:
    """Hold the gradients of all steps of all stages against each other; each parameter has some, in its own stages."""
    steps = {int(name.split("/")[1]) for name in expected}
    assert steps == set(range(STEPS * len(STAGES)))
    difference = relative_difference(found, expected)
    assert difference <= ALLOWED
    record_property("largest_difference", difference)
    record_property("inputs", len(expected))
    of_stage = [
        {name.split("/", 2)[2] for name in expected if int(name.split("/")[1]) // STEPS == stage}
        for stage in range(len(STAGES))
    ]
    assert not of_stage[0] & of_stage[1]  # one layer at a time, then all of them
    assert of_stage[0] | of_stage[1] == of_stage[2]
    moved = {name.split("/", 2)[2] for name, gradient in expected.items() if gradient.norm() > 1e-6}
    assert moved == of_stage[2]  # no gradient is zero in all steps


@RUNS
def test_gradients_of_two_processes_are_those_of_one(outputs, run, record_property):
    assert_same_gradients(gradients_of(outputs[2], run), gradients_of(outputs[1], run), record_property)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("run", ACCUMULATED)
def test_four_micro_batches_are_one_batch(outputs, run, processes, record_property):
    found = gradients_of(outputs[processes], f"{run}_accumulated", run)
    assert_same_gradients(found, gradients_of(outputs[1], run), record_property)


@RUNS
def test_two_processes_pretrain_layers_as_one_does(outputs, run, record_property):
    for stage in STAGES:
        one, two = (lines(outputs[processes] / run / "layers" / stage, stage) for processes in (1, 2))
        assert [line["step"] for line in one] == list(range(1, STEPS + 1))
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, rel=1e-5, abs=1e-5), stage
    difference = relative_difference(*(tensors(outputs[processes], f"{run}-0") for processes in (2, 1)))
    assert difference <= ALLOWED
    record_property("largest_difference", difference)


@RUNS
def test_both_processes_hold_the_same_layers_and_measures(outputs, run):
    first, second = (tensors(outputs[2], f"{run}-{rank}") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    measured = []
    for rank in (0, 1):
        found = json.loads((outputs[2] / f"{run}-{rank}.json").read_text())
        measured.append({name: value for name, value in found.items() if "samples" not in name and "wait" not in name})
    assert measured[0] == measured[1]
    assert "hidden2/validation/reconstruction_error" in measured[0]


@RUNS
def test_two_processes_write_one_cache_and_one_set_of_checkpoints_a_layer(outputs, run):
    places = [outputs[2] / run / "layers" / stage for stage in STAGES]
    for place in places:
        assert sorted(path.name for path in (place / "checkpoints").iterdir()) == ["step-00000005", "step-00000008"]
    assert [path.name for path in (outputs[2] / run / "checkpoints").iterdir()] == ["step-00000024"]
    # Inputs of the second layer, of both sources.
    assert len(list((outputs[2] / "cache" / run).iterdir())) == 2
