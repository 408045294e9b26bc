"""A run that is stopped and goes on in another number of processes ends where the undisturbed one does."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from auxtasks import checkpoint
from trust.launched import ALLOWED, launch, relative_difference

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).parent / "distributed" / "other_number.py"
ACCUMULATION = {"faces": 1, "ranking": 2, "sentences": 2, "layers": 1}
OF_ONE_STAGE = ["faces", "ranking", "sentences"]
# Steps of a stage; layers are two of them, and one of both. The checkpoint before the last is of step LATER.
STEPS, BATCH, STOPPED_IN, GONE_ON_AT, LATER = 12, 16, 8, 6, 9
CHANGES = pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, Path]:
    """Train straight in one process; stop in N processes and go on in M."""
    folder = tmp_path_factory.mktemp("other_number")
    found = {"straight": launch(SCRIPT, folder / "straight", 1, ["straight"])}
    for before, after in ((2, 1), (1, 2)):
        place = launch(SCRIPT, folder / f"{before} then {after}", before, ["begin"])
        shutil.copytree(place, folder / f"{before} stopped")
        found[f"{before} stopped"] = folder / f"{before} stopped"
        found[f"{before} then {after}"] = launch(SCRIPT, place, after, ["go on"])
    return found


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").iterdir())


def newest_state(folder: Path) -> dict:
    return checkpoint.read_json(checkpoints(folder)[-1] / "training" / "state.json")


def ended_with(folder: Path, run: str) -> dict[str, torch.Tensor]:
    """Return the weights of a run; where those are the best, which may be from before the stop, later ones as well."""
    weights = checkpoint.read_tensors(folder / f"{run}-0.safetensors")
    if run in OF_ONE_STAGE:
        before_last = checkpoints(folder / run)[-2]
        assert before_last.name == f"step-{LATER:08}"
        for part in ("backbone", "task"):
            found = checkpoint.read_tensors(before_last / part / "model.safetensors")
            weights |= {f"{part} of step {LATER}/{name}": tensor for name, tensor in found.items()}
    return weights


def rows_of(folder: Path, run: str, mode: str, processes: int) -> dict[int, list[int]]:
    """Return the rows of each step's global batch, in their order, from those that each process has read."""
    read = [json.loads((folder / f"rows-{run}-{mode}-{rank}.json").read_text()) for rank in range(processes)]
    found: dict[int, list[int]] = {}
    for step in sorted({step for step, _ in read[0]}):
        own = [[row for at, row in entries if at == step] for entries in read]
        size = len(own[0]) // ACCUMULATION[run]
        parts = [part[at : at + size] for at in range(0, len(own[0]), size) for part in own]
        found[step] = [row for part in parts for row in part]
    return found


@CHANGES
@pytest.mark.parametrize("run", ACCUMULATION)
def test_it_ends_with_the_weights_of_the_straight_run(outputs, run, before, after, record_property):
    expected = ended_with(outputs["straight"], run)
    difference = relative_difference(ended_with(outputs[f"{before} then {after}"], run), expected)
    assert difference <= ALLOWED
    record_property("largest_difference", difference)


@CHANGES
@pytest.mark.parametrize("run", OF_ONE_STAGE)
def test_it_was_stopped_on_the_way_by_the_other_number_of_processes(outputs, run, before, after):
    stopped, whole = (
        newest_state(outputs[f"{before} stopped"] / run),
        newest_state(outputs[f"{before} then {after}"] / run),
    )
    assert (stopped["step"], stopped["processes"]) == (GONE_ON_AT, before)
    assert (whole["step"], whole["processes"]) == (STEPS, after)


@CHANGES
def test_layers_were_stopped_in_the_second(outputs, before, after):
    place = outputs[f"{before} stopped"] / "layers" / "layers"
    assert (newest_state(place / "hidden1")["step"], newest_state(place / "hidden2")["step"]) == (STEPS, GONE_ON_AT)
    assert not (place / "unrolled").exists()
    assert newest_state(outputs[f"{before} then {after}"] / "layers" / "layers" / "unrolled")["processes"] == after


@CHANGES
@pytest.mark.parametrize("run", ACCUMULATION)
def test_the_global_batches_are_the_same_rows_in_the_same_order(outputs, run, before, after, record_property):
    place = outputs[f"{before} then {after}"]
    straight = rows_of(outputs["straight"], run, "straight", 1)
    begun, gone_on = rows_of(place, run, "begin", before), rows_of(place, run, "go on", after)
    stages, finished = (3, STEPS) if run == "layers" else (1, 0)  # layers are stopped in the second
    assert list(straight) == list(range(stages * STEPS))
    assert all(len(rows) == BATCH for rows in straight.values())
    assert len({tuple(rows) for rows in straight.values()}) == stages * STEPS  # else an order begun anew goes unseen
    assert list(begun) == list(range(finished + STOPPED_IN + 1))
    del begun[finished + STOPPED_IN]  # of which one micro-batch was read
    assert begun == {step: straight[step] for step in begun}
    assert list(gone_on) == list(range(finished + GONE_ON_AT, stages * STEPS))  # nothing is read again
    assert gone_on == {step: straight[step] for step in gone_on}
    record_property("inputs", len(begun) + len(gone_on))


@CHANGES
@pytest.mark.parametrize("run", OF_ONE_STAGE)
def test_it_keeps_the_best_weights_of_the_same_step(outputs, run, before, after):
    straight, found = (newest_state(outputs[name] / run)["best"] for name in ("straight", f"{before} then {after}"))
    assert found["step"] == straight["step"]
    assert found["metrics"] == pytest.approx(straight["metrics"], rel=1e-4)
