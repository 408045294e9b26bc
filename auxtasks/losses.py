"""Losses over all pairs of a batch: pure functions of cosines, O(B^2) scalars, never O(B^3) triplets.

Legend: B items, D features. Every pair stands twice in the (B, B) matrices, which changes no mean.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PairMasks", "batch_hard_triplet", "contrastive", "cosines", "pair_logistic", "pair_masks"]


class PairMasks(NamedTuple):
    """Which pairs of a batch are of the same identity and which are not: (B, B) booleans, the diagonal in neither.

    Example:
        >>> masks: PairMasks = pair_masks(torch.tensor([7, 7, 8]))
        >>> masks.same.sum().item(), masks.different.sum().item()
        (2, 4)
    """

    same: Tensor
    different: Tensor


def pair_masks(identities: Tensor) -> PairMasks:
    """Compare all identities (B,) with each other.

    Example:
        >>> pair_masks(torch.tensor([3, 3, 5])).same.int().tolist()
        [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    equal = identities[:, None] == identities[None, :]
    itself = torch.eye(len(identities), dtype=torch.bool, device=identities.device)
    return PairMasks(same=equal & ~itself, different=~equal)


def cosines(embeddings: Tensor) -> Tensor:
    """Return the cosines (B, B) of all pairs of embeddings (B, D), in float32 whatever the precision around.

    Without switching autocast off the product would come out in bfloat16, whose steps near 1 are 0.004: coarser than
    the differences that the loss is about.

    Example:
        >>> cosines(torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0]])).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.float(), dim=1)
        return unit @ unit.T


def pair_logistic(
    cosine: Tensor, masks: PairMasks, scale: Tensor, threshold: Tensor, *, hardness: float = 0.0
) -> Tensor:
    """Logistic loss of "same or not" on a scaled cosine; same and different pairs have half the weight each.

    With z = scale * (cosine - threshold), a pair costs softplus(-z) if it is of the same identity, softplus(z) if not.
    A batch of 26 people with 4 photos holds 33 times as many different pairs as same ones: balancing by weight keeps
    all of them, where balancing by sampling would throw 97 % away.

    Args:
        cosine: (B, B).
        masks: see `pair_masks`.
        scale: positive scalar, learned.
        threshold: scalar cosine at which both answers are equally likely, learned.
        hardness: weighs a pair by exp(hardness * cosine) if different, exp(-hardness * cosine) if same, without
            gradient (Robinson et al., "Contrastive learning with hard negative samples", ICLR 2021). 0: all alike.

    Returns:
        A scalar.

    Example:
        >>> masks = pair_masks(torch.tensor([0, 0, 1]))
        >>> cosine = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
        >>> float(pair_logistic(cosine, masks, torch.tensor(20.0), torch.tensor(0.0))) < 1e-6
        True
    """
    z = scale * (cosine - threshold)
    with torch.no_grad():
        same, different = _hard_weights(cosine, masks, hardness)
    return 0.5 * (_weighted_mean(F.softplus(-z), same) + _weighted_mean(F.softplus(z), different))


def contrastive(cosine: Tensor, masks: PairMasks, *, margin: float = 1.0, hardness: float = 0.0) -> Tensor:
    """Pull the same together, push the different apart up to a margin, on distances between unit vectors.

    d^2 for a pair of the same identity, max(0, margin - d)^2 for another (Hadsell, Chopra and LeCun, CVPR 2006), with
    d^2 = 2 - 2 cosine; balanced and weighed as `pair_logistic`.

    Example:
        >>> masks = pair_masks(torch.tensor([0, 0, 1]))
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> contrastive(cosines(embeddings), masks).item() < 1e-5  # together and 2 apart
        True
    """
    squared = _squared_distance(cosine)
    with torch.no_grad():
        same, different = _hard_weights(cosine, masks, hardness)
    apart = F.relu(margin - squared.sqrt()).square()
    return 0.5 * (_weighted_mean(squared, same) + _weighted_mean(apart, different))


def batch_hard_triplet(cosine: Tensor, masks: PairMasks, *, margin: float | None = None) -> Tensor:
    """For each item, its farthest same and its nearest different one: O(B^2), not O(B^3).

    softplus(d_same - d_different), or max(0, margin + d_same - d_different) with a margin (Hermans, Beyer and Leibe,
    "In defense of the triplet loss for person re-identification", 2017). Items without a same or a different partner
    are left out.

    Example:
        >>> masks = pair_masks(torch.tensor([0, 0, 1, 1]))
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> batch_hard_triplet(cosines(embeddings), masks, margin=0.5).item()
        0.0
    """
    distance = _squared_distance(cosine).sqrt()
    farthest_same = distance.masked_fill(~masks.same, -torch.inf).amax(dim=1)
    nearest_different = distance.masked_fill(~masks.different, torch.inf).amin(dim=1)
    complete = masks.same.any(dim=1) & masks.different.any(dim=1)
    gap = torch.where(complete, farthest_same - nearest_different, torch.zeros_like(farthest_same))
    cost = F.softplus(gap) if margin is None else F.relu(margin + gap)
    return _weighted_mean(cost, complete.to(cost.dtype))


def _squared_distance(cosine: Tensor) -> Tensor:
    # The floor keeps the gradient of the square root finite where two embeddings coincide.
    return (2 - 2 * cosine).clamp_min(1e-6)


def _hard_weights(cosine: Tensor, masks: PairMasks, hardness: float) -> tuple[Tensor, Tensor]:
    same, different = masks.same.to(cosine.dtype), masks.different.to(cosine.dtype)
    if hardness == 0:
        return same, different
    return same * torch.exp(-hardness * cosine), different * torch.exp(hardness * cosine)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean under weights; 0, with a gradient of 0, where no pair has a weight."""
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)
