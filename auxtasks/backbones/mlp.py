"""A stack of dense layers, for feature vectors and for small pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone, check_positive, register
from auxtasks.backbones.description import Family
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.stages import Stage
from auxtasks.errors import BackboneError

__all__ = ["mlp"]

Activation = Literal["relu", "sigmoid", "tanh"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@register("mlp")
def mlp(
    width: int | None = None,
    hidden: Sequence[int] = (256, 256),
    *,
    size: int | None = None,
    channels: int = 1,
    activation: Activation = "relu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    absent: float | None = None,
    seed: int = 0,
) -> Backbone:
    """Build dense layers; layer ``hidden1`` is the lowest.

    Without any, for vectors alone, the one layer is ``input``: the vectors as they are, what a linear model stands on.

    Args:
        width: number of input features; None for pictures.
        hidden: width of each layer, from the input up; none leaves vectors as they are.
        size: height and width of pictures in pixels, whose values in [0, 1] are the features; None for vectors.
        channels: of the pictures.
        activation: ``"relu"``, ``"sigmoid"`` (what a Boltzmann machine's hidden units are) or ``"tanh"``.
        mean, std: of each feature of vectors, which are standardised by them on their way in; None leaves them so.
        absent: of vectors, the value that says that a feature is not there, see `InputSpec`; None: all are.
        seed: of the random weights; PyTorch's global generator is left as it was.

    Raises:
        BackboneError: pictures without layers, a width below 1, an unknown activation, not one of `width` and `size`,
            or a mean or standard deviation that does not fit.

    Example:
        >>> mlp(width=64, hidden=[32, 16]).layer_dims
        {'hidden1': 32, 'hidden2': 16}
        >>> mlp(size=28, hidden=[500], activation="sigmoid").input.shape
        (1, 28, 28)
        >>> mlp(width=2, hidden=[], std=[1.0, 4.0]).layer_dims, mlp(width=2, hidden=[], absent=0.0).layer_dims
        ({'input': 2}, {'input': 4})
    """
    hidden = list(hidden)
    if (width is None) == (size is None):
        raise BackboneError(
            f"an mlp takes vectors of a width or pictures of a size: give one, found width={width}, size={size}."
        )
    if not hidden and size is not None:
        raise BackboneError("hidden is empty: an mlp of pictures needs at least one layer, such as hidden=[256].")
    if size is not None and (mean, std, absent) != (None, None, None):
        raise BackboneError(
            "mean, std and absent are for vectors (width): the pixels of pictures are in [0, 1] as they come."
        )
    if activation not in _ACTIVATIONS:
        raise BackboneError(f'activation is one of {", ".join(get_args(Activation))}, found "{activation}".')
    sizes = {"width": width, "size": size, "channels": channels}
    check_positive(
        **{name: value for name, value in sizes.items() if value is not None},
        **{f"hidden[{place}]": here for place, here in enumerate(hidden)},
    )
    arguments: dict[str, object]
    if size is not None:
        spec, below = InputSpec.image(size, channels), channels * size * size
        arguments = {"size": size, "channels": channels}
    else:
        assert width is not None  # checked above
        scale = {
            name: [float(value) for value in values]
            for name, values in (("mean", mean), ("std", std))
            if values is not None
        }
        spec = InputSpec.features(width, **scale, absent=absent)
        below = spec.seen_width
        arguments = {"width": width, **scale, **({} if absent is None else {"absent": absent})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = zip([below, *hidden], hidden, strict=False)
        module = nn.Sequential(
            *(nn.Sequential(_linear(lower, here, activation), _ACTIVATIONS[activation]()) for lower, here in widths)
        )
    if not hidden:
        module.append(nn.Identity())
    names = {f"hidden{place}": here for place, here in enumerate(hidden, start=1)} or {"input": below}
    stages = [
        Stage(name=name, owns=(str(place),), dim=dim, apply=functools.partial(_dense, place=place))
        for place, (name, dim) in enumerate(names.items())
    ]
    family = Family("mlp", {**arguments, "hidden": hidden, "activation": activation, "seed": seed})
    return Backbone(module, stages, spec, family)


def _linear(below: int, here: int, activation: Activation) -> nn.Linear:
    """Return a layer with weights that suit its activation: PyTorch's for ReLU, Glorot's for tanh.

    For sigmoids four times as wide: else four layers of them do not begin to learn (Glorot and Bengio, AISTATS 2010).
    """
    layer = nn.Linear(below, here)
    if activation != "relu":
        nn.init.xavier_uniform_(layer.weight, gain=4.0 if activation == "sigmoid" else 1.0)
        nn.init.zeros_(layer.bias)
    return layer


def _dense(module: nn.Module, x: Tensor, *, place: int) -> Tensor:
    assert isinstance(module, nn.Sequential)  # built above
    output: Tensor = module[place](x.flatten(1))  # pictures (B, C, H, W) come as rows of pixels
    return output
