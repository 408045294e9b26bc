"""Fine-tuning in stages: the head first, then layers from the top, each stage with learning rates by depth.

The same code trains the network from scratch: then nothing is reused, and every layer trains from the first step.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.backbones.text import TokenBatch, pad_tokens
from auxtasks.checkpoint import tensors_digest
from auxtasks.data.augment import Augment
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.loaders import BatchSource, Feed
from auxtasks.data.pair_table import PairTable, distinct_items
from auxtasks.data.plan import EpochPlan
from auxtasks.data.rankings import ItemTable
from auxtasks.data.row_feed import RowFeed
from auxtasks.data.texts import TextTable
from auxtasks.errors import TransferError
from auxtasks.features.batches import Inputs, PairBatch, Table, check_table, item_noun, picture_batch
from auxtasks.features.cache import FeatureCache, prefix_digest
from auxtasks.features.extract import extract
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase
from transfer.classifier import Classifier, LabelledBatch, LabelledItem, collate_labelled
from transfer.freezing import Stage, Tuning, highest_still, trained_layers
from transfer.kept_feed import KeptFeed
from transfer.linear_heads import FittedLinear
from transfer.origins import mark_trained

__all__ = [
    "Classifier",
    "LabelledBatch",
    "LabelledItem",
    "Stage",
    "Tuned",
    "Tuning",
    "collate_labelled",
    "fine_tune",
]


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What fine-tuning gives.

    Attributes:
        backbone: a tuned copy.
        head: linear, on the layer's pooled output.
        training_accuracy: share of the last steps' items, as augmented, that were classified rightly.
        validation_accuracy: of these weights; None without validation.
        best_step: whose weights these are, where the best were asked for.
    """

    backbone: Backbone
    head: FittedLinear
    training_accuracy: float
    validation_accuracy: float | None = None
    best_step: int | None = None


def fine_tune(
    backbone: Backbone,
    layer: str,
    pool: Pool,
    table: Table,
    labels: Sequence[int] | NDArray[np.int64],
    *,
    n_classes: int,
    tuning: Tuning | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    augment: Augment | None = None,
    seed: int = 0,
    loop: LoopSettings | None = None,
    folder: Path | None = None,
    cache: FeatureCache | None = None,
    views: int | None = None,
    validation: Table | None = None,
) -> Tuned:
    """Fine-tune a copy of a backbone on labelled pictures, texts, vectors or pairs of such items.

    Args:
        backbone: stays as it is.
        layer, pool: what the head reads.
        table: N items.
        labels: (N,) classes from 0 to C - 1.
        n_classes: C.
        tuning: see `Tuning`.
        start: where the head begins, see `Classifier`.
        augment: see `Augment`; None takes pictures as they are. All else is always taken so.
        seed: of the order, the augmentation and a random head.
        loop: see `LoopSettings`; by default it is silent.
        folder: for checkpoints; None keeps none.
        cache: trains each stage on what the part up to its lowest training layer gives, computed once; stages in which
            everything trains compute everything. The batches and their order stay the same, and so does the result, but
            for rounding; in half precision the part that is kept is computed in float32.
        views: how many augmented views of each picture `cache` keeps; an item has another one in each epoch, in turn.
        validation: labelled items whose accuracy is measured when `loop` says so, and at the end; with its `keep_best`
            ``"accuracy"`` the result has the best weights.

    Raises:
        TransferError: stages without any step, labels that do not fit the items or the classes, others than pictures
            to augment, or pictures that are augmented anew in every step and yet kept: say how many `views`.
        InputMismatchError: items that do not fit the backbone.
        LayerError: layers that do not exist or that the head does not read; with `cache`, a backbone that cannot be
            cut.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> iris = encode_features(load_source("builtin:features", columns={"features": "features", "label": "label"}))
        >>> tuning = Tuning(stages=(Stage(20, top_layers=0), Stage(20)), batch_size=30, learning_rate=0.05)
        >>> network = mlp(width=4, hidden=[8])
        >>> tuned: Tuned = fine_tune(network, "hidden1", "mean", iris, iris.labels, n_classes=3, tuning=tuning)
        >>> tuned.training_accuracy > 0.5, tuned.head.n_classes
        (True, 3)
    """
    if not (tuning or Tuning()).steps:
        raise TransferError("the stages of fine-tuning have no steps: give at least one stage a step.")
    tuning = (tuning or Tuning()).on(len(table))
    classes = np.asarray(labels, dtype=np.int64)
    if not len(classes) or len(classes) != len(table) or classes.min() < 0 or classes.max() >= n_classes:
        span = f" from {classes.min()} to {classes.max()}" if len(classes) else ""
        raise TransferError(
            f"{len(table)} {item_noun(table)} need {len(table)} labels from 0 to {n_classes - 1}, at least one, found "
            f"{len(classes)} labels{span}."
        )
    check_table(backbone, table)
    bias = not isinstance(table, PairTable)
    model = Classifier(copy.deepcopy(backbone), layer, pool, n_classes, start=start, bias=bias, seed=seed)
    labelled = dataclasses.replace(table, labels=classes)
    plan = EpochPlan(len(table), tuning.batch_size, seed)
    feed = _feed(backbone, labelled, plan, augment, seed)
    kept = None
    if cache is not None:
        _check_views(augment, views)
        kept = KeptFeed(model.backbone, layer, pool, layer, labelled, plan, cache, augment, views or 1, seed)
    phases = _phases(model, tuning, kept)
    result = train(
        model,
        feed,
        phases,
        seed=seed,
        optimizer=OptimizerSettings(
            learning_rate=tuning.learning_rate, weight_decay=tuning.weight_decay, warmup_steps=tuning.steps // 20
        ),
        loop=loop or LoopSettings(log_every=max(1, tuning.steps // 5), show_progress=False),
        folder=folder,
        provenance=backbone.provenance,
        # Hashing the weights takes a while; without a folder there is nothing to go on from.
        identity={}
        if folder is None
        else {
            **_begun_with(backbone, layer, table, start),
            **_identity(model, tuning, classes, views if cache is not None and augment else None),
            **_asked(augment, n_classes, cache, validation if loop is not None and loop.keep_best else None),
        },
        validate=None if validation is None else _measure(model, validation),
    )
    model.backbone.freeze([])
    model.eval()
    model.backbone.provenance = copy.deepcopy(backbone.provenance)  # a checkpoint has written its own there
    weighed = result.steps if result.best_step is None else result.best_step  # steps behind the weights
    mark_trained(model.backbone, _trained_by(backbone, layer, tuning, weighed))
    found = result.metrics
    return Tuned(model.backbone, _head(model), found["accuracy"], found.get("validation/accuracy"), result.best_step)


def _trained_by(backbone: Backbone, layer: str, tuning: Tuning, step: int) -> set[str]:
    """Return the layers that have trained in the steps up to and including a step: a run may end before its stages."""
    trained: set[str] = set()
    before = 0
    for stage in tuning.stages:
        if stage.steps and before < step:
            trained |= {*trained_layers(backbone, layer, stage)}
        before += stage.steps
    return trained


def _head(model: Classifier) -> FittedLinear:
    """Return the linear layer as a head."""
    weight = model.linear.weight.detach().double().cpu().numpy()
    has_bias = model.linear.bias is not None
    intercepts = model.linear.bias.detach().double().cpu().numpy() if has_bias else np.zeros(len(weight))
    return FittedLinear(weight, intercepts, unit_rows=False)


def _phases(model: Classifier, tuning: Tuning, kept: KeptFeed | None) -> list[Phase]:
    """Return what the loop trains when; with `kept`, each stage that leaves a lower part as it is reads from that."""
    shares = model.rate_scale(tuning.depth_decay, tuning.rates)
    phases = []
    for place, stage in enumerate(tuning.stages, start=1):
        trained = trained_layers(model.backbone, model.layer, stage)
        still = highest_still(model.backbone, model.layer, trained)
        if kept is not None and still is not None and (still != model.layer or kept.augment is not None):
            model.backbone.lower(still)  # refuses a backbone that cannot be cut before anything is trained
        phases.append(
            Phase(
                stage.steps,
                begin=_unfreezes(trained),
                rate_scale=_rates(shares, stage.rate),
                name=f"stage {place}",
                feed=None if kept is None or still is None else dataclasses.replace(kept, cut=still),
            )
        )
    return phases


def _check_views(augment: Augment | None, views: int | None) -> None:
    """Refuse to keep what would be another picture in every step, and views of what is not augmented."""
    if augment is not None and views is None:
        raise TransferError(
            "pictures that are augmented anew in every step cannot be kept: say how many views of each to keep "
            "(views=4), or leave augment or cache out."
        )
    if augment is None and views not in (None, 1):
        raise TransferError(f"views={views} are of augmented pictures, and nothing is augmented: leave views out.")
    if views is not None and views < 1:
        raise TransferError(f"views is how many augmented views of each picture are kept, at least 1, found {views}.")


def _begun_with(backbone: Backbone, layer: str, table: Table, start: tuple[Tensor, Tensor] | None) -> dict[str, object]:
    """Return what must be the same for a stopped run to go on, of the network and the items that it began with."""
    named = {} if start is None else dict(zip(("weight", "bias"), start, strict=True))
    return {
        "backbone": backbone.family.name,
        "backbone arguments": dict(backbone.family.arguments),
        "backbone weights": prefix_digest(backbone, layer),
        "start": None if start is None else tensors_digest(named),
        "data": table.fingerprint,
    }


def _asked(
    augment: Augment | None, n_classes: int, cache: FeatureCache | None, compared_on: Table | None
) -> dict[str, object]:
    """Return more of that, of how items are read, and of what chooses the best weights."""
    return {
        "classes": n_classes,
        "augment": None if augment is None else dataclasses.asdict(augment),
        "kept": cache is not None,  # what is kept is the same but for rounding
        **({} if compared_on is None else {"validation data": compared_on.fingerprint}),
    }


def _identity(model: Classifier, tuning: Tuning, classes: NDArray[np.int64], views: int | None) -> dict[str, Any]:
    """Return what must be the same for a stopped run to go on, beyond what the loop knows itself."""
    stages = [trained_layers(model.backbone, model.layer, stage) for stage in tuning.stages]
    return {
        "layer": model.layer,
        "pool": model.pool,
        "labels": hashlib.sha256(classes.tobytes()).hexdigest()[:16],
        "stages": [[*names, stage.rate] for names, stage in zip(stages, tuning.stages, strict=True)],
        "depth_decay": tuning.depth_decay,
        "rates": dict(tuning.rates),
        **({} if views is None else {"views": views}),
    }


def _measure(model: Classifier, validation: Table) -> Callable[[], Mapping[str, float]]:
    """Return what measures the accuracy on held-out items."""

    def measure() -> Mapping[str, float]:
        features = extract(model.backbone, validation, {model.layer: model.pool})[model.layer]
        return {"accuracy": float(np.mean(_head(model).predict(features) == validation.labels))}

    return measure


def _feed(backbone: Backbone, table: Table, plan: EpochPlan, augment: Augment | None, seed: int) -> BatchSource:
    """Return where batches come from: whole rows, or item by item where each picture is augmented for itself."""
    if augment is None:
        return RowFeed(_reader(backbone, table), plan)
    if not isinstance(table, ImageTable):
        raise TransferError(f"augment changes pictures, the table holds {item_noun(table)}: leave it out.")
    return Feed(records=table, plan=plan, transform=_Augmented(augment), collate=collate_labelled, seed=seed)


def _reader(backbone: Backbone, table: Table) -> Callable[[NDArray[np.int64]], LabelledBatch]:
    """Return what reads rows as they are."""
    labels = torch.tensor(table.labels)
    inputs: Callable[[NDArray[np.int64]], Inputs]
    inputs = _pair_reader(backbone, table) if isinstance(table, PairTable) else _item_reader(backbone, table)
    return lambda rows: LabelledBatch(inputs(rows), labels[rows])


def _item_reader(backbone: Backbone, table: ItemTable) -> Callable[[NDArray[np.int64]], Tensor | TokenBatch]:
    if isinstance(table, TextTable):
        tokens, pad_id = table.tokens, table.pad_id
        return lambda rows: pad_tokens([tokens[int(row)] for row in rows], pad_id=pad_id)
    if isinstance(table, FeatureTable):
        values = torch.tensor(table.values)
        return lambda rows: values[rows]
    height, width = backbone.input.shape[1:]
    pixels = picture_batch(table, range(len(table)), (height, width))  # resized once, not in every epoch
    return lambda rows: pixels[rows]


def _pair_reader(backbone: Backbone, table: PairTable) -> Callable[[NDArray[np.int64]], PairBatch]:
    """Return what reads each distinct item of a batch of pairs once."""
    pairs = table.compact()
    items = _item_reader(backbone, pairs.items)

    def read(rows: NDArray[np.int64]) -> PairBatch:
        needed, left, right = distinct_items(pairs.left[rows], pairs.right[rows])
        return PairBatch(items(needed), torch.from_numpy(left), torch.from_numpy(right))

    return read


class _Augmented:
    """Picklable, since loader workers may be started afresh."""

    def __init__(self, augment: Augment) -> None:
        self._augment = augment

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> LabelledItem:
        return LabelledItem(self._augment(record["image"], rng), int(record["label"]))


def _unfreezes(layers: Sequence[str]) -> Callable[[Objective], None]:
    def begin(objective: Objective) -> None:
        assert isinstance(objective, Classifier)  # `fine_tune` made it
        objective.train_layers(layers)

    return begin


def _rates(shares: Mapping[str, float], stage: float) -> Callable[[str], float]:
    return lambda name: shares[name] * stage
