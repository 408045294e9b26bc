"""One optimizer step: its micro-batches forward and backward, the mean over the whole global batch, clipping."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn

from auxtasks.data.loaders import BatchSource, Shard
from auxtasks.errors import NonFiniteError
from auxtasks.seeding import torch_seed
from auxtasks.training.accelerator import seed_forward
from auxtasks.training.non_finite import Finding, Replay, describe, find_non_finite
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings, schedule_factor
from auxtasks.training.recent import RecentBatches
from auxtasks.training.sharding import ShardedObjective, clip_shards, local
from auxtasks.training.window import Window

__all__ = ["Prepared", "Stepper"]


class Prepared(NamedTuple):
    """What Accelerate made of an objective and its optimizer for a phase.

    Attributes:
        model: the objective, wrapped.
        optimizer: what steps: the bare one, or Accelerate's around it where a scaler needs that.
        bare: the optimizer itself.
        feed: where the phase's batches come from.
        parameters: of the model, by the names that they have in the objective.
        gather: gives the objective the weights that it does not share with the model; every process has to call it.
    """

    model: nn.Module
    optimizer: Any
    bare: torch.optim.Optimizer
    feed: BatchSource
    parameters: Mapping[str, nn.Parameter]
    gather: Callable[[], None]


class Stepper:
    """Does the optimizer steps of a run.

    Args:
        objective: what is trained.
        accelerator: of the run.
        shard: which part of each global batch is this process's.
        seed: of what is random inside the network.
        settings: of the optimizer.
        asked_to_stop: returns whether this process was; told to all others with every step's totals.
        last_good: returns the newest checkpoint, for messages.

    Attributes:
        window: losses and metrics since the last log line.
        processes_asked_to_stop: how many were by the last step, (1,); of several processes only.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.plan import EpochPlan
        >>> from auxtasks.data.row_feed import RowFeed
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> from auxtasks.training.accelerator import make_accelerator
        >>> from auxtasks.training.preparing import prepared
        >>> from auxtasks.training.settings import LoopSettings, Phase
        >>> task = LayerAutoencoder(mlp(width=2, hidden=[1], activation="sigmoid"), "hidden1")
        >>> feed = RowFeed(lambda rows: torch.rand(len(rows), 2), EpochPlan(8, batch_size=4, seed=0))
        >>> loop, settings = LoopSettings(device="cpu"), OptimizerSettings(learning_rate=0.5, warmup_steps=0)
        >>> accelerator = make_accelerator(loop, None)
        >>> stepper = Stepper(
        ...     task, accelerator, Shard(), seed=0, settings=settings, asked_to_stop=bool, last_good=lambda: None
        ... )
        >>> with prepared(task, accelerator, Phase(2), settings, {}, feed, loop) as ready:
        ...     ready: Prepared
        ...     batches = ready.feed.batches(0, 2, Shard())
        ...     for step in range(2):
        ...         stepper.set_learning_rate(ready.bare, step, 2)
        ...         waited = stepper.do(ready, batches, step)
        ...     print([group["lr"] for group in ready.bare.param_groups])
        [0.25, 0.25]
        >>> means, weight = stepper.window.read(accelerator)
        >>> weight, waited < 10
        (8.0, True)
    """

    processes_asked_to_stop: Tensor

    def __init__(
        self,
        objective: Objective,
        accelerator: Accelerator,
        shard: Shard,
        *,
        seed: int,
        settings: OptimizerSettings,
        asked_to_stop: Callable[[], bool],
        last_good: Callable[[], Path | None],
    ) -> None:
        self.window = Window()
        self._objective = objective
        self._accelerator = accelerator
        self._shard = shard
        self._seed = seed
        self._settings = settings
        self._asked_to_stop = asked_to_stop
        self._last_good = last_good
        # On a GPU nobody waits for a step: whether it was finite is asked before something is kept.
        self._checks_at_once = accelerator.device.type == "cpu"
        self._first_bad_step: Tensor | None = None
        self._gather: Callable[[], None] = lambda: None
        self._recent: RecentBatches | None = None

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
        """Set the rate of a phase's step, counted from 0, as the schedule says."""
        warmup = min(self._settings.warmup_steps, total // 2)
        factor = schedule_factor(step, total=total, warmup=warmup, schedule=self._settings.schedule)
        for group in optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * group["rate_scale"] * factor

    def do(self, prepared: Prepared, batches: Iterator[Any], step: int) -> float:
        """Do one optimizer step; return the seconds that were waited for data."""
        prepared.optimizer.zero_grad()
        self._gather = prepared.gather
        # No fused optimizer holds shares still, and a search for what was not finite needs the weights before it.
        self._checks_at_once |= isinstance(prepared.model, ShardedObjective)
        recent = self._begin(prepared.feed, step)
        waited = 0.0
        totals: Tensor | None = None
        for micro in range(self._shard.accumulation):
            asked = time.perf_counter()
            batch = next(batches)
            recent.add(batch)
            batch = send_to_device(batch, self._accelerator.device)
            waited += time.perf_counter() - asked
            self._seed_forward(step, micro)
            synchronises = micro + 1 == self._shard.accumulation
            with contextlib.nullcontext() if synchronises else self._accelerator.no_sync(prepared.model):
                output: StepOutput = prepared.model(batch)
                # So that it is not too small for half precision; `_finish_gradients` corrects it exactly.
                self._accelerator.backward(output.loss_sum / self._divisor(prepared.feed))
            pair = torch.stack([output.loss_sum.detach().float(), output.weight.detach().float()])
            totals = pair if totals is None else totals + pair
            self.window.add_metrics(output)
        assert totals is not None  # accumulation is at least 1
        totals = self._reduce(totals)
        self._finish_gradients(totals, prepared, step)
        self._hold_still(prepared.bare)
        prepared.optimizer.step()
        self.window.add_loss(totals)
        return waited

    def _reduce(self, totals: Tensor) -> Tensor:
        """Return loss and weight of all processes, (2,); their requests to stop travel along."""
        if self._shard.processes == 1:
            return totals
        told = totals.new_full((1,), float(self._asked_to_stop()))
        totals, self.processes_asked_to_stop = self._accelerator.reduce(
            torch.cat([totals, told]), reduction="sum"
        ).split([2, 1])
        return totals

    def _begin(self, feed: BatchSource, step: int) -> RecentBatches:
        if self._recent is None or self._recent.feed is not feed:
            self._recent = RecentBatches(feed, self._shard, checked_at_once=self._checks_at_once)
        self._recent.begin(step)
        return self._recent

    def _seed_forward(self, step: int, micro: int) -> None:
        seed_forward(torch_seed(self._seed, "forward", step, micro, self._shard.rank), self._accelerator.device)

    def _divisor(self, feed: BatchSource) -> float:
        return feed.batch_size / self._shard.processes

    def _finish_gradients(self, totals: Tensor, prepared: Prepared, step: int) -> None:
        """Divide by the weight of the whole step, check, and clip."""
        parameters = [p for p in prepared.parameters.values() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # The average over processes was of what is divided by batch_size / processes: this makes it sum / weight.
        factor = prepared.feed.batch_size / totals[1]
        if self._accelerator.device.type != "cpu" or float(factor) != 1.0:
            for gradient in gradients:
                local(gradient).mul_(factor)
        limit = self._settings.clip_norm
        if isinstance(prepared.model, ShardedObjective):
            norm = clip_shards(gradients, limit)
        elif limit is None and self._accelerator.scaler is None:
            norm = torch.nn.utils.get_total_norm(gradients)
        else:
            norm = self._accelerator.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        # A gradient that overflows float16 is normal: the scaler skips that step.
        finite = torch.isfinite(totals[0]) & (torch.isfinite(norm) if self._accelerator.scaler is None else True)
        bad = torch.where(finite, -1, step + 1)
        earlier = self._first_bad_step
        self._first_bad_step = bad if earlier is None else torch.where(earlier < 0, bad, earlier)
        if self._checks_at_once:
            self.check_finite()

    def _hold_still(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the weights from the first bad step on, without waiting for it: a fused optimizer looks at this mark.

        A gradient scaler sets its own, for the steps whose gradients overflow.
        """
        if not self._checks_at_once and self._accelerator.scaler is None and self._first_bad_step is not None:
            optimizer.found_inf = (self._first_bad_step >= 0).float()  # type: ignore[attr-defined]

    def check_finite(self) -> None:
        """Raise if any step so far was not finite. On a GPU this waits for it, hence only before something is kept.

        Raises:
            NonFiniteError: names the first such step, the rows that it was made of, and where it went wrong.
        """
        step = -1 if self._first_bad_step is None else int(self._first_bad_step)
        if step >= 0:
            raise self._error(step)

    def _error(self, step: int) -> NonFiniteError:
        """Return the error of a step, counted from 1, after it was done again; every process has to call this."""
        self._gather()
        findings: list[Finding] = gather_object(self._find(step - 1))
        found, first = describe(findings, processes=self._shard.processes, accumulation=self._shard.accumulation)
        newest = self._last_good()
        kept = f" The last good checkpoint is {newest}." if newest else ""
        error = NonFiniteError(
            f"the loss or its gradient is not finite at step {step}. Lower the learning rate "
            f"(now {self._settings.learning_rate}), lengthen the warm-up, or look for broken inputs. {found}{kept}",
            step=step,
            rows=first.rows if first else (),
            layer=first.layer if first else None,
            parameter=first.parameter if first else None,
        )
        error.told = self._shard.rank > 0  # all raise it
        return error

    def _find(self, step: int) -> list[Finding]:
        """Return what is not finite in this process's micro-batches of a step, counted from 0."""
        recent = self._recent
        assert recent is not None  # a step was done
        device = self._accelerator.device
        replay = Replay(
            objective=self._objective,
            batches=[send_to_device(batch, device) for batch in recent.batches(step)],
            rows=recent.rows(step),
            spell=recent.spell_row,
            seed=lambda micro: self._seed_forward(step, micro),
            divisor=self._divisor(recent.feed),
            gradients=self._accelerator.scaler is None,
            rank=self._shard.rank,
            intact=self._checks_at_once or self._accelerator.scaler is None,
        )
        return find_non_finite(replay)
