"""Selecting layers and tensors of a network: by name, up to a layer, the first or last n, or by a regular expression.

TensorFlow restored part of a network by a regular expression over scopes, such as ``hidden[123]`` (Géron, "Hands-On
Machine Learning", 2017, chapter 11). Its scopes are our layers: a tensor is found by its own name, and by its layer's
name before it, parted by a slash.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from torch import nn

from auxtasks.backbones.base import Backbone
from auxtasks.errors import TransferError, did_you_mean

__all__ = ["COUNTER", "EVERYTHING", "Select", "matching_layers", "select_layers", "select_tensors", "tensor_layers"]

# BatchNorm counts batches only to average over all of them, which nobody asks for; others have no such number.
COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Select:
    """What of a network is meant: everything, or what all the given conditions leave.

    Attributes:
        pattern: regular expression that a tensor's name begins with, as in TensorFlow's scopes: its own name
            (``layer1.0.conv1.weight``), or with its layer's before it (``hidden1/0.0.weight``). So ``hidden[123]``
            takes three layers, and ``hidden1/`` the first but not the tenth.
        layers: names of layers.
        up_to: a layer, taken with all below it.
        first: so many layers from the input up.
        last: so many layers from the output down.

    Raises:
        TransferError: no regular expression, an empty list of layers, or a number of layers below 1.

    Example:
        >>> EVERYTHING == Select()
        True
        >>> Select(up_to="stage2").describe()
        'up to stage2'
    """

    pattern: str | None = None
    layers: Sequence[str] | None = None
    up_to: str | None = None
    first: int | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        if self.pattern is not None:
            compiled(self.pattern)
        if isinstance(self.layers, str):
            raise TransferError(f"layers is a list of names, found {self.layers!r}: write [{self.layers!r}].")
        if self.layers is not None and not self.layers:
            raise TransferError("layers is an empty list: leave it out to take all layers.")
        for name, count in (("first", self.first), ("last", self.last)):
            if count is not None and count < 1:
                raise TransferError(f"{name} is a number of layers, at least 1; found {count}.")

    @property
    def names_layers(self) -> bool:
        """Whether it says anything of layers, so that a network must have such."""
        return any(given is not None for given in (self.layers, self.up_to, self.first, self.last))

    def describe(self) -> str:
        """Return the conditions in words.

        Example:
            >>> Select(up_to="layer2", pattern=".*weight").describe()
            "up to layer2, pattern '.*weight'"
        """
        words = [
            None if self.layers is None else f"layers {', '.join(self.layers)}",
            None if self.up_to is None else f"up to {self.up_to}",
            None if self.first is None else f"first {self.first} layers",
            None if self.last is None else f"last {self.last} layers",
            None if self.pattern is None else f"pattern {self.pattern!r}",
        ]
        return ", ".join(word for word in words if word is not None) or "everything"


EVERYTHING = Select()


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a user's regular expression.

    Raises:
        TransferError: it is none; says where it breaks.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise TransferError(f"{pattern!r} is no regular expression: {error}.") from error


def select_layers(backbone: Backbone, select: Select = EVERYTHING) -> tuple[str, ...]:
    """Return the names of the selected layers, from the input up; a pattern takes those that hold a tensor it matches.

    Raises:
        LayerError: a layer that the backbone does not have; lists those it has.
        TransferError: nothing is selected, or more layers are counted than there are.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[8, 8, 8, 8])
        >>> select_layers(backbone, Select(pattern="hidden[123]"))
        ('hidden1', 'hidden2', 'hidden3')
        >>> select_layers(backbone, Select(last=3, up_to="hidden3"))
        ('hidden2', 'hidden3')
    """
    names = backbone.layer_names
    for word, count in (("first", select.first), ("last", select.last)):
        if count is not None and count > len(names):
            raise TransferError(f"{word}={count}: the network has {len(names)} layers: {', '.join(names)}.")
    allowed = set(names)
    if select.layers is not None:
        allowed &= {names[backbone.position(name)] for name in select.layers}
    if select.up_to is not None:
        allowed &= set(names[: backbone.position(select.up_to) + 1])
    if select.first is not None:
        allowed &= set(names[: select.first])
    if select.last is not None:
        allowed &= set(names[-select.last :])
    if select.pattern is not None:
        allowed &= set(matching_layers(backbone, select.pattern))
    if not allowed:
        raise TransferError(
            f"no layer is selected by {select.describe()}. Layers from the input up: {', '.join(names)}."
        )
    return tuple(name for name in names if name in allowed)


def matching_layers(backbone: Backbone, pattern: str) -> tuple[str, ...]:
    """Return the layers that hold a tensor which a pattern matches, see `Select`, from the input up.

    Raises:
        TransferError: no regular expression, or one that matches nothing; shows names that it could match.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> matching_layers(mlp(width=4, hidden=[3, 3]), "1.*bias")
        ('hidden2',)
    """
    layers = tensor_layers(backbone)
    found = {layers[name] for name in _matching(layers, layers, pattern) if name in layers}
    return tuple(name for name in backbone.layer_names if name in found)


def tensor_layers(backbone: Backbone) -> dict[str, str]:
    """Return each parameter and buffer, named as in the library's module, with the layer that owns it.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> tensor_layers(mlp(width=4, hidden=[8]))
        {'0.0.weight': 'hidden1', '0.0.bias': 'hidden1'}
    """
    owners = sorted(
        ((path, stage.name) for stage in backbone.stages for path in stage.owns), key=lambda owner: -len(owner[0])
    )  # the longest path first: it is the closest owner
    found = {}
    for name in backbone.module.state_dict():
        owner = next((layer for path, layer in owners if name == path or name.startswith(f"{path}.")), None)
        if owner is not None:
            found[name] = owner
    return found


def select_tensors(target: nn.Module, select: Select = EVERYTHING) -> tuple[str, ...]:
    """Return the names of the selected parameters and buffers, in the order of the module's state dict.

    Args:
        target: a backbone, whose tensors are named as in its library's module, or any module.
        select: of a module that is no backbone only a pattern can select.

    Raises:
        LayerError: a layer that the backbone does not have.
        TransferError: nothing is selected, or layers are asked for of a module that has no table of layers.

    Example:
        >>> select_tensors(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), Select("1"))
        ('1.weight', '1.bias')
    """
    if not isinstance(target, Backbone):
        if select.names_layers:
            raise TransferError(
                f"{select.describe()}: {type(target).__name__} is no backbone and has no table of layers: select by a "
                "pattern over the names of its parameters."
            )
        names = list(target.state_dict())
        return tuple(names if select.pattern is None else _matching(names, {}, select.pattern))
    names = list(target.module.state_dict())
    layers = tensor_layers(target)
    if select.names_layers:
        # The pattern is left for the tensors: one that matches a single tensor of a layer does not take the others.
        wanted = set(select_layers(target, dataclasses.replace(select, pattern=None)))
        names = [name for name in names if layers.get(name) in wanted]
    if select.pattern is not None:
        names = _matching(names, layers, select.pattern)
    if not names:
        raise TransferError(f"nothing is selected by {select.describe()}: these layers hold no tensors.")
    return tuple(names)


def _matching(names: Iterable[str], layers: dict[str, str], pattern: str) -> list[str]:
    """Return the names that begin with what a pattern matches, their layers' names before them or not."""
    candidates = list(names)
    scoped = {name: f"{layers[name]}/{name}" if name in layers else name for name in candidates}
    expression = compiled(pattern)
    found = [name for name in candidates if expression.match(name) or expression.match(scoped[name])]
    if not found:
        shown = [scoped[name] for name in candidates]
        some = ", ".join([*shown[:4], "...", *shown[-2:]] if len(shown) > 6 else shown)
        hint = did_you_mean(pattern, {*layers.values(), *candidates})
        raise TransferError(
            f"the pattern {pattern!r} matches none of {len(candidates)} names.{hint} A pattern matches from the "
            f"beginning of a name; there are: {some}."
        )
    return found
