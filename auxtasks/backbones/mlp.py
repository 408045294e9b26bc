"""A stack of dense layers for feature vectors, and for small images flattened by hand."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone, Family, check_positive, register
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.stages import Stage
from auxtasks.errors import BackboneError

__all__ = ["mlp"]


@register("mlp")
def mlp(width: int, hidden: Sequence[int] = (256, 256), *, seed: int = 0) -> Backbone:
    """Build dense layers with ReLU; layer ``hidden1`` is the lowest.

    Args:
        width: number of input features.
        hidden: width of each layer, from the input up.
        seed: of the random weights; PyTorch's global generator is left as it was.

    Raises:
        BackboneError: no layers, or a width below 1.

    Example:
        >>> mlp(width=64, hidden=[32, 16]).layer_dims
        {'hidden1': 32, 'hidden2': 16}
    """
    hidden = list(hidden)
    if not hidden:
        raise BackboneError("hidden is empty: an mlp needs at least one layer, such as hidden=[256].")
    check_positive(width=width, **{f"hidden[{place}]": size for place, size in enumerate(hidden)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [width, *hidden]
        module = nn.Sequential(
            *(nn.Sequential(nn.Linear(below, here), nn.ReLU()) for below, here in zip(widths, hidden, strict=False))
        )
    stages = [
        Stage(name=f"hidden{place + 1}", owns=(str(place),), dim=size, apply=functools.partial(_dense, place=place))
        for place, size in enumerate(hidden)
    ]
    family = Family("mlp", {"width": width, "hidden": hidden, "seed": seed})
    return Backbone(module, stages, InputSpec.features(width), family)


def _dense(module: nn.Module, x: Tensor, *, place: int) -> Tensor:
    assert isinstance(module, nn.Sequential)  # built above
    output: Tensor = module[place](x)
    return output
