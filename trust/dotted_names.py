"""Names of importable things, in place of every text of every recipe: none is ever imported.

``python -m trust.dotted_names FOLDER TEXTS FACTS`` does it in a process of its own, whose imports are watched.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import yaml

from trust import ROOT
from trust.launched import python

__all__ = ["MODULE", "TEXTS", "imported_by_recipes"]

MODULE = "planted_module"
# As Hydra, jsonargparse, torchtune, spaCy and entry points write what is to be imported.
TEXTS = (MODULE, f"{MODULE}.Thing", f"{MODULE}:Thing", f"{MODULE}/Thing", f"!{MODULE}.Thing", "os.system",
         "builtins.eval", f"${{{MODULE}.Thing}}", f"@{MODULE}.Thing", f"import {MODULE}")  # fmt: skip
# Keys by which other libraries are told what to import.
KEYS = ("_target_", "class_path", "_component_", "__class__", "py/object", "_partial_", "import", "plugins")
GROUPS = ("", "data", "backbone", "backbone.arguments", "task", "training", "transfer")
# Keys whose texts reach something that loads: it is called with them.
LOADED = ("backbone.", "data.path", "data.kind", "data.split", "tokenizer.name")


def imported_by_recipes(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Put texts in place of every text of every shipped recipe, in a process of its own.

    Returns:
        ``tried`` and ``begun``, how many recipes were checked, and with how many something was loaded; ``imported``,
        what was imported that should not; ``wrong``, errors that are not ours.
    """
    folder.mkdir(parents=True)
    (folder / f"{MODULE}.py").write_text(f"import os\nos.mkdir({str(folder / 'marker')!r})\n", encoding="utf-8")
    facts = folder / "facts.json"
    variables = {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        "AUXTASKS_CACHE": str(folder / "cache"),
    }
    command = ["-m", "trust.dotted_names", str(folder), json.dumps(list(texts)), str(facts)]
    python(*command, variables=variables, cwd=folder)
    found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return found


def leaves(value: object, key: str = "") -> Iterator[str]:
    """Yield the dotted keys of the texts of a recipe, and of what may be a text and is not given.

    Example:
        >>> list(leaves({"a": "x", "b": {"c": None, "d": 1}, "e": ["y"]}))
        ['a', 'b.c', 'e.0']
    """
    if isinstance(value, Mapping | list):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    elif value is None or isinstance(value, str):
        yield key


def replaced(value: Mapping[str, Any], key: str, text: object) -> dict[str, Any]:
    """Return a recipe with another value at a dotted key, which may be a new one.

    Example:
        >>> replaced({"a": {"b": 1}, "c": [2]}, "c.0", "x")
        {'a': {'b': 1}, 'c': ['x']}
    """
    changed: dict[str, Any] = copy.deepcopy(dict(value))
    *groups, last = key.split(".")
    at: Any = changed
    for group in groups:
        at = at[int(group)] if isinstance(at, list) else at.setdefault(group, {})
    if isinstance(at, list):
        at[int(last)] = text
    else:
        at[last] = text
    return changed


def _recipes() -> dict[str, dict[str, Any]]:
    """Return the shipped recipes with every value written out."""
    from recipes.config import load_recipe, recipe_names

    found = {}
    for name in recipe_names():
        value = yaml.safe_load((ROOT / "recipes" / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
        found[name] = value
        if name.endswith("_demo"):
            found[name] = load_recipe(name).model_dump(mode="json")
    return found


def _changes(recipes: Mapping[str, Mapping[str, Any]], texts: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield keys with recipes that have a text there; each key once."""
    seen = set()
    for recipe in recipes.values():
        for key in leaves(recipe):
            if key in seen:
                continue
            seen.add(key)
            for text in texts:
                yield key, replaced(recipe, key, text)
    first = next(iter(recipes.values()))
    for group in GROUPS:
        for word in KEYS:
            key = f"{group}.{word}" if group else word
            yield key, replaced(first, key, texts[1] if len(texts) > 1 else texts[0])


def _begin(key: str, recipe: Any, tokenizer: Any) -> None:
    """Let what a run begins with read the text at a key."""
    from auxtasks.data import load_tokenizer
    from recipes import build

    if key == "tokenizer.name":
        load_tokenizer(recipe.tokenizer.name)
    elif key.startswith("data."):
        build.load_columns(recipe.data, {"label": recipe.data.label})
    else:
        build.make_backbone(recipe, None if recipe.tokenizer is None else tokenizer)


class _Noting(MetaPathFinder):
    """Notes who looks for the planted module; the event of an audit hook leaves out `importlib.import_module`."""

    def __init__(self, imported: list[str]) -> None:
        self.imported = imported

    def find_spec(self, name: str, *_: object) -> None:
        if name.split(".")[0] == MODULE:
            self.imported.append(name)


def _would_be_seen(folder: Path, imported: list[str]) -> bool:
    """Import the planted module, and return whether that was noted and its code has run."""
    imported.clear()
    importlib.import_module(MODULE)
    return MODULE in imported and (folder / "marker").is_dir()


def _main(folder: Path, texts: Sequence[str], facts: Path) -> None:
    from auxtasks.data import train_tokenizer
    from auxtasks.errors import AuxtasksError
    from recipes.config import load_recipe

    imported: list[str] = []
    sys.meta_path.insert(0, _Noting(imported))
    tokenizer = train_tokenizer(["a b", "b a"], size=20)
    tried, begun, wrong = 0, 0, []
    file = folder / "recipe.yaml"
    for key, value in _changes(_recipes(), texts):
        tried += 1
        file.write_text(json.dumps(value), encoding="utf-8")
        try:
            recipe = load_recipe(str(file))
            if key.startswith(LOADED):
                begun += 1
                _begin(key, recipe, tokenizer)
        except AuxtasksError:
            continue
        except Exception as error:  # is what this looks for
            wrong.append(f"{key}: {type(error).__name__}: {error}")
    told = [*imported, *([f"{MODULE}, which made its marker"] if (folder / "marker").exists() else [])]
    if not _would_be_seen(folder, imported):
        wrong.append("an import would not have been seen")
    facts.write_text(json.dumps({"tried": tried, "begun": begun, "imported": told, "wrong": wrong}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
