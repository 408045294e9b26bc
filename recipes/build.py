"""From a recipe's words to objects of the packages below; names are looked up in closed tables only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from auxtasks.backbones import Backbone, build
from auxtasks.data.augment import Augment
from auxtasks.data.corruptions import Mixture
from auxtasks.data.sources import load_source
from auxtasks.noise import Noise
from auxtasks.tasks import FacePairs, LayerAutoencoder, LayerRBM, LayerTask, ShuffledSentences
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from recipes import schema
from transfer.fewshot import FewShot
from transfer.finetune import Stage, Tuning
from transfer.protocol import Protocol
from transfer.spaces import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "load_columns",
    "make_backbone",
    "make_few_shot",
    "make_layer_task",
    "make_loop",
    "make_optimizer",
    "make_task",
    "part_of",
    "part_sources",
    "present_classes",
]


def load_columns(
    source: schema.Source,
    columns: Mapping[str, str],
    *,
    required: Sequence[str] | None = None,
    allow_unlabelled: bool = False,
) -> Dataset:
    """Load a source with its columns checked."""
    assert source.path is not None  # `load_recipe` refuses a source without a path
    builtin = source.path.startswith("builtin:")
    return load_source(
        source.path,
        kind=source.kind,
        columns=columns,
        required=required,
        allow_unlabelled=allow_unlabelled,
        split=source.split,
        where=source.where,
        options=(source.options or {}) if builtin else source.options,
    )


def part_of(source: schema.Source, part: schema.Part) -> schema.Source:
    """Return another part of a source, such as its test set; see `recipes.schema.Part`."""
    return source.model_copy(update=part.changes(source))


def part_sources(target: schema.Target) -> dict[str, schema.Source]:
    """Return the sources of a target by what a note calls them: nothing, and test and validation where there are such.

    Example:
        >>> target = schema.Target(path="digits", split="train", test=schema.Part(split="test"))
        >>> {part: source.split for part, source in part_sources(target).items()}
        {'': 'train', 'test': 'test'}
    """
    parts = {"test": target.test, "validation": target.validation}
    return {"": target, **{name: part_of(target, part) for name, part in parts.items() if part is not None}}


def present_classes(labels: NDArray[np.int64], names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes anew without those that a filter left without an item."""
    present, numbers = np.unique(labels, return_inverse=True)
    return numbers.astype(np.int64), tuple(names[label] for label in present)


def make_backbone(recipe: schema.Recipe, tokenizer: PreTrainedTokenizerBase | None = None) -> Backbone:
    """Build the backbone; its random weights follow from the recipe's seed."""
    extra: dict[str, object] = {} if tokenizer is None else {"tokenizer": tokenizer}
    return build(recipe.backbone.name, **{"seed": recipe.seed, **recipe.backbone.arguments, **extra})


def make_task(recipe: schema.Recipe, backbone: Backbone) -> FacePairs | ShuffledSentences:
    """Build the auxiliary task."""
    if isinstance(recipe.task, schema.ShuffledSentences):
        return _shuffled_sentences(recipe.task, backbone, recipe.seed)
    assert isinstance(recipe.task, schema.FacePairs)  # of layers, see `make_layer_task`
    return _face_pairs(recipe.task, recipe.data, backbone)


def make_layer_task(recipe: schema.Recipe, backbone: Backbone, layer: str) -> LayerTask:
    """Build what trains one layer."""
    task = recipe.task
    if isinstance(task, schema.LayerRBM):
        return LayerRBM(
            backbone,
            layer,
            # What a layer of sigmoids gives is between 0 and 1, whatever the data is.
            visible=task.visible if backbone.position(layer) == 0 else "bernoulli",
            gibbs_steps=task.gibbs_steps,
            persistent=task.persistent,
            chains=task.chains,
            sample_visible=task.sample_visible,
            sparsity_target=task.sparsity_target,
            sparsity_cost=task.sparsity_cost,
            initial_scale=task.initial_scale,
            seed=recipe.seed,
        )
    assert isinstance(task, schema.LayerAutoencoder)  # the caller has asked
    return LayerAutoencoder(
        backbone,
        layer,
        noise=Noise(task.noise.kind, task.noise.amount) if task.noise else None,
        contraction=task.contraction,
        tied=task.tied,
        loss=task.loss,
        seed=recipe.seed,
    )


def _face_pairs(task: schema.FacePairs, data: schema.Source, backbone: Backbone) -> FacePairs:
    height, width = backbone.input.shape[1:]
    return FacePairs(
        backbone,
        loss=task.loss,
        photos=task.photos,
        hardness=task.hardness,
        margin=task.margin,
        scale=task.scale,
        single_share=task.single_share,
        favour=task.favour,
        augment=_augment(task.augment, (height, width)),
        fit=data.fit,
        on_error=data.on_error,
    )


def _shuffled_sentences(task: schema.ShuffledSentences, backbone: Backbone, seed: int) -> ShuffledSentences:
    return ShuffledSentences(
        backbone,
        losses={str(name): weight for name, weight in task.losses.items()},
        mixture=_mixture(task),
        keep_initial=task.keep_initial,
        most_left_out=task.most_left_out,
        window=task.window,
        batch_tokens=task.batch_tokens,
        seed=seed,
    )


def _mixture(task: schema.ShuffledSentences) -> Mixture:
    weights = Mixture().weights if task.corruptions is None else {str(kind): w for kind, w in task.corruptions.items()}
    easy = None if task.easy is None else {str(kind): w for kind, w in task.easy.items()}
    return Mixture(weights, easy=easy, curriculum_steps=task.curriculum_steps)


def make_optimizer(recipe: schema.Recipe) -> OptimizerSettings:
    """Translate the training section."""
    training = recipe.training
    return OptimizerSettings(
        name=training.optimizer,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup_steps,
        schedule=training.schedule,
        clip_norm=training.clip_norm,
    )


def make_loop(recipe: schema.Recipe) -> LoopSettings:
    """Translate the training section."""
    training = recipe.training
    return LoopSettings(
        accumulation=training.accumulation,
        mixed_precision=training.mixed_precision,
        log_every=training.log_every,
        validate_every=training.validate_every,
        checkpoint_every=training.checkpoint_every,
        keep_checkpoints=training.keep_checkpoints,
        trackers=tuple(training.trackers),
        device=training.device,
    )


def make_few_shot(recipe: schema.Recipe, backbone: Backbone, target: schema.Target | None = None) -> FewShot:
    """Translate the transfer section, with what a target says otherwise."""
    transfer = recipe.transfer
    size = backbone.input.size
    return FewShot(
        protocol=Protocol(
            shots=tuple((target.shots if target else None) or transfer.shots),
            draws=transfer.draws,
            seed=recipe.seed,
            test_per_class=transfer.test_per_class,
        ),
        arms=tuple(transfer.arms),
        claim=transfer.claim,
        layers=(target.layers if target else None) or transfer.layers,
        heads=[(head.name, head.options) for head in transfer.heads],
        metric=Metric(**transfer.discriminants.model_dump()) if transfer.discriminants else None,
        mirror=transfer.mirror,
        tuning=_tuning(transfer.tuning),
        scratch=_tuning(transfer.scratch),
        tuning_rates=tuple(transfer.tuning.learning_rates),
        scratch_rates=tuple(transfer.scratch.learning_rates),
        augment=_augment(transfer.augment, size) if transfer.augment and size else None,
        loop=LoopSettings(
            mixed_precision=transfer.mixed_precision, log_every=20, device=recipe.training.device, show_progress=False
        ),
    )


def _tuning(tuning: schema.Tuning) -> Tuning:
    return Tuning(
        stages=tuple(Stage(stage.steps, stage.top_layers) for stage in tuning.stages),
        learning_rate=tuning.learning_rates[0],
        depth_decay=tuning.depth_decay,
        batch_size=tuning.batch_size,
        weight_decay=tuning.weight_decay,
        most_epochs=tuning.most_epochs,
    )


def _augment(augment: schema.Augment, size: tuple[int, int]) -> Augment:
    return Augment(size=size, **augment.model_dump())
