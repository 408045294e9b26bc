"""The loop against training written by hand, on a task small enough to do that: weighted linear regression."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auxtasks import checkpoint
from auxtasks.data.loaders import Feed
from auxtasks.data.plan import EpochPlan
from auxtasks.errors import CheckpointError, NonFiniteError, TrainingError
from auxtasks.training import preparing
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings, schedule_factor
from auxtasks.training.settings import LoopSettings, Phase

PLAIN = OptimizerSettings(
    name="sgd", learning_rate=0.05, momentum=0.0, weight_decay=0.0, warmup_steps=0, schedule="constant", clip_norm=None
)
QUIET = LoopSettings(show_progress=False, log_every=1)


class Points:
    """y = 2 x - 1 plus noise; item n weighs 1 + n mod 5."""

    def __init__(self, count: int = 24) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(count, 3)).astype(np.float32)
        self.y = (self.x @ np.array([2.0, -1.0, 0.5], np.float32) + rng.normal(size=count) * 0.1).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def record(self, index: int) -> Mapping[str, Any]:
        return {"x": self.x[index], "y": self.y[index], "weight": np.float32(1 + index % 5)}


class Batch(NamedTuple):
    x: Tensor
    y: Tensor
    weight: Tensor


def collate(items):
    return Batch(*(torch.tensor(np.stack([item[key] for item in items])) for key in ("x", "y", "weight")))


class Regression(Objective):
    """Weighted squared error: the weights of micro-batches differ."""

    def __init__(self, width: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            hidden = [nn.Linear(3, width), nn.Tanh(), nn.Dropout(dropout)] if width else []
            self.net = nn.Sequential(*hidden, nn.Linear(width or 3, 1))
        self.seen: list[Batch] = []
        self.outputs: list[torch.dtype] = []

    def forward(self, batch: Batch) -> StepOutput:
        self.seen.append(batch)
        output = self.net(batch.x)[:, 0]
        self.outputs.append(output.dtype)
        error = (output - batch.y).square()
        loss = (error * batch.weight).sum()
        metrics = {"error": (error.detach() * batch.weight).sum() / batch.weight.sum()} if self.log_metrics else {}
        return StepOutput(loss, batch.weight.sum(), metrics)

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        checkpoint.write_tensors(folder / "model.safetensors", self.state_dict())
        checkpoint.write_json(folder / "provenance.json", dict(provenance))

    def restore(self, folder: Path) -> None:
        checkpoint.load_strictly(self, checkpoint.read_tensors(folder / "model.safetensors"), folder)


class Comparing(Regression):
    compares_items = True


def feed(batch_size: int = 8, transform=None):
    points = Points()
    plan = EpochPlan(len(points), batch_size, seed=1)
    return Feed(points, plan, transform or (lambda record, rng: record), collate, seed=0)


def run(objective, steps=4, *, optimizer=PLAIN, loop=QUIET, phases=None, batch_size=8, **options):
    return train(
        objective, feed(batch_size), phases or [Phase(steps)], seed=0, optimizer=optimizer, loop=loop, **options
    )


def accumulate(count: int, **options) -> LoopSettings:
    return LoopSettings(show_progress=False, log_every=1, accumulation=count, **options)


def weights(objective) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in objective.parameters()])


def by_hand(steps: int, rate, clip: float | None = None, batch_size: int = 8) -> Tensor:
    """Gradient descent on the weighted mean of each global batch, in NumPy and float64."""
    points, plan = Points(), EpochPlan(24, batch_size, seed=1)
    layer = Regression().net[0]
    w, b = layer.weight.detach().double().numpy()[0].copy(), layer.bias.item()
    for step in range(steps):
        grad_w, grad_b, total = np.zeros(3), 0.0, 0.0
        for pick in plan.batch(step):
            record = points.record(pick.row)
            slope = 2 * (record["x"] @ w + b - record["y"]) * record["weight"]
            grad_w, grad_b, total = grad_w + slope * record["x"], grad_b + slope, total + record["weight"]
        gradient = np.array([*grad_w, grad_b]) / total
        if clip is not None:
            gradient *= min(1.0, clip / np.linalg.norm(gradient))
        w, b = w - rate(step) * gradient[:3], b - rate(step) * gradient[3]
    return torch.tensor([*w, b], dtype=torch.float32)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# What is computed


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_loss_is_a_weighted_mean_over_the_whole_step_however_it_is_split(accumulation):
    objective = Regression()
    result = run(objective, loop=accumulate(accumulation))
    totals = {float(batch.weight.sum()) / len(batch.y) for batch in objective.seen}
    assert len(objective.seen) == 4 * accumulation
    assert len(totals) > 1  # a mean of the micro-batches' means would be another one
    assert_close(weights(objective), by_hand(4, rate=lambda step: 0.05))
    assert result.steps == 4


@pytest.mark.parametrize("optimizer", [OptimizerSettings(), PLAIN], ids=["adamw", "sgd"])
def test_one_batch_of_eight_equals_two_of_four(optimizer):
    whole, split = Regression(width=5), Regression(width=5)
    a = run(whole, 10, optimizer=optimizer, loop=accumulate(1))
    b = run(split, 10, optimizer=optimizer, loop=accumulate(2))
    assert_close(weights(whole), weights(split))
    assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], rel=1e-5)
    assert a.metrics["error"] == pytest.approx(b.metrics["error"], rel=1e-5)
    assert not torch.equal(weights(whole), weights(Regression(width=5)))


def test_logged_values_are_those_of_the_steps_since_the_last_line(tmp_path):
    objective = Regression()
    run(objective, 6, loop=LoopSettings(show_progress=False, log_every=3), folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"]) for line in lines] == [(3, "train"), (6, "train")]
    losses, totals = [], []
    for step in range(6):
        w = by_hand(step, rate=lambda step: 0.05)
        batch = objective.seen[step]
        errors = (batch.x @ w[:3] + w[3] - batch.y).square() * batch.weight
        losses.append(float(errors.sum()))
        totals.append(float(batch.weight.sum()))
    for line, steps in zip(lines, (slice(0, 3), slice(3, 6)), strict=True):
        assert line["loss"] == pytest.approx(sum(losses[steps]) / sum(totals[steps]), rel=1e-4)
        last = steps.stop - 1  # metrics are computed in logged steps alone
        assert line["error"] == pytest.approx(losses[last] / totals[last], rel=1e-4)


def test_samples_are_counted_by_their_weight_not_by_the_size_of_the_batch():
    # Batches may differ in size; the weight of a step is known only where a line is logged.
    objective = Regression()
    result = run(objective, 7, loop=LoopSettings(show_progress=False, log_every=3))
    weight = sum(float(batch.weight.sum()) for batch in objective.seen)
    assert weight > 2 * 7 * 8
    # The meter is read within the run, so its seconds are fewer.
    assert result.samples_per_second * result.seconds == pytest.approx(weight, rel=0.5)
    assert result.samples_per_second * result.seconds >= weight * (1 - 1e-9)


def test_the_gradient_is_clipped_after_it_was_averaged():
    objective = Regression()
    clipped = OptimizerSettings(**{**PLAIN.__dict__, "clip_norm": 0.5})
    run(objective, optimizer=clipped, loop=accumulate(2))
    expected = by_hand(4, rate=lambda step: 0.05, clip=0.5)
    assert_close(weights(objective), expected)
    assert (expected - by_hand(4, rate=lambda step: 0.05)).abs().max() > 0.01  # the limit was met


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_learning_rate_follows_the_schedule(schedule):
    objective = Regression()
    settings = OptimizerSettings(**{**PLAIN.__dict__, "schedule": schedule, "warmup_steps": 3})
    run(objective, 9, optimizer=settings)
    rate = lambda step: 0.05 * schedule_factor(step, total=9, warmup=3, schedule=schedule)  # noqa: E731
    assert_close(weights(objective), by_hand(9, rate))


def test_validation_sees_eval_mode_and_no_gradient_and_training_goes_on_in_training_mode():
    objective = Regression(width=4, dropout=0.5)
    modes = []

    def validate():
        modes.append((objective.training, torch.is_grad_enabled()))
        return {"answer": 42.0}

    loop = LoopSettings(show_progress=False, log_every=1, validate_every=2)
    result = run(objective, 5, loop=loop, validate=validate)
    assert modes == [(False, False)] * 3  # after 2, 4, and the last
    assert objective.training
    assert result.metrics["validation/answer"] == 42


# Randomness


def test_dropout_is_a_function_of_the_seed_and_the_global_generator_is_restored():
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        objective = Regression(width=8, dropout=0.5)
        run(objective)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(weights(objective))
    assert torch.equal(*found)
    other = Regression(width=8, dropout=0.5)
    train(other, feed(), [Phase(4)], seed=1, optimizer=PLAIN, loop=QUIET)
    assert not torch.equal(weights(other), found[0])


def test_each_micro_batch_has_its_own_dropout():
    masks = []

    class Watching(Regression):
        def forward(self, batch):
            masks.append(tuple((nn.functional.dropout(torch.ones(16)) > 0).tolist()))
            return super().forward(batch)

    run(Watching(), loop=accumulate(2))
    assert len(masks) == len(set(masks)) == 8


def test_the_global_generator_is_restored_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(NonFiniteError, match="step 1"):
        train(Regression(), broken_feed({0}), [Phase(2)], seed=0, optimizer=PLAIN, loop=QUIET)
    assert torch.equal(torch.get_rng_state(), state)


# What goes wrong


def broken_feed(steps):
    """A feed in which the batches of some steps hold a NaN."""
    rows = {EpochPlan(24, 8, seed=1).batch(step)[3] for step in steps}
    return feed(transform=Poison({(pick.epoch, pick.row) for pick in rows}))


class Poison:
    def __init__(self, rows):
        self.rows = rows
        self.calls = 0

    def __call__(self, record, rng):
        epoch = self.calls // 24
        self.calls += 1
        return {**record, "y": np.float32("nan")} if (epoch, record["row"]) in self.rows else record


def test_a_loss_that_is_nan_stops_at_its_step_and_keeps_the_last_good_checkpoint(tmp_path):
    objective = Regression()
    loop = LoopSettings(show_progress=False, log_every=100, checkpoint_every=2)
    with pytest.raises(
        NonFiniteError, match=r"not finite at step 6\. .*\(now 0\.05\).* checkpoint is .*step-00000004\."
    ):
        train(objective, broken_feed({5}), [Phase(9)], seed=0, optimizer=PLAIN, loop=loop, folder=tmp_path)
    assert len(objective.seen) == 6
    assert_close(weights(objective), by_hand(5, rate=lambda step: 0.05))  # the bad step changed nothing
    kept = checkpoint.read_tensors(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors")
    assert_close(kept["net.0.weight"][0], by_hand(4, rate=lambda step: 0.05)[:3])


def test_a_gradient_that_is_infinite_stops_too():
    class Steep(Regression):
        def forward(self, batch):
            output = super().forward(batch)
            # Its value is 0, its slope is not a number of this world.
            return output._replace(loss_sum=output.loss_sum + (self.net[0].bias.sum() * 0).sqrt())

    with pytest.raises(NonFiniteError, match="the loss or its gradient is not finite at step 1"):
        run(Steep())


def test_accumulation_is_refused_for_what_compares_items():
    with pytest.raises(TrainingError, match=r"Comparing compares the items of a batch, so a batch cut into 2 micro-"):
        run(Comparing(), loop=accumulate(2))
    run(Comparing(), loop=accumulate(1))
    with pytest.raises(TrainingError, match="at least 1, found 0"):
        run(Regression(), loop=accumulate(0))


@pytest.mark.parametrize("count", [0, -1])
def test_a_run_that_would_keep_no_checkpoint_is_refused(tmp_path, count):
    """Not taken for "all of them", as a slice of the list would have it."""
    with pytest.raises(TrainingError, match=rf"keep_checkpoints is a number, at least 1, found {count}\."):
        run(Regression(), folder=tmp_path, loop=LoopSettings(keep_checkpoints=count))
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_done(tmp_path):
    objective = Regression()
    with pytest.raises(TrainingError, match=r"global batch of 8 items cannot be split evenly .* a multiple of 3"):
        run(objective, loop=accumulate(3), folder=tmp_path)
    assert objective.seen == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do this")
def test_half_precision_is_refused_on_a_cpu():
    with pytest.raises(TrainingError, match=r'mixed_precision="fp16" needs a GPU; on a CPU use "bf16" or "no"'):
        run(Regression(), loop=accumulate(1, mixed_precision="fp16"))


def test_nothing_that_trains_is_an_error():
    with pytest.raises(TrainingError, match="nothing trains"):
        run(Regression().requires_grad_(False))


# One process, several runs


def test_runs_of_different_precision_follow_each_other():
    kinds = ["no", "bf16", "no", "bf16"]
    objectives = [Regression(width=4) for _ in kinds]
    for kind, objective in zip(kinds, objectives, strict=True):
        run(objective, loop=accumulate(1, mixed_precision=kind))
    dtypes = [set(objective.outputs) for objective in objectives]
    assert dtypes == [{torch.float32}, {torch.bfloat16}, {torch.float32}, {torch.bfloat16}]
    assert torch.equal(weights(objectives[0]), weights(objectives[2]))
    assert torch.equal(weights(objectives[1]), weights(objectives[3]))
    assert_close(weights(objectives[0]), weights(objectives[1]), 0.05)
    assert weights(objectives[1]).dtype == torch.float32


def test_the_same_objective_can_be_trained_again_in_another_precision():
    twice, once = Regression(width=4), Regression(width=4)
    run(twice, loop=accumulate(1, mixed_precision="bf16"))
    once.load_state_dict(twice.state_dict())
    twice.outputs.clear()
    for objective in (twice, once):
        run(objective)
    assert set(twice.outputs) == {torch.float32}
    assert torch.equal(weights(twice), weights(once))


def test_every_phase_and_every_run_has_the_precision_that_was_asked_for():
    objective = Regression(width=4)
    for _ in range(2):
        run(objective, phases=[Phase(2, begin=unfreeze(3)), Phase(2, begin=unfreeze(0, 3)), Phase(1)],
            loop=accumulate(1, mixed_precision="bf16"))  # fmt: skip
    assert objective.outputs == [torch.bfloat16] * 10


def test_an_error_leaves_no_mixed_precision_behind():
    objective = Regression()
    loop = accumulate(1, mixed_precision="bf16")
    with pytest.raises(NonFiniteError, match="step 2"):
        train(objective, broken_feed({1}), [Phase(3)], seed=0, optimizer=PLAIN, loop=loop)
    objective.outputs.clear()
    objective(collate([Points().record(0)]))
    assert objective.outputs == [torch.float32]


# Phases


def unfreeze(*layers: int):
    def begin(objective):
        for place, layer in enumerate(objective.net):
            layer.requires_grad_(place in layers)

    return begin


def test_frozen_parameters_stand_still_and_the_others_move():
    objective = Regression(width=4)
    history = []

    def note(begin):
        def noted(objective):
            history.append([layer.weight.detach().clone() for layer in (objective.net[0], objective.net[3])])
            begin(objective)

        return noted

    phases = [Phase(3, begin=note(unfreeze(3))), Phase(3, begin=note(unfreeze(0))), Phase(0, begin=note(unfreeze(0)))]
    run(objective, phases=phases[:2], optimizer=OptimizerSettings(warmup_steps=0))
    phases[2].begin(objective)
    (low0, high0), (low1, high1), (low2, high2) = history
    assert torch.equal(low0, low1)
    assert not torch.equal(high0, high1)
    assert not torch.equal(low1, low2)
    assert torch.equal(high1, high2)


def test_the_optimizer_s_state_goes_from_phase_to_phase_by_name(tmp_path):
    settings = OptimizerSettings(**{**OptimizerSettings().__dict__, "warmup_steps": 0, "schedule": "constant"})
    run(Regression(width=4), phases=[Phase(3, begin=unfreeze(3)), Phase(4, begin=unfreeze(0, 3))], optimizer=settings,
        folder=tmp_path)  # fmt: skip
    state = checkpoint.read_tensors(tmp_path / "checkpoints" / "step-00000007" / "training" / "optimizer.safetensors")
    counts = {name: int(value) for name, value in state.items() if name.endswith("|step")}
    assert counts == {"net.0.weight|step": 4, "net.0.bias|step": 4, "net.3.weight|step": 7, "net.3.bias|step": 7}


def test_clipping_counts_no_gradient_of_what_an_earlier_phase_trained():
    objective, before = Regression(width=4), []

    def begin(objective):
        before.append(objective.net[0].weight.detach().clone())
        before.append(objective.net[0].bias.detach().clone())
        unfreeze(0)(objective)

    settings = OptimizerSettings(**{**PLAIN.__dict__, "clip_norm": 0.5})
    run(objective, phases=[Phase(1, begin=unfreeze(3)), Phase(1, begin=begin)], optimizer=settings)
    moved = [now - then for now, then in zip(objective.net[0].parameters(), before, strict=True)]
    # The whole norm is at the limit, so the step is as long as limit times learning rate.
    norm = torch.cat([part.detach().flatten() for part in moved]).double().norm()
    assert float(norm) == pytest.approx(0.05 * 0.5, rel=1e-5)


def test_two_phases_alike_are_one_long_one():
    settings = OptimizerSettings(warmup_steps=0, schedule="constant")
    straight, split = Regression(width=4), Regression(width=4)
    run(straight, 8, optimizer=settings)
    run(split, phases=[Phase(5), Phase(3)], optimizer=settings)
    assert torch.equal(weights(straight), weights(split))


def test_each_phase_has_its_rates_by_name_and_its_own_schedule():
    objective = Regression()
    settings = OptimizerSettings(**{**PLAIN.__dict__, "schedule": "linear"})
    phases = [Phase(4, rate_scale=lambda name: 0.0), Phase(4, rate_scale=lambda name: 0.5)]
    run(objective, phases=phases, optimizer=settings)

    def rate(step):
        return 0.0 if step < 4 else 0.5 * 0.05 * (1 - (step - 4) / 4)

    assert_close(weights(objective), by_hand(8, rate))
    assert (weights(objective) - weights(Regression())).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_is_frozen_for_a_while_goes_on_with_the_state_that_it_had(tmp_path, name):
    settings = OptimizerSettings(
        name=name, learning_rate=0.01, warmup_steps=0, schedule="constant", clip_norm=None, weight_decay=0.1
    )
    parts = [(3, (0, 3)), (2, (3,)), (4, (0,)), (2, (0, 3))]
    objective, expected = Regression(width=4), Regression(width=4)
    run(objective, phases=[Phase(steps, begin=unfreeze(*layers)) for steps, layers in parts], optimizer=settings,
        folder=tmp_path)  # fmt: skip
    # One optimizer for all: torch leaves a parameter without a gradient, and its state, as they are.
    groups = [
        {"params": [p for p in expected.parameters() if (p.ndim > 1) == matrices], "weight_decay": 0.1 * matrices}
        for matrices in (True, False)
    ]
    plain = (
        torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99))
        if name == "adamw"
        else torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    )
    batches = iter(objective.seen)
    for steps, layers in parts:
        unfreeze(*layers)(expected)
        for _ in range(steps):
            plain.zero_grad()
            output = expected(next(batches))
            (output.loss_sum / output.weight).backward()
            plain.step()
    assert_close(weights(objective), weights(expected))
    # A checkpoint holds it too, whether or not it trains at the end.
    state = checkpoint.read_tensors(tmp_path / "checkpoints" / "step-00000011" / "training" / "optimizer.safetensors")
    if name == "adamw":
        counts = {key: int(value) for key, value in state.items() if key.endswith("weight|step")}
        assert counts == {"net.0.weight|step": 9, "net.3.weight|step": 7}


def test_the_optimizer_holds_only_what_trains(monkeypatch):
    held, build_optimizer = [], preparing.build_optimizer

    def watched(*args):
        optimizer = build_optimizer(*args)
        held.append(sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"]))
        return optimizer

    monkeypatch.setattr(preparing, "build_optimizer", watched)
    phases = [Phase(1, begin=unfreeze(3)), Phase(1, begin=unfreeze(0)), Phase(1, begin=unfreeze(0, 3))]
    run(Regression(width=4), phases=phases)
    assert held == [5, 16, 21]


def test_a_phase_trains_on_its_own_feed_whose_steps_count_on():
    asked = []

    class Watched(Feed):
        def batches(self, start, stop, shard):
            asked.append((self.batch_size, start, stop))
            return super().batches(start, stop, shard)

    def watched(size):
        points = Points()
        return Watched(points, EpochPlan(len(points), size, seed=1), lambda record, rng: record, collate, seed=0)

    objective = Regression()
    phases = [Phase(3), Phase(2, feed=watched(4)), Phase(1)]
    train(objective, watched(8), phases, seed=0, optimizer=PLAIN, loop=QUIET)
    assert asked == [(8, 0, 3), (4, 3, 5), (8, 5, 6)]
    assert [len(batch.y) for batch in objective.seen] == [8, 8, 8, 4, 4, 8]
    expected = Regression()  # each step by the mean of its own batch
    for batch in objective.seen:
        output = expected(batch)
        slopes = torch.autograd.grad(output.loss_sum / output.weight, list(expected.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(expected.parameters(), slopes, strict=True):
                parameter -= 0.05 * slope
    assert_close(weights(objective), weights(expected))


def test_a_phase_s_feed_is_checked_before_anything_is_done(tmp_path):
    class Stream(Feed):
        def position(self):
            return {"row": 0}

    objective = Regression()
    with pytest.raises(TrainingError, match="global batch of 9 items cannot be split evenly"):
        run(objective, phases=[Phase(1), Phase(1, feed=feed(9))], loop=accumulate(2), folder=tmp_path)
    points = Points()
    stream = Stream(points, EpochPlan(24, 8, seed=1), lambda record, rng: record, collate, seed=0)
    with pytest.raises(TrainingError, match=r'phase 2 of 2, "top", has a feed of its own that is a stream'):
        run(objective, phases=[Phase(1), Phase(1, name="top", feed=stream)], folder=tmp_path)
    assert objective.seen == []
    assert list(tmp_path.iterdir()) == []


def test_other_batches_of_a_phase_are_another_run(tmp_path):
    run(Regression(), phases=[Phase(2), Phase(2, feed=feed(4))], folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"batch_sizes: \[8, 4\] there, \[8, 2\] asked"):
        run(Regression(), phases=[Phase(2), Phase(2, feed=feed(2))], folder=tmp_path)


# Resuming


@pytest.mark.parametrize("at", [2, 3, 4, 6, 8, 9])
def test_a_run_stopped_in_any_phase_ends_as_one_that_was_not(tmp_path, at):
    # What the first phase trains is frozen in the second and goes on in the third, which has a feed of its own.
    phases = [Phase(3, begin=unfreeze(3)), Phase(5, begin=unfreeze(0)), Phase(3, begin=unfreeze(0, 3), feed=feed(4))]
    settings = OptimizerSettings(warmup_steps=1)
    loop = LoopSettings(show_progress=False, log_every=1, checkpoint_every=1)
    straight, stopped, resumed = (Regression(width=6, dropout=0.4) for _ in range(3))
    run(straight, phases=phases, optimizer=settings)

    def stop():
        if len(stopped.seen) == at + 1:
            raise KeyboardInterrupt("the test stops here")

    every_step = LoopSettings(show_progress=False, log_every=1, checkpoint_every=1, validate_every=1)
    with pytest.raises(KeyboardInterrupt, match="the test stops here"):
        run(stopped, phases=phases, optimizer=settings, loop=every_step, folder=tmp_path,
            validate=lambda: stop() or {})  # fmt: skip
    result = run(resumed, phases=phases, optimizer=settings, loop=loop, folder=tmp_path)
    assert len(resumed.seen) == 11 - at
    assert result.steps == 11
    assert torch.equal(weights(resumed), weights(straight))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 12))


def test_a_finished_run_is_not_done_again(tmp_path):
    first, again = Regression(), Regression()
    result = run(first, folder=tmp_path, validate=lambda: {"answer": 42.0})
    repeated = run(again, folder=tmp_path, validate=lambda: {"answer": 0.0})
    assert again.seen == []
    assert torch.equal(weights(first), weights(again))
    assert repeated.metrics == result.metrics


def test_a_metric_that_is_not_finite_stops_no_checkpoint(tmp_path):
    result = run(Regression(), folder=tmp_path, validate=lambda: {"gone": math.inf, "lost": math.nan, "kept": 1.0})
    assert result.metrics["validation/gone"] == math.inf
    state = checkpoint.read_json(tmp_path / "checkpoints" / "step-00000004" / "training" / "state.json")
    assert {name for name in state["metrics"] if name.startswith("validation")} == {"validation/kept"}
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line == {"step": 4, "kind": "validation", "gone": None, "lost": None, "kept": 1.0}


def test_provenance_step_and_seed_are_kept_with_the_weights(tmp_path):
    run(Regression(), folder=tmp_path, provenance={"pretrained_on": "points"})
    kept = checkpoint.read_json(tmp_path / "checkpoints" / "step-00000004" / "provenance.json")
    assert kept == {"pretrained_on": "points", "steps": 4, "seed": 0}
