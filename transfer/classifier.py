"""What fine-tuning trains: a backbone up to a layer, with a linear layer on top.

Legend for shapes: B batch, C classes or channels, D features, M distinct items of a batch of pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool, pool_layer
from auxtasks.backbones.text import TextState
from auxtasks.data.augment import stack_pictures
from auxtasks.features.batches import Inputs, model_input
from auxtasks.features.extract import feature_widths, pooled_layers
from auxtasks.seeding import torch_seed
from auxtasks.training.objective import Objective, StepOutput
from transfer.freezing import Stage, Tuning, layer_rates, trained_layers

__all__ = ["Classifier", "Crossed", "LabelledBatch", "LabelledItem", "collate_labelled"]


class Crossed(NamedTuple):
    """What a part that does not train has given for a batch, computed earlier; the rest of the network takes it.

    Attributes:
        values: of B items what crosses the cut above `layer`, or their pooled features (B, D); of B pairs those of M
            distinct items, or the pooled features' differences (B, D).
        layer: the cut; None: the values are what the linear layer reads.
        left, right: (B,) int64, of pairs the places of both among the M items.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> network = Classifier(mlp(width=4, hidden=[3, 5]), "hidden2", "mean", n_classes=2)
        >>> kept = Crossed(torch.ones(6, 3), layer="hidden1")
        >>> float(network(LabelledBatch(kept, torch.zeros(6, dtype=torch.int64))).weight)
        6.0
    """

    values: Tensor | TextState
    layer: str | None
    left: Tensor | None = None
    right: Tensor | None = None


class LabelledBatch(NamedTuple):
    """Pictures (B, C, H, W) as uint8, padded tokens, vectors (B, D), pairs of these or kept ones; classes (B,)."""

    inputs: Inputs | Crossed
    labels: Tensor


class LabelledItem(NamedTuple):
    """One picture (H, W, C) as uint8, and its class."""

    input: NDArray[np.uint8]
    label: int


def collate_labelled(items: Sequence[LabelledItem]) -> LabelledBatch:
    """Stack pictures into (B, C, H, W).

    Example:
        >>> items = [LabelledItem(np.full((2, 2, 1), shade, np.uint8), label) for shade, label in ((0, 1), (255, 0))]
        >>> batch: LabelledBatch = collate_labelled(items)
        >>> tuple(batch.inputs.shape), batch.labels.tolist()
        ((2, 1, 2, 2), [1, 0])
    """
    labels = torch.tensor([item.label for item in items])
    return LabelledBatch(stack_pictures([item.input for item in items]), labels)


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

    Example:
        >>> from auxtasks.backbones import mlp
        >>> network = Classifier(mlp(width=4, hidden=[3, 3]), "hidden2", "mean", n_classes=2)
        >>> batch = LabelledBatch(torch.ones(5, 4), torch.tensor([0, 1, 0, 1, 0]))
        >>> output = network(batch)
        >>> float(output.weight), output.loss_sum.shape
        (5.0, torch.Size([]))
        >>> network.train_top(1)
        >>> [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        ['backbone.module.1.0.weight', 'backbone.module.1.0.bias', 'linear.weight', 'linear.bias']
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
        logits = self.linear(self._features(batch.inputs))
        loss = F.cross_entropy(logits.float(), batch.labels, reduction="sum")
        right = (logits.argmax(dim=1) == batch.labels).float().mean()
        return StepOutput(loss, loss.new_tensor(float(len(batch.labels))), {"accuracy": right.detach()})

    def _features(self, inputs: Inputs | Crossed) -> Tensor:
        if isinstance(inputs, Crossed):
            return self._from_crossing(inputs)
        return pooled_layers(self.backbone, model_input(self.backbone, inputs), {self.layer: self.pool})[self.layer]

    def _from_crossing(self, crossed: Crossed) -> Tensor:
        """Compute what the linear layer reads from what crosses a cut below it."""
        if crossed.layer is None:
            assert isinstance(crossed.values, Tensor)  # as `Crossed` says
            return crossed.values
        backbone = self.backbone
        x: Any = crossed.values
        # Not `upper`, which goes on to the top, beyond what is read.
        for stage in backbone.stages[backbone.position(crossed.layer) + 1 : backbone.position(self.layer) + 1]:
            x = stage.apply(backbone.module, x)
        features = pool_layer(x, self.pool, backbone.prefix_tokens)
        return features if crossed.left is None else features[crossed.left] - features[crossed.right]

    def train_layers(self, names: Iterable[str]) -> None:
        """Let the head and the named layers learn, and nothing else."""
        self.backbone.freeze(set(self.backbone.layer_names) - set(names))

    def train_top(self, count: int | None) -> None:
        """Let the head and the `count` highest layers that it reads learn; None lets all of them."""
        self.train_layers(trained_layers(self.backbone, self.layer, Stage(0, top_layers=count)))

    def rate_scale(self, depth_decay: float, rates: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """Return each parameter's share of the learning rate: 1 for head and highest layer, less further down.

        Args:
            depth_decay: see `Tuning`.
            rates: see `Tuning`.
        """
        scales = {f"linear.{name}": 1.0 for name, _ in self.linear.named_parameters()}
        by_layer = layer_rates(self.backbone, self.layer, Tuning(depth_decay=depth_decay, rates=rates or {}))
        for name, scale in by_layer.items():
            scales |= {f"backbone.module.{parameter}": scale for parameter, _ in self.backbone.parameters_of(name)}
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
