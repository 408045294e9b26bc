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
    """Train a task as the recipe says, with checkpoints in a run's folder.

    Example:
        >>> import tempfile
        >>> from recipes.build import load_columns, make_backbone, make_task
        >>> network = {"name": "convnet", "arguments": {"size": 16, "widths": [8], "blocks": [1], "embedding": 8}}
        >>> people = {"people": 4, "photos": 4, "size": 16}
        >>> steps = {"steps": 2, "batch_size": 4, "workers": 0, "log_every": 0, "device": "cpu"}
        >>> recipe = Recipe.model_validate(
        ...     {
        ...         "name": "tiny",
        ...         "data": {"path": "builtin:drawn_faces", "options": people},
        ...         "backbone": network,
        ...         "task": {"name": "face_pairs", "photos": 2},
        ...         "training": steps,
        ...     }
        ... )
        >>> task = make_task(recipe, make_backbone(recipe))
        >>> photos = task.prepare(load_columns(recipe.data, {"image": "image", "label": "label"}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train_task(recipe, task, photos, photos, "drawings", Path(folder))
        ...     found = [path.name for path in sorted(Path(folder).glob("checkpoints/*"))]
        >>> type(task).__name__, result.steps, "pair_accuracy" in result.metrics, found
        ('FacePairs', 2, True, ['step-00000002'])
    """
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
