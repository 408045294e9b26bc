"""What layer-wise tasks refuse of a layer's inputs, with what to do instead."""

from __future__ import annotations

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.linear_map import linear_map
from auxtasks.errors import DataError
from auxtasks.features.layer_inputs import InputSummary

__all__ = ["refuse_outside_unit", "refuse_unbounded_below", "refuse_without_change"]


def refuse_unbounded_below(backbone: Backbone, layer: str, instead: str) -> None:
    """Refuse, before any layer is trained, what is known to give values that are no probabilities.

    Raises:
        DataError: says what is below the layer, and what to use instead.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> refuse_unbounded_below(mlp(width=2, hidden=[3, 4], activation="sigmoid"), "hidden2", "visible='gaussian'")
        >>> network = mlp(width=2, hidden=[3, 4], activation="relu")
        >>> refuse_unbounded_below(network, "hidden2", "visible='gaussian'")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: layer hidden2 would take its inputs for probabilities...
    """
    position = backbone.position(layer)
    if position == 0:
        found = "pictures that are normalised" if backbone.input.kind == "image" and backbone.input.normalizes else ""
    else:
        below = linear_map(backbone, backbone.layer_names[position - 1])
        found = f"a layer of {below.activation} units" if below and below.activation != "sigmoid" else ""
    if found:
        raise DataError(
            f"layer {layer} would take its inputs for probabilities, from 0 to 1, and gets them from {found}. Use "
            f'sigmoids below it (of an mlp: activation="sigmoid"; pictures as they are), or {instead}.'
        )


def refuse_outside_unit(layer: str, summary: InputSummary, instead: str) -> None:
    """Refuse values that are no probabilities.

    Raises:
        DataError: says which values there are, and what to use instead.

    Example:
        >>> import torch
        >>> summary = InputSummary(10, lowest=0.0, highest=3.0, mean=torch.ones(2), std=torch.ones(2))
        >>> refuse_outside_unit("hidden1", summary, "visible='gaussian'")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: the inputs of layer hidden1 range from 0 to 3; probab...
        >>> refuse_without_change("hidden1", summary)
    """
    if summary.lowest < 0 or summary.highest > 1:
        raise DataError(
            f"the inputs of layer {layer} range from {summary.lowest:.4g} to {summary.highest:.4g}; probabilities are "
            "from 0 to 1. Scale them to [0, 1] (a backbone whose input is not normalised, a layer of sigmoids below), "
            f"or use {instead}."
        )


def refuse_without_change(layer: str, summary: InputSummary) -> None:
    """Refuse inputs that are the same in all items.

    Raises:
        DataError: nothing can be learnt from them.
    """
    if len(summary.constant) == summary.std.numel():
        raise DataError(
            f"all {summary.std.numel()} inputs of layer {layer} are constant over {summary.items} items: there is "
            "nothing to learn. Is the layer below dead, or are all items the same?"
        )
