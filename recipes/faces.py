"""Runs on faces: what they are pretrained on, verified by, and reused for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from datasets import Dataset

from auxtasks.data.align import align_faces
from auxtasks.data.images import ImageTable
from auxtasks.data.pairs import hold_out, load_pairs, refuse_trained_people
from auxtasks.errors import DataError
from auxtasks.tasks import FacePairs
from auxtasks.tasks.verification import held_out_threshold, verify
from auxtasks.training.settings import TrainingResult
from recipes.build import load_columns
from recipes.cache_place import cache_folder
from recipes.folder import RunFolder
from recipes.pictures import picture_leaks
from recipes.schema import Recipe, Target
from recipes.target_data import TargetData
from recipes.training import train_task
from transfer.spaces import Pretrained

__all__ = ["FacePretraining"]


@dataclasses.dataclass(frozen=True)
class FacePretraining:
    """The photos of a run's pretraining, split by people.

    Attributes:
        recipe: of the run.
        task: with the backbone.
        source: rows as they were read; the pairs of a protocol refer to them.
        table: all readable pictures.
        trained, held_out: of disjoint people.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from recipes.build import make_backbone, make_task
        >>> from recipes.config import load_recipe
        >>> small = "backbone.arguments={size: 16, widths: [8], blocks: [1], embedding: 8}"
        >>> photos = ["data.options={people: 5, photos: 2, size: 16}", "data.holdout=0.4"]
        >>> recipe = load_recipe("faces_demo", [*photos, small])
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=folder):
        ...     data = FacePretraining.read(recipe, make_task(recipe, make_backbone(recipe)))
        >>> data.described, len(data.held_out), _people(data.trained) & _people(data.held_out)
        ('6 pictures of builtin:drawn_faces', 4, set())
    """

    recipe: Recipe
    task: FacePairs
    source: Dataset
    table: ImageTable
    trained: ImageTable
    held_out: ImageTable

    @classmethod
    def read(cls, recipe: Recipe, task: FacePairs) -> FacePretraining:
        """Load what is pretrained on, aligned if the recipe says so, and decode it once.

        Raises:
            DataError: data that does not fit, or a file of pairs that is not there.
        """
        pairs = _pairs_file(recipe)
        if pairs is not None and not pairs.exists():
            raise DataError(f"verification.pairs: {pairs} is not there.")
        source, table = _photos(recipe, task)
        trained, held_out = hold_out(table.labels, recipe.data.holdout, recipe.seed)
        return cls(recipe, task, source, table, table.subset(trained), table.subset(held_out))

    @property
    def described(self) -> str:
        """What was trained on, in a few words."""
        return f"{len(self.trained):,} pictures of {self.recipe.data.path}"

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know of the data."""
        return [f"{len(self.table.skipped)} unreadable pictures were skipped."] if self.table.skipped else []

    @property
    def reusable(self) -> Pretrained | None:
        """Pictures that may serve a target without costing one of its labels."""
        return Pretrained(self.trained, self.held_out)

    def evaluate(self, folder: RunFolder) -> dict[str, float]:
        """Score the recipe's pairs; the threshold comes from the held-out people."""
        wanted, data, path = self.recipe.verification, self.recipe.data, _pairs_file(self.recipe)
        if wanted is None or path is None:
            return {}
        everyone = self.recipe.model_copy(update={"data": data.model_copy(update={"where": None})})
        source, table = _photos(everyone, self.task)
        pairs = load_pairs(path, source, key=wanted.key, protocol=wanted.protocol)
        names = source.features["label"].names
        people = {names[label] for label in np.unique(np.asarray(source["label"])[pairs.rows])}
        refuse_trained_people(people, _people(self.trained))
        backbone = self.task.backbone
        threshold = held_out_threshold(backbone, self.held_out, seed=self.recipe.seed, mirror=wanted.mirror)
        folder.log_opening({"target": "verification", "pairs": len(pairs), "threshold": threshold, "file": str(path)})
        found = verify(backbone, table, pairs, threshold=threshold, mirror=wanted.mirror)
        return {f"verification/{name}": value for name, value in found.items()}

    def train(self, place: Path) -> TrainingResult:
        """Train the backbone as the recipe says."""
        return train_task(self.recipe, self.task, self.trained, self.held_out, self.described, place)

    def leaks(self, name: str, target: Target, data: TargetData) -> list[str]:
        """Look for pictures and people that pretraining, or the labels, share with the test."""
        return picture_leaks(self.recipe, name, target, data, self.table)


def _pairs_file(recipe: Recipe) -> Path | None:
    """Return where the pairs of a recipe are, a relative path beside its data."""
    if recipe.verification is None or recipe.data.path is None:
        return None
    return Path(recipe.data.path).parent / recipe.verification.pairs


def _photos(recipe: Recipe, task: FacePairs) -> tuple[Dataset, ImageTable]:
    cache, data = cache_folder(), recipe.data
    columns = {"image": data.image, "label": data.label}
    required = ["image"] if data.allow_unlabelled else None
    source = load_columns(data, columns, required=required, allow_unlabelled=data.allow_unlabelled)
    if data.align is not None:
        source = align_faces(
            source,
            size=(data.align.size, data.align.size),
            cache=cache / "aligned",
            margin=data.align.margin,
            on_missing=data.align.on_missing,
        )
    return source, task.prepare(source, cache=cache / "pictures")


def _people(table: ImageTable) -> set[str]:
    return {table.class_names[label] for label in np.unique(table.labels[table.labels >= 0])}
