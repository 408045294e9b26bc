"""What a target model's folder says of itself, checked before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.decoding import Fit
from auxtasks.errors import CheckpointError, did_you_mean

__all__ = ["check_layer", "check_settings"]

_TYPES: Final[Mapping[str, type]] = {
    "layer": str, "pool": str, "mirror": bool, "head": dict, "class_names": list, "fit": str, "discriminants": bool,
    "facts": dict,
}  # fmt: skip


def check_settings(settings: Mapping[str, Any], place: Path) -> None:
    """Refuse settings of a target model that are missing, of another type, or none that there are.

    Raises:
        CheckpointError: names the file, the key and what was found.

    Example:
        >>> check_settings({"layer": 3}, Path("target.json"))
        Traceback (most recent call last):
        auxtasks.errors.CheckpointError: target.json is damaged: layer is a string, found 3.
    """
    for key, expected in {**_TYPES, "decoded_size": object}.items():
        if key not in settings:
            raise CheckpointError(f"{place} is damaged: it has no {key!r}.")
        if not isinstance(settings[key], expected):
            raise CheckpointError(f"{place} is damaged: {key} is a {_word(expected)}, found {settings[key]!r}.")
    if not isinstance(settings.get("head_trained", True), bool):
        raise CheckpointError(f"{place} is damaged: head_trained is a truth value, found {settings['head_trained']!r}.")
    names = settings["class_names"]
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{place} is damaged: class_names lists the classes' names, found {names!r}.")
    size = settings["decoded_size"]
    if size is not None and not (isinstance(size, list) and len(size) == 2 and all(map(_is_size, size))):
        raise CheckpointError(f"{place} is damaged: decoded_size is height and width, or null; found {size!r}.")
    _check_choice("pool", settings["pool"], get_args(Pool), place)
    _check_choice("fit", settings["fit"], get_args(Fit), place)


def check_layer(layer: object, pool: object, backbone: Backbone, place: Path) -> None:
    """Refuse a layer that the backbone beside it does not have, and a pooling that there is not.

    Raises:
        CheckpointError: names the file.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> check_layer("hidden1", "mean", mlp(width=4, hidden=[3]), Path("model.json"))
        >>> try:
        ...     check_layer("hiden1", "mean", mlp(width=4, hidden=[3]), Path("model.json"))
        ... except CheckpointError as error:
        ...     print(str(error).partition(": ")[2])
        the backbone has no layer 'hiden1'; it has hidden1. Did you mean "hidden1"?
    """
    if layer not in backbone.layer_names:
        layers = ", ".join(backbone.layer_names)
        hint = did_you_mean(layer, backbone.layer_names) if isinstance(layer, str) else ""
        raise CheckpointError(f"{place} is damaged: the backbone has no layer {layer!r}; it has {layers}.{hint}")
    _check_choice("pool", pool, get_args(Pool), place)


def _check_choice(key: str, value: object, allowed: tuple[str, ...], place: Path) -> None:
    if value not in allowed:
        raise CheckpointError(f"{place} is damaged: {key} is one of {', '.join(allowed)}; found {value!r}.")


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _word(kind: type) -> str:
    return {str: "string", bool: "truth value", dict: "table of names and values", list: "list"}[kind]
