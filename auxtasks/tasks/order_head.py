"""Which word stood before this one? A head that puts a shuffled sentence back in order, word by word.

Legend for shapes: B rows of a batch, T tokens, D features, K features of the head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["IGNORED", "OrderHead", "order_loss"]

IGNORED = -100  # where nobody knows which word stood before


class OrderHead(nn.Module):
    """Scores, for each word, every word of its sentence, and the start of the sentence, as what stood before it.

    The answer is one of N words, log N bits a word, where out of place or not is a fraction of one bit.

    Args:
        width: D.
        size: K.

    Example:
        >>> head = OrderHead(width=8)
        >>> head(torch.zeros(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 5, 6])

    Reference:
        Vinyals, Fortunato and Jaitly, "Pointer networks", NeurIPS 2015; Cui, Chen and Zhang, "Deep attentive sentence
        ordering network", EMNLP 2018, order sentences of a paragraph, not words, in this way.
    """

    def __init__(self, width: int, size: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(width, size)
        self.key = nn.Linear(width, size)
        self.start = nn.Parameter(torch.zeros(size))

    def forward(self, hidden: Tensor, counted: Tensor) -> Tensor:
        """Return logits (B, T, T + 1) from hidden states (B, T, D); the last column is the start of the sentence.

        Args:
            hidden: of all tokens.
            counted: (B, T) bool, the first token of each word: no other can have stood before a word.
        """
        query = self.query(hidden) / math.sqrt(self.key.out_features)
        among = query @ self.key(hidden).transpose(1, 2)
        among = among.float().masked_fill(~counted.unsqueeze(1), float("-inf"))
        start = (query @ self.start.to(query.dtype)).float().unsqueeze(2)
        return torch.cat([among, start], dim=2)


def order_loss(logits: Tensor, before: Tensor) -> Tensor:
    """Return the mean cross-entropy over each row's words with an answer, (B,); 0 for a row without any.

    Args:
        logits: (B, T, T + 1), see `OrderHead`.
        before: (B, T) the token that stood before, T for the start, `IGNORED` where there is no answer.

    Example:
        >>> logits = torch.zeros(1, 2, 3)  # two words, and before each a word or the start: all equally likely
        >>> round(order_loss(logits, torch.tensor([[2, 0]])).item(), 4)  # log 3
        1.0986
    """
    known = before != IGNORED
    each = F.cross_entropy(logits.transpose(1, 2), before, ignore_index=IGNORED, reduction="none")
    return each.sum(dim=1) / known.sum(dim=1).clamp(min=1)
