"""Energies of Boltzmann machines against sums over all states, and against scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.neural_network import BernoulliRBM

from auxtasks.energies import bernoulli_free_energy, flip_one, gaussian_free_energy, pseudo_log_likelihood
from auxtasks.tasks.visible_units import BernoulliUnits, GaussianUnits

VISIBLE, HIDDEN = 3, 4


def states(units):
    return [torch.tensor(state, dtype=torch.float64) for state in itertools.product([0.0, 1.0], repeat=units)]


@pytest.fixture
def machine():
    """W (H, D), c (H,), b (D,), sigma (D,)."""
    draw = torch.Generator().manual_seed(0)
    sizes = ((HIDDEN, VISIBLE), (HIDDEN,), (VISIBLE,))
    weight, above, below = (torch.randn(size, generator=draw, dtype=torch.float64) for size in sizes)
    return weight, above, below, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def bernoulli_energy(machine, v, h):
    weight, above, below, _ = machine
    energy = 0.0
    for i in range(VISIBLE):
        energy -= float(below[i] * v[i])
        for j in range(HIDDEN):
            energy -= float(h[j] * weight[j, i] * v[i])
    return energy - sum(float(above[j] * h[j]) for j in range(HIDDEN))


def gaussian_energy(machine, v, h):
    _, _, below, sigma = machine
    linear = bernoulli_energy(machine, v, h) + float(below @ v)
    return linear + sum(float((v[i] - below[i]) ** 2 / (2 * sigma[i] ** 2)) for i in range(VISIBLE))


def free_energies(machine, kind, v):
    weight, above, below, sigma = machine
    pre = v @ weight.T + above
    return bernoulli_free_energy(v, pre, below) if kind == "bernoulli" else gaussian_free_energy(v, pre, below, sigma)


ENERGIES = {"bernoulli": bernoulli_energy, "gaussian": gaussian_energy}
kinds = pytest.mark.parametrize("kind", ENERGIES)


def items(kind):
    return torch.stack(states(VISIBLE)) if kind == "bernoulli" else torch.randn(5, VISIBLE).double() * 2


@kinds
def test_the_free_energy_sums_over_all_hidden_states(machine, kind):
    torch.manual_seed(1)
    v = items(kind)
    expected = [-math.log(sum(math.exp(-ENERGIES[kind](machine, one, h)) for h in states(HIDDEN))) for one in v]
    found = free_energies(machine, kind, v)
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    assert found.std() > 0.1


@kinds
def test_hidden_units_given_visible_ones_follow_the_same_energy(machine, kind):
    torch.manual_seed(1)
    weight, above, _, _ = machine
    for v in items(kind):
        weights = [math.exp(-ENERGIES[kind](machine, v, h)) for h in states(HIDDEN)]
        expected = [
            sum(w for w, h in zip(weights, states(HIDDEN), strict=True) if h[j] == 1) / sum(weights)
            for j in range(HIDDEN)
        ]
        # Of a Gaussian machine too: its hidden units see v itself, which is what a backbone's layer computes.
        assert torch.sigmoid(weight @ v + above).tolist() == pytest.approx(expected, abs=1e-9)


def test_binary_visible_units_given_hidden_ones_follow_the_same_energy(machine):
    weight, _, below, _ = machine
    units = BernoulliUnits((VISIBLE,)).double()
    units.bias.data.copy_(below)
    for h in states(HIDDEN):
        weights = [math.exp(-bernoulli_energy(machine, v, h)) for v in states(VISIBLE)]
        expected = [
            sum(w for w, v in zip(weights, states(VISIBLE), strict=True) if v[i] == 1) / sum(weights)
            for i in range(VISIBLE)
        ]
        assert units.means(h @ weight).tolist() == pytest.approx(expected, abs=1e-9)


def test_gaussian_visible_units_given_hidden_ones_follow_the_same_energy(machine):
    weight, _, below, sigma = machine
    units = GaussianUnits((VISIBLE,)).double()
    units.bias.data.copy_(below)
    units.sigma.copy_(sigma)
    torch.manual_seed(1)
    v = torch.randn(6, VISIBLE).double()
    for h in states(HIDDEN):
        mean = units.means(h @ weight).detach()
        # Energy and log density of N(mean, sigma^2) differ by what does not depend on v.
        quadratic = [sum(float((one[i] - mean[i]) ** 2 / (2 * sigma[i] ** 2)) for i in range(VISIBLE)) for one in v]
        rest = [gaussian_energy(machine, one, h) - q for one, q in zip(v, quadratic, strict=True)]
        assert rest == pytest.approx([rest[0]] * len(v), abs=1e-9)
    drawn = units.draw(torch.zeros(20000, VISIBLE).double(), torch.Generator().manual_seed(0))
    assert drawn.std(dim=0).tolist() == pytest.approx(sigma.tolist(), rel=0.03)


def test_the_pseudo_likelihood_averages_to_the_exact_one_over_all_flips(machine):
    everything = torch.stack(states(VISIBLE))
    joint = torch.exp(-free_energies(machine, "bernoulli", everything))  # not normalised, which a ratio does not need
    index = {tuple(v.tolist()): place for place, v in enumerate(everything)}
    for v in everything:
        exact, estimates = 0.0, []
        for i in range(VISIBLE):
            other = v.clone()
            other[i] = 1 - other[i]
            here, there = float(joint[index[tuple(v.tolist())]]), float(joint[index[tuple(other.tolist())]])
            exact += math.log(here / (here + there))
            energies = (free_energies(machine, "bernoulli", one[None]) for one in (v, other))
            estimates.append(pseudo_log_likelihood(*energies, units=VISIBLE).item())
        assert np.mean(estimates) == pytest.approx(exact, abs=1e-9)
        assert np.std(estimates) > 1e-3


def test_scikit_learn_says_the_same(machine):
    weight, above, below, _ = machine
    other = BernoulliRBM(n_components=HIDDEN, random_state=5)
    other.components_, other.intercept_hidden_, other.intercept_visible_ = (x.numpy() for x in (weight, above, below))
    v = torch.stack(states(VISIBLE))
    energy = free_energies(machine, "bernoulli", v)
    np.testing.assert_allclose(energy, other._free_energy(v.numpy()), rtol=1e-9)
    place = torch.from_numpy(np.random.RandomState(5).randint(0, VISIBLE, len(v)))[:, None]  # as it draws them itself
    flipped = v.scatter(1, place, 1 - v.gather(1, place))
    found = pseudo_log_likelihood(energy, free_energies(machine, "bernoulli", flipped), units=VISIBLE)
    np.testing.assert_allclose(found, other.score_samples(v.numpy()), rtol=1e-9)


def test_one_bias_a_channel_is_one_for_each_pixel():
    torch.manual_seed(0)
    v, pre, bias, sigma = torch.rand(2, 3, 4, 5), torch.randn(2, 6, 2, 2), torch.randn(3, 1, 1), torch.rand(3, 1, 1) + 1
    flat, hidden = v.flatten(1), pre.flatten(1)
    wide, wide_sigma = (x.expand(3, 4, 5).flatten() for x in (bias, sigma))
    assert torch.allclose(bernoulli_free_energy(v, pre, bias), bernoulli_free_energy(flat, hidden, wide))
    found = gaussian_free_energy(v, pre, bias, sigma)
    assert torch.allclose(found, gaussian_free_energy(flat, hidden, wide, wide_sigma))
    assert found.shape == (2,)


def test_one_unit_of_each_item_is_flipped():
    v = torch.rand(400, 2, 3)
    kept = v.clone()
    flipped = flip_one(v, torch.Generator().manual_seed(0))
    assert torch.equal(v, kept)
    changed = (flipped != v).flatten(1)
    assert (changed.sum(dim=1) == 1).all()
    assert torch.allclose(flipped.flatten(1)[changed], 1 - v.flatten(1)[changed])
    counts = changed.sum(dim=0)
    assert counts.min() > 400 / 6 / 2  # every place comes up
    assert torch.equal(flip_one(v, torch.Generator().manual_seed(0)), flipped)
    assert not torch.equal(flip_one(v, torch.Generator().manual_seed(1)), flipped)
