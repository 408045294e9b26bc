"""What layer-wise tasks have in common: one layer of a backbone, trained on what the layers below it give.

A batch is a tensor (B, ...) of the layer's inputs. Those of the lowest layer are the data's own: pictures as bytes, or
vectors. All above are outputs of the layer below, computed once and kept (see `auxtasks.layerwise`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.linear_map import input_shape
from auxtasks.errors import LayerError, TrainingError
from auxtasks.features.layer_inputs import Inputs, InputSummary, read_rows
from auxtasks.tasks.backbone_task import BackboneTask
from auxtasks.training.health import TrivialLevel

__all__ = ["LayerTask", "mean_measures", "mean_square"]

NO_BETTER = 0.98  # the share of the variance that is no reconstruction yet


class LayerTask(BackboneTask):
    """Trains one layer by what it can say of its own input.

    Attributes:
        head: all that is trained beside the backbone's layer.
        input_shape: of an item of the layer's inputs.

    Args:
        backbone: its other layers stay as they are.
        layer: which one is trained.

    Raises:
        LayerError: no such layer, a layer without parameters, one whose inputs are no tensors, or a backbone that
            cannot be cut.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> task: LayerTask = LayerAutoencoder(mlp(width=4, hidden=[3], activation="sigmoid"), "hidden1")
        >>> task.input_shape, tuple(task.encode(torch.ones(2, 4)).shape)
        ((4,), (2, 3))
    """

    head: nn.Module

    def __init__(self, backbone: Backbone, layer: str) -> None:
        super().__init__(backbone)
        self.layer = layer
        self.trivial_error: float | None = None  # until the inputs are known
        self.input_shape = input_shape(backbone, layer)
        if not any(True for _ in backbone.parameters_of(layer)):
            raise LayerError(
                f'layer "{layer}" of {backbone.family.name} has no parameters: there is nothing to train in it. Leave '
                "it out of the layers that are pretrained."
            )
        if not self.input_shape or backbone.input.kind == "text":
            raise LayerError(
                f'layer "{layer}" of {backbone.family.name} takes tokens or their states; layer-wise pretraining is '
                "for layers that take vectors or pictures."
            )

    def keep_trivial_error(self, summary: InputSummary) -> None:
        """Keep the error of who answers every input with the mean of all: the variance of the inputs."""
        self.trivial_error = float(summary.std.double().square().mean())

    @property
    def trivial_levels(self) -> Sequence[TrivialLevel]:
        """A reconstruction that is no better than the mean of all inputs, whose error is their variance.

        Reference:
            Hinton, "A practical guide to training restricted Boltzmann machines", 2010, sections 5 and 8: what the
            biases alone give.
        """
        if not self.trivial_error:
            return []
        says = f"{self.layer} tells its inputs no better than their mean does"
        return [TrivialLevel("reconstruction_error", NO_BETTER * self.trivial_error, "above", says)]

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is."""
        return {**super().settings, "layer": self.layer}

    def refuse(self, summary: InputSummary) -> None:
        """Refuse values that the task cannot model, of items to train on or held out; a subclass says which.

        Raises:
            DataError: says what was found, where, and what to do.
        """

    @abstractmethod
    def prepare(self, summary: InputSummary) -> None:
        """Refuse inputs that the task cannot model, and begin with biases that fit them.

        Raises:
            DataError: says what was found, where, and what to do.
        """

    @abstractmethod
    def decode(self, hidden: Tensor) -> Tensor:
        """Return the layer's inputs (B, ...) as the layer's output tells them."""

    @abstractmethod
    def reconstruction_loss(self, hidden: Tensor, clean: Tensor) -> Tensor:
        """Return each item's loss (B,), of the layer's output and the input (B, ...) that it should tell."""

    @abstractmethod
    def measure(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return metrics of each item, (B,) each, without noise; of inputs as `visible` gives them."""

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the layer's output from its inputs (B, ...)."""
        output: Tensor = self.backbone.stages[self.backbone.position(self.layer)].apply(self.backbone.module, inputs)
        return output

    def visible(self, batch: Tensor) -> Tensor:
        """Return a batch as the layer takes it: pictures of the lowest layer are normalised."""
        return self.backbone.input.normalize(batch) if self.backbone.position(self.layer) == 0 else batch.float()

    def evaluate(self, inputs: Inputs, *, batch_size: int = 1024) -> dict[str, float]:
        """Return means of `measure` over all inputs; see `mean_measures`."""
        return mean_measures(self, lambda batch: self.measure(self.visible(batch)), inputs, batch_size)


@torch.no_grad()
def mean_measures(
    module: nn.Module, measure: Callable[[Tensor], Mapping[str, Tensor]], inputs: Inputs, batch_size: int = 1024
) -> dict[str, float]:
    """Return means over all inputs of what is measured of each, in eval mode.

    Every process computes all of them, since held-out sets are small: so the result is the same for any number.

    Args:
        module: what is measured.
        measure: from a batch (B, ...) of inputs to metrics of each item, (B,) each.
        inputs: (N, ...).
        batch_size: items a pass.

    Raises:
        TrainingError: a mean is not finite.

    Example:
        >>> inputs = np.arange(6, dtype=np.float32)[:, None]
        >>> mean_measures(nn.Linear(1, 1), lambda batch: {"size": batch[:, 0]}, inputs, batch_size=4)
        {'size': 2.5}
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    sums: dict[str, float] = {}
    for start in range(0, len(inputs), batch_size):
        rows = np.arange(start, min(start + batch_size, len(inputs)))
        for name, values in measure(read_rows(inputs, rows).to(device)).items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum())
    module.train(was_training)
    means = {name: value / len(inputs) for name, value in sums.items()}
    if not all(math.isfinite(value) for value in means.values()):
        raise TrainingError(
            f"metrics on held-out items are not finite: {means}. Look for broken inputs, or lower the learning rate."
        )
    return means


def mean_square(difference: Tensor) -> Tensor:
    """Return the mean over an item's features of the square, (B,).

    Example:
        >>> mean_square(torch.tensor([[1.0, 3.0]])).tolist()
        [5.0]
    """
    return difference.float().square().flatten(1).mean(dim=1)
