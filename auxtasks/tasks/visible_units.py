"""The visible units of a restricted Boltzmann machine, binary or Gaussian: what they are, and what they cost.

Legend for shapes: B items, ``...`` the units' shape; "sent" is what the hidden units send down, ``W' h``, without bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxtasks.energies import bernoulli_free_energy, draw_bits, gaussian_free_energy
from auxtasks.errors import DataError
from auxtasks.features.layer_inputs import InputSummary

__all__ = ["BernoulliUnits", "GaussianUnits", "VisibleUnits"]


class VisibleUnits(nn.Module, ABC):
    """Biases of the visible units, and what follows from them.

    Args:
        shape: of the biases: (D,) of vectors, (C, 1, 1) of pictures that a convolution takes.

    Example:
        >>> visible: VisibleUnits = BernoulliUnits((3,))
        >>> visible.means(torch.zeros(2, 3)).tolist()
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    @abstractmethod
    def begin_with(self, layer: str, summary: InputSummary) -> None:
        """Refuse inputs that these units cannot be; begin with their means.

        Raises:
            DataError: says what was found, where, and what to do.
        """

    @abstractmethod
    def means(self, sent: Tensor) -> Tensor:
        """Return the units' means (B, ...)."""

    @abstractmethod
    def draw(self, means: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the units (B, ...) from their means."""

    @abstractmethod
    def free_energy(self, visible: Tensor, pre: Tensor) -> Tensor:
        """Return the free energy (B,) of units whose hidden ones get `pre`, in nats."""

    @abstractmethod
    def reconstruction_loss(self, sent: Tensor, clean: Tensor) -> Tensor:
        """Return how unlikely the true units are given what is sent to them, (B,), in nats up to a constant."""

    def _by_unit(self, values: Tensor) -> Tensor:
        """Bring a value for each feature to the shape of the biases: of a picture's channel, the mean."""
        flat = values.flatten() if self.bias.ndim == 1 else values.mean(dim=(1, 2), keepdim=True)
        return flat.to(self.bias.device)


class BernoulliUnits(VisibleUnits):
    """Binary units; an input between 0 and 1 is a unit's probability.

    Example:
        >>> units = BernoulliUnits((3,))
        >>> units.means(torch.zeros(1, 3)).tolist()
        [[0.5, 0.5, 0.5]]
    """

    @torch.no_grad()
    def begin_with(self, layer: str, summary: InputSummary) -> None:
        """Begin with the log odds of the means (Hinton 2010, section 8), bounded for units that never change."""
        del layer  # nothing to refuse of it
        self.bias.copy_(torch.logit(self._by_unit(summary.mean).clamp(0.01, 0.99)))

    def means(self, sent: Tensor) -> Tensor:
        """Return probabilities."""
        return torch.sigmoid(sent + self.bias)

    def draw(self, means: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw zeros and ones."""
        return draw_bits(means, generator)

    def free_energy(self, visible: Tensor, pre: Tensor) -> Tensor:
        """See `bernoulli_free_energy`."""
        return bernoulli_free_energy(visible, pre, self.bias)

    def reconstruction_loss(self, sent: Tensor, clean: Tensor) -> Tensor:
        """Return the cross-entropy."""
        entropy: Tensor = F.binary_cross_entropy_with_logits(sent + self.bias, clean, reduction="none")
        return entropy.flatten(1).sum(dim=1)


class GaussianUnits(VisibleUnits):
    """Real units, each with the standard deviation of its input.

    Example:
        >>> units = GaussianUnits((2,))
        >>> units.free_energy(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 0)).item()
        2.5
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.register_buffer("sigma", torch.ones(shape))
        self.sigma: Tensor

    @torch.no_grad()
    def begin_with(self, layer: str, summary: InputSummary) -> None:
        """Begin with means and standard deviations of the inputs."""
        mean, std = summary.mean.to(self.bias.device), summary.std.to(self.bias.device)
        bias = self._by_unit(mean)
        # Around a channel's one bias, pixels vary by their own spread and by how far their means are off.
        off = mean - (bias.view_as(mean) if bias.ndim == 1 else bias)
        sigma = self._by_unit(std.square() + off.square()).sqrt()
        constant = torch.nonzero(sigma.flatten() == 0).flatten().tolist()
        if constant:
            shown = ", ".join(map(str, constant[:5])) + (", ..." if len(constant) > 5 else "")
            raise DataError(
                f"{len(constant)} of {sigma.numel()} inputs of layer {layer} are constant (features {shown}), and a "
                "Gaussian unit has the standard deviation of its input. Leave such features out, or use "
                'visible="bernoulli".'
            )
        self.bias.copy_(bias)
        self.sigma.copy_(sigma)

    def means(self, sent: Tensor) -> Tensor:
        """Return ``b + sigma^2 W'h``."""
        return self.bias + self.sigma.square() * sent

    def draw(self, means: Tensor, generator: torch.Generator | None) -> Tensor:
        """Add normal noise."""
        return means + self.sigma * torch.empty_like(means).normal_(generator=generator)

    def free_energy(self, visible: Tensor, pre: Tensor) -> Tensor:
        """See `gaussian_free_energy`."""
        return gaussian_free_energy(visible, pre, self.bias, self.sigma)

    def reconstruction_loss(self, sent: Tensor, clean: Tensor) -> Tensor:
        """Return half the squared error, in standard deviations."""
        return ((self.means(sent) - clean) / self.sigma).square().flatten(1).sum(dim=1) / 2
