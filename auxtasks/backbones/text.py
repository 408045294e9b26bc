"""What text is to a backbone: token batches going in, hidden states with their mask crossing every cut.

Legend for shapes: B batch, T tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["TextState", "TokenBatch", "pad_tokens", "positions_of"]

Ids = NDArray[np.int32]


class TokenBatch(NamedTuple):
    """Token ids (B, T), int64, and which of them are tokens (B, T), bool; the others are padding.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[2, 7, 3], [2, 3, 0]])  # 0 is padding here
        >>> batch = TokenBatch(ids, ids != 0)
        >>> batch.mask.sum(dim=1).tolist()
        [3, 2]
    """

    ids: Tensor
    mask: Tensor


class TextState(NamedTuple):
    """What crosses a cut: hidden states (B, T, D) and which positions are tokens (B, T), bool.

    Attention masks, rotary and position terms are rebuilt from the mask by whoever needs them, never stored.

    Example:
        >>> import torch
        >>> state = TextState(torch.zeros(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
        >>> tuple(state.hidden.shape)
        (2, 3, 8)
    """

    hidden: Tensor
    mask: Tensor


def pad_tokens(
    items: Sequence[Ids], *, pad_id: int, multiple: int = 8, side: Literal["right", "left"] = "right"
) -> TokenBatch:
    """Pad sequences to the longest of them, rounded up to a multiple.

    Args:
        items: B sequences of token ids.
        pad_id: what padding holds; the mask says where it is.
        multiple: of T; matrix units of a GPU want multiples of 8.
        side: where padding goes; what a backbone computes for the tokens does not depend on it.

    Example:
        >>> batch = pad_tokens([np.array([5, 6, 7]), np.array([5])], pad_id=0, multiple=4)
        >>> batch.ids.tolist(), batch.mask.sum(dim=1).tolist()
        ([[5, 6, 7, 0], [5, 0, 0, 0]], [3, 1])
    """
    longest = max(len(item) for item in items)
    width = -(-longest // multiple) * multiple
    ids = np.full((len(items), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(items), width), dtype=bool)
    for row, item in enumerate(items):
        where = slice(0, len(item)) if side == "right" else slice(width - len(item), width)
        ids[row, where] = item
        mask[row, where] = True
    return TokenBatch(torch.from_numpy(ids), torch.from_numpy(mask))


def positions_of(mask: Tensor) -> Tensor:
    """Return each position's place (B, T) counted from the text's first token: the side of the padding changes nothing.

    Padding in front of the text is at place 0; padding behind it counts on, as the libraries' own positions do.

    Example:
        >>> positions_of(torch.tensor([[False, True, True], [True, True, False]])).tolist()
        [[0, 0, 1], [0, 1, 2]]
    """
    first = mask.long().argmax(dim=1, keepdim=True)  # of equal values argmax takes the first
    return (torch.arange(mask.shape[1], device=mask.device) - first).clamp(min=0)
