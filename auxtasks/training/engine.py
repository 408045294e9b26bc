"""The one training loop. It knows no task: it asks an `Objective` for losses and a `BatchSource` for batches.

Pretraining, layer-wise training and fine-tuning all run through here. Every number it draws is a function of (seed,
step, micro-batch, rank), the learning rate is a function of the step, and the data is a function of the step or, where
it is a stream, of a position that every checkpoint holds: so a run that was killed and resumed ends with the weights of
one that was not, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from auxtasks.data.loaders import BatchSource, Shard
from auxtasks.data.lost_workers import lost_workers_told
from auxtasks.training.accelerator import make_accelerator
from auxtasks.training.batch_norm import refuse_batch_norm
from auxtasks.training.best import BestWeights
from auxtasks.training.health import CollapseWatch
from auxtasks.training.memory import WorkerMemory, peak_memory
from auxtasks.training.objective import Objective
from auxtasks.training.optim import OptimizerSettings, named_state
from auxtasks.training.preparing import prepared
from auxtasks.training.processes import join_processes
from auxtasks.training.progress import Checkpoints, Progress
from auxtasks.training.settings import (
    LoopSettings,
    Phase,
    TrainingResult,
    check_feeds,
    check_settings,
    run_identity,
)
from auxtasks.training.steps import Prepared, Stepper
from auxtasks.training.stopping import GPU_READ_EVERY, StopRequest, stop_requests, stopped
from auxtasks.training.store import CheckpointStore
from auxtasks.training.together import all_or_none
from auxtasks.training.tracking import Meter, MetricsLog, ProgressBar
from auxtasks.training.window import Window

__all__ = ["train"]

logger = logging.getLogger("auxtasks")


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

    SIGTERM and SIGINT end it behind the step that is being done, with a checkpoint of it; a second SIGINT at once.

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
        TrainingStoppedError: SIGTERM or SIGINT asked for it; says what is kept.
        CheckpointError: the folder holds nothing but damaged checkpoints, or one of another run; another run is on it;
            it cannot be written, such as for a full disk.
        TrainingError: settings that cannot be met, such as accumulation for a task that compares items; or a loader
            worker was killed.
    """
    state = torch.random.get_rng_state()
    try:
        with lost_workers_told(), stop_requests() as request:
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
                request=request,
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
        request: StopRequest,
    ) -> None:
        self.objective = objective
        self.feed = feed
        self.phases = phases
        self.optimizer_settings = optimizer
        self.settings = settings
        self.validate = validate
        self.request = request
        store = CheckpointStore(folder / "checkpoints", settings.keep_checkpoints) if folder else None
        finished = store is not None and self.total in store.steps()  # and needs no data
        join_processes(settings.device)
        with all_or_none():  # before anything is done: what all refuse, one tells
            check_settings(objective, settings, validates=validate is not None or finished)
            self.accelerator = make_accelerator(settings, folder)
            self.shard = Shard(self.accelerator.process_index, self.accelerator.num_processes, settings.accumulation)
            check_feeds(feed, phases, self.shard)
            if not finished:
                refuse_batch_norm(objective, phases, self.shard, self.accelerator.device)
        self.log = MetricsLog(folder / "metrics.jsonl" if folder and self.accelerator.is_main_process else None)
        self.best = BestWeights.asked_for(settings)
        known = run_identity(
            identity, settings, seed=seed, phases=phases, optimizer=optimizer, batch_size=feed.batch_size
        )
        self.checkpoints: Checkpoints | None = None
        if store is not None:
            self.checkpoints = Checkpoints(store, self.accelerator, self.shard, feed, self.best, known, provenance)
        self.progress = Progress()
        self.workers = WorkerMemory()
        self.stepper = Stepper(
            objective,
            self.accelerator,
            self.shard,
            seed=seed,
            settings=optimizer,
            asked_to_stop=lambda: request.signal is not None,
            last_good=lambda: store.newest() if store else None,
        )

    @property
    def total(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @property
    def is_over(self) -> bool:
        return self.progress.done == self.total or (self.best is not None and self.best.exhausted)

    def run(self) -> TrainingResult:
        with self.checkpoints.only_ours() if self.checkpoints else contextlib.nullcontext():
            return self._run()

    def _run(self) -> TrainingResult:
        if self.checkpoints:
            self.progress = self.checkpoints.resume(self.objective, self.stepper.window)
        self.health = CollapseWatch(
            self.objective.trivial_levels, self.total, self.progress.warnings, self.progress.in_a_row
        )
        with all_or_none():
            self.log.rewind(to_step=self.progress.done)  # lines of what will be done again
        began = time.perf_counter()
        meter = Meter()
        shown = self.settings.show_progress and self.accelerator.is_main_process
        with ProgressBar("training", self.total, self.progress.done, shown=shown) as bar:
            phase_start = 0
            for phase in self.phases:
                phase_end = phase_start + phase.steps
                if self.progress.done < phase_end and not self.is_over:
                    self._run_phase(phase, phase_start, meter, bar)
                elif phase.begin and phase_start < min(self.progress.done, phase_end):
                    phase.begin(self.objective)  # done in an earlier process: a later phase may leave what it froze
                phase_start = phase_end
        # Not `end_training`: it also destroys the process group, which the caller's next evaluation or run needs.
        for tracker in self.accelerator.trackers:
            tracker.finish()
        speed = meter.read()["samples_per_second"]
        return TrainingResult(
            steps=self.progress.done,
            metrics=self.progress.metrics,
            seconds=time.perf_counter() - began,
            samples_per_second=speed,
            best_step=self.best.step if self.best else None,
            memory=peak_memory(self.workers),
            warnings=tuple(self.progress.warnings),
        )

    def _run_phase(self, phase: Phase, phase_start: int, meter: Meter, bar: ProgressBar) -> None:
        """Train one phase. What an earlier one has trained goes on with the optimizer state that it had then."""
        if phase.begin:
            phase.begin(self.objective)
        state, feed = self.progress.laid_by, phase.feed or self.feed
        with prepared(
            self.objective, self.accelerator, phase, self.optimizer_settings, state, feed, self.settings
        ) as ready:
            # Only that of what is frozen stays here: the optimizer has copied the rest.
            frozen = {name for name, parameter in self.objective.named_parameters() if not parameter.requires_grad}
            self.progress.laid_by = {key: value for key, value in state.items() if key.rpartition("|")[0] in frozen}
            self._run_steps(phase, phase_start, ready, meter, bar)
            self.stepper.check_finite()  # while its feed and its optimizer are those of the steps
            self.progress.laid_by = self._whole_state(ready)

    def _whole_state(self, ready: Prepared) -> dict[str, Tensor]:
        """Return the optimizer's state of what trains now and of what trained in an earlier phase."""
        return {**self.progress.laid_by, **named_state(ready.bare, ready.parameters.items())}

    def _run_steps(self, phase: Phase, phase_start: int, ready: Prepared, meter: Meter, bar: ProgressBar) -> None:
        batches = ready.feed.batches(self.progress.done, phase_start + phase.steps, self.shard)
        ready.model.train()
        for step in range(self.progress.done, phase_start + phase.steps):
            self.stepper.set_learning_rate(ready.bare, step - phase_start, phase.steps)
            last = step + 1 == self.total
            validates = self.validate is not None and (_is_due(step + 1, self.settings.validate_every) or last)
            # The last step is logged, and an objective has to know beforehand that its metrics are asked for.
            may_end = last or (validates and self.best is not None and self.best.may_be_exhausted_next)
            due = _is_due(step + 1, self.settings.log_every) or may_end
            self.objective.log_metrics = due
            meter.wait(self.stepper.do(ready, batches, step))
            bar.advance(self._log(step + 1, phase, meter) if due else None)
            if validates:
                ready.gather()
                self._validate(step + 1)
                ready.model.train()
            self.progress.done = step + 1
            if self.is_over and self.best:
                self._end_with_best(self.best)
            stop = None if self.is_over else self._asked_to_stop(step + 1)
            if _is_due(step + 1, self.settings.checkpoint_every) or self.is_over or stop:
                # With keep_best, the last one has the optimizer's state of weights that are gone: the run is over.
                self._write_checkpoint(ready)
            if self.is_over:
                break
            if stop:
                kept = self.checkpoints.store.place(step + 1) if self.checkpoints else None
                raise stopped(stop, step=step + 1, checkpoint=kept)
        else:
            ready.gather()

    def _asked_to_stop(self, step: int) -> int | None:
        """Return the signal that asked any process to stop; all processes get the same, and have to ask together."""
        if self.shard.processes == 1:
            return self.request.signal
        if self.accelerator.device.type != "cpu" and not _is_due(step, GPU_READ_EVERY):
            return None
        if not float(self.stepper.processes_asked_to_stop):
            return None
        asked: list[int | None] = gather_object([self.request.signal])
        return next(number for number in asked if number)

    def _log(self, step: int, phase: Phase, meter: Meter) -> str:
        self.stepper.check_finite()
        means, weight = self.stepper.window.read(self.accelerator)
        self.stepper.window = Window()
        self.workers.look()
        # Batches may differ in size. Who compares items has gathered them: each process has weighed all of them.
        meter.count(weight / (self.shard.processes if self.objective.compares_items else 1))
        values = {**means, **meter.read()}
        self.progress.metrics.update(values)
        self._look(step, values)
        self.log.write(step, phase.name, values)
        self.accelerator.log(values, step=step)
        return (
            f"loss {values['loss']:.4f}  {values['samples_per_second']:.0f}/s  "
            f"waiting for data {values['data_wait_share']:.0%}"
        )

    def _validate(self, step: int) -> None:
        assert self.validate is not None  # the caller asked
        self.stepper.check_finite()
        self.objective.eval()
        with torch.no_grad():
            values = dict(self.validate())
        if self.best:
            # Of the first process: were a last digit another one elsewhere, processes would keep different weights.
            values = broadcast_object_list([values])[0]
            self.best.update(step, values, self.objective)
        found = {f"validation/{name}": value for name, value in values.items()}
        self.progress.metrics.update(found)
        self._look(step, values, "validation ")
        self.log.write(step, "validation", values)
        self.accelerator.log(found, step=step)

    def _look(self, step: int, values: Mapping[str, float], kind: str = "") -> None:
        """Warn of what says that nothing is learnt."""
        for told in self.health.look(step, values, kind):
            self.progress.warnings.append(told)
            if self.accelerator.is_main_process:
                logger.warning("%s", told)
        self.progress.in_a_row = self.health.in_a_row

    def _end_with_best(self, best: BestWeights) -> None:
        """Give the objective the weights of the best validation, and the result its metrics."""
        best.put_back(self.objective)
        self.progress.metrics = best.in_place_of_last(self.progress.metrics)
        if self.progress.done < self.total:
            self.log.write(self.progress.done, "stopped early", best.counts)

    def _write_checkpoint(self, ready: Prepared) -> None:
        self.stepper.check_finite()
        if not (self.is_over and self.best):  # else the objective has the best weights, not the last ones
            ready.gather()
        if self.checkpoints is None:
            return
        weighed = self.best.step if self.best and self.is_over else None
        self.checkpoints.write(
            self.objective, self.progress, self._whole_state(ready), self.stepper.window, weighed=weighed
        )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
