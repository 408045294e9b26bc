"""Loading a target for a backbone: pictures, texts, vectors, or pairs of which one is the better."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones import Backbone
from auxtasks.data.feature_columns import encode_features
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.pair_table import PairTable, pair_table
from auxtasks.data.texts import TextTable, encode_texts
from auxtasks.features.batches import Table, item_noun
from auxtasks.tasks import LabelledQueries
from recipes.build import load_columns, part_sources, present_classes, ranking_columns, told_of
from recipes.near_leaks import labelled_parts, near_leaks
from recipes.pictures import picture_target
from recipes.schema import Recipe, Source, Target
from recipes.target_data import TargetData
from transfer.leaks import find_leaks

__all__ = ["item_leaks", "load_target"]


def load_target(recipe: Recipe, name: str, target: Target, backbone: Backbone) -> TargetData:
    """Load a target as the backbone takes it.

    Raises:
        AuxtasksError: the data does not fit the backbone, or holds less than the target says.

    Example:
        >>> from recipes.build import make_backbone
        >>> from recipes.config import load_recipe
        >>> network = "backbone={name: mlp, arguments: {width: 4, hidden: [3]}}"
        >>> recipe = load_recipe("ready_made", [network, "targets.mine.path=builtin:features"])
        >>> data = load_target(recipe, "mine", recipe.targets["mine"], make_backbone(recipe))
        >>> data.table.values.shape, data.table.class_names, data.test
        ((150, 4), ('setosa', 'versicolor', 'virginica'), None)
    """
    if backbone.input.kind == "image" and target.holds == "items":
        return picture_target(recipe, name, target, backbone)
    read = _pairs if target.holds == "pairs" else _texts if backbone.input.kind == "text" else _vectors
    found = {part: read(source, backbone, recipe.seed) for part, source in part_sources(target).items()}
    notes = [note for part, table in found.items() for note in _notes(name, part, table, backbone)]
    return TargetData(found[""], found.get("test"), notes, found.get("validation"))


def _texts(source: Source, backbone: Backbone, seed: int) -> TextTable:
    del seed
    tokenizer, length = backbone.text_settings
    rows = load_columns(source, {"text": source.text, "label": source.label})
    table = encode_texts(rows, tokenizer, length=length, on_error=source.on_error)
    labels, names = present_classes(table.labels, table.class_names)
    return dataclasses.replace(table, labels=labels, class_names=names)


def _vectors(source: Source, backbone: Backbone, seed: int) -> FeatureTable:
    del seed
    rows = load_columns(source, {"features": source.features, "label": source.label})
    with told_of(source):
        table = encode_features(rows, width=backbone.input.width)
    labels, names = present_classes(table.labels, table.class_names)
    return dataclasses.replace(table, labels=labels, class_names=names)


def _pairs(source: Source, backbone: Backbone, seed: int) -> PairTable:
    rows = load_columns(source, ranking_columns(source, backbone.input.kind))
    with told_of(source):
        return pair_table(LabelledQueries().prepare(rows, backbone, None), seed)


def _notes(name: str, part: str, table: Table, backbone: Backbone) -> Iterable[str]:
    items = table.items if isinstance(table, PairTable) else table
    what = f"{part} {item_noun(items)}".lstrip()
    if isinstance(items, TextTable) and items.truncated:
        yield f"{name}: {items.truncated} of {len(items)} {what} were cut to {backbone.input.length} tokens."
    if table.skipped:
        yield f"{name}: {len(table.skipped)} empty {part} {item_noun(table)} were skipped.".replace("  ", " ")


def item_leaks(
    recipe: Recipe, name: str, data: TargetData, seen: Sequence[str] | NDArray[np.float32] | None
) -> list[str]:
    """Look for texts or vectors that pretraining, or the labels, share with the test.

    Args:
        recipe: says what to do about them.
        name: of the target.
        data: the target.
        seen: what the backbone was pretrained on; None was streamed, and is not compared.

    Example:
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> iris = encode_features(load_source("builtin:features", columns={"features": "features", "label": "label"}))
        >>> data = TargetData(iris.subset(range(0, 100)), iris.subset(range(120, 150)), [])
        >>> recipe = Recipe.model_validate({"name": "tiny", "transfer": {"on_leak": "report"}})
        >>> for note in item_leaks(recipe, "iris", data, iris.values[:125]):
        ...     print(note.partition(" (")[0])
        iris: vectors in pretraining and test: 6 of 30 test vectors
        iris: vectors in support and test: 0
        iris: identities: not compared, names were not given for both
    """
    if seen is None:
        return [f"{name}: texts in pretraining and test: not compared, since the corpus is streamed"]
    items = {part: _items(table) for part, table in data.parts.items()}
    test = items.pop("test" if "test" in items else "")
    leaks = find_leaks(seen, test, support=items.get(""), validation=items.get("validation"))
    if recipe.transfer.on_leak == "raise":
        leaks.raise_if_any()
    near = near_leaks(recipe, name, {"pretraining": seen, **labelled_parts(items)}, test)
    return [*(f"{name}: {line}" for line in leaks.describe().splitlines()), *near]


def _items(table: Table) -> Sequence[str] | NDArray[np.float32]:
    items = table.items if isinstance(table, PairTable) else table
    if isinstance(items, TextTable):
        return items.texts
    assert isinstance(items, FeatureTable)  # pictures are compared elsewhere
    return items.values
