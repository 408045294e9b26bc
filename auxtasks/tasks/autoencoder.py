"""Reconstruct a layer's input from its output: the autoencoder of one layer, plain, denoising or contractive."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.linear_map import LinearMap, linear_map
from auxtasks.contraction import dense_jacobian_norm, sampled_jacobian_norm
from auxtasks.errors import LayerError, TrainingError
from auxtasks.features.extract import layer_shapes
from auxtasks.features.layer_inputs import InputSummary
from auxtasks.noise import Noise
from auxtasks.tasks.decoders import Decoder, TiedDecoder, untied_decoder
from auxtasks.tasks.input_checks import refuse_outside_unit, refuse_unbounded_below, refuse_without_change
from auxtasks.tasks.layer_task import LayerTask, mean_square
from auxtasks.training.objective import StepOutput

__all__ = ["LayerAutoencoder"]

Loss = Literal["cross_entropy", "squared_error"]

UNBOUNDED = 'loss="squared_error"'  # what is for inputs that are no probabilities


class LayerAutoencoder(LayerTask):
    """Trains one layer so that its input can be told from its output.

    The loss of an item is the sum over its features of the cross-entropy, with the input as probabilities, or of the
    squared error; plus `contraction` times the squared norm of the layer's Jacobian.

    Args:
        backbone: its other layers stay as they are.
        layer: which one is trained.
        noise: what the layer's input is corrupted by; the loss asks for the clean input. None corrupts nothing.
        contraction: weight of the contractive penalty; 0 leaves it out. It is exact for a dense layer, and an unbiased
            estimate for any other.
        tied: whether the decoder has the layer's own weights, transposed; for layers that are one linear map.
        loss: ``"cross_entropy"`` for inputs in [0, 1], ``"squared_error"`` for any.
        seed: of an untied decoder.

    Raises:
        LayerError: see `LayerTask`; a layer that has no transpose, to be tied to.
        DataError: cross-entropy above what is known to give values outside [0, 1].
        TrainingError: settings that make no task.

    Reference:
        Bengio et al., "Greedy layer-wise training of deep networks", NIPS 2006; Vincent et al., "Stacked denoising
        autoencoders", JMLR 2010; Rifai et al., "Contractive auto-encoders", ICML 2011. With noise the penalty is taken
        at the corrupted input, where the layer is evaluated anyway.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> task = LayerAutoencoder(mlp(width=4, hidden=[3], activation="sigmoid"), "hidden1", noise=None)
        >>> output = task(torch.full((2, 4), 0.5))
        >>> output.weight.item()
        2.0
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: str,
        *,
        noise: Noise | None = Noise(),  # noqa: B008  frozen
        contraction: float = 0.0,
        tied: bool = True,
        loss: Loss = "cross_entropy",
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, layer)
        self.head: Decoder
        if loss not in get_args(Loss):
            raise TrainingError(f'loss is one of {", ".join(get_args(Loss))}, found "{loss}".')
        if contraction < 0:
            raise TrainingError(f"contraction is the weight of a penalty, at least 0, found {contraction}.")
        if loss == "cross_entropy":
            refuse_unbounded_below(backbone, layer, UNBOUNDED)
        self.noise = noise
        self.contraction = contraction
        self.loss = loss
        self._linear = (linear_map(backbone, layer),)  # in a tuple, since its module is the backbone's own
        self.head = self._decoder(tied, seed)
        self.tied = tied
        self.seed = seed

    def _decoder(self, tied: bool, seed: int) -> Decoder:
        if not tied:
            return untied_decoder(self.input_shape, layer_shapes(self.backbone)[self.layer], seed=seed)
        if self.linear is None:
            raise LayerError(
                f'layer "{self.layer}" of {self.backbone.family.name} is more than one linear map and its activation, '
                "so it has no transpose that a decoder could be tied to: use tied=False."
            )
        return TiedDecoder(self.linear, self.input_shape)

    @property
    def linear(self) -> LinearMap | None:
        """The layer as a linear map, where it is one."""
        return self._linear[0]

    @property
    def description(self) -> str:
        """What a backbone from here was pretrained on, in a few words."""
        kinds = [f"{self.noise.kind} noise of {self.noise.amount:g}"] if self.noise else []
        kinds += [f"a contraction of {self.contraction:g}"] if self.contraction else []
        return f"layer-wise autoencoders{' with ' if kinds else ''}{' and '.join(kinds)}"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is."""
        noise = dataclasses.asdict(self.noise) if self.noise else None
        return {
            **super().settings, "noise": noise, "contraction": self.contraction, "tied": self.tied, "loss": self.loss,
            "decoder seed": None if self.tied else self.seed,
        }  # fmt: skip

    def refuse(self, summary: InputSummary) -> None:
        """Refuse inputs that cross-entropy is not for."""
        if self.loss == "cross_entropy":
            refuse_outside_unit(self.layer, summary, UNBOUNDED)

    def prepare(self, summary: InputSummary) -> None:
        """Refuse inputs that cross-entropy is not for, or that hold nothing to learn; begin with their means.

        Raises:
            DataError: says what was found, where, and what to do.
        """
        refuse_without_change(self.layer, summary)
        self.refuse(summary)
        self.keep_trivial_error(summary)
        self.head.begin_with(summary.mean, as_logits=self.loss == "cross_entropy")

    def decode(self, hidden: Tensor) -> Tensor:
        """Return the layer's inputs (B, ...) as its output tells them."""
        found: Tensor = self.head(hidden)
        return torch.sigmoid(found) if self.loss == "cross_entropy" else found

    def reconstruction_loss(self, hidden: Tensor, clean: Tensor) -> Tensor:
        """Return each item's loss (B,), of the layer's output and the clean input that it should tell."""
        found = self.head(hidden)
        if self.loss == "cross_entropy":
            entropy: Tensor = F.binary_cross_entropy_with_logits(found.float(), clean, reduction="none")
            return entropy.flatten(1).sum(dim=1)
        error: Tensor = found.float() - clean
        return error.square().flatten(1).sum(dim=1)

    def forward(self, batch: Tensor) -> StepOutput:
        """Compute the loss of a micro-batch (B, ...) of the layer's inputs."""
        clean = self.visible(batch)
        corrupted = self.noise(clean) if self.noise else clean
        hidden = self.encode(corrupted)
        losses = self.reconstruction_loss(hidden, clean)
        metrics = {}
        if self.contraction:
            moves = self._jacobian_norm(corrupted, hidden)
            losses = losses + self.contraction * moves
        if self.log_metrics:  # all or none: the loop averages over the steps that have any
            if self.contraction:
                metrics["jacobian"] = moves.detach().mean()
            with torch.no_grad():
                metrics["reconstruction_error"] = mean_square(self.decode(hidden) - clean).mean()
        return StepOutput(losses.sum(), losses.new_tensor(float(len(clean))), metrics)

    def _jacobian_norm(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        if self.linear is not None and isinstance(self.linear.module, torch.nn.Linear):
            return dense_jacobian_norm(self.linear, hidden.float())
        return sampled_jacobian_norm(self.encode, inputs)

    def measure(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the loss and the mean squared error of clean inputs, item by item."""
        hidden = self.encode(inputs)
        return {
            "loss": self.reconstruction_loss(hidden, inputs),
            "reconstruction_error": mean_square(self.decode(hidden) - inputs),
        }
