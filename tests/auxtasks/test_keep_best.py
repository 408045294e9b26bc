"""A run with keep_best ends with the weights of its best validation, also when it was killed on the way."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from auxtasks import checkpoint
from auxtasks.data.loaders import FollowsSteps
from auxtasks.errors import CheckpointError, TrainingError
from auxtasks.training.best import BestWeights
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase

NAN, INF = math.nan, math.inf
CONSTANT = OptimizerSettings(learning_rate=0.01, warmup_steps=0, schedule="constant")


class Points(FollowsSteps):
    """Eight points of each step's own."""

    batch_size = 8

    def check(self, shard):
        shard.micro_batch_size(self.batch_size)

    def batches(self, start, stop, shard):
        for step in range(start, stop):
            x = torch.randn(self.batch_size, 3, generator=torch.Generator().manual_seed(step))
            yield x[shard.rank :: shard.processes]


class Network(Objective):
    """Fits a plane; with a layer to freeze, a buffer that every step moves, and dropout."""

    def __init__(self, dropout=0.4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.trained = 0

    def forward(self, batch):
        self.trained += 1
        self.steps += 1
        loss = (self.net(batch)[:, 0] - batch[:, 0] + 2 * batch[:, 1]).square().sum()
        metrics = {"loss_again": loss.detach() / len(batch)} if self.log_metrics else {}
        return StepOutput(loss, loss.new_tensor(float(len(batch))), metrics)

    def save(self, folder, provenance):
        checkpoint.write_tensors(folder / "model.safetensors", self.state_dict())
        checkpoint.write_json(folder / "provenance.json", dict(provenance))

    def restore(self, folder):
        checkpoint.load_strictly(self, checkpoint.read_tensors(folder / "model.safetensors"), folder)


def loop(**options):
    settings = {"show_progress": False, "device": "cpu", "log_every": 1, "validate_every": 1, "keep_best": "score"}
    return LoopSettings(**{**settings, **options})


def run(objective, steps=3, *, phases=None, **options):
    return train(objective, Points(), phases or [Phase(steps)], seed=0, optimizer=CONSTANT, **options)


def listed(values):
    """A validation that gives these values in turn."""
    remaining = iter(values)
    return lambda: {"score": float(next(remaining))}


def after(steps):
    """The weights after so many steps of a run that does no more and keeps nothing."""
    objective = Network()
    run(objective, steps, loop=loop(keep_best=None))
    assert int(objective.steps) == steps
    return objective.state_dict()


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def lines_of(folder: Path, kind: str):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def place_of(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def files_of(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


# Which one is the best


@pytest.mark.parametrize(
    ("best_is", "values", "expected"),
    [
        ("highest", [1, 3, 2], 2),
        ("highest", [1, 3, 3], 2),  # among equals the earliest
        ("highest", [3, 2, 1], 1),
        ("highest", [1, 2, 3], 3),
        ("highest", [NAN, 1, NAN], 2),
        ("highest", [1, NAN, 2], 3),
        ("highest", [-INF, NAN, -INF], 1),
        ("lowest", [2, 1, 3], 2),
        ("lowest", [1, 1, 2], 1),
        ("lowest", [NAN, INF, 0], 3),
        ("lowest", [0, -INF, -INF], 2),
    ],
)
def test_a_run_ends_with_the_weights_of_its_best_validation(best_is, values, expected):
    objective, scores, others = Network(), listed(values), iter([10.0, 20.0, 30.0])
    result = run(objective, loop=loop(best_is=best_is), validate=lambda: {**scores(), "other": next(others)})
    assert (result.best_step, result.steps, objective.trained) == (expected, 3, 3)
    assert [step for step in (1, 2, 3) if same(objective.state_dict(), after(step))] == [expected]
    assert result.metrics["validation/score"] == values[expected - 1]
    assert result.metrics["validation/other"] == 10 * expected


@pytest.mark.parametrize(("steps", "values", "best"), [(7, [1, 2, 0], 6), (7, [1, 2, 5], 7), (6, [4, 2], 3)])
def test_steps_that_are_validated_are_compared_and_so_is_the_last_one(steps, values, best):
    objective = Network()
    result = run(objective, steps, loop=loop(validate_every=3), validate=listed(values))
    assert result.best_step == best
    assert same(objective.state_dict(), after(best))


def test_without_it_a_run_ends_with_its_last_weights():
    objective = Network()
    result = run(objective, loop=loop(keep_best=None), validate=listed([3, 2, 1]))
    assert (result.best_step, result.metrics["validation/score"]) == (None, 1)
    assert same(objective.state_dict(), after(3))


def test_metrics_of_another_validation_are_not_left_over():
    answers = iter([{"score": 2.0}, {"score": 1.0, "extra": 5.0}])
    result = run(Network(), 2, loop=loop(), validate=lambda: next(answers))
    assert {name for name in result.metrics if name.startswith("validation/")} == {"validation/score"}
    assert {"loss", "loss_again"} <= result.metrics.keys()


def test_the_log_tells_every_validation_as_it_was(tmp_path):
    run(Network(), loop=loop(), validate=listed([1, 3, 2]), folder=tmp_path)
    assert [(line["step"], line["score"]) for line in lines_of(tmp_path, "validation")] == [(1, 1), (2, 3), (3, 2)]
    assert [line["step"] for line in lines_of(tmp_path, "train")] == [1, 2, 3]


def test_the_copy_is_not_the_network_s_own_memory():
    module = nn.Linear(2, 2)
    best = BestWeights("score", "highest")
    best.update(1, {"score": 1}, module)
    kept = module.weight.detach().clone()
    nn.init.zeros_(module.weight)
    best.put_back(module)
    assert torch.equal(module.weight, kept)
    assert kept.abs().sum() > 0


# The end of patience


@pytest.mark.parametrize(
    ("patience", "values", "steps", "best"),
    [
        (1, [1, 2, 1, 9], 3, 2),
        (2, [1, 2, 1, 2, 9], 4, 2),  # an equal is no new best
        (2, [3, 1, 4, 1, 5, 9], 6, 6),
        (2, [NAN, 1, NAN, NAN, 9], 4, 2),
        (3, [3, 1, 1, 4, 1, 1], 6, 4),
        (5, [3, 1, 1, 1, 1, 1], 6, 1),  # at the last step
    ],
)
def test_so_many_validations_without_a_new_best_end_the_run(tmp_path, patience, values, steps, best):
    objective, again = Network(), Network()
    settings = loop(patience=patience, log_every=100)
    result = run(objective, 6, loop=settings, validate=listed(values), folder=tmp_path)
    assert (result.steps, result.best_step, objective.trained) == (steps, best, steps)
    assert same(objective.state_dict(), after(best))
    early = {"step": steps, "kind": "stopped early", "best_step": best, "validations_since": patience}
    assert lines_of(tmp_path, "stopped early") == ([early] if steps < 6 else [])
    last = lines_of(tmp_path, "train")[-1]
    assert last["step"] == steps
    assert "loss_again" in last  # what an objective computes only where it is logged
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{steps:08d}"]

    repeated = run(again, 6, loop=settings, validate=listed([]), folder=tmp_path)
    assert again.trained == 0
    assert same(again.state_dict(), objective.state_dict())
    assert (repeated.metrics, repeated.steps, repeated.best_step) == (result.metrics, steps, best)


def test_patience_goes_on_over_phases_and_later_ones_never_begin():
    begun = []
    phases = [Phase(steps, begin=lambda objective, steps=steps: begun.append(steps)) for steps in (2, 3, 4)]
    objective = Network()
    result = run(objective, phases=phases, loop=loop(patience=3), validate=listed([5, 1, 1, 1]))
    assert begun == [2, 3]
    assert (result.steps, result.best_step) == (4, 1)
    assert same(objective.state_dict(), after(1))


# Resuming: eight steps in two phases


class StoppedError(Exception):
    pass


def raise_stopped():
    raise StoppedError("in the middle of a validation")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def unfreeze(*layers: int):
    def begin(objective):
        for place, layer in enumerate(objective.net):
            layer.requires_grad_(place in layers)

    return begin


VALUES = [2, 1, 5, 3, 4, 5, 1, 0]
BEST = 3
PHASES = [Phase(3, begin=unfreeze(3)), Phase(5, begin=unfreeze(0))]


def phased(folder, *, values=VALUES, stop_at=None, stop=raise_stopped, skew=0.0, dropout=0.4, **options):
    """Begin or resume in a folder; stop in the validation of a step, counted from 1."""
    objective = Network(dropout)
    begin_at = max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)
    numbers = iter(range(begin_at, len(values)))

    def validate():
        number = next(numbers)
        if number + 1 == stop_at:
            stop()
        return {"score": values[number] + skew * number, "step": float(number + 1)}

    settings = loop(**{"checkpoint_every": 2, **options})
    return objective, run(objective, phases=PHASES, loop=settings, folder=folder, validate=validate)


def stopped(folder, step, **options):
    with pytest.raises(StoppedError, match="in the middle of a validation"):
        phased(folder, stop_at=step, **options)


def assert_same_end(found: Path, expected: Path, step: int) -> None:
    """Compare all tensors and all numbers of the last checkpoint, and the log."""
    places = [place_of(folder, step) for folder in (found, expected)]
    assert files_of(places[0]) == files_of(places[1])
    for name in files_of(places[0]):
        if name.endswith(".safetensors"):
            assert same(*(checkpoint.read_tensors(place / name) for place in places)), name
    assert [untimed(checkpoint.read_json(places[0] / "training" / "state.json"))] == [
        untimed(checkpoint.read_json(places[1] / "training" / "state.json"))
    ]
    for kind in ("train", "validation", "stopped early"):
        a, b = ([{k: line.get(k) for k in ("step", "loss", "score", "best_step")} for line in lines_of(folder, kind)]
                for folder in (found, expected))  # fmt: skip
        assert a == b
        assert kind == "stopped early" or [line["step"] for line in a] == list(range(1, step + 1))


def untimed(state):
    timed = ("samples_per_second", "data_wait_share")
    return {**state, "metrics": {name: value for name, value in state["metrics"].items() if name not in timed}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs that were never stopped, by patience; the second ends at step 7."""
    ended = {}
    for patience, steps in ((None, 8), (4, 7)):
        folder = tmp_path_factory.mktemp("straight")
        objective, result = phased(folder, patience=patience)
        assert (result.best_step, result.steps) == (BEST, steps)
        ended[patience] = folder, objective, result
    return ended


# Before the first checkpoint; with the best behind it, in it and before it; in either phase; at the last step.
@pytest.mark.parametrize("patience", [None, 4])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 7, 8])
def test_stopped_and_resumed(tmp_path, straight, step, patience):
    folder, expected, ended = straight[patience]
    if step > ended.steps:
        phased(tmp_path, stop_at=step, patience=patience)  # it ends before
    else:
        stopped(tmp_path, step, patience=patience)
    objective, result = phased(tmp_path, patience=patience)
    assert (result.best_step, result.steps, result.metrics["validation/step"]) == (BEST, ended.steps, BEST)
    assert same(objective.state_dict(), expected.state_dict())
    assert_same_end(tmp_path, folder, ended.steps)


@pytest.mark.processes
@pytest.mark.parametrize("step", [2, 6])
def test_killed_and_resumed(tmp_path, straight, step):
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_keep_best import *\n"
        f"phased(Path(sys.argv[1]), stop_at={step}, stop=kill)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -signal.SIGKILL
    assert not place_of(tmp_path, 8).exists()
    objective, result = phased(tmp_path)
    assert result.best_step == BEST
    assert same(objective.state_dict(), straight[None][1].state_dict())
    assert_same_end(tmp_path, straight[None][0], 8)


def test_frozen_layers_and_buffers_are_put_back_too(straight, tmp_path):
    # The best is of the first phase, in which the lower layer stood still; the second has moved it.
    begin, found = Network().state_dict(), straight[None][1].state_dict()
    assert torch.equal(found["net.0.weight"], begin["net.0.weight"])
    assert not torch.equal(found["net.3.weight"], begin["net.3.weight"])
    assert int(found["steps"]) == BEST
    last, _ = phased(tmp_path, keep_best=None)
    assert not torch.equal(last.net[0].weight, begin["net.0.weight"])


def test_a_checkpoint_on_the_way_holds_its_own_weights_and_the_best_ones(tmp_path, straight):
    stopped(tmp_path, 7)
    place = place_of(tmp_path, 6)
    best, own = (checkpoint.read_tensors(place / name) for name in ("training/best.safetensors", "model.safetensors"))
    assert same(best, straight[None][1].state_dict())
    assert int(own["steps"]) == 6
    state = checkpoint.read_json(place / "training" / "state.json")
    assert state["best"] == {
        "step": 3, "metrics": {"score": 5, "step": 3}, "validations_since": 3, "weights": "best.safetensors"
    }  # fmt: skip
    assert checkpoint.read_json(place / "provenance.json")["steps"] == 6


def test_the_last_checkpoint_holds_the_best_weights_once(straight):
    for folder, objective, result in straight.values():
        place = place_of(folder, result.steps)
        assert same(checkpoint.read_tensors(place / "model.safetensors"), objective.state_dict())
        assert "training/best.safetensors" not in files_of(place)
        assert checkpoint.read_json(place / "provenance.json")["steps"] == BEST  # so many are behind these weights


def test_a_finished_run_is_not_done_again(straight):
    folder, objective, result = straight[None]
    again, repeated = phased(folder)
    # Nor does it need the data: who knows that a run is finished may leave them out.
    read = Network()
    without = run(read, phases=PHASES, loop=loop(checkpoint_every=2), folder=folder)
    for found, end in ((again, repeated), (read, without)):
        assert found.trained == 0
        assert same(found.state_dict(), objective.state_dict())
        assert (end.metrics, end.best_step, end.steps) == (result.metrics, BEST, 8)


@pytest.mark.parametrize(
    ("values", "best"), [([1, INF, 5, NAN, 1, INF, 1, 0], 2), ([-INF, NAN, NAN, NAN, NAN, NAN, NAN, 0.5], 8)]
)
def test_values_that_json_does_not_have_go_to_a_checkpoint_and_back(tmp_path, values, best):
    stopped(tmp_path, 7, values=values)
    assert "training/best.safetensors" in files_of(place_of(tmp_path, 6))
    _, result = phased(tmp_path, values=values)
    assert (result.best_step, result.metrics["validation/score"]) == (best, values[best - 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_best": "step"}, "keep_best: 'score' there, 'step' asked"),
        ({"best_is": "lowest"}, "best_is: 'highest' there, 'lowest' asked"),
        ({"patience": 5}, "patience: None there, 5 asked"),
        ({"validate_every": 2}, "validate_every: 1 there, 2 asked"),
        ({"keep_best": None}, "best_is: 'highest' there, None asked; keep_best: 'score' there, None asked"),
    ],
)
def test_what_chooses_the_weights_must_be_the_same(straight, change, message):
    with pytest.raises(CheckpointError, match=f"was written with other settings: {message}"):
        phased(straight[None][0], **change)


def test_runs_without_it_have_the_checkpoints_that_they_always_had(tmp_path):
    stopped(tmp_path, 5, keep_best=None)
    state = checkpoint.read_json(place_of(tmp_path, 4) / "training" / "state.json")
    known = {"accumulation", "batch_size", "mixed_precision", "optimizer", "seed", "steps"}
    assert state["identity"].keys() == known
    assert state.keys() == {"identity", "metrics", "processes", "scaler", "schema", "step", "versions"}
    assert files_of(place_of(tmp_path, 4) / "training") == {"optimizer.safetensors", "state.json"}
    _, result = phased(tmp_path, keep_best=None, validate_every=2)  # when it is validated decides nothing there
    assert (result.best_step, result.steps) == (None, 8)


def test_best_weights_that_are_damaged_are_named(tmp_path):
    stopped(tmp_path, 7)
    shutil.rmtree(place_of(tmp_path, 4))  # else that one would be gone on from
    path = place_of(tmp_path, 6) / "training" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"training/best\.safetensors is damaged: 100 bytes are there"):
        phased(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors is missing: the folder .*step-00000006 is not comp"):
        phased(tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validate_every": 0}, r'keep_best="score" chooses among validations, but .*every=0 .* Set validate_every to'),
        ({"best_is": "higest"}, r'best_is is one of highest, lowest, found "higest"\. Did you mean "highest"\?'),
        ({"keep_best": None, "patience": 3}, "patience=3 waits for a new best validation: set keep_best to the metric"),
        ({"patience": 0}, "patience is a number of validations, at least 1, found 0"),
        ({"validate": None}, r'keep_best="score" is a metric of held-out data, .* Pass validation data'),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_training(tmp_path, options, message):
    objective, validate = Network(), {"validate": listed([]), **options}.pop("validate")
    settings = loop(**{name: value for name, value in options.items() if name != "validate"})
    with pytest.raises(TrainingError, match=message):
        run(objective, loop=settings, validate=validate, folder=tmp_path)
    assert objective.trained == 0
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_metric_is_refused_at_the_first_validation():
    objective, answer = Network(), {"ndcg@5": 0.1, "ndcg@10": 0.2, "loss": 0.3}
    message = r'keep_best="ndgc@10" is none of .* of step 2: loss, ndcg@10, ndcg@5\. Did you mean "ndcg@10"\?'
    with pytest.raises(TrainingError, match=message):
        run(objective, 9, loop=loop(keep_best="ndgc@10", validate_every=2), validate=lambda: answer)
    assert objective.trained == 2
    with pytest.raises(TrainingError, match=r'keep_best="score" is none of .* of step 1: there are none'):
        run(Network(), loop=loop(), validate=dict)


@pytest.mark.parametrize("every", [1, 3])
def test_nothing_but_nan_is_an_error_at_the_second_time_and_the_last_checkpoint_stays(tmp_path, every):
    objective, settings = Network(), loop(checkpoint_every=1, validate_every=every)
    message = r'keep_best="score" was NaN at every validation, .* Look at the validation .* in another output folder\.$'
    with pytest.raises(TrainingError, match=message):
        run(objective, 100, loop=settings, validate=listed([NAN] * 2), folder=tmp_path)
    assert objective.trained == 2 * every
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == f"step-{2 * every - 1:08d}"
    # Nor does the same go on: the checkpoint knows of the first.
    with pytest.raises(TrainingError, match=message):
        run(Network(), 100, loop=settings, validate=listed([NAN]), folder=tmp_path)


def test_one_validation_and_that_is_nan_is_an_error_at_the_end():
    with pytest.raises(TrainingError, match=r'keep_best="score" was NaN at every validation'):
        run(Network(), 1, loop=loop(), validate=listed([NAN]))


# Two processes

SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_keep_best import *
import torch.distributed as dist

out, rank = Path(sys.argv[1]), int(os.environ.get("RANK", 0))
# A last digit more in the second process would make step 6 the best there, and a step behind the end of patience.
options = {{"patience": 4, "skew": rank * 1e-12, "dropout": 0.0}}
straight = phased(out / "straight", **options)
try:
    phased(out / "stopped", stop_at=6, **options)
except StoppedError:
    pass
for name, (objective, result) in (("straight", straight), ("stopped", phased(out / "stopped", **options))):
    checkpoint.write_tensors(out / f"{{name}}-{{rank}}.safetensors", objective.state_dict())
    (out / f"{{name}}-{{rank}}.json").write_text(
        json.dumps([result.best_step, result.steps, result.metrics["validation/score"]])
    )
if dist.is_initialized():
    dist.barrier()  # without it, tearing down gloo aborts now and then
    dist.destroy_process_group()
"""


@pytest.mark.processes
def test_two_processes_keep_the_weights_that_one_keeps(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for start, name in (([], "one"), (launcher, "two")):
        (tmp_path / name).mkdir()
        command = [sys.executable, *start, str(script), str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one = checkpoint.read_tensors(tmp_path / "one" / "straight-0.safetensors")
    two = checkpoint.read_tensors(tmp_path / "two" / "straight-0.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    for run_name in ("straight", "stopped"):
        for rank in (0, 1):
            assert json.loads((tmp_path / "two" / f"{run_name}-{rank}.json").read_text()) == [BEST, 7, 5]
            assert same(checkpoint.read_tensors(tmp_path / "two" / f"{run_name}-{rank}.safetensors"), two)
        kept = place_of(tmp_path / "two" / run_name, 7)
        assert same(checkpoint.read_tensors(kept / "model.safetensors"), two)
    assert_same_end(tmp_path / "two" / "stopped", tmp_path / "two" / "straight", 7)
