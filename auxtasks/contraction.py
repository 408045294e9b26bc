"""How much a layer's output moves with its input: the squared norm of its Jacobian, for the contractive penalty."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from auxtasks.backbones.linear_map import ActivationName, LinearMap

__all__ = ["dense_jacobian_norm", "sampled_jacobian_norm"]


def dense_jacobian_norm(layer: LinearMap, hidden: Tensor) -> Tensor:
    """Return each item's squared Frobenius norm of dh/dx, (B,), of a dense layer, from its output (B, H).

    An activation acts unit by unit, so that the Jacobian is diag(a'(pre)) W and its norm a sum over units:
    ``sum_j a'_j^2 |W_j|^2``, O(H) an item beside what the layer costs.

    Reference:
        Rifai et al., "Contractive auto-encoders: explicit invariance during feature extraction", ICML 2011.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.backbones.linear_map import linear_map
        >>> backbone = mlp(width=2, hidden=[3], activation="sigmoid")
        >>> x = torch.ones(1, 2)
        >>> jacobian = torch.autograd.functional.jacobian(backbone, x)[0, :, 0]
        >>> found = dense_jacobian_norm(linear_map(backbone, "hidden1"), backbone(x))
        >>> torch.allclose(found, jacobian.square().sum())
        True
    """
    weights = layer.module.weight.flatten(1).square().sum(dim=1)
    return _slope(layer.activation, hidden).square() @ weights


def _slope(activation: ActivationName, hidden: Tensor) -> Tensor:
    """Return the derivative of an activation, as its own output tells it."""
    match activation:
        case "sigmoid":
            return hidden * (1 - hidden)
        case "tanh":
            return 1 - hidden.square()
        case "relu":
            return (hidden > 0).to(hidden.dtype)
        case "identity":
            return torch.ones_like(hidden)


def sampled_jacobian_norm(encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return an unbiased estimate of the same, (B,), for any layer: ``|J'u|^2`` with a standard normal u an item.

    ``E |J'u|^2 = trace(J J') = |J|^2`` (Hutchinson 1990). One more backward pass, whatever the layer.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.ones(20_000, 2)
        >>> round(sampled_jacobian_norm(lambda v: 3 * v, x).mean().item())  # of 3 times the identity it is 9 + 9
        18
    """
    with torch.enable_grad():
        x = inputs.detach().requires_grad_()
        hidden = encode(x)
        (moved,) = torch.autograd.grad(hidden, x, torch.randn_like(hidden), create_graph=True)
    return moved.flatten(1).square().sum(dim=1)
