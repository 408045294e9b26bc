"""From a recipe's words to objects of the packages below; names are looked up in closed tables only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from datasets import Dataset

from auxtasks.backbones import Backbone, build
from auxtasks.data.align import align_faces
from auxtasks.data.augment import Augment, with_room
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.sources import load_source
from auxtasks.tasks import FacePairs
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from recipes import config
from transfer.fewshot import FewShot
from transfer.finetune import Stage, Tuning
from transfer.protocol import Protocol
from transfer.spaces import Metric

__all__ = [
    "PretrainingData",
    "make_backbone",
    "make_few_shot",
    "make_loop",
    "make_optimizer",
    "make_target",
    "make_task",
    "read_pretraining_data",
]


@dataclasses.dataclass(frozen=True)
class PretrainingData:
    """The source with its columns checked, and its pictures decoded.

    Attributes:
        source: rows as they were read; the pairs of a protocol refer to them.
        table: all readable pictures.
    """

    source: Dataset
    table: ImageTable


def _load(source: config.Source, *, allow_unlabelled: bool = False) -> Dataset:
    assert source.path is not None  # `load_recipe` refuses a source without a path
    builtin = source.path.startswith("builtin:")
    return load_source(
        source.path,
        kind=source.kind,
        columns={"image": source.image, "label": source.label},
        required=["image"] if allow_unlabelled else None,
        allow_unlabelled=allow_unlabelled,
        split=source.split,
        where=source.where,
        options=(source.options or {}) if builtin else source.options,
    )


def read_pretraining_data(recipe: config.Recipe, task: FacePairs, cache: Path) -> PretrainingData:
    """Load what is pretrained on, aligned if the recipe says so, and decode it once."""
    source = _load(recipe.data, allow_unlabelled=recipe.data.allow_unlabelled)
    if recipe.data.align is not None:
        align = recipe.data.align
        source = align_faces(
            source,
            size=(align.size, align.size),
            cache=cache / "aligned",
            margin=align.margin,
            on_missing=align.on_missing,
        )
    return PretrainingData(source, task.prepare(source, cache=cache / "pictures"))


def make_target(target: config.Target, backbone: Backbone, cache: Path) -> ImageTable:
    """Load a target and decode it as the backbone needs it."""
    height, width = backbone.input.shape[1:]
    table = decode_images(
        _load(target),
        size=with_room((height, width)),
        channels=backbone.input.shape[0],
        fit=target.fit,
        on_error=target.on_error,
        cache=cache / "pictures",
    )
    return _present_classes(table)


def _present_classes(table: ImageTable) -> ImageTable:
    """Number the classes anew without those that a filter left without a picture."""
    present, labels = np.unique(table.labels, return_inverse=True)
    names = tuple(table.class_names[label] for label in present)
    return dataclasses.replace(table, labels=labels.astype(np.int64), class_names=names)


def make_backbone(recipe: config.Recipe) -> Backbone:
    """Build the backbone; its random weights follow from the recipe's seed."""
    return build(recipe.backbone.name, **{"seed": recipe.seed, **recipe.backbone.arguments})


def make_task(recipe: config.Recipe, backbone: Backbone) -> FacePairs:
    """Build the auxiliary task."""
    task = recipe.task
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
        fit=recipe.data.fit,
        on_error=recipe.data.on_error,
    )


def make_optimizer(recipe: config.Recipe) -> OptimizerSettings:
    """Translate the training section."""
    training = recipe.training
    return OptimizerSettings(
        name=training.optimizer,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup_steps,
        schedule=training.schedule,
        clip_norm=training.clip_norm,
    )


def make_loop(recipe: config.Recipe) -> LoopSettings:
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


def make_few_shot(recipe: config.Recipe, backbone: Backbone) -> FewShot:
    """Translate the transfer section."""
    transfer = recipe.transfer
    height, width = backbone.input.shape[1:]
    return FewShot(
        protocol=Protocol(
            shots=tuple(transfer.shots),
            draws=transfer.draws,
            seed=recipe.seed,
            test_per_class=transfer.test_per_class,
        ),
        arms=tuple(transfer.arms),
        claim=transfer.claim,
        layers=transfer.layers,
        heads=[(head.name, head.options) for head in transfer.heads],
        metric=Metric(**transfer.discriminants.model_dump()) if transfer.discriminants else None,
        mirror=transfer.mirror,
        tuning=_tuning(transfer.tuning),
        scratch=_tuning(transfer.scratch),
        tuning_rates=tuple(transfer.tuning.learning_rates),
        scratch_rates=tuple(transfer.scratch.learning_rates),
        augment=_augment(transfer.augment, (height, width)),
        loop=LoopSettings(
            mixed_precision=transfer.mixed_precision, log_every=20, device=recipe.training.device, show_progress=False
        ),
    )


def _tuning(tuning: config.Tuning) -> Tuning:
    return Tuning(
        stages=tuple(Stage(stage.steps, stage.top_layers) for stage in tuning.stages),
        learning_rate=tuning.learning_rates[0],
        depth_decay=tuning.depth_decay,
        batch_size=tuning.batch_size,
        weight_decay=tuning.weight_decay,
    )


def _augment(augment: config.Augment, size: tuple[int, int]) -> Augment:
    return Augment(size=size, **augment.model_dump())
