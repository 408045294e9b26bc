"""A layer's output to one vector an item."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from auxtasks.backbones.text import TextState
from auxtasks.errors import LayerError, did_you_mean

__all__ = ["GRID", "Pool", "pool_layer"]

Pool = Literal["none", "auto", "mean", "max", "mean_max", "grid", "flatten", "token"]

GRID = 3  # cells a side of pool="grid": coarse enough to be small, fine enough to tell eyes from mouth


def pool_layer(output: Tensor | TextState, pool: Pool, prefix_tokens: int = 0) -> Tensor:
    """Turn a layer's output into one vector an item.

    Args:
        output: (B, C, H, W) image layer, (B, T, D) tokens, (B, D), or a `TextState`, whose padding counts for nothing.
        pool: ``"none"`` leaves the shape (of a text, all hidden states, padding included); ``"mean"`` and ``"max"`` run
            over positions, ``"mean_max"`` puts both side by side; ``"grid"`` averages within 3 x 3 cells and keeps
            where things are; ``"flatten"`` keeps every value; ``"token"`` takes the first token; ``"auto"`` is the mean
            of positions. Vectors stay as they are.
        prefix_tokens: leading tokens (class, registers) that are no positions; ``"mean"``, ``"max"`` leave them out.

    Returns:
        (B, D'), or the output itself for ``"none"``.

    Example:
        >>> import torch
        >>> pool_layer(torch.ones(2, 8, 6, 6), "grid").shape
        torch.Size([2, 72])
        >>> pool_layer(torch.ones(2, 5, 8), "mean", prefix_tokens=1).shape
        torch.Size([2, 8])
    """
    if pool not in get_args(Pool):
        raise LayerError(
            f'pool="{pool}" is not one of {", ".join(get_args(Pool))}.{did_you_mean(pool, get_args(Pool))}'
        )
    if isinstance(output, TextState):
        return _pool_text(output, pool)
    if pool == "none" or output.ndim == 2:
        return output
    if pool == "flatten":
        return output.flatten(1)
    if pool == "token":
        if output.ndim != 3:
            raise LayerError(f'pool="token" needs tokens (B, T, D); this layer gives {tuple(output.shape)}.')
        return output[:, 0]
    if pool == "grid":
        if output.ndim != 4:
            raise LayerError(f'pool="grid" needs an image layer (B, C, H, W); this layer gives {tuple(output.shape)}.')
        # Pooling what has one value a cell copies it, slowly; the last stage of a small network has.
        cells = output if output.shape[2:] == (GRID, GRID) else F.adaptive_avg_pool2d(output, GRID)
        return cells.flatten(1)
    positions = output.flatten(2) if output.ndim == 4 else output[:, prefix_tokens:].transpose(1, 2)
    if pool == "mean_max":
        return torch.cat([positions.mean(dim=2), positions.amax(dim=2)], dim=1)
    return positions.amax(dim=2) if pool == "max" else positions.mean(dim=2)


def _pool_text(state: TextState, pool: Pool) -> Tensor:
    """Pool hidden states (B, T, D) over the positions that are tokens."""
    hidden, real = state.hidden, state.mask.unsqueeze(2)
    if pool == "none":
        return hidden
    if pool in ("auto", "mean"):
        return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    if pool == "mean_max":
        return torch.cat([_pool_text(state, "mean"), _pool_text(state, "max")], dim=1)
    if pool == "max":
        return hidden.masked_fill(~real, float("-inf")).amax(dim=1)
    if pool == "token":
        first = state.mask.long().argmax(dim=1)  # padding may be on the left
        return hidden.gather(1, first.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])).squeeze(1)
    raise LayerError(f'pool="{pool}" needs items of one size; texts differ in length. Use "mean", "max" or "token".')
