"""What the training loop knows of what it trains: one call that returns a small typed result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

__all__ = ["Objective", "StepOutput"]


class StepOutput(NamedTuple):
    """The result of a micro-batch.

    A NamedTuple, not a dataclass: under mixed precision Accelerate upcasts its tensors to float32.

    Attributes:
        loss_sum: scalar; the loop divides the sum over the whole optimizer step by the sum of `weight`.
        weight: scalar; how much of the step's mean this micro-batch is, such as its number of items; samples a second
            are counted by it. An objective that compares items gives that of the global batch, on every process.
        metrics: scalars to log, without gradient; averaged by `weight`.
    """

    loss_sum: Tensor
    weight: Tensor
    metrics: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A module that can be trained: forward gives a loss, and its state goes to a folder and back.

    Attributes:
        compares_items: whether an item's loss depends on the others of its batch. Such an objective gathers over
            processes, and splitting its batch into accumulated micro-batches would be another objective.
        log_metrics: set by the loop; False in steps that are not logged, where metrics that cost time may be left out.
    """

    compares_items: ClassVar[bool] = False
    log_metrics: bool = True

    @property
    def accumulates(self) -> bool:
        """Whether cutting a batch into accumulated micro-batches leaves what is trained the same."""
        return not self.compares_items

    @abstractmethod
    def forward(self, batch: Any) -> StepOutput:
        """Compute the loss of a micro-batch. All that needs a gradient goes through here."""

    @abstractmethod
    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write the whole state into an existing folder."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Read what `save` wrote into this module, in place."""
