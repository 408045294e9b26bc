"""The target model: what a user takes away. Backbone, layer, head, class names and preprocessing, in one folder."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import from_numpy

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.decoding import Fit, Picture, decode_one
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.rankings import ItemTable
from auxtasks.data.texts import table_of_texts
from auxtasks.errors import CheckpointError, DataError, InputMismatchError, did_you_mean
from auxtasks.features.extract import extract, feature_widths
from transfer.discriminants import Discriminants
from transfer.head import FittedHead
from transfer.heads import head_from_state
from transfer.model_settings import check_layer, check_settings

__all__ = ["PredictedItem", "TargetModel", "find_models", "load", "table_of_items"]

PredictedItem: TypeAlias = Picture  # that includes str: a path for a backbone of pictures, a text for one of texts

PREDICTED_AT_A_TIME = 256  # pictures: decoded, they are large


@dataclasses.dataclass(frozen=True)
class TargetModel:
    """Predicts classes of pictures, texts or vectors.

    Attributes:
        backbone: pretrained, possibly fine-tuned.
        layer: the head reads this layer.
        pool: how the layer becomes a vector, see `pool_layer`.
        mirror: whether a picture's features are averaged with its mirror image's; False for all else.
        head: fitted on the labels.
        discriminants: between layer and head, or None.
        class_names: C names.
        decoded_size: height and width at which pictures were decoded before they were fitted to the backbone's input;
            None for texts, which the backbone's own tokenizer prepares, and for vectors.
        fit: how pictures of other shapes are fitted, see `decode_images`.
        facts: how it came about, as JSON values: labels it was fitted on, what its report says.
        head_trained: whether the head was fitted; `replace_head` makes one that is not, and `load` then warns.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import decode_images, load_source
        >>> from transfer.heads import build_head
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"},
        ...                     options={"people": 2, "photos": 3})
        >>> table = decode_images(faces, size=(40, 40), channels=1)
        >>> backbone = convnet(size=32)
        >>> features = extract(backbone, table, {"stage4": "mean"})["stage4"]
        >>> head = build_head("prototype").fit(features, table.labels, n_classes=2)
        >>> model = TargetModel(backbone, "stage4", "mean", False, head, table.class_names, decoded_size=(40, 40))
        >>> model.predict([faces[0]["image"]]) == [table.class_names[table.labels[0]]]
        True
    """

    backbone: Backbone
    layer: str
    pool: Pool
    mirror: bool
    head: FittedHead
    class_names: tuple[str, ...]
    decoded_size: tuple[int, int] | None = None
    fit: Fit = "stretch"
    discriminants: Discriminants | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head_trained: bool = True

    def predict_proba(self, items: Sequence[PredictedItem] | NDArray[Any]) -> NDArray[np.float64]:
        """Return one probability a class, (N, C).

        Args:
            items: texts; vectors (N, D); or pictures as paths, PIL images, encoded bytes or uint8 arrays.

        Raises:
            ImageError: a picture cannot be read; names it.
            DataError: a text is empty, or a vector not finite; says which.
            InputMismatchError: the backbone takes items of another kind or width.
        """
        if not hasattr(items, "__len__"):
            raise InputMismatchError(f"expected a list of items, found {type(items).__name__}: put it into a list.")
        # Texts all at once: those of like length then share a batch. So a message counts from the first.
        at_a_time = PREDICTED_AT_A_TIME if self.backbone.input.kind == "image" else max(1, len(items))
        parts = [
            self.head.predict_proba(self._features(items[start : start + at_a_time]))
            for start in range(0, len(items), at_a_time)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(self.class_names)))

    def predict(self, items: Sequence[PredictedItem] | NDArray[Any]) -> list[str]:
        """Return the likeliest class of each item, by name; see `predict_proba`."""
        return [self.class_names[index] for index in self.predict_proba(items).argmax(axis=1)]

    def _features(self, items: Sequence[PredictedItem] | NDArray[Any]) -> NDArray[np.float32]:
        table = table_of_items(self.backbone, items, self.decoded_size, self.fit)
        features = extract(self.backbone, table, {self.layer: self.pool}, mirror=self.mirror)[self.layer]
        return self.discriminants(features) if self.discriminants else features

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load` reads, as a whole or not at all."""
        place = Path(folder)
        tensors, head = self.head.to_state()
        settings = {
            "schema": checkpoint.SCHEMA_VERSION,
            "layer": self.layer,
            "pool": self.pool,
            "mirror": self.mirror,
            "head": head,
            "head_trained": self.head_trained,
            "class_names": list(self.class_names),
            "decoded_size": list(self.decoded_size) if self.decoded_size else None,
            "fit": self.fit,
            "discriminants": self.discriminants is not None,
            "facts": dict(self.facts),
        }
        with checkpoint.atomic_folder(place) as temporary:
            self.backbone.save_pretrained(temporary / "backbone")
            checkpoint.write_tensors(temporary / "head.safetensors", tensors)
            if self.discriminants:
                arrays = {"shift": self.discriminants.shift, "matrix": self.discriminants.matrix}
                checkpoint.write_tensors(
                    temporary / "discriminants.safetensors", {name: from_numpy(array) for name, array in arrays.items()}
                )
            checkpoint.write_json(temporary / "target.json", settings)
            (temporary / "README.md").write_text(_model_card(self), encoding="utf-8")
        return place


def table_of_items(
    backbone: Backbone,
    items: Sequence[PredictedItem] | NDArray[Any],
    size: tuple[int, int] | None,
    fit: Fit = "stretch",
) -> ItemTable:
    """Prepare items that have no labels as the training data was prepared.

    Args:
        backbone: what the items are for.
        items: texts; vectors (N, D); or pictures in any form that `decode_one` takes.
        size: height and width at which pictures are decoded; for these alone.
        fit: see `decode_images`.

    Raises:
        ImageError: a picture cannot be read; names it.
        DataError: a text is empty, a vector not finite, or the backbone has no tokenizer.
        InputMismatchError: one text instead of several, pairs, or items of a kind or width that the backbone does not
            take.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> table = table_of_items(mlp(width=2, hidden=[3]), [[0.5, 2.0], [1.0, 0.0]], size=None)
        >>> table.values.tolist()
        [[0.5, 2.0], [1.0, 0.0]]
    """
    spec = backbone.input
    if isinstance(items, str | bytes):
        raise InputMismatchError(f"expected a list of items, found {type(items).__name__}: put it into a list.")
    if isinstance(items, PairTable):
        raise InputMismatchError("a table of pairs was given: items are read one by one; pass pairs.items.")
    if spec.kind == "features":
        return table_of_vectors(items, spec.shape[0])
    if spec.kind == "image":
        if size is None:
            raise InputMismatchError(f"pictures need a size to be decoded at; the backbone takes {spec.shape}.")
        return table_of(items, size, spec.shape[0], fit)
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) < len(items):
        place = next(place for place, item in enumerate(items) if not isinstance(item, str))
        raise InputMismatchError(f"the backbone takes texts; item {place} is {type(items[place]).__name__}, not str.")
    if backbone.tokenizer is None:
        raise DataError("the backbone has no tokenizer, so texts cannot be read: set backbone.tokenizer.")
    return table_of_texts(texts, backbone.tokenizer, spec.shape[0])


def table_of_vectors(items: Sequence[object] | NDArray[Any], width: int) -> FeatureTable:
    """Turn vectors that have no labels into a table.

    Raises:
        InputMismatchError: what is no array (N, width) of numbers; shows what it is.
        DataError: a vector that holds NaN or infinite values; names its row.
    """
    try:
        with np.errstate(over="ignore"):  # told below, with the row
            values = np.asarray(items, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputMismatchError(
            f"the backbone takes vectors of {width} features, and so an array (N, {width}) of numbers: {error}."
        ) from error
    if values.ndim != 2 or values.shape[1] != width:
        raise InputMismatchError(
            f"the backbone takes vectors of {width} features, and so an array (N, {width}); found the shape "
            f"{values.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(f"row {bad[0]} holds NaN or infinite values, as do {len(bad) - 1} more of {len(values)} rows.")
    unlabelled = np.full(len(values), -1, dtype=np.int64)
    return FeatureTable(values, unlabelled, (), np.arange(len(values)), skipped=(), fingerprint="not kept")


def table_of(items: Sequence[Picture] | NDArray[Any], size: tuple[int, int], channels: int, fit: Fit) -> ImageTable:
    """Decode pictures that have no labels into a table, as the training data was decoded."""
    pixels = np.stack([decode_one(item, size, channels, fit) for item in items])
    unlabelled = np.full(len(items), -1, dtype=np.int64)
    return ImageTable(
        pixels, unlabelled, class_names=(), rows=np.arange(len(items)), skipped=(), fingerprint="not kept"
    )


def find_models(path: str | Path) -> dict[str, Path]:
    """Return the target models in a run folder by target, or the one model at the path itself.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(find_models(folder))
        {}
    """
    place = Path(path)
    if os.path.isfile(place / "target.json"):  # noqa: PTH113 - unlike a Path, it takes a name that is too long for none
        return {place.name: place}
    if not os.path.isdir(place):  # noqa: PTH112
        return {}
    return {found.parent.name: found.parent for found in sorted(place.glob("transfer/model/*/target.json"))}


def load(path: str | Path, target: str | None = None) -> TargetModel:
    """Load a target model from a run folder or from the model's own folder.

    A model whose head was never trained is loaded with a `UserWarning`: what it predicts is random.

    Args:
        path: a run folder, or ``RUN/transfer/model/NAME``.
        target: which, where a run has several.

    Raises:
        CheckpointError: no model there, several and no choice, or a damaged one.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> from transfer.heads import build_head
        >>> head = build_head("prototype").fit([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [0, 1], n_classes=2)
        >>> network = mlp(width=2, hidden=[3])
        >>> model = TargetModel(network, "hidden1", "mean", False, head, ("cat", "dog"), decoded_size=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = model.save(f"{folder}/pets")
        ...     again = load(place)
        >>> again.class_names, again.predict([[0.5, 2.0]]) == model.predict([[0.5, 2.0]])
        (('cat', 'dog'), True)
    """
    models = find_models(path)
    if not models:
        raise CheckpointError(
            f"no target model at {path}: expected target.json there, or below {path}/transfer/model/. A run without "
            "targets makes none; `auxtasks transfer` adds them."
        )
    if target is None and len(models) > 1:
        raise CheckpointError(f"{path} has {len(models)} target models, choose one: {', '.join(models)}.")
    if target is not None and target not in models:
        raise CheckpointError(
            f'no target "{target}" at {path}.{did_you_mean(target, models)} It has: {", ".join(models)}.'
        )
    place = models[target] if target is not None else next(iter(models.values()))
    settings = checkpoint.read_object(place / "target.json")
    if settings.get("schema") != checkpoint.SCHEMA_VERSION:
        raise CheckpointError(
            f"{place} has schema {settings.get('schema')}; this version reads schema {checkpoint.SCHEMA_VERSION}."
        )
    check_settings(settings, place / "target.json")
    backbone = Backbone.from_pretrained(place / "backbone")
    check_layer(settings["layer"], settings["pool"], backbone, place / "target.json")
    try:
        model = _from_settings(place, settings, backbone)
        found = (model.head.n_classes, model.head.n_features)
    except (CheckpointError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"the head or the discriminants in {place} are damaged: {error}") from error
    _check_head(model, found, place)
    if not model.head_trained:
        warnings.warn(
            f"{place}: the head of this model, for {len(model.class_names)} classes, was never trained: what it "
            "predicts is random. Fit it on labelled items and save it again, with transfer.fit_head(model, table).",
            stacklevel=2,
        )
    return model


def _check_head(model: TargetModel, found: tuple[int, int], place: Path) -> None:
    """Refuse a head that is not that of these classes and this layer, or whose numbers are not finite."""
    width = feature_widths(model.backbone, {model.layer: model.pool})[model.layer]
    if model.discriminants is not None:
        if model.discriminants.shift.shape != (width,) or model.discriminants.matrix.shape[:1] != (width,):
            raise CheckpointError(f"{place / 'discriminants.safetensors'} is damaged: it is not of {width} features.")
        width = model.discriminants.matrix.shape[1]
    if found != (len(model.class_names), width):
        raise CheckpointError(
            f"{place / 'head.safetensors'} is damaged: it is of {found[0]} classes and {found[1]} features; "
            f"target.json names {len(model.class_names)} classes, and the layer {model.layer!r} has {width} features."
        )
    tensors, _ = model.head.to_state()
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise CheckpointError(f"{place / 'head.safetensors'} is damaged: it holds NaN or infinite numbers.")


def _from_settings(place: Path, settings: Mapping[str, Any], backbone: Backbone) -> TargetModel:
    decoded_size = settings["decoded_size"]
    return TargetModel(
        backbone=backbone,
        layer=settings["layer"],
        pool=settings["pool"],
        mirror=settings["mirror"],
        head=head_from_state(checkpoint.read_tensors(place / "head.safetensors"), settings["head"]),
        class_names=tuple(settings["class_names"]),
        decoded_size=tuple(decoded_size) if decoded_size else None,
        fit=settings["fit"],
        discriminants=_read_discriminants(place) if settings["discriminants"] else None,
        facts=settings["facts"],
        head_trained=settings.get("head_trained", True),  # folders from before heads could be untrained lack it
    )


def _read_discriminants(place: Path) -> Discriminants:
    tensors = checkpoint.read_tensors(place / "discriminants.safetensors")
    return Discriminants(tensors["shift"].numpy(), tensors["matrix"].numpy())


def _model_card(model: TargetModel) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in model.facts.items())
    if not model.head_trained:
        facts = f"**Its head is random: it was never trained.**\n\n{facts}"
    if model.backbone.provenance.get("random"):
        facts += f"\n- layers that are random: {', '.join(model.backbone.provenance['random'])}"
    examples = {"text": '["a text"]', "image": '["photo.jpg"]', "features": "vectors"}
    example = examples[model.backbone.input.kind]
    return (
        f"# Target model: {len(model.class_names)} classes\n\n"
        f"Reads layer `{model.layer}` ({model.pool}) of a `{model.backbone.family.name}` backbone.\n\n{facts}\n\n"
        "```python\nimport transfer\n\n"
        'model = transfer.load("path/to/this/folder")\n'
        f"model.predict({example})\n```\n"
    )
