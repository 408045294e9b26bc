"""All layers unrolled as one autoencoder: what it computes, holds and refuses."""

import functools

import pytest
import torch
from torch import nn

from auxtasks.backbones import convnet, mlp
from auxtasks.errors import LayerError
from auxtasks.tasks import DeepAutoencoder, LayerAutoencoder, LayerRBM

KINDS = {
    "autoencoder": functools.partial(LayerAutoencoder, noise=None),
    "untied": functools.partial(LayerAutoencoder, noise=None, tied=False, loss="squared_error"),
    "machine": LayerRBM,
    "gaussian machine": functools.partial(LayerRBM, visible="gaussian"),
}


def stack(make, layers=2):
    backbone = mlp(width=5, hidden=[4, 3, 2], activation="sigmoid")
    tasks = [make(backbone, layer) for layer in backbone.layer_names[:layers]]
    with torch.no_grad():
        for place, task in enumerate(tasks):
            task.head.bias.fill_(0.3 * (place + 1))
    return DeepAutoencoder(tasks), tasks


@pytest.fixture
def values():
    return torch.rand(6, 5, generator=torch.Generator().manual_seed(0))


def slowly(kind, tasks, x):
    """Encode up and decode down by hand; return what the lowest decoder says."""
    linears = [task.backbone.module[place][0] for place, task in enumerate(tasks)]
    hidden = x
    for linear in linears:
        hidden = torch.sigmoid(hidden @ linear.weight.T + linear.bias)
    for place in range(len(tasks) - 1, -1, -1):
        weight = tasks[place].head.map.weight.T if kind == "untied" else linears[place].weight
        sent = hidden @ weight + tasks[place].head.bias
        hidden = sent if kind in ("untied", "gaussian machine") else torch.sigmoid(sent)
    return hidden


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_input_after_going_up_and_down(kind, layers, values):
    task, tasks = stack(KINDS[kind], layers)
    output = task(values)
    shown = slowly(kind, tasks, values)
    if kind in ("autoencoder", "machine"):
        expected = nn.functional.binary_cross_entropy(shown, values, reduction="sum")
    else:
        expected = (shown - values).square().sum() / (2 if kind == "gaussian machine" else 1)
    assert output.loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.weight.item() == 6
    torch.testing.assert_close(task.decode(task.encode(values)), shown)
    error = (shown - values).square().mean().item()
    assert output.metrics["reconstruction_error"].item() == pytest.approx(error, rel=1e-5)
    task.log_metrics = False
    assert task(values).metrics == {}


@pytest.mark.parametrize("kind", KINDS)
def test_all_its_layers_and_decoders_learn_and_none_above(kind, values):
    task, _ = stack(KINDS[kind])
    task(values).loss_sum.backward()
    learned = {name for name, parameter in task.named_parameters() if parameter.grad is not None}
    expected = {f"backbone.module.{place}.0.{name}" for place in (0, 1) for name in ("weight", "bias")}
    expected |= {f"heads.{place}.bias" for place in (0, 1)}
    expected |= {f"heads.{place}.map.weight" for place in (0, 1)} if kind == "untied" else set()
    assert learned == expected
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.parameters() if parameter.grad is not None)


def test_a_batch_is_its_two_halves(values):
    task, _ = stack(KINDS["autoencoder"])
    halves = task(values[:2]).loss_sum + task(values[2:]).loss_sum
    assert halves.item() == pytest.approx(task(values).loss_sum.item(), rel=1e-6)


def test_tied_weights_are_held_once_and_the_whole_is_saved_and_restored(tmp_path, values):
    task, _ = stack(KINDS["autoencoder"])
    state = task.state_dict()
    assert {name for name in state if name.startswith("heads")} == {"heads.0.bias", "heads.1.bias"}
    assert len(state) == 6 + 2
    task.save(tmp_path, {"pretrained_on": "nothing"})
    other, _ = stack(KINDS["autoencoder"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.restore(tmp_path)
    assert torch.equal(other(values).loss_sum, task(values).loss_sum)


def test_pictures_go_down_to_pictures():
    backbone = convnet(size=16, widths=[8], blocks=[1], embedding=8, dropout=0.0)
    make = functools.partial(LayerAutoencoder, noise=None, tied=False, loss="squared_error")
    task = DeepAutoencoder([make(backbone, layer) for layer in backbone.layer_names])
    pixels = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = task(pixels)
    shown = task.decode(task.encode(pixels))
    assert shown.shape == (3, 1, 16, 16)
    expected = (shown - backbone.input.normalize(pixels)).square().sum()
    assert found.loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)


def test_machines_and_autoencoders_can_be_mixed(values):
    backbone = mlp(width=5, hidden=[4, 3], activation="sigmoid")
    task = DeepAutoencoder([LayerRBM(backbone, "hidden1"), KINDS["autoencoder"](backbone, "hidden2")])
    assert torch.isfinite(task(values).loss_sum)
    assert [settings["layer"] for settings in task.settings["tasks"]] == ["hidden1", "hidden2"]


def test_settings_of_all_its_tasks_are_its_own():
    changed = functools.partial(LayerAutoencoder, noise=None, contraction=0.5)
    assert stack(changed)[0].settings != stack(KINDS["autoencoder"])[0].settings
    assert stack(changed)[0].description == "layer-wise autoencoders with a contraction of 0.5"


def test_layers_that_are_no_stack_are_refused():
    backbone, other = (mlp(width=5, hidden=[4, 3], activation="sigmoid") for _ in range(2))
    lower, upper = (LayerRBM(backbone, layer) for layer in backbone.layer_names)
    with pytest.raises(LayerError, match="made of the tasks of at least one layer, found none"):
        DeepAutoencoder([])
    for tasks in ([upper], [upper, lower], [lower, LayerRBM(other, "hidden2")], [lower, lower]):
        with pytest.raises(LayerError, match=r"the lowest layers of one backbone, from the input up.*found tasks for"):
            DeepAutoencoder(tasks)
