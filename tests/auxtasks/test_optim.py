"""Learning rates as closed forms, decay where it belongs, and state that follows a parameter's name."""

import math

import pytest
import torch
from torch import nn

from auxtasks.errors import TrainingError
from auxtasks.training.optim import OptimizerSettings, build_optimizer, named_state, restore_state, schedule_factor


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def take_steps(module, optimizer, count=3):
    for step in range(count):
        optimizer.zero_grad()
        x = torch.linspace(-1, 1, 15).view(5, 3) + 0.1 * step
        module(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_are_their_closed_forms(warmup):
    for step in range(20):
        share = {name: schedule_factor(step, total=20, warmup=warmup, schedule=name)
                 for name in ("cosine", "linear", "constant")}  # fmt: skip
        if step < warmup:
            assert set(share.values()) == {(step + 1) / warmup}
        else:
            progress = (step - warmup) / (20 - warmup)
            assert share["constant"] == 1
            assert share["linear"] == pytest.approx(1 - progress)
            assert share["cosine"] == pytest.approx((1 + math.cos(math.pi * progress)) / 2)


def test_a_run_of_warm_up_alone_is_no_division_by_zero():
    assert schedule_factor(3, total=4, warmup=4, schedule="cosine") == 1


def test_matrices_decay_and_vectors_do_not():
    module = network()
    optimizer = build_optimizer(module.named_parameters(), OptimizerSettings(weight_decay=0.1))
    decays = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {name: decays[parameter] for name, parameter in module.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0, "1.weight": 0, "1.bias": 0, "2.weight": 0.1, "2.bias": 0,
    }  # fmt: skip


def test_rates_by_depth_reach_each_parameter():
    module = network()
    optimizer = build_optimizer(
        module.named_parameters(), OptimizerSettings(learning_rate=0.5), lambda name: 0.5 ** (2 - int(name[0]))
    )
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {rates[parameter] for parameter in module[0].parameters()} == {0.125}
    assert {rates[parameter] for parameter in module[2].parameters()} == {0.5}


def test_only_what_trains_is_in_the_optimizer():
    module = network()
    module[0].requires_grad_(False)
    optimizer = build_optimizer(module.named_parameters(), OptimizerSettings())
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in [*module[1].parameters(), *module[2].parameters()]}


def test_nothing_that_trains_is_an_error():
    module = network().requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing trains: every parameter is frozen"):
        build_optimizer(module.named_parameters(), OptimizerSettings())


def test_sgd_without_momentum_is_plain_descent():
    weight = nn.Parameter(torch.tensor([[2.0]]))
    settings = OptimizerSettings(name="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer([("weight", weight)], settings)
    (3 * weight).sum().backward()
    optimizer.step()
    assert weight.item() == pytest.approx(2 - 0.1 * 3)


def test_adamw_takes_the_settings():
    weight = nn.Parameter(torch.tensor([[2.0]]))
    settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.5, momentum=0.8, second_momentum=0.9)
    optimizer = build_optimizer([("weight", weight)], settings)
    expected, first, second = 2.0, 0.0, 0.0
    for step, slope in enumerate((3.0, -1.0, 0.5), start=1):
        optimizer.zero_grad()
        (slope * weight).sum().backward()
        optimizer.step()
        first, second = 0.8 * first + 0.2 * slope, 0.9 * second + 0.1 * slope**2
        expected *= 1 - 0.1 * 0.5
        expected -= 0.1 * first / (1 - 0.8**step) / (math.sqrt(second / (1 - 0.9**step)) + 1e-8)
    assert weight.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_state_goes_on_where_it_was_in_other_groups(name):
    settings = OptimizerSettings(name=name, learning_rate=0.01)
    straight, stopped = network(), network()
    optimizer = build_optimizer(straight.named_parameters(), settings)
    take_steps(straight, optimizer, 3)
    take_steps(straight, optimizer, 3)

    first = build_optimizer(stopped.named_parameters(), settings)
    take_steps(stopped, first, 3)
    state = named_state(first, stopped.named_parameters())
    assert len(state) == 6 * (3 if name == "adamw" else 1)
    # Another grouping: each parameter by itself, in reverse order.
    second = build_optimizer(
        reversed(list(stopped.named_parameters())), settings, rate_scale=lambda name: 1 + 1e-12 * len(name)
    )
    restore_state(second, stopped.named_parameters(), state)
    take_steps(stopped, second, 3)
    for a, b in zip(straight.parameters(), stopped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_restored_state_is_a_copy_and_is_given_to_what_trains_alone():
    module = network()
    first = build_optimizer(module.named_parameters(), OptimizerSettings())
    take_steps(module, first)
    state = named_state(first, module.named_parameters())
    kept = {name: tensor.clone() for name, tensor in state.items()}
    module[0].requires_grad_(False)
    second = build_optimizer(module.named_parameters(), OptimizerSettings())
    restore_state(second, module.named_parameters(), state)
    assert module[0].weight not in second.state
    assert len(named_state(second, module.named_parameters())) == 4 * 3
    take_steps(module, second)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
