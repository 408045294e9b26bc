"""From a layer's output back to its input: the mirror images of layers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxtasks.backbones.linear_map import LinearMap
from auxtasks.seeding import torch_seed

__all__ = ["Decoder", "TiedDecoder", "UntiedDecoder", "untied_decoder"]


class Decoder(nn.Module, ABC):
    """Maps a layer's output (B, ...) to what the layer takes, before any activation."""

    bias: nn.Parameter

    @abstractmethod
    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits, or values, in the shape of the layer's input."""

    @torch.no_grad()
    def begin_with(self, mean: Tensor, *, as_logits: bool) -> None:
        """Let the bias give the inputs' mean, of one item (...); where a channel has one bias, the mean over it."""
        per_channel = mean.ndim == 3 and self.bias.numel() != mean.numel()
        values = mean.mean(dim=(1, 2)) if per_channel else mean
        # A feature that never changes shall not begin at infinity.
        values = torch.logit(values.clamp(0.01, 0.99)) if as_logits else values
        self.bias.copy_(values.reshape(self.bias.shape))


class TiedDecoder(Decoder):
    """The layer's own weights, transposed, and a bias: half the parameters, and what makes a unit a template.

    Args:
        layer: whose transpose it is.
        shape: of an item of the layer's input.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.backbones.linear_map import linear_map
        >>> layer = linear_map(mlp(width=6, hidden=[4], activation="sigmoid"), "hidden1")
        >>> decoder: Decoder = TiedDecoder(layer, (6,))
        >>> tuple(decoder(torch.ones(2, 4)).shape), [name for name, _ in decoder.named_parameters()]
        ((2, 6), ['bias'])
    """

    def __init__(self, layer: LinearMap, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._layer = (layer,)  # the weights are the backbone's: registered there, and not a second time here
        self._shape = shape
        # Of a picture that a convolution takes, one for each channel.
        self.bias = nn.Parameter(torch.zeros(layer.shape if len(layer.shape) == 1 else (layer.shape[0], 1, 1)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``W' h + b``."""
        return (self._layer[0].down(hidden) + self.bias).view(-1, *self._shape)


class UntiedDecoder(Decoder):
    """Weights of its own: a dense layer from and to vectors, enlarging and a convolution between pictures.

    Args:
        below: shape of an item of the layer's input.
        above: shape of an item of its output.
        kernel: of the convolution.

    Example:
        >>> tuple(UntiedDecoder((1, 8, 8), (4, 4, 4))(torch.ones(2, 4, 4, 4)).shape)
        (2, 1, 8, 8)
    """

    def __init__(self, below: tuple[int, ...], above: tuple[int, ...], kernel: int = 3) -> None:
        super().__init__()
        self._below = below
        self._pictures = len(below) == 3 and len(above) == 3
        if self._pictures:
            self.map: nn.Conv2d | nn.Linear = nn.Conv2d(above[0], below[0], kernel, padding=kernel // 2, bias=False)
            self.bias = nn.Parameter(torch.zeros(below[0], 1, 1))
        else:
            self.map = nn.Linear(_size(above), _size(below), bias=False)
            self.bias = nn.Parameter(torch.zeros(below))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return values in the shape of the layer's input."""
        if self._pictures:
            # Nearest neighbours, whose gradient adds in one order: a bilinear one is not the same twice on a GPU.
            output: Tensor = self.map(F.interpolate(hidden, size=self._below[1:], mode="nearest"))
        else:
            output = self.map(hidden.flatten(1)).view(-1, *self._below)
        return output + self.bias


def untied_decoder(below: tuple[int, ...], above: tuple[int, ...], *, seed: int) -> UntiedDecoder:
    """Return an `UntiedDecoder` whose random weights follow from a seed.

    Example:
        >>> untied_decoder((1, 28, 28), (32, 14, 14), seed=0)(torch.zeros(2, 32, 14, 14)).shape
        torch.Size([2, 1, 28, 28])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "decoder"))
        return UntiedDecoder(below, above)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
