"""The norm of a layer's Jacobian against autograd's whole Jacobian."""

import pytest
import torch

from auxtasks.backbones import mlp
from auxtasks.backbones.linear_map import linear_map
from auxtasks.contraction import dense_jacobian_norm, sampled_jacobian_norm


def exact(layer, x):
    """Take the Jacobian of each item alone, the slow way."""
    found = []
    for item in x:
        jacobian = torch.autograd.functional.jacobian(lambda one: layer(one[None])[0], item)
        found.append(jacobian.square().sum())
    return torch.stack(found)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("arguments", [{"width": 12}, {"size": 2, "channels": 3}])
def test_of_a_dense_layer_it_is_exact(arguments, activation):
    backbone = mlp(**arguments, hidden=[7], activation=activation)
    torch.manual_seed(0)
    x = torch.randn(5, *backbone.input.shape)
    found = dense_jacobian_norm(linear_map(backbone, "hidden1"), backbone(x))
    torch.testing.assert_close(found, exact(backbone, x))
    assert found.min() > 0


def test_its_gradient_is_that_of_the_exact_one():
    backbone = mlp(width=4, hidden=[3], activation="sigmoid")
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    weight, bias = backbone.parameters()

    def slowly(weight, bias):
        total = torch.zeros(())
        for item in x:
            hidden = torch.sigmoid(weight @ item + bias)
            total = total + ((hidden * (1 - hidden))[:, None] * weight).square().sum()
        return total

    found = torch.autograd.grad(dense_jacobian_norm(linear_map(backbone, "hidden1"), backbone(x)).sum(), [weight, bias])
    for got, expected in zip(found, torch.autograd.grad(slowly(weight, bias), [weight, bias]), strict=True):
        torch.testing.assert_close(got, expected)
        assert got.abs().max() > 1e-3


def test_the_sampled_one_is_unbiased_and_so_is_its_gradient():
    backbone = mlp(width=4, hidden=[3], activation="tanh")
    torch.manual_seed(0)
    x, draws = torch.randn(4), 20000
    expected = exact(backbone, x[None]).item()
    found = sampled_jacobian_norm(backbone, x.expand(draws, 4))
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / draws**0.5)
    assert found.std() > 0.1 * expected  # a random number, not the exact one
    weight = next(backbone.parameters())
    (gradient,) = torch.autograd.grad(found.mean(), weight)
    layer = linear_map(backbone, "hidden1")
    (wanted,) = torch.autograd.grad(dense_jacobian_norm(layer, backbone(x[None])).sum(), weight)
    torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=0.03 * wanted.abs().max().item())


def test_the_sampled_one_leaves_its_input_alone_and_works_without_gradients():
    backbone = mlp(width=4, hidden=[3])
    x = torch.rand(2, 4)
    with torch.no_grad():
        assert sampled_jacobian_norm(backbone, x).shape == (2,)
    assert not x.requires_grad
    assert x.grad is None
    assert all(parameter.grad is None for parameter in backbone.parameters())
