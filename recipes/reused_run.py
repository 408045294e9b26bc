"""What all commands that reuse a run begin with: its recipe with overrides, its backbone, and one of its targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from auxtasks.backbones import Backbone
from auxtasks.errors import TransferError, did_you_mean
from recipes.config import load_recipe
from recipes.folder import RunFolder
from recipes.schema import Recipe, Target

__all__ = ["at_length", "named_target", "reused_backbone", "reused_recipe"]


def reused_recipe(run: Path, overrides: Sequence[str]) -> Recipe:
    """Return a run's recipe with other targets, or another transfer section.

    Raises:
        CheckpointError: no run is there.
        RecipeError: overrides that do not fit.
        TransferError: overrides of what the backbone was made with.
    """
    written = RunFolder(run).recipe()
    recipe = load_recipe(str(run / "recipe.yaml"), overrides)
    _refuse_another_pretraining(written, recipe, run)
    return recipe


def _refuse_another_pretraining(written: Recipe, asked: Recipe, run: Path) -> None:
    """Refuse what describes a pretraining that never was: other people would pass for held out, and leaks unseen."""
    moved = asked.data.model_copy(update={"path": written.data.path})  # the same data may be elsewhere by now
    pairs = {
        "seed": (written.seed, asked.seed),
        "data": (written.data, moved),
        "backbone": (written.backbone, asked.backbone),
        "tokenizer": (written.tokenizer, asked.tokenizer),
        "training": (written.training.model_copy(update={"device": asked.training.device}), asked.training),
        "verification": (written.verification, asked.verification),
        "minimal_pairs": (written.minimal_pairs, asked.minimal_pairs),
        "task": (written.task, asked.task),
    }
    changed = [key for key, (there, here) in pairs.items() if there != here]
    if changed:
        raise TransferError(
            f"{', '.join(changed)}: the backbone in {run} was made with other values, see its recipe.yaml. Only "
            "transfer, targets, name and data.path can be overridden; for the rest pretrain anew, with auxtasks run."
        )


def named_target(recipe: Recipe, name: str, run: Path, out: Path | None = None) -> Target:
    """Return one target of a run's recipe.

    Args:
        recipe: see `reused_recipe`.
        name: of the target.
        run: whose recipe it is.
        out: folder of the result, which must be another one; None writes none.

    Raises:
        TransferError: no such target, or the result would go into the run itself.
    """
    if name not in recipe.targets:
        raise TransferError(
            f'no target "{name}" in the recipe of {run}.{did_you_mean(name, recipe.targets)} It has: '
            f"{', '.join(recipe.targets) or 'none'}."
        )
    if out is not None and out.resolve() == run.resolve():
        raise TransferError(f"{out} is the run itself: the result needs a folder of its own, such as {run}-{name}.")
    return recipe.targets[name]


def reused_backbone(recipe: Recipe, run: Path) -> Backbone:
    """Return a run's backbone, for texts of the length that the recipe says.

    Raises:
        CheckpointError: nothing pretrained.
    """
    return at_length(recipe, Backbone.from_pretrained(RunFolder(run).backbone()))


def at_length(recipe: Recipe, backbone: Backbone) -> Backbone:
    """Return a backbone for texts of the length that the recipe says; the same one where it says none.

    Raises:
        BackboneError: it takes no texts, or has fewer positions.
    """
    length = recipe.transfer.length
    return backbone if length is None else backbone.with_length(length)
