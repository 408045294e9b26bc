"""Edited copies of test items in what was seen before, when a recipe asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from recipes.cache_place import cache_folder
from recipes.schema import Recipe
from transfer.near_duplicates import find_near_duplicates

__all__ = ["labelled_parts", "near_leaks"]

Part = TypeVar("Part")


def labelled_parts(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return what a target has labels of, by what a note calls it: what labels are drawn from is the support.

    Example:
        >>> labelled_parts({"": ["a text"], "validation": ["another"]})
        {'support': ['a text'], 'validation': ['another']}
    """
    return {part or "support": items for part, items in parts.items()}


def near_leaks(recipe: Recipe, name: str, seen: Mapping[str, object], test: object) -> list[str]:
    """Look for pictures or texts of the test that are nearly in what was seen.

    Args:
        recipe: says whether to look, and what to do about what is found.
        name: of the target.
        seen: pixels (N, H, W, C) or texts, by what a note calls them.
        test: likewise; vectors are never compared so.

    Raises:
        LeakError: there are some, and the recipe does not take them.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> recipe = Recipe.model_validate({"name": "tiny", "transfer": {"near_duplicates": True, "on_leak": "report"}})
        >>> seen = {"pretraining": ["The cat sat on the mat and looked at the dog in the garden until it rained."]}
        >>> test = ["The cat sat on the mat and looked at the dog in the garden until it snowed."]
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=folder):
        ...     print(near_leaks(recipe, "reviews", seen, test)[0].partition(" (")[0])
        reviews: nearly the same texts in pretraining and test: 1 of 1 test texts
        >>> near_leaks(Recipe(name="tiny"), "reviews", seen, test)
        []
    """
    if not recipe.transfer.near_duplicates:
        return []
    if isinstance(test, np.ndarray) and test.dtype != np.uint8:
        return [f"{name}: nearly the same vectors: not looked for, since only pictures and texts are edited"]
    notes = []
    for part, items in seen.items():
        found = find_near_duplicates(items, test, folder=cache_folder() / "near_duplicates")  # type: ignore[arg-type]
        if recipe.transfer.on_leak == "raise":
            found.raise_if_any(part)
        notes.append(f"{name}: {found.describe(part)}")
    return notes
