"""From a recipe's words to objects of the packages below; names are looked up in closed tables only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from auxtasks.backbones import Backbone, build
from auxtasks.data.augment import Augment
from auxtasks.data.corruptions import Mixture
from auxtasks.data.feature_columns import feature_values
from auxtasks.data.sources import load_source
from auxtasks.errors import DataError, InputMismatchError
from auxtasks.noise import Noise
from auxtasks.tasks import (
    CorruptedItems,
    CorruptedSentences,
    FacePairs,
    LabelledQueries,
    LayerAutoencoder,
    LayerRBM,
    LayerTask,
    MaxMarginRanking,
    ShuffledSentences,
)
from auxtasks.tasks.ranking_queries import Queries
from auxtasks.tasks.sentence_source import SentenceSource
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from recipes import schema
from recipes.folder import saved_backbone
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
    "ranking_columns",
    "told_of",
]


def load_columns(
    source: schema.Source,
    columns: Mapping[str, str],
    *,
    required: Sequence[str] | None = None,
    allow_unlabelled: bool = False,
) -> Dataset:
    """Load a source with its columns checked.

    Example:
        >>> source = schema.Source(path="builtin:digits", options={"split": "train"}, where={"label": 3})
        >>> rows = load_columns(source, {"image": "image", "label": "label"})
        >>> rows.column_names, set(rows["label"])
        (['image', 'label'], {3})
    """
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


@contextlib.contextmanager
def told_of(source: schema.Source) -> Iterator[None]:
    """Say in an error of the data of which source it is: a recipe names several, each with a row 7.

    Example:
        >>> with told_of(schema.Source(path="photos", split="train")):
        ...     raise DataError("row 7 holds no picture.")
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: photos, train: row 7 holds no picture.
    """
    try:
        yield
    except (DataError, InputMismatchError) as error:
        split = "" if source.split is None else f", {source.split}"
        hint = ""
        if isinstance(error, InputMismatchError) and "vectors of" in str(error):
            hint = " A file in svmlight format tells its width by its largest index alone: say it (options.width)."
        raise type(error)(f"{source.path}{split}: {error}{hint}") from error


def ranking_columns(source: schema.Source, kind: str) -> dict[str, str]:
    """Return the columns of items, pairs or lists by their role; the items are of a backbone's kind.

    Example:
        >>> ranking_columns(schema.Source(path="queries", holds="lists", label="relevance"), "features")
        {'qid': 'qid', 'grade': 'relevance', 'features': 'features'}
    """
    if source.holds == "pairs":
        extra = {"prompt": source.prompt, "margin": source.margin}
        named = {"chosen": source.chosen, "rejected": source.rejected}
        return {**named, **{role: column for role, column in extra.items() if column is not None}}
    items = {kind: {"image": source.image, "text": source.text, "features": source.features}[kind]}
    return {"qid": source.qid, "grade": source.label, **items} if source.holds == "lists" else items


def part_of(source: schema.Source, part: schema.Part) -> schema.Source:
    """Return another part of a source, such as its test set; see `recipes.schema.Part`.

    Example:
        >>> digits = schema.Source(path="digits", split="train", where={"hand": "left"})
        >>> part_of(digits, schema.Part(split="test", where={"writer": 7})).where
        {'hand': 'left', 'writer': 7}
    """
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
    """Number the classes anew without those that a filter left without an item.

    Example:
        >>> numbers, names = present_classes(np.array([0, 2, 2]), ("cat", "dog", "fox"))
        >>> numbers.tolist(), names
        ([0, 1, 1], ('cat', 'fox'))
    """
    present, numbers = np.unique(labels, return_inverse=True)
    return numbers.astype(np.int64), tuple(names[label] for label in present)


def make_backbone(recipe: schema.Recipe, tokenizer: PreTrainedTokenizerBase | None = None) -> Backbone:
    """Build the backbone, whose random weights follow from the recipe's seed, or read the one it begins with."""
    if recipe.backbone.pretrained is not None:
        return Backbone.from_pretrained(saved_backbone(Path(recipe.backbone.pretrained)))
    extra: dict[str, object] = {} if tokenizer is None else {"tokenizer": tokenizer}
    if recipe.backbone.standardize:
        extra |= _of_vectors(recipe.data, recipe.backbone.arguments.get("absent"))
    return build(recipe.backbone.name, **{"seed": recipe.seed, **recipe.backbone.arguments, **extra})


def _of_vectors(data: schema.Source, absent: object) -> dict[str, object]:
    """Return what the training data says of its vectors: their width, and each feature's mean and deviation.

    Both are taken where a feature is present, and the deviation of one that never varies is 1.
    """
    values = _vectors_of(data)
    # Compared as the network does it, in float32.
    hidden = np.full(values.shape, False) if absent is None else values == absent
    present = np.ma.masked_array(values.astype(np.float64), mask=hidden)
    mean = present.mean(axis=0).filled(0.0)
    spread = present.std(axis=0).filled(0.0)
    return {"width": values.shape[1], "mean": mean.tolist(), "std": np.where(spread > 0, spread, 1.0).tolist()}


def _vectors_of(data: schema.Source) -> NDArray[np.float32]:
    """Read all vectors of a source, of pairs both of each, (N, D)."""
    named = {"features": data.features}
    if data.holds == "pairs":
        named = {"chosen": data.chosen, "rejected": data.rejected}
    rows = load_columns(data, named)
    with told_of(data):
        return np.concatenate([feature_values(rows, name) for name in named])


def make_task(recipe: schema.Recipe, backbone: Backbone) -> FacePairs | ShuffledSentences | MaxMarginRanking:
    """Build the auxiliary task."""
    if isinstance(recipe.task, schema.ShuffledSentences):
        return _shuffled_sentences(recipe.task, backbone, recipe.seed)
    if isinstance(recipe.task, schema.MaxMarginRanking):
        return _max_margin_ranking(recipe.task, backbone, recipe.seed)
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


def _max_margin_ranking(task: schema.MaxMarginRanking, backbone: Backbone, seed: int) -> MaxMarginRanking:
    queries: Queries = LabelledQueries(list_size=task.list_size)
    if task.sentences is not None:
        source = SentenceSource(
            backbone,
            mixture=_mixture(task.sentences),
            corruptions=task.sentences.count,
            keep_initial=task.sentences.keep_initial,
            most_left_out=task.sentences.most_left_out,
            window=task.sentences.window,
            batch_tokens=task.sentences.batch_tokens,
        )
        queries = CorruptedSentences(source)
    elif task.items is not None:
        queries = CorruptedItems(
            strengths=tuple(task.items.strengths),
            noise=task.items.noise,
            amount=task.items.amount,
            distortions=tuple(task.items.distortions),
        )
    return MaxMarginRanking(
        backbone,
        queries,
        loss=task.loss,
        margin=task.margin,
        margin_per_grade=task.margin_per_grade,
        weighting=task.weighting,
        top=task.top,
        average=task.average,
        pool=task.pool,
        l2=task.l2,
        dropout=task.dropout,
        initial_scale=task.initial_scale,
        seed=seed,
    )


def _mixture(task: schema.Corruptions) -> Mixture:
    weights = Mixture().weights if task.corruptions is None else {str(kind): w for kind, w in task.corruptions.items()}
    easy = None if task.easy is None else {str(kind): w for kind, w in task.easy.items()}
    return Mixture(weights, easy=easy, curriculum_steps=task.curriculum_steps)


def make_optimizer(recipe: schema.Recipe) -> OptimizerSettings:
    """Translate the training section.

    Example:
        >>> training = {"optimizer": "sgd", "validate_every": 50, "patience": 3}
        >>> recipe = schema.Recipe.model_validate({"name": "tiny", "training": training})
        >>> make_optimizer(recipe).name, make_loop(recipe).patience
        ('sgd', 3)
    """
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
        keep_best=training.keep_best,
        best_is=training.best_is,
        patience=training.patience,
        gradient_checkpointing=training.gradient_checkpointing,
        sharding=training.sharding,
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
    """Translate how a network is trained on labels; the first learning rate is the default."""
    return Tuning(
        stages=tuple(
            Stage(stage.steps, stage.top_layers, None if stage.layers is None else tuple(stage.layers), stage.rate)
            for stage in tuning.stages
        ),
        learning_rate=tuning.learning_rates[0],
        depth_decay=tuning.depth_decay,
        batch_size=tuning.batch_size,
        weight_decay=tuning.weight_decay,
        most_epochs=tuning.most_epochs,
        rates=dict(tuning.rates),
    )


def _augment(augment: schema.Augment, size: tuple[int, int]) -> Augment:
    return Augment(size=size, **augment.model_dump())
