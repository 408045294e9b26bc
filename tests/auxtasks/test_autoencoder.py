"""Autoencoders of one layer against plain formulas: losses, noise, the contractive penalty, what is refused."""

import functools
import inspect
import json

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.backbones import Backbone, InputSpec, convnet, mlp, timm_backbone
from auxtasks.backbones.description import Family
from auxtasks.backbones.stages import Stage, apply_in_turn
from auxtasks.errors import DataError, LayerError, TrainingError
from auxtasks.features.layer_inputs import summarize
from auxtasks.noise import Noise
from auxtasks.tasks import LayerAutoencoder

NOISES = [None, Noise("masking", 0.5), Noise("salt_and_pepper", 0.5), Noise("gaussian", 0.5)]


def conv_backbone(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Sigmoid())
    stage = Stage("only", ("0", "1"), 3, functools.partial(apply_in_turn, paths=("0", "1")))
    return Backbone(module, [stage], InputSpec.image((7, 6), 2), Family("by hand", {}))


def dense(**options):
    return LayerAutoencoder(mlp(width=5, hidden=[4, 3], activation="sigmoid"), "hidden1", **options)


def values(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slowly(found, clean, loss):
    """Sum an item's loss over its features, one by one."""
    total = 0.0
    for logit, x in zip(found.flatten().tolist(), clean.flatten().tolist(), strict=True):
        if loss == "squared_error":
            total += (logit - x) ** 2
        else:
            p = 1 / (1 + np.exp(-logit))
            total -= x * np.log(p) + (1 - x) * np.log(1 - p)
    return total


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind if noise else "clean")
def test_the_loss_is_the_formula_of_the_clean_input(noise, tied, loss):
    task = dense(noise=noise, tied=tied, loss=loss)
    x = values(6, 5)
    torch.manual_seed(3)
    output = task(x)
    torch.manual_seed(3)
    corrupted = noise(x) if noise else x
    assert (noise is None) == torch.equal(corrupted, x)
    linear = task.backbone.module[0][0]
    hidden = torch.sigmoid(corrupted @ linear.weight.T + linear.bias)
    found = hidden @ (linear.weight if tied else task.head.map.weight.T) + task.head.bias
    expected = sum(slowly(one, clean, loss) for one, clean in zip(found, x, strict=True))
    assert output.loss_sum.item() == pytest.approx(expected, rel=1e-5)
    assert output.weight.item() == 6
    shown = torch.sigmoid(found) if loss == "cross_entropy" else found
    assert output.metrics["reconstruction_error"].item() == pytest.approx((shown - x).square().mean().item(), rel=1e-5)
    output.loss_sum.backward()
    learning = {name for name, parameter in task.named_parameters() if parameter.grad is not None}
    assert {"backbone.module.0.0.weight", "backbone.module.0.0.bias", "head.bias"} <= learning
    assert ("head.map.weight" in learning) is not tied
    assert not any(name.startswith("backbone.module.1") for name in learning)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_convolutional_layer(tied, loss):
    task = LayerAutoencoder(conv_backbone(), "only", noise=None, tied=tied, loss=loss)
    x = values(4, 2, 7, 6)
    output = task(x)
    found = task.head(task.backbone(x))
    expected = sum(slowly(one, clean, loss) for one, clean in zip(found, x, strict=True))
    assert output.loss_sum.item() == pytest.approx(expected, rel=1e-5)
    output.loss_sum.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.parameters())


def test_every_layer_of_a_convnet_with_a_decoder_of_its_own():
    backbone = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.0)
    x = values(3, 1, 16, 16)
    for layer in backbone.layer_names:
        task = LayerAutoencoder(backbone, layer, noise=None, tied=False, loss="squared_error", contraction=0.1)
        batch = x
        if backbone.position(layer):
            below = backbone.layer_names[backbone.position(layer) - 1]
            batch = backbone.lower(below)(backbone.input.normalize(x)).detach()
        clean = backbone.input.normalize(x) if layer == "stem" else batch
        task.contraction = 0.0
        assert task(batch).loss_sum.item() == pytest.approx(
            (task.head(task.encode(clean)) - clean).square().sum().item(), rel=1e-5
        )
        task.contraction = 0.1
        backbone.zero_grad()
        task(batch).loss_sum.backward()
        owned = [parameter for _, parameter in backbone.parameters_of(layer)]
        assert all(parameter.grad is not None for parameter in owned)
        others = [p for name in backbone.layer_names if name != layer for _, p in backbone.parameters_of(name)]
        assert all(parameter.grad is None for parameter in others)


def test_pictures_as_bytes_are_normalised():
    task = LayerAutoencoder(mlp(size=3, hidden=[4], activation="sigmoid"), "hidden1", noise=None)
    pixels = torch.randint(0, 256, (5, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert task(pixels).loss_sum.item() == pytest.approx(task(pixels.float() / 255).loss_sum.item(), rel=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_are_held_once(tied):
    names = dense(tied=tied).state_dict()
    heads = {name for name in names if name.startswith("head")}
    assert heads == ({"head.bias"} if tied else {"head.bias", "head.map.weight"})
    assert sum(tensor.shape == (4, 5) for tensor in names.values()) == 1


@pytest.mark.parametrize("contraction", [0.0, 0.3])
def test_a_batch_is_its_two_halves(contraction):
    x = values(8, 5)
    gradients, losses, weights = [], [], []
    for parts in ([x], [x[:3], x[3:]]):
        task = dense(noise=None, contraction=contraction)
        outputs = [task(part) for part in parts]
        sum(output.loss_sum for output in outputs).backward()
        losses.append(sum(output.loss_sum.item() for output in outputs))
        weights.append(sum(output.weight.item() for output in outputs))
        gradients.append([p.grad for p in task.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert weights == [8, 8]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("noise", [None, Noise("masking", 0.5)])
def test_the_penalty_is_that_of_the_jacobian_where_the_layer_is_evaluated(noise):
    x = values(3, 5)
    sums = []
    for contraction in (0.0, 0.7):
        torch.manual_seed(3)
        task = dense(noise=noise, contraction=contraction)
        output = task(x)
        sums.append(output.loss_sum.item())
    torch.manual_seed(3)
    at = noise(x) if noise else x
    layer = task.backbone.lower("hidden1")
    jacobians = [torch.autograd.functional.jacobian(lambda one: layer(one[None])[0], item) for item in at]
    squares = [jacobian.square().sum().item() for jacobian in jacobians]
    assert sums[1] - sums[0] == pytest.approx(0.7 * sum(squares), rel=1e-4)
    assert output.metrics["jacobian"].item() == pytest.approx(np.mean(squares), rel=1e-5)


def test_the_penalty_of_a_convolution_is_right_on_average():
    task = LayerAutoencoder(conv_backbone(), "only", noise=None, contraction=1.0)
    x = values(1, 2, 7, 6)
    jacobian = torch.autograd.functional.jacobian(task.backbone, x)
    torch.manual_seed(0)
    found = torch.stack([task(x).metrics["jacobian"] for _ in range(1500)])
    error = found.std().item() / len(found) ** 0.5
    assert found.mean().item() == pytest.approx(jacobian.square().sum().item(), abs=4 * error)
    assert 0 < error < 0.05 * found.mean().item()


def test_metrics_are_all_left_out_of_steps_that_are_not_logged():
    # The loop averages each metric over the weight of all steps that gave any.
    task = dense(contraction=0.5)
    task.log_metrics = False
    assert task(values(2, 5)).metrics == {}


def test_mixed_precision_leaves_loss_and_weight_whole():
    x = values(301, 5)
    for options in ({}, {"contraction": 0.5}, {"tied": False, "loss": "squared_error"}):
        task = dense(noise=None, **options)
        expected = task(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = task(x)
        assert found.loss_sum.dtype == torch.float32
        assert found.weight.item() == 301
        assert found.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=0.02)


def test_it_begins_with_the_means_of_its_inputs():
    x = values(50, 5).numpy()
    x[:, 0] = 0.0
    x[:, 1] = 1.0
    for loss in ("cross_entropy", "squared_error"):
        task = dense(loss=loss)
        task.prepare(summarize(task.backbone, "hidden1", x))
        shown = task.decode(torch.zeros(1, 4))[0].tolist()
        ends = [0.01, 0.99] if loss == "cross_entropy" else [0.0, 1.0]
        assert shown == pytest.approx([*ends, *x.mean(axis=0)[2:]], abs=1e-5)


def test_measure_is_of_clean_inputs_and_evaluate_is_its_mean():
    task = dense(noise=Noise("masking", 0.9))
    x = values(10, 5)
    found = task.measure(x)
    clean = dense(noise=None)
    clean.load_state_dict(task.state_dict())
    assert found["loss"].sum().item() == pytest.approx(clean(x).loss_sum.item(), rel=1e-6)
    assert found["loss"].shape == found["reconstruction_error"].shape == (10,)
    means = task.evaluate(x.numpy(), batch_size=4)
    assert means == pytest.approx({name: tensor.mean().item() for name, tensor in found.items()}, rel=1e-5)
    assert task.training
    task.head.bias.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"metrics on held-out items are not finite: \{'loss': nan"):
        task.evaluate(x.numpy())


# What makes a task what it is


CHANGES = {
    "noise": None, "contraction": 0.5, "tied": False, "loss": "squared_error", "seed": 1,
    "backbone": mlp(width=5, hidden=[4, 3], activation="sigmoid", seed=1), "layer": "hidden2",
}  # fmt: skip


def test_every_argument_is_part_of_what_makes_a_task():
    arguments = list(inspect.signature(LayerAutoencoder).parameters)
    assert sorted(arguments) == sorted(CHANGES)
    for name, value in CHANGES.items():
        plain = {"backbone": mlp(width=5, hidden=[4, 3], activation="sigmoid"), "layer": "hidden1"}
        plain |= {"tied": False} if name == "seed" else {}  # the seed is of an untied decoder
        before, after = LayerAutoencoder(**plain).settings, LayerAutoencoder(**{**plain, name: value}).settings
        assert json.dumps(before) != json.dumps(after), name


@pytest.mark.parametrize("other", [Noise("gaussian", 0.25), Noise("masking", 0.3)])
def test_another_noise_is_another_task(other):
    assert dense().settings != dense(noise=other).settings


def test_the_description_names_what_was_done():
    assert dense(noise=None).description == "layer-wise autoencoders"
    found = dense(contraction=0.1).description
    assert found == "layer-wise autoencoders with masking noise of 0.25 and a contraction of 0.1"


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "l1"}, TrainingError, 'loss is one of cross_entropy, squared_error, found "l1"'),
        ({"contraction": -1.0}, TrainingError, r"contraction is the weight of a penalty, at least 0, found -1\.0"),
        ({"layer": "hiden1"}, LayerError, 'no layer "hiden1".*Did you mean "hidden1"'),
    ],
)
def test_settings_that_make_no_task_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        LayerAutoencoder(mlp(width=5, hidden=[4]), **{"layer": "hidden1", **options})


def test_layers_that_cannot_be_trained_are_refused():
    backbone = convnet(size=16, widths=[8], blocks=[1], embedding=8)
    with pytest.raises(LayerError, match=r'layer "stage1" of convnet is more than one linear map.*use tied=False'):
        LayerAutoencoder(backbone, "stage1")
    with pytest.raises(LayerError, match=r'layer "pooled" of timm has no parameters'):
        LayerAutoencoder(timm_backbone("test_vit", size=32), "pooled", tied=False)
    with pytest.raises(LayerError, match="can be read layer by layer"):
        LayerAutoencoder(timm_backbone("test_efficientnet", size=64), "blocks.0", tied=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 3, r"the inputs of layer hidden1 range from .* to 2\.9.*; probabilities .*squared_error"),
        (lambda x: x - 1, r"the inputs of layer hidden1 range from -0\.9.*or use loss=.squared_error.\."),
        (lambda x: x * 0 + 0.5, r"all 5 inputs of layer hidden1 are constant over 50 items"),
    ],
)
def test_inputs_that_cannot_be_modelled_are_refused(change, message):
    task = dense()
    inputs = np.ascontiguousarray(change(values(50, 5)).numpy())
    with pytest.raises(DataError, match=message):
        task.prepare(summarize(task.backbone, "hidden1", inputs))


def test_squared_error_takes_any_values():
    task = dense(loss="squared_error")
    task.prepare(summarize(task.backbone, "hidden1", (values(50, 5) * 9 - 4).numpy()))
    assert task.head.bias.abs().max() > 0
