"""What the training loop knows of what it trains: one call that returns a small typed result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.training.health import TrivialLevel

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
        may_be_nan: names of a batch's tensors in which NaN says something, such as that there is no value.
        log_metrics: set by the loop; False in steps that are not logged, where metrics that cost time may be left out.

    Example:
        >>> import torch
        >>> class Line(Objective):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.slope = nn.Parameter(torch.zeros(()))
        ...     def forward(self, batch):
        ...         x, y = batch
        ...         return StepOutput(((self.slope * x - y) ** 2).sum(), torch.tensor(float(len(x))), {})
        ...     def save(self, folder, provenance):
        ...         (folder / "slope.txt").write_text(str(self.slope.item()))
        ...     def restore(self, folder):
        ...         self.slope.data.fill_(float((folder / "slope.txt").read_text()))
        >>> x = torch.tensor([1.0, 2.0])
        >>> line = Line()
        >>> loss_sum, weight, _ = line((x, 3 * x))
        >>> (loss_sum / weight).item(), line.accumulates
        (22.5, True)
    """

    compares_items: ClassVar[bool] = False
    may_be_nan: ClassVar[frozenset[str]] = frozenset()
    log_metrics: bool = True

    @property
    def accumulates(self) -> bool:
        """Whether cutting a batch into accumulated micro-batches leaves what is trained the same."""
        return not self.compares_items

    @property
    def network(self) -> Backbone | None:
        """The backbone that `forward` runs through stage by stage; None where it computes in another way."""
        return None

    @property
    def trivial_levels(self) -> Sequence[TrivialLevel]:
        """What its metrics are when it has learnt nothing; a run warns of them."""
        return ()

    @abstractmethod
    def forward(self, batch: Any) -> StepOutput:
        """Compute the loss of a micro-batch. All that needs a gradient goes through here."""

    def items_of(self, batch: Any) -> Mapping[int, Tensor]:
        """Return which item of a batch each row of a tensor is of, by the tensor's length, for messages.

        Args:
            batch: where it holds as many rows as items, nothing needs to be said.
        """
        del batch
        return {}

    @abstractmethod
    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write the whole state into an existing folder."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Read what `save` wrote into this module, in place."""
