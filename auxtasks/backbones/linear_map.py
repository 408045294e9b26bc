"""Layers that are one linear map and one activation: what has a transpose, and a hidden unit's probability."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.stages import Stage, owned_modules

__all__ = ["ActivationName", "LinearMap", "input_shape", "linear_map"]

ActivationName = Literal["sigmoid", "relu", "tanh", "identity"]

_ACTIVATIONS: dict[type[nn.Module], ActivationName] = {nn.Sigmoid: "sigmoid", nn.ReLU: "relu", nn.Tanh: "tanh"}
_FUNCTIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh, "identity": lambda x: x,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """A layer ``activation(W v + c)``, dense or convolutional.

    Attributes:
        module: holds W and c.
        activation: its name.
        shape: of what goes in, without the batch: (D,) for a dense layer, whatever comes is flattened; (C, H, W).

    Example:
        >>> from auxtasks.backbones import mlp
        >>> layer: LinearMap = linear_map(mlp(width=2, hidden=[3], activation="sigmoid"), "hidden1")
        >>> layer.shape, tuple(layer.up(torch.ones(5, 2)).shape), tuple(layer.down(torch.ones(5, 3)).shape)
        ((2,), (5, 3), (5, 2))
    """

    module: nn.Linear | nn.Conv2d
    activation: ActivationName
    shape: tuple[int, ...]

    def up(self, visible: Tensor) -> Tensor:
        """Return ``W v + c`` of (B, ...)."""
        output: Tensor = self.module(visible.flatten(1) if isinstance(self.module, nn.Linear) else visible)
        return output

    def down(self, hidden: Tensor) -> Tensor:
        """Return the transpose applied to hidden units: ``W' h``, in the shape of what goes in, without any bias."""
        if isinstance(self.module, nn.Linear):
            return hidden @ self.module.weight
        conv = self.module
        padding = [int(side) for side in conv.padding]  # `linear_map` takes no padding in words
        # What a stride leaves over at the border goes into no hidden unit, and so comes from none: zeros.
        left_over = [
            self.shape[1 + axis]
            - (int(hidden.shape[2 + axis]) - 1) * conv.stride[axis]
            + 2 * padding[axis]
            - conv.dilation[axis] * (conv.kernel_size[axis] - 1)
            - 1
            for axis in (0, 1)
        ]
        return F.conv_transpose2d(
            hidden,
            conv.weight,
            stride=conv.stride,
            padding=padding,
            output_padding=left_over,
            groups=conv.groups,
            dilation=conv.dilation,
        )

    def activate(self, pre: Tensor) -> Tensor:
        """Return the layer's output from ``W v + c``."""
        return _FUNCTIONS[self.activation](pre)


def linear_map(backbone: Backbone, layer: str) -> LinearMap | None:
    """Return a layer as a linear map with an activation, or None where it is more than that.

    What the table of stages does is believed only after it was seen: on random numbers both must be equal.

    Raises:
        LayerError: no such layer, or a backbone that cannot be cut.

    Example:
        >>> from auxtasks.backbones import convnet, mlp
        >>> linear_map(mlp(width=4, hidden=[3], activation="sigmoid"), "hidden1").activation
        'sigmoid'
        >>> linear_map(convnet(size=32), "stage1") is None
        True
    """
    shape = input_shape(backbone, layer)
    stage = backbone.stages[backbone.position(layer)]
    leaves = list(_leaves(backbone.module, stage))
    weighted = [leaf for leaf in leaves if isinstance(leaf, nn.Linear | nn.Conv2d)]
    others = [leaf for leaf in leaves if leaf not in weighted]
    if len(weighted) != 1 or len(others) > 1 or any(type(other) not in _ACTIVATIONS for other in others):
        return None
    module = weighted[0]
    if isinstance(module, nn.Conv2d) and (isinstance(module.padding, str) or module.padding_mode != "zeros"):
        return None
    # A gain that begins as 1, say, computes the same today and another thing once it has learned.
    if {parameter for _, parameter in backbone.parameters_of(layer)} != set(module.parameters()):
        return None
    activation = _ACTIVATIONS[type(others[0])] if others else "identity"
    found = LinearMap(module, activation, shape if isinstance(module, nn.Conv2d) else (module.weight.shape[1],))
    return found if _computes(found, stage, backbone.module, shape) else None


def input_shape(backbone: Backbone, layer: str) -> tuple[int, ...]:
    """Return the shape of what goes into a layer, without the batch.

    Raises:
        LayerError: no such layer, or a backbone that cannot be cut.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=2, hidden=[3, 4], activation="sigmoid")
        >>> input_shape(backbone, "hidden1"), input_shape(backbone, "hidden2")
        ((2,), (3,))
    """
    position = backbone.position(layer)
    lower = backbone.lower(layer)  # refuses a backbone that cannot be cut
    if position == 0:
        return backbone.input.shape
    below = backbone.layer_names[position - 1]
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            example = backbone.input.example()
            device = next((parameter.device for parameter in lower.parameters()), torch.device("cpu"))
            output = backbone.forward_layers(example.to(device) if isinstance(example, Tensor) else example, [below])
    finally:
        backbone.train(was_training)
    return tuple(output[below].shape[1:]) if isinstance(output[below], Tensor) else ()


def _leaves(module: nn.Module, stage: Stage) -> Iterator[nn.Module]:
    for owned in owned_modules(module, stage.owns):
        yield from (leaf for leaf in owned.modules() if not any(leaf.children()))


def _computes(found: LinearMap, stage: Stage, module: nn.Module, shape: tuple[int, ...]) -> bool:
    device = found.module.weight.device
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    if isinstance(found.module, nn.Linear) and x.flatten(1).shape[1] != found.shape[0]:
        return False
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a stage with dropout of its own draws
        return torch.equal(stage.apply(module, x), found.activate(found.up(x)))
