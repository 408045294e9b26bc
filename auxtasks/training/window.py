"""Losses and metrics between two log lines."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from auxtasks.training.objective import StepOutput

__all__ = ["Window"]


class Window:
    """Sums since the last log line, left on the device so that no step waits for them."""

    def __init__(self) -> None:
        self._loss: list[Tensor] = []
        self._metrics: dict[str, Tensor] = {}
        self._weight: Tensor | None = None

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
