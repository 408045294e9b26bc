"""Reading recipes: shipped ones and files, overrides, and all problems at once. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from auxtasks.errors import RecipeError
from recipes.schema import ReadyMade, Recipe
from recipes.task_schema import TASK_NAMES

__all__ = [
    "Recipe",
    "dump_recipe",
    "load_recipe",
    "recipe_names",
    "recipe_summary",
    "recipe_text",
]


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("recipes.configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name_or_file: str) -> str:
    """Return a recipe's YAML, by the name of a shipped recipe or the path of a file.

    Raises:
        RecipeError: neither; suggests the closest name.
    """
    if name_or_file in recipe_names():
        return resources.files("recipes.configs").joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_file)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError([f"{path}: not UTF-8 text: {error}"]) from error
    close = difflib.get_close_matches(name_or_file, recipe_names(), n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    raise RecipeError(
        [f"{name_or_file}: no recipe and no file of that name. Recipes: {', '.join(recipe_names())}.{hint}"]
    )


def recipe_summary(name: str) -> str:
    """Return a shipped recipe's description, on one line."""
    return str(_parse_yaml(recipe_text(name), name).get("description", ""))


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``key.sub=value`` overrides, and check all of it.

    Values are YAML: ``targets.att=null`` takes a target out, ``transfer.shots=[1,5]`` is a list.

    Raises:
        RecipeError: all problems at once.

    Example:
        >>> load_recipe("faces_demo", ["training.steps=3"]).training.steps
        3
    """
    value = _parse_yaml(recipe_text(name_or_file), name_or_file)
    if not isinstance(value, dict):
        raise RecipeError([f"{name_or_file}: a recipe is a mapping of keys, found {type(value).__name__}"])
    problems: list[str] = []
    for override in overrides:
        problem = _apply_override(value, override)
        problems += [problem] if problem else []
    for group in ("targets", "minimal_pairs"):
        if isinstance(value.get(group), dict | None):
            value[group] = {name: entry for name, entry in (value.get(group) or {}).items() if entry is not None}
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        # A value that fits none of several types is an error for each of them, described alike: said once.
        described = [line for entry in error.errors() for line in _describe(entry).splitlines()]
        raise RecipeError([*problems, *dict.fromkeys(described)]) from error
    problems += [
        f"{key}: not given. Name a data set with {key}=PATH"
        + ("" if key == "data.path" else f", or leave it out with {key.removesuffix('.path')}=null")
        for key, path in _paths(recipe).items()
        if path is None
    ]
    if problems:
        raise RecipeError(problems)
    return recipe


def _paths(recipe: Recipe) -> dict[str, str | None]:
    """Return the data sets that a recipe needs, by dotted key."""
    return {
        **({} if isinstance(recipe.task, ReadyMade) else {"data.path": recipe.data.path}),
        **{f"targets.{name}.path": target.path for name, target in recipe.targets.items()},
        **{
            f"targets.{name}.{key}.path": None
            for name, target in recipe.targets.items()
            for key, part in (("test", target.test), ("validation", target.validation))
            if part is not None and part.lacks_path
        },
        **{f"minimal_pairs.{name}.path": pairs.path for name, pairs in recipe.minimal_pairs.items()},
    }


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, every value written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number and ``no`` as a word, as YAML 1.2 does, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, as the base class does."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # the base class says what is wrong with it
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" is given twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# A table of its own, so that other users of the library keep theirs.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError([f"{where}: not valid YAML: {' '.join(str(error).split())}"]) from error


def _apply_override(value: dict[str, Any], override: str) -> str | None:
    """Set one dotted key; return what is wrong with the override, or None."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"{override}: an override is key.sub=value"
    steps = key.split(".")
    at: Any = value
    for place, step in enumerate(steps[:-1]):
        if at.get(step) is None:
            at[step] = {}
        at = at[step]
        if not isinstance(at, dict):
            return f"{key}: {'.'.join(steps[: place + 1])} is a value, not a group of keys"
    try:
        at[steps[-1]] = _parse_yaml(text, key) if text else None
    except RecipeError as error:
        return error.problems[0]
    return None


_TAGS = {("task", name) for name in TASK_NAMES}

# What pydantic adds to a place for each type that a value may have, and how it names that type in an error.
_SCALARS = {"str": "string", "int": "int", "float": "float", "bool": "bool"}


def _describe(entry: Mapping[str, Any]) -> str:
    """Turn pydantic's error into: dotted key, what was found, what is allowed, did you mean."""
    place, kind = entry["loc"], entry["type"]
    # What a union's members are told apart by is a step to pydantic, but none to who wrote the recipe.
    key = ".".join(str(step) for step, above in zip(place, ["", *place], strict=False) if (above, step) not in _TAGS)
    key = key.removesuffix(".[key]") or "recipe"
    if kind == "extra_forbidden":
        allowed = sorted(_fields_at(place[:-1]))
        close = difflib.get_close_matches(str(place[-1]), allowed, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        return f"{key}: unknown key. Allowed here: {', '.join(allowed)}.{hint}"
    if kind == "missing":
        return f"{key}: required, not given"
    found = entry["input"]
    if place and place[-1] in _SCALARS and kind == f"{_SCALARS[str(place[-1])]}_type":
        return f"{'.'.join(map(str, place[:-1]))}: must be a text, a number or true or false, found {found!r}."
    if kind == "union_tag_not_found" and isinstance(found, dict):
        return f"{key}.name: must be a name, found {found.get('name')!r}."
    if kind in ("model_type", "dict_type", "union_tag_not_found"):
        return f"{key}: must be a group of keys, found {found!r}."
    if kind == "value_error":  # of a validator here, whose lines begin with keys
        above = f"{key}." if place else ""
        return "\n".join(f"{above}{line}." for line in entry["msg"].removeprefix("Value error, ").splitlines())
    if kind == "union_tag_invalid":
        allowed = re.findall(r"'([^']*)'", entry["ctx"]["expected_tags"])
        close = difflib.get_close_matches(str(entry["ctx"]["tag"]), allowed, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        return f"{key}.name: must be one of {', '.join(allowed)}, found {entry['ctx']['tag']!r}.{hint}"
    message, hint = entry["msg"], ""
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", message)
        close = difflib.get_close_matches(str(found), allowed, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool) or found is None else ""
    return f"{key}: {message[0].lower()}{message[1:]}{shown}.{hint}"


def _fields_at(place: Sequence[str | int]) -> list[str]:
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
