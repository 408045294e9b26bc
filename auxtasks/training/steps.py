"""One optimizer step: its micro-batches forward and backward, the mean over the whole global batch, clipping."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from auxtasks.data.loaders import Shard
from auxtasks.errors import NonFiniteError
from auxtasks.seeding import torch_seed
from auxtasks.training.accelerator import seed_forward
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings, schedule_factor
from auxtasks.training.window import Window

__all__ = ["Prepared", "Stepper"]


class Prepared(NamedTuple):
    """What Accelerate made of an objective and its optimizer for a phase.

    Attributes:
        model: the objective, wrapped.
        optimizer: what steps: the bare one, or Accelerate's around it where a scaler needs that.
        bare: the optimizer itself.
        batch_size: of the phase's global batches.
    """

    model: nn.Module
    optimizer: Any
    bare: torch.optim.Optimizer
    batch_size: int


class Stepper:
    """Does the optimizer steps of a run.

    Args:
        objective: what is trained.
        accelerator: of the run.
        shard: which part of each global batch is this process's.
        seed: of what is random inside the network.
        settings: of the optimizer.
        last_good: returns the newest checkpoint, for messages.

    Attributes:
        window: losses and metrics since the last log line.
    """

    def __init__(
        self,
        objective: Objective,
        accelerator: Accelerator,
        shard: Shard,
        *,
        seed: int,
        settings: OptimizerSettings,
        last_good: Callable[[], Path | None],
    ) -> None:
        self.window = Window()
        self._objective = objective
        self._accelerator = accelerator
        self._shard = shard
        self._seed = seed
        self._settings = settings
        self._last_good = last_good
        self._first_bad_step: Tensor | None = None

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
        """Set the rate of a phase's step, counted from 0, as the schedule says."""
        warmup = min(self._settings.warmup_steps, total // 2)
        factor = schedule_factor(step, total=total, warmup=warmup, schedule=self._settings.schedule)
        for group in optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * group["rate_scale"] * factor

    def do(self, prepared: Prepared, batches: Iterator[Any], step: int) -> float:
        """Do one optimizer step; return the seconds that were waited for data."""
        prepared.optimizer.zero_grad()
        waited = 0.0
        totals: Tensor | None = None
        for micro in range(self._shard.accumulation):
            asked = time.perf_counter()
            batch = send_to_device(next(batches), self._accelerator.device)
            waited += time.perf_counter() - asked
            seed_forward(torch_seed(self._seed, "forward", step, micro, self._shard.rank), self._accelerator.device)
            synchronises = micro + 1 == self._shard.accumulation
            with contextlib.nullcontext() if synchronises else self._accelerator.no_sync(prepared.model):
                output: StepOutput = prepared.model(batch)
                # So that it is not too small for half precision; `_finish_gradients` corrects it exactly.
                self._accelerator.backward(output.loss_sum / (prepared.batch_size / self._shard.processes))
            pair = torch.stack([output.loss_sum.detach().float(), output.weight.detach().float()])
            totals = pair if totals is None else totals + pair
            self.window.add_metrics(output)
        assert totals is not None  # accumulation is at least 1
        totals = self._accelerator.reduce(totals, reduction="sum")
        self._finish_gradients(totals, prepared.batch_size, step)
        prepared.optimizer.step()
        self.window.add_loss(totals)
        return waited

    def _finish_gradients(self, totals: Tensor, batch_size: int, step: int) -> None:
        """Divide by the weight of the whole step, check, and clip."""
        parameters = [p for p in self._objective.parameters() if p.grad is not None]
        # DDP has averaged over processes what was divided by batch_size / processes: this makes it sum / weight.
        factor = batch_size / totals[1]
        if self._accelerator.device.type != "cpu" or float(factor) != 1.0:
            for parameter in parameters:
                parameter.grad.mul_(factor)  # type: ignore[union-attr]
        limit = self._settings.clip_norm
        if limit is None and self._accelerator.scaler is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            norm = self._accelerator.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        # A gradient that overflows float16 is normal: the scaler skips that step.
        finite = torch.isfinite(totals[0]) & (torch.isfinite(norm) if self._accelerator.scaler is None else True)
        bad = torch.where(finite, -1, step + 1)
        earlier = self._first_bad_step
        self._first_bad_step = bad if earlier is None else torch.where(earlier < 0, bad, earlier)
        if self._accelerator.device.type == "cpu":
            self.check_finite()

    def check_finite(self) -> None:
        """Raise if any step so far was not finite. On a GPU this waits for it, hence only before something is kept.

        Raises:
            NonFiniteError: names the first such step.
        """
        step = -1 if self._first_bad_step is None else int(self._first_bad_step)
        if step >= 0:
            newest = self._last_good()
            kept = f" The last good checkpoint is {newest}." if newest else ""
            raise NonFiniteError(
                f"the loss or its gradient is not finite at step {step}. Lower the learning rate "
                f"(now {self._settings.learning_rate}), lengthen the warm-up, or look for broken inputs.{kept}"
            )
