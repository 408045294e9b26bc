"""What pydantic finds wrong in a recipe, said as its author would: dotted key, what was found, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from auxtasks.errors import did_you_mean
from recipes.data_schema import IN_WORDS
from recipes.recipe_yaml import printable
from recipes.schema import Recipe
from recipes.task_schema import TASK_NAMES

__all__ = ["describe"]

_TAGS = {("task", name) for name in TASK_NAMES}

# What pydantic adds to a place for each type that a value may have, and how it names that type in an error.
_SCALARS = {"str": "string", "int": "int", "float": "float", "bool": "bool"}

_LONGEST_SHOWN = 200  # characters of a value or of a key


def describe(entry: Mapping[str, Any], recipe: object) -> list[str]:
    """Turn one of pydantic's errors into lines: dotted key, what was found, what is allowed, did you mean.

    Args:
        entry: the error.
        recipe: what was checked.

    Example:
        >>> from pydantic import ValidationError
        >>> heads = [{"name": "ridge", "option": {}}]
        >>> asked = {"name": "mine", "training": {"optimizer": "adam"}, "transfer": {"heads": heads}}
        >>> try:
        ...     Recipe.model_validate(asked)
        ... except ValidationError as error:
        ...     found = [line for entry in error.errors() for line in describe(entry, asked)]
        >>> for line in found:
        ...     print(line)
        training.optimizer: input should be 'adamw' or 'sgd', found 'adam'. Did you mean "adamw"?
        transfer.heads.0.option: unknown key. Allowed here: name, options. Did you mean "options"?
    """
    place, kind, found = entry["loc"], entry["type"], entry["input"]
    key = _key(place, recipe, is_absent=kind == "missing")
    if kind == "value_error":  # of a validator here, whose lines begin with keys
        above = f"{key}." if place else ""
        return [f"{above}{line}." for line in entry["msg"].removeprefix("Value error, ").splitlines()]
    if kind == "extra_forbidden":
        return [f"{key}: unknown key. {_allowed_keys(place)}"]
    if kind == "missing":
        return [f"{key}: required, not given"]
    if kind == "union_tag_not_found" and isinstance(found, dict):
        return [f"{key}.name: must be a name, found {_shown(found.get('name'))}."]
    if kind == "union_tag_invalid":
        allowed = re.findall(r"'([^']*)'", entry["ctx"]["expected_tags"])
        tag = str(entry["ctx"]["tag"])
        return [f"{key}.name: must be one of {', '.join(allowed)}, found {_shown(tag)}.{did_you_mean(tag, allowed)}"]
    if place and place[-1] in _SCALARS and kind == f"{_SCALARS[str(place[-1])]}_type":
        kind = "scalar_type"
    return [f"{key}: {_expected(kind, entry)}, found {_shown(found)}.{_hint(kind, entry)}"]


def _expected(kind: str, entry: Mapping[str, Any]) -> str:
    """Say what a value should have been."""
    if kind == "scalar_type":
        return "must be a text, a number or true or false"
    if kind in ("model_type", "dict_type", "union_tag_not_found"):
        return "must be a group of keys"
    if kind == "string_pattern_mismatch":
        return f"must be {IN_WORDS[entry['ctx']['pattern']]}"
    if kind in ("too_short", "too_long"):
        limit = (
            f"at least {entry['ctx']['min_length']}" if kind == "too_short" else f"at most {entry['ctx']['max_length']}"
        )
        return f"must hold {limit}"
    message: str = entry["msg"]
    return f"{message[0].lower()}{message[1:]}"


def _hint(kind: str, entry: Mapping[str, Any]) -> str:
    return did_you_mean(str(entry["input"]), re.findall(r"'([^']*)'", entry["msg"])) if kind == "literal_error" else ""


def _shown(found: object) -> str:
    text = ascii(found) if isinstance(found, str) and not found.isprintable() else repr(found)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} ..."


def _key(place: Sequence[str | int], recipe: object, *, is_absent: bool) -> str:
    """Return the dotted key of a place, without the steps that are pydantic's: members of a union, and ``[key]``."""
    steps, at = [], recipe
    for number, step in enumerate(place):
        if (place[number - 1] if number else "", step) in _TAGS:
            continue
        if isinstance(at, dict) and step in at:
            at = at[step]
        elif isinstance(at, list) and isinstance(step, int):
            at = at[step]  # as above, but for mypy
        elif not (is_absent and number == len(place) - 1):
            continue
        steps.append(printable(str(step))[:_LONGEST_SHOWN])
    return ".".join(steps) if steps else "recipe"


def _allowed_keys(place: Sequence[str | int]) -> str:
    """Say which keys may stand beside an unknown one, and which of them is like it."""
    allowed = sorted(_fields_at(place[:-1]))
    return f"Allowed here: {', '.join(allowed)}.{did_you_mean(str(place[-1]), allowed)}"


def _fields_at(place: Iterable[str | int]) -> list[str]:
    """Return the keys that are allowed at a place in a recipe."""
    at: Any = Recipe
    for step in place:
        at = _type_inside(at, step)
    return next((list(option.model_fields) for option in _options(at) if _is_model(option)), [])


def _type_inside(annotation: Any, step: str | int) -> Any:
    """Return the type of what is at a key or an index of a value of a type."""
    for option in _options(annotation):
        if get_origin(option) in (dict, list):
            return get_args(option)[-1]
        if _is_model(option) and step in get_args(getattr(option.model_fields.get("name"), "annotation", None)):
            return option  # the step is what tells this member of a union from the others
        if _is_model(option) and step in option.model_fields:
            return option.model_fields[step].annotation
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the types in ``Model | None``, without their annotations; any other type alone."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(option for part in get_args(annotation) for option in _options(part))
    return (annotation,)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)
