"""Losses and metrics between two log lines, also where a run is stopped between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from auxtasks.data.loaders import Shard
from auxtasks.training.objective import StepOutput

__all__ = ["Window", "share_of_sums"]


class Window:
    """Sums since the last log line, left on the device so that no step waits for them.

    Example:
        >>> from auxtasks.training.accelerator import make_accelerator
        >>> from auxtasks.training.settings import LoopSettings
        >>> accelerator = make_accelerator(LoopSettings(device="cpu"), None)
        >>> window = Window()
        >>> for loss, accuracy in ((4.0, 0.5), (2.0, 1.0)):
        ...     window.add_loss(torch.tensor([loss, 2.0]))
        ...     metrics = {"accuracy": torch.tensor(accuracy)}
        ...     window.add_metrics(StepOutput(torch.tensor(loss), torch.tensor(2.0), metrics))
        >>> window.read(accelerator)
        ({'loss': 1.5, 'accuracy': 0.75}, 4.0)
        >>> later = Window()
        >>> later.go_on(window.sums(), torch.device("cpu"))
        >>> later.read(accelerator) == window.read(accelerator)
        True
    """

    def __init__(self) -> None:
        self._loss: list[Tensor] = []
        self._metrics: dict[str, Tensor] = {}
        self._weight: Tensor | None = None

    def sums(self) -> dict[str, Tensor]:
        """Return what a checkpoint has to hold, on the CPU; nothing right behind a log line."""
        if not self._loss:
            return {}
        weight = {} if self._weight is None else {"weight": self._weight}
        metrics = {f"metric {name}": value for name, value in self._metrics.items()}
        found = {"loss": torch.stack(self._loss), **weight, **metrics}
        return {name: tensor.cpu() for name, tensor in found.items()}

    def go_on(self, sums: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from what `sums` returned."""
        moved = {name: tensor.to(device) for name, tensor in sums.items()}
        self._loss = list(moved.pop("loss").unbind()) if moved else []
        self._weight = moved.pop("weight", None)
        self._metrics = {name.removeprefix("metric "): value for name, value in moved.items()}

    def add_loss(self, totals: Tensor) -> None:
        """Add the loss and weight of a step, (2,), summed over micro-batches and processes."""
        self._loss.append(totals)

    def add_metrics(self, output: StepOutput) -> None:
        """Add the metrics of this process's micro-batch, by its weight."""
        if not output.metrics:
            return
        weight = output.weight.detach().float()
        self._weight = weight if self._weight is None else self._weight + weight
        for name, value in output.metrics.items():
            weighted = value.detach().float() * weight
            self._metrics[name] = self._metrics[name] + weighted if name in self._metrics else weighted

    def read(self, accelerator: Accelerator) -> tuple[dict[str, float], float]:
        """Return the weighted means over all processes, and the weight of all steps; every process has to call it."""
        loss_sum, weight_sum = torch.stack(self._loss).sum(dim=0).tolist()
        values = {"loss": loss_sum / weight_sum}
        if self._weight is not None:
            names = sorted(self._metrics)
            sums = accelerator.reduce(
                torch.stack([*(self._metrics[name] for name in names), self._weight]), reduction="sum"
            ).tolist()
            values.update({name: total / sums[-1] for name, total in zip(names, sums[:-1], strict=True)})
        return values, weight_sum


def share_of_sums(sums: Sequence[Mapping[str, Tensor]], shard: Shard) -> dict[str, Tensor]:
    """Return what a process goes on with, of the sums that each of the processes had.

    The loss is summed over processes already. Of another number of processes, the first takes on all other sums.

    Example:
        >>> had = [{"loss": torch.ones(1, 2), "weight": torch.tensor(3.0)} for _ in range(2)]
        >>> [share_of_sums(had, Shard(rank, processes=3))["weight"].item() for rank in range(3)]
        [6.0, 0.0, 0.0]
    """
    if len(sums) == shard.processes:
        return dict(sums[shard.rank])
    loss = {name: value for name, value in sums[0].items() if name == "loss"}
    others = {name: torch.stack([had[name] for had in sums]).sum(dim=0) for name in sums[0] if name != "loss"}
    return {**loss, **{name: value if shard.rank == 0 else torch.zeros_like(value) for name, value in others.items()}}
