"""Runs that pretrain layer by layer: on pictures without labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from auxtasks.backbones import Backbone
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.errors import DataError, InputMismatchError
from auxtasks.features.batches import picture_batch
from auxtasks.layerwise import LayerwiseResult, pretrain_layerwise
from auxtasks.seeding import generator
from auxtasks.tasks import DeepAutoencoder
from auxtasks.training.settings import TrainingResult
from recipes import build
from recipes.build import load_columns
from recipes.cache import feature_cache
from recipes.cache_place import cache_folder
from recipes.folder import RunFolder
from recipes.pictures import picture_leaks
from recipes.schema import Layerwise, Recipe, Target
from recipes.target_data import TargetData
from transfer.picture_grid import filter_grid, reconstruction_grid, save_picture
from transfer.spaces import Pretrained

__all__ = ["LayerwisePretraining"]

SHOWN_FILTERS = 100
SHOWN_RECONSTRUCTIONS = 16


@dataclasses.dataclass
class LayerwisePretraining:
    """The pictures of a run's pretraining; nobody asks for their labels.

    Attributes:
        recipe: of the run.
        backbone: what is pretrained.
        table: all readable pictures.
        trained, held_out: of different pictures; the latter may be empty.
        result: of the training, once it was done in this process.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from recipes.config import load_recipe
        >>> recipe = load_recipe("layerwise_demo", ["backbone.arguments.hidden=[6, 4]", "task.visible=gaussian"])
        >>> backbone = build.make_backbone(recipe)
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=folder):
        ...     data = LayerwisePretraining.read(recipe, backbone)
        >>> data.described, len(data.held_out), data.reusable
        ('1,167 pictures of builtin:digits, without labels', 130, None)
        >>> [type(build.make_layer_task(recipe, backbone, layer).head).__name__ for layer in backbone.layer_names]
        ['GaussianUnits', 'BernoulliUnits']
    """

    recipe: Recipe
    backbone: Backbone
    table: ImageTable
    trained: ImageTable
    held_out: ImageTable
    result: LayerwiseResult | None = None

    @classmethod
    def read(cls, recipe: Recipe, backbone: Backbone) -> LayerwisePretraining:
        """Load what is pretrained on, and decode it once at the backbone's size.

        Raises:
            InputMismatchError: a backbone that takes no pictures.
            DataError: nothing is left to train on.
        """
        if backbone.input.kind != "image":
            raise InputMismatchError(
                f"{recipe.task.name} of a recipe is for pictures, and the backbone {backbone.family.name} takes "
                f"{backbone.input.kind}. Of an mlp say size, the pictures' height and width, in place of width."
            )
        channels, height, width = backbone.input.shape
        data = recipe.data
        table = decode_images(
            load_columns(data, {"image": data.image}, required=["image"]),
            size=(height, width),
            channels=channels,
            fit=data.fit,
            on_error=data.on_error,
            cache=cache_folder() / "pictures",
        )
        order = generator(recipe.seed, "holdout").permutation(len(table))
        kept_out = round(len(table) * data.holdout)
        if kept_out == len(table):
            raise DataError(
                f"data.holdout is {data.holdout:g}, which leaves none of {len(table)} pictures to train on."
            )
        return cls(
            recipe,
            backbone,
            table,
            table.subset(np.sort(order[kept_out:])),
            table.subset(np.sort(order[:kept_out])),
        )

    @property
    def described(self) -> str:
        """What was trained on, in a few words."""
        return f"{len(self.trained):,} pictures of {self.recipe.data.path}, without labels"

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know of the data."""
        notes = [f"{len(self.table.skipped)} unreadable pictures were skipped."] if self.table.skipped else []
        return [*notes, *(self.result.notes if self.result else ())]

    @property
    def reusable(self) -> Pretrained | None:
        """Nothing: the pictures have no labels that choices could be made on."""
        return None

    def train(self, place: Path) -> TrainingResult:
        """Train layer by layer, as the recipe says."""
        recipe, task, training = self.recipe, self.recipe.task, self.recipe.training
        assert isinstance(task, Layerwise)  # what this class is chosen by
        self.result = pretrain_layerwise(
            self.backbone,
            self.trained,
            lambda backbone, layer: build.make_layer_task(recipe, backbone, layer),
            layers=task.layers,
            steps=training.steps,
            batch_size=training.batch_size,
            validation=self.held_out if len(self.held_out) else None,
            seed=recipe.seed,
            optimizer=build.make_optimizer(recipe),
            loop=build.make_loop(recipe),
            unrolled_steps=task.unrolled_steps,
            folder=place,
            cache=feature_cache(),
            described_as=self.described,
        )
        return self.result.as_one()

    def evaluate(self, folder: RunFolder) -> dict[str, float]:
        """Draw filters and reconstructions beside the report; the metrics are those of the training."""
        if self.result is not None:
            shown = self.held_out if len(self.held_out) else self.trained
            for name, canvas in _pictures(self.result.stack, shown).items():
                save_picture(canvas, folder.pictures / name)
        return {}

    def leaks(self, name: str, target: Target, data: TargetData) -> list[str]:
        """Look for pictures that pretraining, or the labels, share with the test."""
        # A class that both have is none: where there are labels, pretraining has not used them.
        unlabelled = dataclasses.replace(self.table, labels=np.full_like(self.table.labels, -1))
        return picture_leaks(self.recipe, name, target, data, unlabelled)


def _sees_pixels(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Conv2d | torch.nn.Linear)


def _pictures(stack: DeepAutoencoder, table: ImageTable) -> dict[str, NDArray[np.uint8]]:
    """Return pictures of what was learnt, by file name: filters, if the lowest layer has any, and reconstructions."""
    backbone = stack.backbone
    weighted = next((part for part in backbone.lower(backbone.layer_names[0]).modules() if _sees_pixels(part)), None)
    found = {}
    if weighted is not None:
        weights = weighted.get_parameter("weight").detach().cpu()
        shape = tuple(weights.shape[1:]) if weights.ndim == 4 else backbone.input.shape
        found["filters.png"] = filter_grid(weights[:SHOWN_FILTERS].reshape(-1, *shape).numpy())
    height, width = backbone.input.shape[1:]
    pixels = picture_batch(table, np.arange(min(SHOWN_RECONSTRUCTIONS, len(table))), (height, width))
    pixels = pixels.to(next(backbone.parameters()).device)
    inputs = backbone.input.normalize(pixels)
    stack.eval()  # else dropout would be in the picture
    with torch.no_grad():
        again = stack.decode(stack.encode(pixels)).view_as(inputs)  # normalises them itself
    found["reconstructions.png"] = reconstruction_grid(inputs.cpu().numpy(), again.cpu().numpy())
    return found
