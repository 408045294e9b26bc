"""Fine-tuning in stages: the head first, then layers from the top, each stage with learning rates by depth.

The same code trains the network from scratch: then nothing is reused, and every layer trains from the first step.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.backbones.text import TokenBatch, pad_tokens
from auxtasks.data.augment import Augment, stack_pictures
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.loaders import BatchSource, Feed
from auxtasks.data.pair_table import PairTable, distinct_items
from auxtasks.data.plan import EpochPlan
from auxtasks.data.rankings import ItemTable
from auxtasks.data.row_feed import RowFeed
from auxtasks.data.texts import TextTable
from auxtasks.errors import TransferError
from auxtasks.features.batches import Inputs, PairBatch, Table, check_table, item_noun, model_input, picture_batch
from auxtasks.features.extract import feature_widths, pooled_layers
from auxtasks.seeding import torch_seed
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase
from transfer.linear_heads import FittedLinear

__all__ = ["Classifier", "Stage", "Tuned", "Tuning", "fine_tune"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of fine-tuning.

    Attributes:
        steps: optimizer steps.
        top_layers: how many layers below the head train; 0 trains the head alone, None all that the head reads.
    """

    steps: int
    top_layers: int | None = None


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        stages: in order.
        learning_rate: of the head and the highest layer.
        depth_decay: each layer further down has this share of the rate above it (Howard and Ruder, "Universal language
            model fine-tuning for text classification", ACL 2018, unfreeze and scale by depth in the same way).
        batch_size: items a step; with fewer labels a step sees each several times, pictures augmented anew.
        weight_decay: see `OptimizerSettings`.
        most_epochs: a support of few labels ends training after so many passes over it; None trains all steps.

    Example:
        >>> tuning = Tuning(stages=(Stage(100, top_layers=1), Stage(300)), batch_size=10, most_epochs=20)
        >>> [stage.steps for stage in tuning.on(items=50).stages], [stage.steps for stage in tuning.on(500).stages]
        ([25, 75], [100, 300])
    """

    stages: tuple[Stage, ...] = (Stage(60, top_layers=1), Stage(60))
    learning_rate: float = 5e-4
    depth_decay: float = 0.7
    batch_size: int = 64
    weight_decay: float = 0.05
    most_epochs: int | None = None

    @property
    def steps(self) -> int:
        """Steps of all stages, for a support of any size."""
        return sum(stage.steps for stage in self.stages)

    def on(self, items: int) -> Tuning:
        """Return the settings for a support of so many items, with `most_epochs` counted in steps.

        All stages are shortened in proportion, and each keeps a step.
        """
        if self.most_epochs is None:
            return self
        most = max(len(self.stages), math.ceil(self.most_epochs * items / self.batch_size))
        if most >= self.steps:
            return dataclasses.replace(self, most_epochs=None)
        stages: list[Stage] = []
        before, done = 0, 0  # steps up to the end of a stage, in full and as shortened
        for place, stage in enumerate(self.stages, start=1):
            before += stage.steps
            kept_free = len(self.stages) - place  # one step for each later stage
            steps = min(max(1, round(before * most / self.steps) - done), most - done - kept_free)
            done += steps
            stages.append(dataclasses.replace(stage, steps=steps))
        return dataclasses.replace(self, stages=tuple(stages), most_epochs=None)


class LabelledBatch(NamedTuple):
    """Pictures (B, C, H, W) as uint8, padded tokens, vectors (B, D) or pairs of these, and their classes (B,)."""

    inputs: Inputs
    labels: Tensor


class LabelledItem(NamedTuple):
    """One picture (H, W, C) as uint8, and its class."""

    input: NDArray[np.uint8]
    label: int


class Classifier(Objective):
    """A backbone up to a layer, and a linear layer on top; the loss is cross-entropy.

    Args:
        backbone: trained in place; layers above `layer` are not used and stay frozen.
        layer, pool: what the linear layer reads.
        n_classes: C.
        start: weight (C, D) and bias (C,) to begin with, such as those of a head fitted on frozen features; random if
            None.
        bias: False leaves the bias out, also of `start`. For pairs: scores of a difference and of its negative are then
            each other's negatives, so that both orders of a pair have the same loss, and opposite answers.
        seed: of the random linear layer.
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: str,
        pool: Pool,
        n_classes: int,
        *,
        start: tuple[Tensor, Tensor] | None = None,
        bias: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layer = layer
        self.pool: Pool = pool
        width = feature_widths(backbone, {layer: pool})[layer]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "classifier"))
            self.linear = nn.Linear(width, n_classes, bias=bias)
        if start is not None:
            self.linear.load_state_dict({"weight": start[0], "bias": start[1]} if bias else {"weight": start[0]})

    def forward(self, batch: LabelledBatch) -> StepOutput:
        """Compute the cross-entropy of a micro-batch."""
        x = model_input(self.backbone, batch.inputs)
        logits = self.linear(pooled_layers(self.backbone, x, {self.layer: self.pool})[self.layer])
        loss = F.cross_entropy(logits.float(), batch.labels, reduction="sum")
        right = (logits.argmax(dim=1) == batch.labels).float().mean()
        return StepOutput(loss, loss.new_tensor(float(len(batch.labels))), {"accuracy": right.detach()})

    def train_top(self, count: int | None) -> None:
        """Let the head and the `count` highest layers that it reads learn; None lets all of them."""
        read = self.backbone.layer_names[: self.backbone.position(self.layer) + 1]
        lowest = 0 if count is None else max(0, len(read) - count)
        self.backbone.freeze(set(self.backbone.layer_names) - set(read[lowest:]))

    def rate_scale(self, depth_decay: float) -> Mapping[str, float]:
        """Return each parameter's share of the learning rate: 1 for head and highest layer, less further down."""
        read = self.backbone.layer_names[: self.backbone.position(self.layer) + 1]
        scales = {f"linear.{name}": 1.0 for name, _ in self.linear.named_parameters()}
        for depth, name in enumerate(reversed(read)):
            for parameter, _ in self.backbone.parameters_of(name):
                scales[f"backbone.module.{parameter}"] = depth_decay**depth
        return scales

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write ``backbone/`` and ``task/`` into a folder."""
        self.backbone.provenance = dict(provenance)
        self.backbone.save_pretrained(folder / "backbone")
        with checkpoint.atomic_folder(folder / "task") as place:
            checkpoint.write_tensors(place / "model.safetensors", self.linear.state_dict())

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        weights = checkpoint.read_tensors(folder / "backbone" / "model.safetensors")
        checkpoint.load_strictly(self.backbone.module, weights, folder)
        checkpoint.load_strictly(self.linear, checkpoint.read_tensors(folder / "task" / "model.safetensors"), folder)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What fine-tuning gives.

    Attributes:
        backbone: a tuned copy.
        head: linear, on the layer's pooled output.
        training_accuracy: share of the last steps' items, as augmented, that were classified rightly.
    """

    backbone: Backbone
    head: FittedLinear
    training_accuracy: float


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

    Raises:
        TransferError: labels that do not fit the items or the classes, or others than pictures to augment.
        InputMismatchError: items that do not fit the backbone.
    """
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
    feed = _feed(backbone, dataclasses.replace(table, labels=classes), tuning.batch_size, augment, seed)
    scales = model.rate_scale(tuning.depth_decay)
    phases = [
        Phase(stage.steps, begin=_unfreezes(stage.top_layers), rate_scale=scales.__getitem__, name=f"stage {place + 1}")
        for place, stage in enumerate(tuning.stages)
    ]
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
    )
    model.backbone.freeze([])
    model.eval()
    weight = model.linear.weight.detach().double().cpu().numpy()
    intercepts = model.linear.bias.detach().double().cpu().numpy() if bias else np.zeros(n_classes)
    head = FittedLinear(weight, intercepts, unit_rows=False)
    return Tuned(model.backbone, head, result.metrics["accuracy"])


def _feed(backbone: Backbone, table: Table, batch_size: int, augment: Augment | None, seed: int) -> BatchSource:
    """Return where batches come from: whole rows, or item by item where each picture is augmented for itself."""
    plan = EpochPlan(len(table), batch_size, seed)
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


def collate_labelled(items: Sequence[LabelledItem]) -> LabelledBatch:
    """Stack pictures into (B, C, H, W)."""
    labels = torch.tensor([item.label for item in items])
    return LabelledBatch(stack_pictures([item.input for item in items]), labels)


def _unfreezes(top_layers: int | None) -> Any:
    def begin(objective: Objective) -> None:
        assert isinstance(objective, Classifier)  # `fine_tune` made it
        objective.train_top(top_layers)

    return begin
