"""Reading recipes: shipped ones and files, overrides, and all problems at once. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from auxtasks.errors import RecipeError, did_you_mean
from recipes.problems import describe
from recipes.recipe_yaml import LARGEST_FILE, parse_yaml, printable, write_yaml
from recipes.schema import ReadyMade, Recipe

__all__ = [
    "Recipe",
    "dump_recipe",
    "load_recipe",
    "recipe_names",
    "recipe_summary",
    "recipe_text",
]


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package.

    Example:
        >>> len(recipe_names()), recipe_names()[0]
        (13, 'faces_demo')
    """
    folder = resources.files("recipes.configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name_or_file: str) -> str:
    """Return a recipe's YAML, by the name of a shipped recipe or the path of a file.

    Raises:
        RecipeError: neither; suggests the closest name.

    Example:
        >>> recipe_text("faces_demo").splitlines()[0]
        '# auxtasks run faces_demo          (or: make demo)'
        >>> recipe_text("face_demo")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.RecipeError: face_demo: no recipe and no file of that name. ... Did you mean "faces_demo"?
    """
    if name_or_file in recipe_names():
        return resources.files("recipes.configs").joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8")
    path, shown = Path(name_or_file), printable(name_or_file)
    try:
        if path.is_file():
            return _file_text(path)
        is_folder = bool(name_or_file) and path.is_dir()
    except OSError as error:  # no permission, a name that is too long, a disk that fails
        raise RecipeError([f"{shown}: cannot be read: {error.strerror}"]) from error
    if is_folder:
        raise RecipeError([f"{shown}: a folder, expected a YAML file, such as the recipe.yaml of a run"])
    names = recipe_names()
    raise RecipeError(
        [
            f"{shown}: no recipe and no file of that name. Recipes: {', '.join(names)}."
            f"{did_you_mean(name_or_file, names)}"
        ]
    )


def _file_text(path: Path) -> str:
    with path.open("rb") as handle:
        found = handle.read(LARGEST_FILE + 1)
    if len(found) > LARGEST_FILE:
        raise RecipeError([f"{path}: a recipe has at most {LARGEST_FILE:,} bytes, found more"])
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([f"{path}: not UTF-8 text: {error}"]) from error


def recipe_summary(name: str) -> str:
    """Return a shipped recipe's description, on one line.

    Example:
        >>> recipe_summary("ready_made").partition(",")[0]
        'Take a network with its weights'
    """
    return str(parse_yaml(recipe_text(name), name).get("description", ""))


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``key.sub=value`` overrides, and check all of it.

    Values are YAML: ``targets.att=null`` takes a target out, ``transfer.shots=[1,5]`` is a list.

    Raises:
        RecipeError: all problems at once.

    Example:
        >>> load_recipe("faces_demo", ["training.steps=3"]).training.steps
        3
    """
    shown = printable(name_or_file)
    value = parse_yaml(recipe_text(name_or_file), shown)
    if not isinstance(value, dict):
        raise RecipeError([f"{shown}: a recipe is a mapping of keys, found {type(value).__name__}"])
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
        described = [line for entry in error.errors() for line in describe(entry, value)]
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
    """Return a recipe as YAML, every value written out.

    Example:
        >>> text = dump_recipe(load_recipe("faces_demo"))
        >>> text.splitlines()[0], len(text.splitlines()) > 100
        ('name: faces_demo', True)
        >>> Recipe.model_validate(parse_yaml(text, "faces_demo")) == load_recipe("faces_demo")
        True
    """
    return write_yaml(recipe.model_dump(mode="json"))


def _apply_override(value: dict[str, Any], override: str) -> str | None:
    """Set one dotted key; return what is wrong with the override, or None."""
    key, equals, text = override.partition("=")
    steps = key.split(".")
    if not equals or not key.isprintable() or any(not step or step != step.strip() for step in steps):
        return f"{printable(override)}: an override is key.sub=value"
    at: Any = value
    for place, step in enumerate(steps[:-1]):
        if at.get(step) is None:
            at[step] = {}
        at = at[step]
        if not isinstance(at, dict):
            return f"{key}: {'.'.join(steps[: place + 1])} is a value, not a group of keys"
    try:
        at[steps[-1]] = parse_yaml(text, key) if text else None
    except RecipeError as error:
        return error.problems[0]
    return None
