"""Noise that an autoencoder has to undo: pure functions of a batch, drawn from torch's global generator.

The training loop seeds that generator for every micro-batch, so that a resumed run draws what another would have drawn.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

from auxtasks.errors import TrainingError

__all__ = ["Noise"]

Kind = Literal["masking", "salt_and_pepper", "gaussian"]


@dataclasses.dataclass(frozen=True)
class Noise:
    """How inputs are corrupted.

    Attributes:
        kind: ``"masking"`` sets values to 0; ``"salt_and_pepper"`` to 0 or 1, each as likely; ``"gaussian"`` adds
            normal noise.
        amount: share of the values, from 0 to below 1; for ``"gaussian"`` the standard deviation.

    Raises:
        TrainingError: no such kind, or more corruption than there is input.

    Reference:
        Vincent et al., "Stacked denoising autoencoders", JMLR 2010, section 3.3.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> Noise("masking", 0.5)(torch.ones(1, 8)).sum().item()
        3.0
    """

    kind: Kind = "masking"
    amount: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise TrainingError(f'noise is one of {", ".join(get_args(Kind))}, found "{self.kind}".')
        if not self.amount >= 0:  # NaN is neither
            raise TrainingError(f"{self.kind} noise of {self.amount}: the amount is at least 0.")
        if self.kind != "gaussian" and self.amount >= 1:
            raise TrainingError(
                f"{self.kind} noise of {self.amount} corrupts all of the input, and nothing is left to tell it by. The "
                "amount is a share below 1, such as 0.25."
            )

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return a corrupted copy (B, ...)."""
        if self.kind == "gaussian":
            return inputs + self.amount * torch.randn_like(inputs)
        u = torch.rand_like(inputs)
        if self.kind == "masking":
            return inputs * (u >= self.amount)
        # One number tells both whether a value is hit and by what: the lower half of the hits is pepper.
        salted = torch.where(u < self.amount, torch.ones_like(inputs), inputs)
        return torch.where(u < self.amount / 2, torch.zeros_like(inputs), salted)
