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

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     RunFolder(Path(folder)).claim(load_recipe("faces_demo"))
        ...     reused_recipe(Path(folder), ["transfer.draws=2"]).transfer.draws
        ...     try:
        ...         reused_recipe(Path(folder), ["training.steps=10"])
        ...     except TransferError as error:
        ...         print(str(error).partition(":")[0])
        2
        training
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

    Example:
        >>> recipe = load_recipe("ready_made", ["targets.mine.path=photos"])
        >>> named_target(recipe, "mine", Path("runs/faces")).path
        'photos'
        >>> named_target(recipe, "mime", Path("faces"))
        Traceback (most recent call last):
            ...
        auxtasks.errors.TransferError: no target "mime" in the recipe of faces. Did you mean "mine"? It has: mine.
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

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> from recipes.ready_made import ReadyMadePretraining
        >>> recipe = load_recipe("ready_made", ["targets.mine.path=builtin:features"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = ReadyMadePretraining(recipe, mlp(width=4, hidden=[3])).train(Path(folder))
        ...     dict(reused_backbone(recipe, Path(folder)).layer_dims)
        {'hidden1': 3}
    """
    return at_length(recipe, Backbone.from_pretrained(RunFolder(run).backbone()))


def at_length(recipe: Recipe, backbone: Backbone) -> Backbone:
    """Return a backbone for texts of the length that the recipe says; the same one where it says none.

    Raises:
        BackboneError: it takes no texts, or has fewer positions.

    Example:
        >>> from auxtasks.backbones import transformers
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> texts = transformers({"model_type": "bert", "vocab_size": 100, **sizes}, length=32)
        >>> recipe = load_recipe("ready_made", ["targets.mine.path=reviews.csv", "transfer.length=16"])
        >>> at_length(recipe, texts).input.length
        16
    """
    length = recipe.transfer.length
    return backbone if length is None else backbone.with_length(length)
