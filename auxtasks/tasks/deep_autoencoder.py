"""The stack of all layers' encoders and decoders, unrolled: trained as one autoencoder, from input to input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from auxtasks.errors import LayerError
from auxtasks.features.layer_inputs import Inputs
from auxtasks.tasks.backbone_task import BackboneTask
from auxtasks.tasks.layer_task import LayerTask, mean_measures, mean_square
from auxtasks.training.health import TrivialLevel
from auxtasks.training.objective import StepOutput

__all__ = ["DeepAutoencoder"]


class DeepAutoencoder(BackboneTask):
    """Encodes through all layers, decodes back down, and is asked for the input.

    Args:
        tasks: one for each layer from the lowest up, on one backbone, pretrained or not.

    Raises:
        LayerError: layers that are not the lowest of one backbone, in order.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> network = mlp(width=6, hidden=[4, 2], activation="sigmoid")
        >>> deep = DeepAutoencoder([LayerAutoencoder(network, layer, noise=None) for layer in network.layer_names])
        >>> code = deep.encode(torch.full((3, 6), 0.5))
        >>> tuple(code.shape), tuple(deep.decode(code).shape)
        ((3, 2), (3, 6))

    Reference:
        Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 2006. There the
        decoder's weights part from the encoder's when both are fine-tuned; here they stay tied where they were.
    """

    def __init__(self, tasks: Sequence[LayerTask]) -> None:
        if not tasks:
            raise LayerError("a deep autoencoder is made of the tasks of at least one layer, found none.")
        backbone = tasks[0].backbone
        found = [task.layer for task in tasks]
        if any(task.backbone is not backbone for task in tasks) or found != list(backbone.layer_names[: len(found)]):
            raise LayerError(
                f"a deep autoencoder needs the lowest layers of one backbone, from the input up and without a gap: "
                f"{', '.join(backbone.layer_names)}; found tasks for {', '.join(found)}."
            )
        super().__init__(backbone)
        self.heads = nn.ModuleList(task.head for task in tasks)
        self._tasks = tuple(tasks)  # not registered: each holds the backbone, which is registered above

    @property
    def description(self) -> str:
        """What a backbone from here was pretrained on, in a few words."""
        return self._tasks[0].description

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is."""
        return {**super().settings, "tasks": [dict(task.settings) for task in self._tasks]}

    @property
    def trivial_levels(self) -> Sequence[TrivialLevel]:
        """A reconstruction that is no better than the mean of all inputs."""
        lowest = [level for level in self._tasks[0].trivial_levels if level.metric == "reconstruction_error"]
        says = "all layers together tell the inputs no better than their mean does"
        return [dataclasses.replace(level, says=says) for level in lowest]

    def encode(self, batch: Tensor) -> Tensor:
        """Return the highest layer's output from the lowest layer's inputs."""
        return self._up(self._tasks[0].visible(batch))

    def _up(self, hidden: Tensor) -> Tensor:
        for task in self._tasks:
            hidden = task.encode(hidden)
        return hidden

    def decode(self, hidden: Tensor) -> Tensor:
        """Return the lowest layer's inputs from the highest layer's output."""
        for task in reversed(self._tasks):
            hidden = task.decode(hidden)
        return hidden

    def forward(self, batch: Tensor) -> StepOutput:
        """Compute the reconstruction loss of the lowest layer, of a micro-batch (B, ...) of its inputs."""
        clean = self._tasks[0].visible(batch)
        losses = self._losses(clean)
        metrics = {}
        if self.log_metrics:
            with torch.no_grad():
                metrics["reconstruction_error"] = mean_square(self.decode(self.encode(batch)) - clean).mean()
        return StepOutput(losses.sum(), losses.new_tensor(float(len(clean))), metrics)

    def evaluate(self, inputs: Inputs, *, batch_size: int = 1024) -> dict[str, float]:
        """Return mean loss and reconstruction error over all inputs of the lowest layer; see `mean_measures`."""

        def measure(batch: Tensor) -> dict[str, Tensor]:
            clean = self._tasks[0].visible(batch)
            again = self.decode(self.encode(batch))
            return {"loss": self._losses(clean), "reconstruction_error": mean_square(again - clean)}

        return mean_measures(self, measure, inputs, batch_size)

    def _losses(self, clean: Tensor) -> Tensor:
        hidden = self._up(clean)
        for task in reversed(self._tasks[1:]):
            hidden = task.decode(hidden)
        return self._tasks[0].reconstruction_loss(hidden, clean)
