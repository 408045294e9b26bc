"""Backbones by name, as recipes write them: a closed table, so that a recipe is never code."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping

from auxtasks.backbones.base import Backbone, builders
from auxtasks.backbones.facenet import PUBLISHED
from auxtasks.errors import AuxtasksError, BackboneError, did_you_mean

__all__ = ["ZOOS", "build"]

# The zoo before the slash of a name, with the family and the argument that the rest is.
ZOOS = {
    "timm": ("timm", "name"),
    "torchvision": ("torchvision", "name"),
    "hf": ("transformers", "name"),
    "facenet": ("facenet", "weights"),
}
# OWNER/NAME or NAME on the Hugging Face Hub: no path, no revision, no address.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# Types in builders' annotations whose library is slow to import, and where they are.
LATE_TYPES = {"PreTrainedTokenizerBase": "transformers"}


def build(name: str, /, **arguments: object) -> Backbone:
    """Build a backbone from its family's name and arguments.

    Args:
        name: a family: ``"convnet"``, ``"mlp"``, ``"facenet"``, ``"timm"``, ``"torchvision"``,
            ``"transformers"``; or one of a model zoo: ``"timm/NAME"`` for ``build("timm", name=NAME)``, likewise
            ``"torchvision/NAME"``, ``"hf/NAME"`` (transformers, from the Hugging Face Hub) and ``"facenet/WEIGHTS"``.
            `auxtasks.backbones.catalogue` lists them.
        **arguments: of the family's builder.

    Raises:
        BackboneError: an unknown name, or arguments that the builder does not take; names all of them, what was found
            and what is allowed.

    Example:
        >>> build("mlp", width=4, hidden=[8]).layer_names
        ('hidden1',)
        >>> build("convnet", wdths=[8])
        Traceback (most recent call last):
        auxtasks.errors.BackboneError: convnet: no argument "wdths". Allowed: size, channels, widths, ... "widths"?
    """
    family, given = _expand(name, arguments)
    known = builders()
    if family not in known:
        allowed = (*sorted(known), *(f"{zoo}/NAME" for zoo in ZOOS))
        raise BackboneError(
            f'there is no backbone "{name}". Allowed: {", ".join(allowed)}.{did_you_mean(name, sorted(known))}'
        )
    builder = known[family]
    problems = list(_problems(inspect.signature(builder).parameters, _hints(builder), given))
    if problems:
        raise BackboneError("\n".join(f"{family}: {problem}" for problem in problems))
    try:
        return builder(**given)
    except AuxtasksError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError, OSError) as error:
        # Sizes that fit no memory, names that fit no disk: what PyTorch and the libraries behind say of them.
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{family} cannot be built from {_spelled(given)}: {said}") from error


def _spelled(given: Mapping[str, object], most: int = 200) -> str:
    text = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "its defaults"
    return text if len(text) <= most else f"{text[:most]}..."


def _expand(name: str, arguments: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Turn a name of a zoo, such as ``timm/NAME``, into the family and its argument.

    Example:
        >>> _expand("facenet/vggface2", {"size": 80})
        ('facenet', {'weights': 'vggface2', 'size': 80})
    """
    zoo, slash, rest = name.partition("/")
    if not slash or zoo not in ZOOS:
        return name, dict(arguments)
    family, argument = ZOOS[zoo]
    if argument in arguments:
        raise BackboneError(f'the model is named twice: "{name}" and {argument}={arguments[argument]!r}.')
    if zoo == "facenet" and rest not in PUBLISHED:  # the path of a file is given as weights=PATH
        known = [f"facenet/{weights}" for weights in PUBLISHED]
        raise BackboneError(f'there is no "{name}". Allowed: {", ".join(known)}.{did_you_mean(name, known)}')
    if zoo == "hf" and not HUB_NAME.fullmatch(rest):
        raise BackboneError(
            f'"{name}" names no model on the Hugging Face Hub: write hf/OWNER/NAME, such as hf/google-bert/'
            "bert-base-uncased; of a folder, transformers with name=FOLDER."
        )
    return family, {argument: rest, **arguments}


def _hints(builder: Callable[..., Backbone]) -> dict[str, object]:
    """Return a builder's annotations as types; what is slow to import is imported for its own builder only."""
    written = " ".join(map(str, builder.__annotations__.values()))
    late = {
        name: getattr(importlib.import_module(module), name) for name, module in LATE_TYPES.items() if name in written
    }
    return typing.get_type_hints(builder, localns=late)


def _problems(
    parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, object], given: Mapping[str, object]
) -> Iterator[str]:
    """Yield one line for each argument that is unknown, wrongly typed or missing."""
    for name, value in given.items():
        if name not in parameters:
            yield f'no argument "{name}". Allowed: {", ".join(parameters)}.{did_you_mean(name, parameters)}'
        elif not _fits(value, hints[name]):
            yield f"{name} must be {_describe(hints[name])}, found {value!r}."
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in given:
            yield f'the argument "{name}" is missing. Allowed: {", ".join(parameters)}.'


def _fits(value: object, hint: object) -> bool:
    """Whether a value, such as YAML gives, is of an annotated type.

    Example:
        >>> _fits([1, 2], collections.abc.Sequence[int]), _fits("12", collections.abc.Sequence[int]), _fits(True, int)
        (True, False, False)
    """
    origin = typing.get_origin(hint)
    if hint is object:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is collections.abc.Mapping:
        key_type, value_type = typing.get_args(hint)
        return isinstance(value, Mapping) and all(_fits(k, key_type) and _fits(v, value_type) for k, v in value.items())
    if origin is collections.abc.Sequence:
        (item,) = typing.get_args(hint)
        return isinstance(value, list | tuple) and all(_fits(entry, item) for entry in value)
    if isinstance(value, bool):  # Python's bool is an int, a recipe's is not
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(hint, type) and isinstance(value, hint)


def _describe(hint: object) -> str:
    """Write a type as a reader of recipes knows it.

    Example:
        >>> _describe(collections.abc.Sequence[int]), _describe(str | None)
        ('a list of int', 'str or nothing')
    """
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return " or ".join(f'"{word}"' for word in typing.get_args(hint))
    if origin is collections.abc.Sequence:
        return f"a list of {_describe(typing.get_args(hint)[0])}"
    if origin is collections.abc.Mapping:
        return "a mapping"
    if hint is type(None):
        return "nothing"
    return hint.__name__ if isinstance(hint, type) else str(hint)
