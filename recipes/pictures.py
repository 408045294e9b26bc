"""Targets of pictures: how they are decoded for a backbone, and what they share with its pretraining."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from auxtasks.backbones import Backbone
from auxtasks.data.augment import with_room
from auxtasks.data.images import ImageTable, decode_images
from recipes.build import load_columns, part_sources, present_classes
from recipes.cache_place import cache_folder
from recipes.near_leaks import labelled_parts, near_leaks
from recipes.schema import Recipe, Source, Target
from recipes.target_data import TargetData
from transfer.leaks import find_leaks

__all__ = ["picture_leaks", "picture_target"]


def picture_target(recipe: Recipe, name: str, target: Target, backbone: Backbone) -> TargetData:
    """Load a target and decode it as the backbone needs it.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from recipes.build import make_backbone
        >>> from recipes.config import load_recipe
        >>> small = "backbone.arguments={size: 16, widths: [8], blocks: [1], embedding: 8}"
        >>> recipe = load_recipe("faces_demo", [small, "targets.strangers.options={people: 3, photos: 2, size: 24}"])
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=folder):
        ...     data = picture_target(recipe, "strangers", recipe.targets["strangers"], make_backbone(recipe))
        >>> data.table.pixels.shape  # a quarter larger than 16, to be shifted in
        (6, 20, 20, 1)
        >>> data.notes
        ['strangers: pictures were resized to 16 x 16 pixels, grey, as the backbone takes them.']
    """
    channels, height, width = backbone.input.shape
    # Without augmentation nothing is shifted, and pictures that have the backbone's size stay as they are.
    shifted = recipe.transfer.augment is not None and target.room
    found = _target_parts(target, with_room((height, width)) if shifted else (height, width), channels)
    kind = "grey" if channels == 1 else "colour"
    notes = [f"{name}: pictures were resized to {height} x {width} pixels, {kind}, as the backbone takes them."]
    notes += [
        f"{name}: {len(table.skipped)} unreadable{part and f' {part}'} pictures were skipped."
        for part, table in found.items()
        if table.skipped
    ]
    return TargetData(found[""], found.get("test"), notes, found.get("validation"))


def picture_leaks(recipe: Recipe, name: str, target: Target, data: TargetData, pretrained: ImageTable) -> list[str]:
    """Look for pictures and people that pretraining, or the labels, share with the test.

    Args:
        recipe: of the run.
        name: of the target.
        target: as the recipe says it.
        data: the target as it was loaded.
        pretrained: all pictures of the pretraining.

    Returns:
        Notes for the report.

    Raises:
        LeakError: there are some, and the recipe does not take them.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from recipes.build import make_backbone
        >>> from recipes.config import load_recipe
        >>> small = "backbone.arguments={size: 16, widths: [8], blocks: [1], embedding: 8}"
        >>> options = "targets.strangers.options={people: 3, photos: 2, size: 24}"
        >>> recipe = load_recipe("faces_demo", [small, options, "transfer.augment=null", "transfer.on_leak=report"])
        >>> strangers = recipe.targets["strangers"]
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=folder):
        ...     data = picture_target(recipe, "strangers", strangers, make_backbone(recipe))
        ...     notes = picture_leaks(recipe, "strangers", strangers, data, data.table.subset([0, 1]))
        >>> for note in notes:
        ...     print(note.partition(" (")[0])
        strangers: pictures in pretraining and test: 2 of 6 test pictures
        strangers: identities in pretraining and target: 1
    """
    parts = _as_pretrained(recipe, name, target, data, pretrained)
    test = parts.pop("test" if "test" in parts else "")
    pixels = {part: table.pixels for part, table in parts.items()}
    leaks = find_leaks(
        pretrained.pixels,
        test.pixels,
        support=pixels.get(""),
        validation=pixels.get("validation"),
        # "0" of two data sets is not one person: numbers are no names.
        pretraining_names=_names(_present(pretrained)) or None,
        target_names=_names(data.table.class_names) or None,
    )
    if recipe.transfer.on_leak == "raise":
        leaks.raise_if_any()
    near = near_leaks(recipe, name, {"pretraining": pretrained.pixels, **labelled_parts(pixels)}, test.pixels)
    return [*(f"{name}: {line}" for line in leaks.describe().splitlines()), *near]


def _as_pretrained(
    recipe: Recipe, name: str, target: Target, data: TargetData, pretrained: ImageTable
) -> dict[str, ImageTable]:
    """Return a target's pictures at the size of pretraining's: they are compared by their pixels."""
    height, width, channels = pretrained.pixels.shape[1:]
    parts = data.parts
    if isinstance(data.table, ImageTable) and data.table.pixels.shape[1:] != (height, width, channels):
        found = _target_parts(target, (height, width), channels)
        again = TargetData(found[""], found.get("test"), [], found.get("validation"))
        parts = again.with_set_aside(target.validation_items, recipe.seed, name).parts
    return {part: table for part, table in parts.items() if isinstance(table, ImageTable)}


def _target_parts(target: Target, size: tuple[int, int], channels: int) -> dict[str, ImageTable]:
    """Decode what labels are drawn from and what is named beside it; see `part_sources`."""
    return {part: _target_table(source, size, channels) for part, source in part_sources(target).items()}


def _target_table(target: Source, size: tuple[int, int], channels: int) -> ImageTable:
    table = decode_images(
        load_columns(target, {"image": target.image, "label": target.label}),
        size=size,
        channels=channels,
        fit=target.fit,
        on_error=target.on_error,
        cache=cache_folder() / "pictures",
    )
    labels, names = present_classes(table.labels, table.class_names)
    return dataclasses.replace(table, labels=labels, class_names=names)


def _present(table: ImageTable) -> list[str]:
    return [table.class_names[label] for label in np.unique(table.labels[table.labels >= 0])]


def _names(labels: Iterable[str]) -> list[str]:
    return [label for label in labels if not label.isdigit()]
