"""What of a backbone was copied or trained and what is still random: kept in its provenance, and so in its manifest.

Two keys hold it: ``copied``, a line for every copy, and ``random``, the layers that nobody has trained, or single
tensors written ``layer/name``. A backbone without ``random`` was pretrained as a whole if it says on what, and else is
as random as its builder left it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from auxtasks.backbones.base import Backbone
from transfer.layers import COUNTER, tensor_layers

__all__ = ["mark_trained", "note_copy", "random_layers", "random_tensors"]


def random_tensors(backbone: Backbone) -> frozenset[str]:
    """Return the parameters and buffers that are as random as the builder left them, as far as is recorded.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[8, 8])
        >>> mark_trained(backbone, ["hidden1"])
        >>> sorted(random_tensors(backbone))
        ['1.0.bias', '1.0.weight']
    """
    layers = _learnt(backbone)
    if "random" not in backbone.provenance:
        return frozenset() if backbone.provenance.get("pretrained_on") else frozenset(layers)
    written = set(backbone.provenance["random"])
    return frozenset(name for name, layer in layers.items() if layer in written or f"{layer}/{name}" in written)


def random_layers(backbone: Backbone) -> tuple[str, ...]:
    """Return the layers that hold a random tensor, from the input up.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[8, 8])
        >>> random_layers(backbone)
        ('hidden1', 'hidden2')
        >>> mark_trained(backbone, ["hidden1"])
        >>> random_layers(backbone), backbone.provenance
        (('hidden2',), {'random': ['hidden2']})
    """
    layers = _learnt(backbone)
    found = {layers[name] for name in random_tensors(backbone)}
    return tuple(name for name in backbone.layer_names if name in found)


def mark_trained(backbone: Backbone, layers: Iterable[str]) -> None:
    """Record that layers have been trained, so that they are random no more.

    Raises:
        LayerError: a layer that the backbone does not have.
    """
    trained = {backbone.layer_names[backbone.position(name)] for name in layers}
    layers = _learnt(backbone)
    _write(backbone, {name for name in random_tensors(backbone) if layers[name] not in trained})


def note_copy(backbone: Backbone, copied: Collection[str], words: str, pretrained_on: str) -> None:
    """Record a copy.

    Args:
        backbone: that was copied into.
        copied: names of its tensors, as in the library's module, that are now somebody's trained weights.
        words: how much came from where, a line.
        pretrained_on: what the weights were trained on, for a backbone that was not pretrained before.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[8, 8])
        >>> copied = [name for name, _ in backbone.parameters_of("hidden1")]
        >>> note_copy(backbone, copied, "hidden1 of weights.npz", "digits")
        >>> backbone.provenance
        {'copied': ['hidden1 of weights.npz'], 'pretrained_on': 'digits', 'random': ['hidden2']}
    """
    still = random_tensors(backbone) - set(copied)
    backbone.provenance["copied"] = [*backbone.provenance.get("copied", []), words]
    if not backbone.provenance.get("pretrained_on"):
        backbone.provenance["pretrained_on"] = pretrained_on
    _write(backbone, still)


def _learnt(backbone: Backbone) -> dict[str, str]:
    """Return the layer of each tensor that training changes: a counter holds nothing that could be random."""
    return {name: layer for name, layer in tensor_layers(backbone).items() if not name.endswith(COUNTER)}


def _write(backbone: Backbone, still: Collection[str]) -> None:
    """Write which tensors are random: a layer's name where all of it is."""
    layers = _learnt(backbone)
    written: list[str] = []
    for layer in backbone.layer_names:
        owned = [name for name, owner in layers.items() if owner == layer]
        random = [name for name in owned if name in still]
        written += [layer] if random and len(random) == len(owned) else [f"{layer}/{name}" for name in random]
    backbone.provenance["random"] = written
