"""Runs that train nothing: a network that comes with its weights is reused and evaluated as it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from auxtasks.backbones import Backbone
from auxtasks.training.settings import TrainingResult
from auxtasks.training.store import CheckpointStore
from recipes.folder import RunFolder
from recipes.near_leaks import labelled_parts, near_leaks
from recipes.schema import Recipe, Target
from recipes.target_data import TargetData
from transfer.leaks import comparable_items, find_leaks
from transfer.origins import random_layers
from transfer.spaces import Pretrained

__all__ = ["ReadyMadePretraining"]


@dataclasses.dataclass(frozen=True)
class ReadyMadePretraining:
    """A network from a model zoo or a folder. What it was pretrained on is not here.

    Attributes:
        recipe: of the run.
        backbone: with its weights.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> recipe = Recipe.model_validate({"name": "zoo", "task": {"name": "ready_made"}})
        >>> data = ReadyMadePretraining(recipe, mlp(width=4, hidden=[3]))
        >>> data.described
        'nothing: its weights are random'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = data.train(Path(folder))
        ...     found = Backbone.from_pretrained(RunFolder(Path(folder)).backbone())
        >>> result.steps, dict(found.layer_dims)
        (0, {'hidden1': 3})
    """

    recipe: Recipe
    backbone: Backbone

    @property
    def described(self) -> str:
        """What it was trained on, as far as it is known."""
        return str(self.backbone.provenance.get("pretrained_on", "nothing: its weights are random"))

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know of the network."""
        notes = [
            f"Nothing was trained here but on the targets' labels; the backbone was pretrained on {self.described}."
        ]
        random = random_layers(self.backbone)
        if random and "random" in self.backbone.provenance:  # only a part of it was copied
            notes.append(f"Layers with random weights, which nobody has trained: {', '.join(random)}.")
        return notes

    @property
    def reusable(self) -> Pretrained | None:
        """Nothing: the data of its pretraining is not here."""
        return None

    def train(self, place: Path) -> TrainingResult:
        """Keep the network in the run's folder as it is, so that it is reused as any other is."""

        def fill(folder: Path) -> None:
            self.backbone.save_pretrained(folder / "backbone")

        CheckpointStore(place / "checkpoints").write(0, fill)
        return TrainingResult(steps=0, metrics={}, seconds=0.0, samples_per_second=0.0)

    def evaluate(self, folder: RunFolder) -> dict[str, float]:
        """Nothing was learnt that could be measured."""
        del folder
        return {}

    def leaks(self, name: str, target: Target, data: TargetData) -> list[str]:
        """Look for items that the labels and the test share; those of the pretraining are not here.

        Raises:
            LeakError: there are some, and the recipe does not take them.
        """
        del target
        unknown = f"{name}: items in pretraining and test: not compared, since the data of the pretraining is not here"
        items = {part: comparable_items(table) for part, table in data.parts.items()}
        test = items.pop("test", None)
        if test is None:
            return [unknown]
        leaks = find_leaks([], test, support=items.get(""), validation=items.get("validation"))
        if self.recipe.transfer.on_leak == "raise":
            leaks.raise_if_any()
        near = near_leaks(self.recipe, name, labelled_parts(items), test)
        # The first line would say that pretraining shares nothing with the test, which nobody knows.
        return [unknown, *(f"{name}: {line}" for line in leaks.describe().splitlines()[1:]), *near]
