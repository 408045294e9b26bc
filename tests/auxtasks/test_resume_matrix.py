"""Stopped at every step there is, under every kind of settings, a run goes on to the bit, and reads nothing twice."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks import checkpoint
from auxtasks.data.loaders import Feed, Shard
from auxtasks.data.plan import EpochPlan
from auxtasks.errors import CheckpointError
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase

TIMED = {"samples_per_second", "data_wait_share"}
ITEMS, BATCH, STEPS = 12, 8, 9  # a step and a half is an epoch: its last step is also the first of the next


class Points:
    """Points of which each is asked for by its row; the rows that were read are written down."""

    fingerprint = "points"

    def __init__(self, items=ITEMS):
        self.values = np.random.default_rng(0).normal(size=(items, 3)).astype(np.float32)
        self.read: list[int] = []

    def __len__(self):
        return len(self.values)

    def record(self, index):
        self.read.append(index)
        return {"x": self.values[index]}


class Plane(Objective):
    """Fits a plane; with a layer to freeze, a buffer that every pass moves, and dropout."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.stop_at = None
        self.calls = 0

    def forward(self, batch):
        self.calls += 1
        if self.calls == self.stop_at:
            raise StoppedError("in the middle of a step")
        self.passes += 1
        loss = (self.net(batch)[:, 0].float() - batch[:, 0] + 2 * batch[:, 1]).square().sum()
        return StepOutput(loss, loss.new_tensor(float(len(batch))), {"again": loss.detach() / len(batch)})

    def save(self, folder, provenance):
        checkpoint.write_tensors(folder / "model.safetensors", self.state_dict())

    def restore(self, folder):
        checkpoint.load_strictly(self, checkpoint.read_tensors(folder / "model.safetensors"), folder)


class StoppedError(Exception):
    pass


def freeze(*places):
    def begin(objective):
        for place, layer in enumerate(objective.net):
            layer.requires_grad_(place not in places)

    return begin


def shaken(record, rng):
    return torch.from_numpy(record["x"] + rng.normal(0, 0.1, size=3).astype(np.float32))


def feed_of(points, workers=0, batch=BATCH):
    return Feed(points, EpochPlan(len(points), batch, seed=3), shaken, torch.stack, seed=3, workers=workers)


# The head alone, then all, then what the phase before has left.
GRADUAL = (Phase(3, begin=freeze(0), name="head"), Phase(3, begin=freeze(), name="all"), Phase(3, name="on"))
LEFT_FROZEN = (Phase(4, begin=freeze(0)), Phase(5))
LOOP = LoopSettings(log_every=2, checkpoint_every=1, show_progress=False, device="cpu")
SGD = OptimizerSettings(name="sgd", learning_rate=0.01, warmup_steps=0)
ADAM = OptimizerSettings(learning_rate=0.01, warmup_steps=2)
SCORES = (2.0, 1.0, 5.0, 3.0, 4.0, 5.0, 1.0, 0.0, 0.5)  # of each step; the third is the best


@dataclasses.dataclass(frozen=True)
class Case:
    """What a run is asked for."""

    loop: LoopSettings = LOOP
    optimizer: OptimizerSettings = ADAM
    phases: tuple[Phase, ...] = (Phase(STEPS),)

    def run(self, folder, *, stop_at=None, points=None, workers=0, **changed):
        """Train, in the micro-batch `stop_at` of this call not to its end; the folder decides where to begin."""
        objective = Plane()
        objective.stop_at = stop_at
        loop = dataclasses.replace(self.loop, **changed)

        def validate():
            # What a step is worth is known by how many passes there were.
            return {"score": SCORES[int(objective.passes) // loop.accumulation - 1]}

        result = train(
            objective,
            feed_of(points or Points(), workers),
            self.phases,
            seed=0,
            optimizer=self.optimizer,
            loop=loop,
            folder=folder,
            validate=validate if loop.validate_every else None,
        )
        return objective, result


def asked(**loop):
    return Case(dataclasses.replace(LOOP, **loop))


CASES = {
    "adamw, cosine, warm-up": Case(),
    "sgd, linear": Case(optimizer=dataclasses.replace(SGD, schedule="linear", clip_norm=0.5)),
    "sgd, constant, warm-up": Case(optimizer=dataclasses.replace(SGD, schedule="constant", warmup_steps=3)),
    "adamw, linear, not clipped": Case(optimizer=dataclasses.replace(ADAM, schedule="linear", clip_norm=None)),
    "bf16": asked(mixed_precision="bf16"),
    "accumulation of 2": asked(accumulation=2),
    "accumulation of 4 in bf16": asked(accumulation=4, mixed_precision="bf16", log_every=3),
    "the best": asked(validate_every=1, keep_best="score"),
    "the best, with patience": asked(validate_every=1, keep_best="score", patience=4, log_every=3),
    "phases": Case(phases=GRADUAL),
    "phases with momentum": Case(phases=GRADUAL, optimizer=SGD),
    "phases in bf16, accumulated": Case(
        dataclasses.replace(LOOP, accumulation=2, mixed_precision="bf16"), phases=GRADUAL
    ),
    "a phase that leaves all as it is": Case(phases=LEFT_FROZEN),
    "all of it": Case(
        dataclasses.replace(LOOP, accumulation=2, validate_every=2, keep_best="score", log_every=4), SGD, GRADUAL
    ),
}


def state_of(folder: Path) -> dict[str, object]:
    """Return all tensors and numbers of the last checkpoint, and every log line, without times."""
    newest = max((folder / "checkpoints").glob("step-*"))
    tensors = {
        path.name: checkpoint.tensors_digest(checkpoint.read_tensors(path)) for path in newest.rglob("*.safetensors")
    }
    state = checkpoint.read_json(newest / "training" / "state.json")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"place": newest.name, **tensors, "state": {**state, "metrics": untimed(state["metrics"])},
            "lines": [untimed(line) for line in lines]}  # fmt: skip


def untimed(values):
    return {name: value for name, value in values.items() if name not in TIMED}


def weights_of(objective):
    return checkpoint.tensors_digest(objective.state_dict())


def stop(case, folder, passes, **options):
    with pytest.raises(StoppedError, match="in the middle of a step"):
        case.run(folder, stop_at=passes, **options)


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """Take what is imported out of the garbage collections with which each phase ends."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs that were never stopped: folder, objective and result of each case."""
    found = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp("straight")
        found[name] = (folder, *case.run(folder))
    return found


@pytest.mark.parametrize("case", CASES)
def test_stopped_in_any_step_and_resumed(tmp_path, straight, case, record_property):
    expected, objective, result = straight[case]
    for step in range(1, result.steps + 1):
        folder = tmp_path / str(step)
        micro = CASES[case].loop.accumulation
        stop(CASES[case], folder, (step - 1) * micro + 1 + step % micro)  # in any micro-batch
        assert len(list((folder / "checkpoints").glob("step-*")) if step > 1 else []) == min(step - 1, 2)
        again, resumed = CASES[case].run(folder)
        assert state_of(folder) == state_of(expected), step
        assert weights_of(again) == weights_of(objective)
        assert again.calls == (result.steps - step + 1) * micro
        assert untimed(resumed.metrics) == untimed(result.metrics)
        assert (resumed.steps, resumed.best_step) == (result.steps, result.best_step)
        assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in objective.parameters()]
    record_property("inputs", result.steps)


def test_the_cases_are_different_runs_and_all_that_trains_has_moved(straight):
    ended = {name: weights_of(objective) for name, (_, objective, _) in straight.items()}
    assert len(set(ended.values())) == len(CASES) - 1
    assert ended["the best"] == ended["the best, with patience"]  # which came before the run ended
    before = Plane().state_dict()
    for name, (_, objective, result) in straight.items():
        still = {key for key, value in objective.state_dict().items() if torch.equal(value, before[key])}
        frozen = name == "a phase that leaves all as it is"
        assert still == ({"net.0.weight", "net.0.bias"} if frozen else set()), name
        assert result.steps == (7 if name == "the best, with patience" else STEPS)


@pytest.mark.parametrize("every", [1, 2])
def test_a_resume_of_a_resume_between_two_log_lines(tmp_path, straight, every):
    # A line is of four steps, and each process does two or three: what the first has summed up has to reach the third.
    case = CASES["all of it"]
    for passes in (3, 5, 3):
        stop(case, tmp_path, passes, checkpoint_every=every)
    case.run(tmp_path)
    assert state_of(tmp_path) == state_of(straight["all of it"][0])


def test_the_log_line_behind_a_resume_is_of_all_its_steps(tmp_path):
    case = asked(log_every=3)
    case.run(tmp_path / "each", log_every=1)
    losses = {line["step"]: line["loss"] for line in state_of(tmp_path / "each")["lines"]}
    stop(case, tmp_path / "stopped", 6)
    case.run(tmp_path / "stopped")
    lines = {line["step"]: line["loss"] for line in state_of(tmp_path / "stopped")["lines"]}
    assert lines.keys() == {3, 6, 9}
    for step, loss in lines.items():
        assert loss == pytest.approx(np.mean([losses[step - back] for back in range(3)]), rel=1e-6)


def test_sums_for_the_next_log_line_that_are_missing_are_named(tmp_path):
    case = asked(log_every=4, keep_checkpoints=1)
    stop(case, tmp_path, 3)
    (place,) = (tmp_path / "checkpoints").glob("step-*")
    assert place.name == "step-00000002"
    (place / "training" / "since_last_log.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"since_last_log\.safetensors is missing"):
        case.run(tmp_path)


# What decides nothing may change on the way

WITHOUT_EFFECT = {
    "checkpoint_every": 5,
    "keep_checkpoints": 1,
    "device": "auto",
    "show_progress": True,
    "log_every": 5,
    "validate_every": 4,
    "trackers": ("tensorboard",),
    "gradient_checkpointing": True,
}
WITH_EFFECT = {
    "accumulation": (2, "accumulation: 1 there, 2 asked"),
    "mixed_precision": ("bf16", "mixed_precision: 'no' there, 'bf16' asked"),
    "keep_best": ("score", "keep_best: None there, 'score' asked"),
}
# Of these the first two only count with `keep_best`, as `validate_every` then does, and sharding is of processes.
WITH_THE_BEST = {"best_is": ("lowest", "best_is: 'highest' there"), "patience": (3, "patience: None there, 3 asked"),
                 "validate_every": (2, "validate_every: 1 there, 2 asked")}  # fmt: skip
ELSEWHERE = {"sharding"}


def test_every_setting_of_the_loop_is_one_that_may_change_or_one_that_may_not():
    names = {field.name for field in dataclasses.fields(LoopSettings)}
    assert names == {*WITHOUT_EFFECT, *WITH_EFFECT, *WITH_THE_BEST, *ELSEWHERE}
    changed = {**WITHOUT_EFFECT, **{name: value for name, (value, _) in {**WITH_EFFECT, **WITH_THE_BEST}.items()}}
    assert all(value != getattr(LOOP, name) for name, value in changed.items())


# A tracker needs a package that is not installed for tests; gradient checkpointing needs a backbone, and has its tests.
@pytest.mark.parametrize("name", sorted(set(WITHOUT_EFFECT) - {"trackers", "gradient_checkpointing"}))
def test_what_decides_nothing_may_be_another_when_a_run_goes_on(tmp_path, straight, name):
    _, objective, _ = straight["adamw, cosine, warm-up"]
    case = CASES["adamw, cosine, warm-up"]
    stop(case, tmp_path, 4)
    again, _ = case.run(tmp_path, **{name: WITHOUT_EFFECT[name]})
    assert again.calls == STEPS - 3
    assert weights_of(again) == weights_of(objective)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_may_be_another_when_a_run_goes_on(tmp_path, straight, workers):
    expected, objective, _ = straight["all of it"]
    stop(CASES["all of it"], tmp_path, 7, workers=1)
    again, _ = CASES["all of it"].run(tmp_path, workers=workers)
    assert weights_of(again) == weights_of(objective)
    assert state_of(tmp_path) == state_of(expected)


@pytest.mark.parametrize("name", WITH_EFFECT)
def test_settings_of_the_loop_that_decide_are_refused_and_listed(straight, name):
    value, message = WITH_EFFECT[name]
    case = CASES["adamw, cosine, warm-up"]
    with pytest.raises(CheckpointError, match=f"was written with other settings: .*{message}"):
        case.run(straight["adamw, cosine, warm-up"][0], **{"validate_every": 1, name: value})


@pytest.mark.parametrize("name", WITH_THE_BEST)
def test_settings_that_choose_the_best_are_refused_and_listed(straight, name):
    value, message = WITH_THE_BEST[name]
    with pytest.raises(CheckpointError, match=f"was written with other settings: {message}"):
        CASES["the best"].run(straight["the best"][0], **{name: value})


OPTIMIZERS = {
    "name": "sgd",
    "learning_rate": 0.02,
    "weight_decay": 0.1,
    "momentum": 0.5,
    "second_momentum": 0.9,
    "warmup_steps": 1,
    "schedule": "constant",
    "clip_norm": 1.0,
}


@pytest.mark.parametrize("field", dataclasses.fields(OptimizerSettings), ids=lambda field: field.name)
def test_every_setting_of_the_optimizer_is_refused_and_listed(straight, field):
    changed = OPTIMIZERS[field.name]
    case = Case(optimizer=dataclasses.replace(ADAM, **{field.name: changed}))
    message = rf"was written with other settings: optimizer: \{{.*\}} there, \{{.*'{field.name}': {changed!r}.* asked\."
    with pytest.raises(CheckpointError, match=message):
        case.run(straight["adamw, cosine, warm-up"][0])


def test_other_phases_are_refused_and_listed(straight):
    with pytest.raises(CheckpointError, match=r"other settings: steps: \[9\] there, \[3, 3, 3\] asked"):
        Case(phases=GRADUAL).run(straight["adamw, cosine, warm-up"][0])


# Nothing is replayed


def test_a_resumed_run_reads_what_its_steps_need_and_no_more(tmp_path):
    case, stopped_at, every = asked(), 7, 2
    points = Points()
    stop(case, tmp_path, stopped_at, points=points, checkpoint_every=every)
    assert len(points.read) == stopped_at * BATCH
    points = Points()
    case.run(tmp_path, points=points)
    plan = EpochPlan(ITEMS, BATCH, seed=3)
    first = (stopped_at - 1) // every * every
    assert points.read == [pick.row for step in range(first, STEPS) for pick in plan.batch(step)]


@pytest.mark.parametrize("step", [10, 1_000, 1_000_000])
def test_beginning_at_any_step_reads_and_plans_that_step_alone(monkeypatch, step):
    planned, batch = [], EpochPlan.batch
    monkeypatch.setattr(EpochPlan, "batch", lambda self, number: planned.append(number) or batch(self, number))
    points = Points()
    batches = list(itertools.islice(feed_of(points).batches(step, step + 50, Shard()), 1))
    assert len(batches) == 1
    assert planned == [step]
    assert len(points.read) == BATCH
