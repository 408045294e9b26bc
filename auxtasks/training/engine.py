"""The one training loop. It knows no task: it asks an `Objective` for losses and a `BatchSource` for batches.

Pretraining, layer-wise training and fine-tuning all run through here. Every number it draws is a function of (seed,
step, micro-batch, rank), the learning rate is a function of the step, and the data is a function of the step or, where
it is a stream, of a position that every checkpoint holds: so a run that was killed and resumed ends with the weights of
one that was not, bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn

from auxtasks import checkpoint
from auxtasks.data.loaders import BatchSource, Shard
from auxtasks.errors import NonFiniteError
from auxtasks.seeding import torch_seed
from auxtasks.training.accelerator import make_accelerator, seed_forward
from auxtasks.training.best import BestWeights
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings, build_optimizer, named_state, restore_state, schedule_factor
from auxtasks.training.settings import (
    LoopSettings,
    Phase,
    TrainingResult,
    check_feeds,
    check_settings,
    run_identity,
)
from auxtasks.training.store import CheckpointStore, write_training
from auxtasks.training.tracking import Meter, MetricsLog, ProgressBar
from auxtasks.training.window import Window

__all__ = ["train"]


def train(
    objective: Objective,
    feed: BatchSource,
    phases: Sequence[Phase],
    *,
    seed: int,
    optimizer: OptimizerSettings | None = None,
    loop: LoopSettings | None = None,
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
) -> TrainingResult:
    """Train an objective in place, phase by phase; resume when the folder holds a checkpoint of the same run.

    Args:
        objective: what is trained.
        feed: where its batches come from, unless a phase has a feed of its own.
        phases: what trains when.
        seed: of everything random inside the network (dropout, sampling).
        optimizer: see `OptimizerSettings`.
        loop: see `LoopSettings`.
        folder: run folder for ``checkpoints/`` and ``metrics.jsonl``; None keeps nothing on disk.
        identity: JSON values that must be the same for a resume to be allowed.
        provenance: JSON values for the manifests of what is saved.
        validate: returns metrics of the objective as it then is; called on every process.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the last good checkpoint is kept.
        CheckpointError: the folder holds a damaged checkpoint, or one of another run.
        TrainingError: settings that cannot be met, such as accumulation for a task that compares items.
    """
    state = torch.random.get_rng_state()
    try:
        return _Loop(
            objective,
            feed,
            phases,
            seed=seed,
            optimizer=optimizer or OptimizerSettings(),
            settings=loop or LoopSettings(),
            folder=folder,
            identity=identity or {},
            provenance=provenance or {},
            validate=validate,
        ).run()
    finally:
        torch.random.set_rng_state(state)


class _Loop:
    """One call of `train`: what all its steps share."""

    def __init__(
        self,
        objective: Objective,
        feed: BatchSource,
        phases: Sequence[Phase],
        *,
        seed: int,
        optimizer: OptimizerSettings,
        settings: LoopSettings,
        folder: Path | None,
        identity: Mapping[str, Any],
        provenance: Mapping[str, Any],
        validate: Callable[[], Mapping[str, float]] | None,
    ) -> None:
        self.objective = objective
        self.feed = feed
        self.phases = phases
        self.seed = seed
        self.optimizer_settings = optimizer
        self.settings = settings
        self.provenance = provenance
        self.validate = validate
        self.store = CheckpointStore(folder / "checkpoints", settings.keep_checkpoints) if folder else None
        finished = self.store is not None and self.total in self.store.steps()  # and needs no data
        check_settings(objective, settings, validates=validate is not None or finished)
        self.accelerator = make_accelerator(settings, folder)
        self.shard = Shard(self.accelerator.process_index, self.accelerator.num_processes, settings.accumulation)
        check_feeds(feed, phases, self.shard)  # before anything is done
        self.log = MetricsLog(folder / "metrics.jsonl" if folder and self.accelerator.is_main_process else None)
        self.identity = run_identity(
            identity, settings, seed=seed, phases=phases, optimizer=optimizer, batch_size=feed.batch_size
        )
        self.best = BestWeights.asked_for(settings)
        self.done = 0  # steps, those of earlier, interrupted runs included
        self.metrics: dict[str, float] = {}
        self.window = Window()
        self.first_bad_step: Tensor | None = None
        self.laid_by: dict[str, Tensor] = {}  # the optimizer's state of what does not train now, by parameter name
        self.batch_size = feed.batch_size  # of the phase

    @property
    def total(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @property
    def is_over(self) -> bool:
        return self.done == self.total or (self.best is not None and self.best.exhausted)

    def run(self) -> TrainingResult:
        self.laid_by = self._resume()
        began = time.perf_counter()
        meter = Meter()
        with ProgressBar(
            "training", self.total, self.done, shown=self.settings.show_progress and self.accelerator.is_main_process
        ) as bar:
            phase_start = 0
            for phase in self.phases:
                phase_end = phase_start + phase.steps
                if self.done < phase_end and not self.is_over:
                    self._run_phase(phase, phase_start, meter, bar)
                phase_start = phase_end
        # Not `end_training`: it also destroys the process group, which the caller's next evaluation or run needs.
        for tracker in self.accelerator.trackers:
            tracker.finish()
        speed = meter.read()["samples_per_second"]
        return TrainingResult(
            steps=self.done,
            metrics=self.metrics,
            seconds=time.perf_counter() - began,
            samples_per_second=speed,
            best_step=self.best.step if self.best else None,
        )

    def _run_phase(self, phase: Phase, phase_start: int, meter: Meter, bar: ProgressBar) -> None:
        """Train one phase. What an earlier one has trained goes on with the optimizer state that it had then."""
        if phase.begin:
            phase.begin(self.objective)
        # What is frozen now would keep its last gradient, and clipping would count it: not so in a run that is resumed.
        self.objective.zero_grad()
        self.batch_size = (phase.feed or self.feed).batch_size
        bare_optimizer = build_optimizer(self.objective.named_parameters(), self.optimizer_settings, phase.rate_scale)
        # Prepared anew in every phase: DDP would not synchronise what was frozen when it wrapped the module.
        model, wrapped = self.accelerator.prepare(self.objective, bare_optimizer)
        # Accelerate's wrapper looks for an optional package at every step, half a millisecond; it is for the scaler.
        optimizer = bare_optimizer if self.accelerator.scaler is None else wrapped
        restore_state(bare_optimizer, self.objective.named_parameters(), self.laid_by)
        # Only that of what is frozen stays here: the optimizer has copied the rest.
        frozen = {name for name, parameter in self.objective.named_parameters() if not parameter.requires_grad}
        self.laid_by = {key: value for key, value in self.laid_by.items() if key.rpartition("|")[0] in frozen}
        try:
            self._run_steps(phase, phase_start, model, optimizer, bare_optimizer, meter, bar)
        finally:
            # Also after an error: the caller's module would otherwise keep this run's mixed precision.
            self.objective = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            # Of a module with this mark the next phase's `prepare` returns what it gets, without mixed precision.
            vars(self.objective).pop("_is_accelerate_prepared", None)
        self.laid_by = self._whole_state(bare_optimizer)
        self.accelerator.free_memory()

    def _whole_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Return the optimizer's state of what trains now and of what trained in an earlier phase."""
        return {**self.laid_by, **named_state(optimizer, self.objective.named_parameters())}

    def _run_steps(
        self,
        phase: Phase,
        phase_start: int,
        model: nn.Module,
        optimizer: Any,
        bare_optimizer: torch.optim.Optimizer,
        meter: Meter,
        bar: ProgressBar,
    ) -> None:
        batches = (phase.feed or self.feed).batches(self.done, phase_start + phase.steps, self.shard)
        model.train()
        for step in range(self.done, phase_start + phase.steps):
            self._set_learning_rate(bare_optimizer, step - phase_start, phase.steps)
            last = step + 1 == self.total
            validates = self.validate is not None and (_is_due(step + 1, self.settings.validate_every) or last)
            # The last step is logged, and an objective has to know beforehand that its metrics are asked for.
            may_end = last or (validates and self.best is not None and self.best.may_be_exhausted_next)
            due = _is_due(step + 1, self.settings.log_every) or may_end
            self.objective.log_metrics = due
            waited = self._step(model, optimizer, batches, step)
            meter.wait(waited)
            bar.advance(self._log(step + 1, phase, meter) if due else None)
            if validates:
                self._validate(step + 1)
                model.train()
            self.done = step + 1
            if self.is_over and self.best:
                self._end_with_best(self.best)
            if self.store and (_is_due(step + 1, self.settings.checkpoint_every) or self.is_over):
                # With keep_best, the last one has the optimizer's state of weights that are gone: the run is over.
                self._write_checkpoint(step + 1, bare_optimizer)
            if self.is_over:
                break

    def _step(self, model: nn.Module, optimizer: Any, batches: Iterator[Any], step: int) -> float:
        """Do one optimizer step; return the seconds that were waited for data."""
        optimizer.zero_grad()
        waited = 0.0
        totals: Tensor | None = None
        for micro in range(self.shard.accumulation):
            asked = time.perf_counter()
            batch = send_to_device(next(batches), self.accelerator.device)
            waited += time.perf_counter() - asked
            seed_forward(torch_seed(self.seed, "forward", step, micro, self.shard.rank), self.accelerator.device)
            synchronises = micro + 1 == self.shard.accumulation
            with contextlib.nullcontext() if synchronises else self.accelerator.no_sync(model):
                output: StepOutput = model(batch)
                # So that it is not too small for half precision; `_finish_gradients` corrects it exactly.
                self.accelerator.backward(output.loss_sum / (self.batch_size / self.shard.processes))
            pair = torch.stack([output.loss_sum.detach().float(), output.weight.detach().float()])
            totals = pair if totals is None else totals + pair
            self.window.add_metrics(output)
        assert totals is not None  # accumulation is at least 1
        totals = self.accelerator.reduce(totals, reduction="sum")
        self._finish_gradients(totals, step)
        optimizer.step()
        self.window.add_loss(totals)
        return waited

    def _finish_gradients(self, totals: Tensor, step: int) -> None:
        """Divide by the weight of the whole step, check, and clip."""
        parameters = [p for p in self.objective.parameters() if p.grad is not None]
        # DDP has averaged over processes what was divided by batch_size / processes: this makes it sum / weight.
        factor = self.batch_size / totals[1]
        if self.accelerator.device.type != "cpu" or float(factor) != 1.0:
            for parameter in parameters:
                parameter.grad.mul_(factor)  # type: ignore[union-attr]
        limit = self.optimizer_settings.clip_norm
        if limit is None and self.accelerator.scaler is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            norm = self.accelerator.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        # A gradient that overflows float16 is normal: the scaler skips that step.
        finite = torch.isfinite(totals[0]) & (torch.isfinite(norm) if self.accelerator.scaler is None else True)
        bad = torch.where(finite, -1, step + 1)
        earlier = self.first_bad_step
        self.first_bad_step = bad if earlier is None else torch.where(earlier < 0, bad, earlier)
        if self.accelerator.device.type == "cpu":
            self._check_finite()

    def _check_finite(self) -> None:
        """Raise if any step so far was not finite. On a GPU this waits for it, hence only before something is kept."""
        step = -1 if self.first_bad_step is None else int(self.first_bad_step)
        if step >= 0:
            newest = self.store.newest() if self.store else None
            kept = f" The last good checkpoint is {newest}." if newest else ""
            raise NonFiniteError(
                f"the loss or its gradient is not finite at step {step}. Lower the learning rate "
                f"(now {self.optimizer_settings.learning_rate}), lengthen the warm-up, or look for broken inputs.{kept}"
            )

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
        settings = self.optimizer_settings
        warmup = min(settings.warmup_steps, total // 2)
        factor = schedule_factor(step, total=total, warmup=warmup, schedule=settings.schedule)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["rate_scale"] * factor

    def _log(self, step: int, phase: Phase, meter: Meter) -> str:
        self._check_finite()
        means, weight = self.window.read(self.accelerator)
        self.window = Window()
        # Batches may differ in size. Who compares items has gathered them: each process has weighed all of them.
        meter.count(weight / (self.shard.processes if self.objective.compares_items else 1))
        values = {**means, **meter.read()}
        self.metrics.update(values)
        self.log.write(step, phase.name, values)
        self.accelerator.log(values, step=step)
        return (
            f"loss {values['loss']:.4f}  {values['samples_per_second']:.0f}/s  "
            f"waiting for data {values['data_wait_share']:.0%}"
        )

    def _validate(self, step: int) -> None:
        assert self.validate is not None  # the caller asked
        self._check_finite()
        self.objective.eval()
        with torch.no_grad():
            values = dict(self.validate())
        if self.best:
            # Of the first process: were a last digit another one elsewhere, processes would keep different weights.
            values = broadcast_object_list([values])[0]
            self.best.update(step, values, self.objective)
        self.metrics.update({f"validation/{name}": value for name, value in values.items()})
        self.log.write(step, "validation", values)
        self.accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=step)

    def _end_with_best(self, best: BestWeights) -> None:
        """Give the objective the weights of the best validation, and the result its metrics."""
        best.put_back(self.objective)
        self.metrics = best.in_place_of_last(self.metrics)
        if self.done < self.total:
            self.log.write(self.done, "stopped early", best.counts)

    def _write_checkpoint(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self._check_finite()
        assert self.store is not None  # the caller asked
        position = self.feed.position()
        positions = None if position is None else gather_object([position])  # of all processes, in order of rank
        if self.accelerator.is_main_process:
            self.store.write(step, lambda folder: self._fill_checkpoint(folder, step, optimizer, positions))
        self.accelerator.wait_for_everyone()

    def _fill_checkpoint(
        self, folder: Path, step: int, optimizer: torch.optim.Optimizer, positions: list[dict[str, Any]] | None
    ) -> None:
        weighed = self.best.step if self.best and self.is_over else step  # steps behind the weights
        self.objective.save(folder, {**self.provenance, "steps": weighed, "seed": self.seed})
        training = folder / "training"
        training.mkdir()
        scaler = self.accelerator.scaler
        state = {
            "step": step,
            "processes": self.shard.processes,
            "identity": self.identity,
            "scaler": scaler.state_dict() if scaler else None,
            "metrics": self.metrics,
            **({"best": self.best.write(training)} if self.best else {}),
        }
        write_training(training, state, optimizer=self._whole_state(optimizer), positions=positions)

    def _resume(self) -> dict[str, Tensor]:
        """Go to the newest checkpoint, if there is one; return the optimizer's state of all phases so far."""
        newest = self.store.newest() if self.store else None
        if newest is None:
            self.log.rewind(to_step=0)  # lines of a run that was stopped before its first checkpoint
            return {}
        state = checkpoint.read_json(newest / "training" / "state.json")
        CheckpointStore.check_identity(state["identity"], self.identity, newest)
        if self.feed.position() is not None:
            positions = checkpoint.read_json(newest / "training" / "stream.json")["processes"]
            self.feed.go_to(CheckpointStore.position_of(self.shard, positions, newest))
        self.objective.restore(newest)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.metrics.update(state["metrics"])
        if self.best:
            self.best.load(newest / "training", state["best"])
        self.done = int(state["step"])
        self.log.rewind(to_step=self.done)
        return checkpoint.read_tensors(newest / "training" / "optimizer.safetensors")


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
