"""Energies of restricted Boltzmann machines: pure functions of visible units and of what they send to the hidden ones.

A machine is given by a linear map ``pre = c + W v``, dense or convolutional, and its transpose; nothing here needs to
know which. Legend for shapes: B items, ``...`` the visible units' shape, H that of the hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["bernoulli_free_energy", "draw_bits", "flip_one", "gaussian_free_energy", "pseudo_log_likelihood"]


def bernoulli_free_energy(visible: Tensor, pre: Tensor, bias: Tensor) -> Tensor:
    """Return the free energy of binary visible and hidden units: ``-b.v - sum_j softplus(c_j + W_j v)``.

    ``exp(-F(v))`` is proportional to the probability of v: all states of the hidden units are summed over.

    Args:
        visible: (B, ...) in [0, 1].
        pre: (B, H), what the hidden units get from `visible`: ``c + W v``.
        bias: of the visible units, broadcast over (B, ...).

    Returns:
        (B,), in nats.

    Reference:
        Hinton, "A practical guide to training restricted Boltzmann machines", 2010, equation 25.

    Example:
        >>> free = bernoulli_free_energy(torch.ones(1, 2), torch.zeros(1, 3), torch.tensor([0.5, 1.0]))
        >>> round(free.item(), 4)  # -1.5 - 3 log 2
        -3.5794
    """
    if bias.ndim == 1:
        # A product with a vector takes half the time of the same sum written out. Under autocast it would be rounded.
        with torch.autocast(visible.device.type, enabled=False):
            linear = visible.to(bias.dtype) @ bias
    else:
        linear = (visible * bias).flatten(1).sum(dim=1)
    return -linear - _softplus(pre).flatten(1).sum(dim=1)


def gaussian_free_energy(visible: Tensor, pre: Tensor, bias: Tensor, sigma: Tensor) -> Tensor:
    """Return the free energy of Gaussian visible and binary hidden units.

    ``sum_i (v_i - b_i)^2 / (2 sigma_i^2) - sum_j softplus(c_j + W_j v)``. In this parametrisation the hidden units see
    v itself, not ``v / sigma``, so that a backbone's layer computes their probabilities as it is; in return the mean of
    v given h is ``b + sigma^2 W'h``.

    Args:
        visible: (B, ...), real.
        pre: (B, H), ``c + W v``.
        bias, sigma: of the visible units, broadcast over (B, ...).

    Returns:
        (B,), in nats.

    Example:
        >>> visible, pre = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 3)
        >>> free = gaussian_free_energy(visible, pre, bias=torch.zeros(2), sigma=torch.ones(2))
        >>> round(free.item(), 4)  # 2.5 - 3 log 2
        0.4206
    """
    return ((visible - bias) / sigma).square().flatten(1).sum(dim=1) / 2 - _softplus(pre).flatten(1).sum(dim=1)


def pseudo_log_likelihood(energy: Tensor, flipped_energy: Tensor, units: int) -> Tensor:
    """Return an unbiased estimate of each item's log pseudo-likelihood, from one unit flipped in each.

    ``D log sigmoid(F(v with unit i flipped) - F(v))`` for a random i: the log probability of a unit given all others,
    times their number (Besag 1975). scikit-learn's BernoulliRBM scores by the same.

    Args:
        energy: (B,) free energies.
        flipped_energy: (B,), of the same items with one random unit flipped in each.
        units: D.

    Example:
        >>> round(pseudo_log_likelihood(torch.zeros(1), torch.zeros(1), units=10).item(), 3)
        -6.931
    """
    return units * F.logsigmoid(flipped_energy - energy)


def draw_bits(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw zeros and ones, in half the time of `torch.bernoulli` on a CPU.

    Args:
        probabilities: of ones.
        generator: torch's global one if None.

    Example:
        >>> draw_bits(torch.tensor([0.0, 1.0])).tolist()
        [0.0, 1.0]
    """
    u = torch.rand(probabilities.shape, generator=generator, device=probabilities.device)
    return (u < probabilities).to(probabilities.dtype)


def flip_one(visible: Tensor, generator: torch.Generator) -> Tensor:
    """Return a copy (B, ...) with one unit of each item flipped, v_i to 1 - v_i, the unit drawn anew for each.

    Example:
        >>> flipped = flip_one(torch.zeros(3, 5), torch.Generator().manual_seed(0))
        >>> flipped.sum(dim=1).tolist()
        [1.0, 1.0, 1.0]
    """
    flat = visible.flatten(1).clone()
    place = torch.randint(flat.shape[1], (len(flat), 1), generator=generator, device=flat.device)
    return flat.scatter(1, place, 1 - flat.gather(1, place)).view_as(visible)


class _Softplus(torch.autograd.Function):
    """``log(1 + exp(x))``, by operations that a CPU does in vectors: a third of the time of PyTorch's own.

    It is ``max(x, 0) - log sigmoid(|x|)``, which neither over- nor underflows; its derivative is the sigmoid.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0) - torch.sigmoid(x.abs()).log_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.sigmoid(x).mul_(grad)


def _softplus(x: Tensor) -> Tensor:
    output: Tensor = _Softplus.apply(x)
    return output
