"""Pretraining as a recipe says it, of a task on records: what face pairs and sentences have in common."""

from __future__ import annotations

from pathlib import Path

from datasets import IterableDataset

from auxtasks.data.loaders import Records
from auxtasks.pretrain import pretrain
from auxtasks.tasks import AuxTask
from auxtasks.training.settings import TrainingResult
from recipes import build
from recipes.schema import Recipe

__all__ = ["train_task"]


def train_task(
    recipe: Recipe, task: AuxTask, trained: Records | IterableDataset, held_out: Records, described: str, place: Path
) -> TrainingResult:
    """Train a task as the recipe says, with checkpoints in a run's folder."""
    training = recipe.training
    return pretrain(
        task,
        trained,
        steps=training.steps,
        batch_size=training.batch_size,
        validation=held_out if len(held_out) else None,
        seed=recipe.seed,
        optimizer=build.make_optimizer(recipe),
        loop=build.make_loop(recipe),
        workers=training.workers,
        folder=place,
        described_as=described,
    )
