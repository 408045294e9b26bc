"""Boltzmann machines of one layer: the surrogate's gradient written by hand, chains, sparsity, and that they learn."""

import copy
import functools
import inspect
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.backbones import Backbone, InputSpec, mlp
from auxtasks.backbones.description import Family
from auxtasks.backbones.stages import Stage, apply_in_turn
from auxtasks.errors import DataError, LayerError, TrainingError
from auxtasks.features.layer_inputs import summarize
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.tasks import LayerRBM
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, check_settings

SELDOM = LoopSettings(log_every=0, show_progress=False)


def conv_backbone(bias=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=bias), nn.Sigmoid())
    stage = Stage("only", ("0", "1"), 3, functools.partial(apply_in_turn, paths=("0", "1")))
    return Backbone(module, [stage], InputSpec.image((7, 6), 2), Family("by hand", {}))


def draw_weights(backbone):
    """Give a backbone weights that are not small, and biases that are not zero, whatever its family begins with."""
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters():
        parameter.data.normal_(0, 0.7, generator=generator)
    return backbone


def machine(**options):
    """Make a machine of 5 visible and 4 hidden units."""
    backbone = draw_weights(mlp(width=5, hidden=[4, 3], activation="sigmoid"))
    task = LayerRBM(backbone, "hidden1", **{"initial_scale": None, **options})
    task.head.bias.data.copy_(torch.linspace(-1, 1, 5))
    return task


def values(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(task):
    return {name: parameter.grad for name, parameter in task.named_parameters() if parameter.grad is not None}


def by_hand(task, data, seed, generator=None, start=None):
    """Return v- and the gradients of contrastive divergence: <v h> of the model less <v h> of the data.

    Persistent chains start with hidden units; then the hidden units of their next step are returned in place of v-.
    """
    linear, b = task.backbone.module[0][0], task.head.bias
    weight, c = linear.weight.detach(), linear.bias.detach()
    gaussian = task.kind == "gaussian"
    sigma = task.head.sigma if gaussian else torch.ones(5)
    torch.manual_seed(seed)

    def draw(p):
        return (torch.rand(p.shape, generator=generator) < p).float()

    v = data
    for step in range(task.gibbs_steps):
        h = draw(torch.sigmoid(v @ weight.T + c)) if step or start is None else start
        mean = b.detach() + sigma**2 * (h @ weight) if gaussian else torch.sigmoid(h @ weight + b.detach())
        if not task.sample_visible:
            v = mean
        elif gaussian:
            v = mean + sigma * torch.empty_like(mean).normal_(generator=generator)
        else:
            v = draw(mean)
    after = v if start is None else draw(torch.sigmoid(v @ weight.T + c))
    positive, negative = torch.sigmoid(data @ weight.T + c), torch.sigmoid(v @ weight.T + c)
    found = {name: torch.zeros(shape) for name, shape in (("W", (4, 5)), ("b", (5,)), ("c", (4,)))}
    share = len(data) / len(v)
    for sign, units, hidden in ((-1.0, data, positive), (share, v, negative)):
        for item in range(len(units)):
            found["W"] += sign * torch.outer(hidden[item], units[item])
            found["b"] += sign * (units[item] - (b.detach() if gaussian else 0)) / sigma**2
            found["c"] += sign * hidden[item]
    return after, found


def assert_gradients(task, expected):
    found = gradients(task)
    names = {"W": "backbone.module.0.0.weight", "b": "head.bias", "c": "backbone.module.0.0.bias"}
    assert set(found) == set(names.values())
    for short, name in names.items():
        torch.testing.assert_close(found[name], expected[short], rtol=1e-4, atol=1e-4)
        assert expected[short].abs().max() > 0.05


@pytest.mark.parametrize("sample_visible", [True, False])
@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("gibbs_steps", [1, 3])
def test_the_gradient_is_that_of_contrastive_divergence(gibbs_steps, visible, sample_visible):
    task = machine(visible=visible, gibbs_steps=gibbs_steps, sample_visible=sample_visible)
    if visible == "gaussian":
        task.head.sigma.copy_(torch.linspace(0.5, 1.5, 5))
    data = values(6, 5)
    negative, expected = by_hand(task, data, seed=3)
    torch.manual_seed(3)
    output = task(data)
    output.loss_sum.backward()
    assert_gradients(task, expected)
    assert output.weight.item() == 6
    with torch.no_grad():
        difference = task.free_energy(data).sum() - task.free_energy(negative).sum()
    assert output.loss_sum.item() == pytest.approx(difference.item(), abs=1e-4)
    assert not torch.equal(negative, data)


def test_more_steps_are_another_chain():
    data = values(6, 5)
    chains = [by_hand(machine(gibbs_steps=k), data, seed=3)[0] for k in (1, 3)]
    assert not torch.equal(*chains)


def test_nothing_flows_through_the_chain():
    task = machine(sample_visible=False, gibbs_steps=2)
    data = values(6, 5).requires_grad_()
    seen = []
    plain = task._run_chain
    task._run_chain = lambda hidden, generator: seen.append((hidden, plain(hidden, generator))) or seen[-1][1]
    task(data).loss_sum.backward()
    ((hidden, negative),) = seen
    assert not hidden.requires_grad
    assert not negative.requires_grad
    assert data.grad.abs().sum() > 0  # the data's own energy has one


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_the_convolutional_gradient_is_that_of_the_energy_differences(visible):
    task = LayerRBM(conv_backbone(), "only", visible=visible, gibbs_steps=2)
    data = values(3, 2, 7, 6)
    torch.manual_seed(3)
    task(data).loss_sum.backward()
    conv = task.backbone.module[0]
    found = gradients(task)

    def draw(p):
        return (torch.rand(p.shape) < p).float()

    torch.manual_seed(3)
    v = data
    with torch.no_grad():
        for _ in range(2):
            h = draw(torch.sigmoid(conv(v)))
            sent = nn.functional.conv_transpose2d(h, conv.weight, stride=2, padding=1, output_padding=(0, 1))
            mean = torch.sigmoid(sent + task.head.bias) if visible == "bernoulli" else sent + task.head.bias
            v = draw(mean) if visible == "bernoulli" else mean + torch.empty_like(mean).normal_()
        # dF/dW of each kernel is minus the correlation of what goes in with the hidden units' probabilities.
        weight = torch.zeros_like(conv.weight)
        for sign, units in ((-1, data), (1, v)):
            padded, hidden = nn.functional.pad(units, (1, 1, 1, 1)), torch.sigmoid(conv(units))
            for row, column in itertools.product(range(hidden.shape[2]), range(hidden.shape[3])):
                window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                weight += sign * torch.einsum("bo,bikl->oikl", hidden[:, :, row, column], window)
        difference = torch.sigmoid(conv(v)) - torch.sigmoid(conv(data))
    torch.testing.assert_close(found["backbone.module.0.weight"], weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["backbone.module.0.bias"], difference.sum(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["head.bias"].flatten(), (v - data).sum(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert task.decode(task.encode(data)).shape == data.shape
    assert weight.abs().max() > 0.1


def test_pictures_into_a_dense_layer():
    task = LayerRBM(mlp(size=3, channels=2, hidden=[4], activation="sigmoid"), "hidden1")
    pixels = torch.randint(0, 256, (5, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    as_bytes = task(pixels)
    torch.manual_seed(0)
    assert task(pixels.float() / 255).loss_sum.item() == pytest.approx(as_bytes.loss_sum.item(), abs=1e-5)
    assert task.decode(task.encode(pixels.float() / 255)).shape == (5, 2, 3, 3)
    assert task.evaluate(pixels.numpy()).keys() == {"reconstruction_error", "free_energy", "pseudo_log_likelihood"}


# Persistent chains


def persistent(**options):
    task = machine(persistent=True, chains=7, **options)
    data = values(40, 5)
    task.prepare(summarize(task.backbone, "hidden1", data.numpy()))
    with torch.no_grad():
        task.head.bias.copy_(torch.linspace(-1, 1, 5))
    return task


def test_persistent_chains_go_on_where_they_stood():
    task, data = persistent(gibbs_steps=2), values(6, 5)
    for step in range(3):
        start = task.fantasies.clone()
        assert int(task.chain_steps) == step
        after, expected = by_hand(task, data, seed=0, generator=task._chain_generator(), start=start)
        task.zero_grad()
        torch.manual_seed(step)  # of the data's noise: the chains have numbers of their own
        task(data).loss_sum.backward()
        assert_gradients(task, expected)
        assert torch.equal(task.fantasies, after)
        assert not torch.equal(task.fantasies, start)


def test_halves_in_two_processes_make_the_gradient_of_the_whole():
    # Chains advance once a forward. Two processes hold the same chains and each do one forward: equal to one process.
    # Two halves one after the other in one process do two forwards, and the second meets chains of another step.
    data = values(6, 5)
    whole = persistent()
    twins = [copy.deepcopy(whole) for _ in range(2)]
    one_after_the_other = copy.deepcopy(whole)
    expected = whole(data)
    expected.loss_sum.backward()
    outputs = [twin(half) for twin, half in zip(twins, (data[:2], data[2:]), strict=True)]
    for output in outputs:
        output.loss_sum.backward()
    assert sum(output.loss_sum.item() for output in outputs) == pytest.approx(expected.loss_sum.item(), abs=1e-4)
    for name, gradient in gradients(whole).items():
        together = sum(gradients(twin)[name] for twin in twins)
        torch.testing.assert_close(together, gradient, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(twin.fantasies, whole.fantasies) for twin in twins)

    for half in (data[:2], data[2:]):
        one_after_the_other(half).loss_sum.backward()
    assert int(one_after_the_other.chain_steps) == 2
    name = "backbone.module.0.0.weight"
    assert not torch.allclose(gradients(one_after_the_other)[name], gradients(whole)[name], atol=1e-3)


def test_evaluation_does_not_advance_the_chains_and_is_additive():
    task, data = persistent(), values(6, 5)
    task(data)
    kept, steps = task.fantasies.clone(), int(task.chain_steps)
    task.eval()
    task.evaluate(data.numpy())
    losses = [task(part).loss_sum.item() for part in (data, data[:2], data[2:])]
    assert losses[0] == pytest.approx(losses[1] + losses[2], abs=1e-4)
    assert torch.equal(task.fantasies, kept)
    assert int(task.chain_steps) == steps == 1


def test_chains_begin_with_hidden_units_off_and_follow_the_seed():
    data, after = values(40, 5), []
    for seed in (0, 0, 1):
        task = machine(persistent=True, chains=500, seed=seed)
        task.prepare(summarize(task.backbone, "hidden1", data.numpy()))
        assert not task.fantasies.any()
        task(data)
        after.append(task.fantasies.clone())
    assert set(after[0].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(after[0], after[1])
    assert not torch.equal(after[0], after[2])
    task.prepare(summarize(task.backbone, "hidden1", data.numpy()))
    assert not task.fantasies.any()


@pytest.mark.parametrize("options", [{"persistent": True}, {"sparsity_cost": 0.1}])
def test_accumulation_is_refused_where_every_forward_moves_a_state(options):
    settings = LoopSettings(accumulation=2)
    with pytest.raises(TrainingError, match="LayerRBM has a state that every forward moves on"):
        check_settings(machine(**options), settings)
    check_settings(machine(), settings)


def test_chains_are_saved_and_restored(tmp_path):
    task, data = persistent(), values(6, 5)
    task(data)
    task.save(tmp_path, {})
    other = persistent()
    assert not torch.equal(other.fantasies, task.fantasies)
    other.restore(tmp_path)
    assert torch.equal(other.fantasies, task.fantasies)
    assert int(other.chain_steps) == 1
    outputs = [one(data).loss_sum.item() for one in (task, other)]
    assert outputs[0] == outputs[1]


def test_a_machine_without_persistent_chains_is_saved_and_restored(tmp_path):
    task = machine(visible="gaussian")
    task.head.sigma.fill_(2.0)
    task.save(tmp_path, {})
    other = machine(visible="gaussian")
    other.restore(tmp_path)
    assert torch.equal(other.head.sigma, task.head.sigma)


# Sparsity


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_sparsity_moves_units_by_how_far_their_running_activity_is_off(kind):
    found = []
    for cost in (0.0, 0.5):
        backbone, layer = (
            (mlp(width=5, hidden=[4], activation="sigmoid"), "hidden1")
            if kind == "dense"
            else (conv_backbone(), "only")
        )
        task = LayerRBM(backbone, layer, sparsity_target=0.2, sparsity_cost=cost)
        data = values(6, *backbone.input.shape)
        draw_weights(backbone)
        torch.manual_seed(0)
        task(data).loss_sum.backward()
        found.append(task)
    plain, sparse = found
    pre = sparse.linear.up(data).detach()
    axes = (0,) if kind == "dense" else (0, 2, 3)
    activity = 0.9 * 0.2 + 0.1 * torch.sigmoid(pre).mean(dim=axes)
    torch.testing.assert_close(sparse.activity, activity)
    assert torch.equal(plain.activity, torch.full_like(activity, 0.2))
    off = activity - 0.2
    assert (off.abs() > 0.002).all()
    name = "backbone.module.0.0.bias" if kind == "dense" else "backbone.module.0.bias"
    difference = gradients(sparse)[name] - gradients(plain)[name]
    torch.testing.assert_close(difference, 0.5 * off * pre[:, 0].numel(), rtol=1e-3, atol=1e-4)
    weights = name.replace("bias", "weight")
    moved = gradients(sparse)[weights] - gradients(plain)[weights]
    if kind == "dense":
        torch.testing.assert_close(moved, 0.5 * off[:, None] * data.sum(dim=0), rtol=1e-3, atol=1e-4)
    assert moved.abs().min() > 0
    sparse.eval()
    sparse(data)
    torch.testing.assert_close(sparse.activity, activity)  # only training moves it


def test_sparse_units_are_less_active():
    data = (values(200, 5) < 0.4).float().numpy()
    means = []
    for cost in (0.0, 2.0):
        backbone = mlp(width=5, hidden=[4], activation="sigmoid")
        make = functools.partial(LayerRBM, sparsity_target=0.1, sparsity_cost=cost)
        pretrain_layerwise(backbone, data, make, steps=150, batch_size=50, optimizer=SGD, loop=SELDOM)
        means.append(backbone(torch.from_numpy(data)).mean().item())
    assert means[0] > 0.3
    assert means[1] == pytest.approx(0.1, abs=0.05)


# Learning


VISIBLE, HIDDEN = 6, 4
SGD = OptimizerSettings(name="sgd", learning_rate=0.1, momentum=0.5, weight_decay=0.0, warmup_steps=0,
                        schedule="linear")  # fmt: skip


def log_likelihood(task, data):
    """Return the exact mean log-likelihood, by the sum over all states of the visible units."""
    everything = torch.tensor(list(itertools.product([0.0, 1.0], repeat=VISIBLE)))
    with torch.no_grad():
        partition = torch.logsumexp(-task.free_energy(everything).double(), dim=0)
        return (-task.free_energy(data).double() - partition).mean().item()


def independent(train, data):
    p = train.double().mean(dim=0)
    return (data * p.log() + (1 - data) * (1 - p).log()).sum(dim=1).mean().item()


def structured(items, rng):
    """Draw two patterns, each bit flipped with a probability of 5%."""
    patterns = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    clean = patterns[rng.integers(0, 2, items)]
    return np.abs(clean - (rng.random((items, VISIBLE)) < 0.05)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"gibbs_steps": 3}, {"persistent": True}], ids=str)
def test_it_learns_what_hangs_together_and_finds_nothing_where_nothing_does(options):
    rng = np.random.default_rng(0)
    train, held_out = structured(600, rng), structured(600, rng)
    # The control has the same means, and no bit tells of another.
    random = [np.stack([rng.permutation(column) for column in x.T], axis=1) for x in (train, held_out)]
    gains = {}
    for name, (x, y) in {"structure": (train, held_out), "control": random}.items():
        backbone = mlp(width=VISIBLE, hidden=[HIDDEN], activation="sigmoid")
        task = LayerRBM(backbone, "hidden1", **options)
        y = torch.from_numpy(np.ascontiguousarray(y))
        start = log_likelihood(task, y)
        pretrain_layerwise(backbone, np.ascontiguousarray(x), lambda backbone, layer, task=task: task, steps=300,
                           batch_size=60, optimizer=SGD, loop=SELDOM)  # fmt: skip
        gains[name] = log_likelihood(task, y) - independent(torch.from_numpy(x), y)
        assert log_likelihood(task, y) > start + (0.5 if name == "structure" else -0.1)
    # What is to be won: entropy of six independent bits less that of a pattern and six flips.
    best = VISIBLE * np.log(2) - (np.log(2) - VISIBLE * (0.05 * np.log(0.05) + 0.95 * np.log(0.95)))
    assert 0.6 * best < gains["structure"] < best + 0.2
    assert gains["control"] < 0.02


# What makes a machine what it is, and what is refused


CHANGES = {
    "visible": "gaussian", "gibbs_steps": 2, "persistent": True, "chains": 5, "sample_visible": False,
    "sparsity_target": 0.2, "sparsity_cost": 1.0, "initial_scale": 0.1, "seed": 1, "layer": "hidden2",
    "backbone": mlp(width=5, hidden=[4, 3], activation="sigmoid", seed=1),
}  # fmt: skip


def test_every_argument_is_part_of_what_makes_a_machine():
    assert sorted(inspect.signature(LayerRBM).parameters) == sorted(CHANGES)
    for name, value in CHANGES.items():
        plain = {"backbone": mlp(width=5, hidden=[4, 3], activation="sigmoid"), "layer": "hidden1"}
        plain |= {"persistent": True} if name == "chains" else {}  # the number of chains is of persistent ones
        before, after = LayerRBM(**plain).settings, LayerRBM(**{**plain, name: value}).settings
        assert json.dumps(before) != json.dumps(after), name


def test_the_description_names_what_was_done():
    assert machine().description == "layer-wise Boltzmann machines (bernoulli visible units, chains of 1)"
    assert "persistent chains of 2" in machine(persistent=True, gibbs_steps=2).description


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visible": "binary"}, 'visible is one of bernoulli, gaussian, found "binary"'),
        ({"gibbs_steps": 0}, "gibbs_steps and chains are at least 1, found 0 and 100"),
        ({"chains": 0}, "gibbs_steps and chains are at least 1, found 1 and 0"),
        ({"sparsity_target": 1.0}, r"sparsity_target is a share between 0 and 1.*found 1\.0 and 0\.0"),
        ({"sparsity_cost": -1.0}, r"sparsity_cost at least 0, found 0\.1 and -1\.0"),
    ],
)
def test_settings_that_make_no_machine_are_refused(options, message):
    with pytest.raises(TrainingError, match=message):
        machine(**options)


def test_layers_that_are_no_hidden_units_are_refused():
    with pytest.raises(LayerError, match=r'layer "hidden1" of mlp is no linear map with a sigmoid'):
        LayerRBM(mlp(width=5, hidden=[4]), "hidden1")
    with pytest.raises(LayerError, match=r'layer "only" of by hand has no bias, which a Boltzmann machine needs'):
        LayerRBM(conv_backbone(bias=False), "only")


@pytest.mark.parametrize(
    ("visible", "change", "message"),
    [
        ("bernoulli", lambda x: x + 0.5, r"range from 0\.5.* to 1\.4.*or use visible=.gaussian."),
        ("bernoulli", lambda x: x * 0, "all 5 inputs of layer hidden1 are constant over 50 items"),
        ("gaussian", lambda x: x * 0, "all 5 inputs of layer hidden1 are constant over 50 items"),
        (
            "gaussian",
            lambda x: x * torch.tensor([1.0, 0, 1, 0, 1]),
            r"2 of 5 inputs of layer hidden1 are constant \(features 1, 3\), and a Gaussian unit",
        ),
    ],
)
def test_inputs_that_cannot_be_modelled_are_refused(visible, change, message):
    task = machine(visible=visible)
    with pytest.raises(DataError, match=message):
        task.prepare(summarize(task.backbone, "hidden1", change(values(50, 5)).numpy()))


def test_units_begin_with_the_inputs_means_and_deviations():
    data = values(50, 5) * torch.tensor([1.0, 2, 3, 4, 5]) - 1
    task = machine(visible="gaussian")
    task.prepare(summarize(task.backbone, "hidden1", data.numpy()))
    torch.testing.assert_close(task.head.bias.detach(), data.mean(dim=0))
    torch.testing.assert_close(task.head.sigma, data.std(dim=0, correction=0))
    data = values(50, 5)
    data[:, 0] = 0
    task = machine()
    task.prepare(summarize(task.backbone, "hidden1", data.numpy()))
    shown = task.decode(torch.zeros(1, 4))[0].tolist()
    assert shown == pytest.approx([0.01, *data.mean(dim=0).tolist()[1:]], abs=1e-5)


@pytest.mark.parametrize("scale", [0.01, 0.5])
def test_weights_begin_small_or_as_they_are(scale):
    data = values(50, 30).numpy()

    def begun(scale, seed):
        backbone = draw_weights(mlp(width=30, hidden=[60], activation="sigmoid"))
        task = LayerRBM(backbone, "hidden1", initial_scale=scale, seed=seed)
        before = task.linear.module.weight.detach().clone()
        task.prepare(summarize(task.backbone, "hidden1", data))
        return before, task.linear.module.weight.detach(), task.linear.module.bias.detach()

    (before, weight, bias), (_, again, _), (_, other, _) = (begun(scale, seed) for seed in (0, 0, 1))
    assert weight.std().item() == pytest.approx(scale, rel=0.05)
    assert weight.mean().item() == pytest.approx(0, abs=0.1 * scale)
    assert not bias.any()
    assert torch.equal(weight, again)
    assert not torch.equal(weight, other)
    kept, weight, bias = begun(None, 0)
    assert torch.equal(weight, kept)
    assert torch.equal(before, kept)
    assert bias.any()


def test_measures_are_those_of_clean_inputs():
    task, data = machine(), values(6, 5)
    found = task.measure(data)
    means = torch.sigmoid(task.linear.down(torch.sigmoid(task.linear.up(data))) + task.head.bias)
    torch.testing.assert_close(found["reconstruction_error"], (means - data).square().mean(dim=1))
    torch.testing.assert_close(found["free_energy"], task.free_energy(data))
    assert (found["pseudo_log_likelihood"] < 0).all()
    assert torch.equal(task.measure(data)["pseudo_log_likelihood"], found["pseudo_log_likelihood"])
    assert "pseudo_log_likelihood" not in machine(visible="gaussian").measure(data)
    expected = nn.functional.binary_cross_entropy(means, data, reduction="none").sum(dim=1)
    torch.testing.assert_close(task.reconstruction_loss(task.encode(data), data), expected)


def test_the_gaussian_reconstruction_loss_is_in_standard_deviations():
    task, data = machine(visible="gaussian"), values(6, 5)
    task.head.sigma.copy_(torch.linspace(0.5, 1.5, 5))
    means = task.decode(task.encode(data))
    expected = (((means - data) / task.head.sigma) ** 2).sum(dim=1) / 2
    torch.testing.assert_close(task.reconstruction_loss(task.encode(data), data), expected)


def test_mixed_precision_keeps_the_energies_whole():
    # 500 hidden units make a free energy of some hundred nats, of which bfloat16 holds two digits.
    backbone = mlp(width=50, hidden=[500], activation="sigmoid")
    task = LayerRBM(backbone, "hidden1", persistent=True, chains=20)
    task.head.bias.data.copy_(torch.linspace(-3, 3, 50))
    data = values(301, 50)
    task.eval()
    expected = task(data)
    expected.loss_sum.backward()
    exact = task.head.bias.grad.clone()
    task.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        found = task(data)
    found.loss_sum.backward()
    torch.testing.assert_close(task.head.bias.grad, exact, rtol=0, atol=1e-3)  # b.v has no product in it
    assert found.loss_sum.dtype == torch.float32
    assert found.weight.item() == 301
    assert found.loss_sum.item() / 301 == pytest.approx(expected.loss_sum.item() / 301, abs=0.1)
