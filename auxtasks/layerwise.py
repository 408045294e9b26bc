"""Pretrain a backbone layer by layer, from the lowest up, each on what the layers below it give.

Each layer is a run of the one training loop, in a folder of its own below the run's: so each can be stopped and
resumed, and a finished one is read, not repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.checkpoint import read_json, write_text_atomically
from auxtasks.data.images import ImageTable
from auxtasks.data.plan import EpochPlan
from auxtasks.data.row_feed import RowFeed
from auxtasks.errors import CheckpointError, LayerError
from auxtasks.features.cache import FeatureCache, prefix_digest
from auxtasks.features.layer_inputs import Inputs, InputSummary, LayerInputs, read_rows, summarize
from auxtasks.seeding import torch_seed
from auxtasks.tasks.backbone_task import BackboneTask
from auxtasks.tasks.deep_autoencoder import DeepAutoencoder
from auxtasks.tasks.layer_task import LayerTask
from auxtasks.training.engine import train
from auxtasks.training.memory import PeakMemory
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.processes import join_processes
from auxtasks.training.run_lock import only_run
from auxtasks.training.settings import LoopSettings, Phase, TrainingResult
from auxtasks.training.store import CheckpointStore
from auxtasks.training.together import all_or_none, entered_by_first, first_process_first

__all__ = ["LayerwiseResult", "pretrain_layerwise"]

MakeTask = Callable[[Backbone, str], LayerTask]
Rows = NDArray[np.int64]

UNROLLED = "unrolled"  # the stage in which all layers train together


@dataclasses.dataclass(frozen=True)
class LayerwiseResult:
    """What layer-wise pretraining ended with.

    Attributes:
        stages: the result of each layer, by its name, and of the joint training, if any, under ``"unrolled"``.
        stack: the layers with what decodes them.
        notes: what a reader of a report should know of the data.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> values = np.random.default_rng(0).random((50, 6), dtype=np.float32)
        >>> network = mlp(width=6, hidden=[4, 3], activation="sigmoid")
        >>> result: LayerwiseResult = pretrain_layerwise(network, values, LayerAutoencoder, steps=5, batch_size=10)
        >>> result.as_one().steps, result.stages["hidden2"].steps
        (10, 5)
    """

    stages: Mapping[str, TrainingResult]
    stack: DeepAutoencoder
    notes: tuple[str, ...]

    def as_one(self) -> TrainingResult:
        """Return all stages as one run: their steps and seconds, and their metrics under each stage's name."""
        seconds = sum(stage.seconds for stage in self.stages.values())
        measured = (stage.memory for stage in self.stages.values())
        samples = sum(stage.samples_per_second * stage.seconds for stage in self.stages.values())
        return TrainingResult(
            steps=sum(stage.steps for stage in self.stages.values()),
            metrics={
                f"{stage}/{name}": value
                for stage, found in self.stages.items()
                for name, value in found.metrics.items()
                if name not in ("samples_per_second", "data_wait_share")  # of all stages together, below
            },
            seconds=seconds,
            samples_per_second=samples / seconds if seconds else 0.0,
            memory=functools.reduce(PeakMemory.at_most, measured, PeakMemory()),
            warnings=tuple(told for stage in self.stages.values() for told in stage.warnings),
        )


def pretrain_layerwise(
    backbone: Backbone,
    source: ImageTable | NDArray[np.float32],
    make_task: MakeTask,
    *,
    layers: Sequence[str] | None = None,
    steps: int | Mapping[str, int],
    batch_size: int = 128,
    validation: ImageTable | NDArray[np.float32] | None = None,
    seed: int = 0,
    optimizer: OptimizerSettings | Mapping[str, OptimizerSettings] | None = None,
    loop: LoopSettings | None = None,
    unrolled_steps: int = 0,
    keep_inputs: bool = True,
    folder: str | Path | None = None,
    cache: FeatureCache | None = None,
    described_as: str | None = None,
) -> LayerwiseResult:
    """Train a backbone's layers in place, one after the other, from the lowest up.

    Args:
        backbone: its layers learn in turn, each with all others frozen.
        source: pictures, or an array (N, ...) float32 of what the backbone takes; without labels.
        make_task: what trains a layer: ``lambda backbone, layer: LayerRBM(backbone, layer)``.
        layers: the lowest ones that are trained; None trains all.
        steps: optimizer steps of each layer, or by layer.
        batch_size: of the global batch, over all processes.
        validation: held-out items; each layer is measured on what the layers below make of them.
        seed: of the order of the items and of what is random in the tasks.
        optimizer: of all layers, or by layer.
        loop: see `LoopSettings`.
        unrolled_steps: of a last stage, in which all layers train together as one deep autoencoder, by the optimizer of
            the lowest.
        keep_inputs: False computes a layer's inputs anew for every batch, through all layers below; they are computed
            once even so, to be checked.
        folder: run folder. A run that was stopped goes on where it was, in whichever layer that is.
        cache: keeps the inputs of higher layers; by default they stay in memory.
        described_as: the data in a few words, for the model card.

    Returns:
        The results of all stages; the backbone was trained in place, and stands under ``checkpoints/`` of the folder.

    Raises:
        LayerError: layers that are not the lowest, or that the task cannot train.
        DataError: inputs that the task cannot model.
        NonFiniteError: training diverged; the last good checkpoint is kept.
        CheckpointError: the folder holds another run, or another one is on it.

    Reference:
        Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", 2006; Bengio et al., "Greedy
        layer-wise training of deep networks", NIPS 2006.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> backbone = mlp(width=6, hidden=[4, 3], activation="sigmoid")
        >>> values = np.random.default_rng(0).random((50, 6), dtype=np.float32)
        >>> result = pretrain_layerwise(backbone, values, LayerAutoencoder, steps=5, batch_size=10)
        >>> list(result.stages)
        ['hidden1', 'hidden2']
    """
    run = _Run(
        backbone=backbone,
        inputs=LayerInputs(backbone, source, cache),
        held_out=None if validation is None else LayerInputs(backbone, validation, cache),
        batch_size=batch_size,
        seed=seed,
        loop=loop,
        keep_inputs=keep_inputs,
        folder=None if folder is None else Path(folder),
        described_as=described_as or "unnamed data",
    )
    names = _lowest_layers(backbone, layers)
    budget = steps if isinstance(steps, Mapping) else dict.fromkeys(names, steps)
    settings = optimizer if isinstance(optimizer, Mapping) else dict.fromkeys(names, optimizer or OptimizerSettings())
    missing = [name for name in names if name not in budget or name not in settings]
    if missing:
        raise LayerError(f"steps and optimizer by layer need an entry for each layer, found none for {missing[0]}.")
    tasks = [make_task(backbone, name) for name in names]  # all of them first: what is refused costs no training
    stack = DeepAutoencoder(tasks)
    frozen = backbone.frozen
    with run.only_ours():
        run.claim({**{name: budget[name] for name in names}, **({UNROLLED: unrolled_steps} if unrolled_steps else {})})
        try:
            stages = {task.layer: run.train_layer(task, budget[task.layer], settings[task.layer]) for task in tasks}
            if unrolled_steps:
                backbone.freeze(set(backbone.layer_names) - set(names))
                stages[UNROLLED] = run.train_jointly(stack, unrolled_steps, settings[names[0]])
        finally:
            backbone.freeze(frozen)  # as it was, also after an error: who trains it next shall not train one layer
        result = LayerwiseResult(stages, stack, tuple(note for name in names for note in run.notes_of[name]))
        run.write(result)
    return result


@dataclasses.dataclass
class _Run:
    """What the stages of one call share."""

    backbone: Backbone
    inputs: LayerInputs
    held_out: LayerInputs | None
    batch_size: int
    seed: int
    loop: LoopSettings | None
    keep_inputs: bool
    folder: Path | None
    described_as: str
    notes_of: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def only_ours(self) -> contextlib.AbstractContextManager[None]:
        """Keep other runs off the folder, also between two stages, which each lock their own.

        Raises:
            CheckpointError: another run is on it, and which; it cannot be written.
        """
        join_processes(self.loop.device if self.loop else "auto")
        if self.folder is None:
            return contextlib.nullcontext()
        return entered_by_first(only_run(self.folder / "layers", of=self.folder))

    def claim(self, stages: Mapping[str, int]) -> None:
        """Take the folder for these stages, or find that it already is theirs.

        Raises:
            CheckpointError: it holds other stages; shows both.
        """
        if self.folder is None:
            return
        with all_or_none():
            if join_processes().is_main_process:
                self._claim(self.folder / "stages.json", dict(stages))

    def _claim(self, written: Path, stages: dict[str, int]) -> None:
        found = read_json(written) if written.is_file() else stages
        if found != stages:
            raise CheckpointError(
                f"{self.folder} holds a run of other stages, with their steps: {found} there, {stages} asked. Ask for "
                "the same to go on with it, or choose another folder."
            )
        write_text_atomically(written, json.dumps(stages) + "\n")

    def train_layer(self, task: LayerTask, steps: int, optimizer: OptimizerSettings) -> TrainingResult:
        """Train one layer, with all others frozen."""
        self.backbone.freeze(set(self.backbone.layer_names) - {task.layer})
        position = self.backbone.position(task.layer)
        below = prefix_digest(self.backbone, self.backbone.layer_names[position - 1]) if position else None
        began = time.perf_counter()
        read: Callable[[Rows], Tensor] = _nothing
        held_out = None
        if not self._is_finished(task.layer, steps):  # a finished layer needs no inputs: it is only read
            inputs, held_out = self._prepare(task)
            read = self._recomputing(position) or functools.partial(read_rows, inputs)
        elif (place := self._place(task.layer)) is not None:
            self.notes_of[task.layer] = read_json(place / "notes.json")
        result = self._train(
            task,
            task.layer,
            read,
            steps,
            optimizer,
            identity={"weights below": below},
            validate=None if held_out is None else functools.partial(task.evaluate, held_out),
        )
        return dataclasses.replace(result, seconds=time.perf_counter() - began)  # with the passes that fill the inputs

    def _prepare(self, task: LayerTask) -> tuple[Inputs, Inputs | None]:
        """Return a layer's inputs, and those of held-out items, after the task has looked at both."""
        inputs = _in_turn(self.inputs, task.layer)
        summary = summarize(self.backbone, task.layer, inputs)
        held_out = None if self.held_out is None else _in_turn(self.held_out, task.layer)
        if held_out is not None:
            task.refuse(summarize(self.backbone, task.layer, held_out))
        task.prepare(summary)
        self._keep_note(task.layer, summary)
        return inputs, held_out

    def _keep_note(self, layer: str, summary: InputSummary) -> None:
        """Say what is remarkable of a layer's inputs; in its folder, for a run that finds the layer finished."""
        constant, of = len(summary.constant), summary.std.numel()
        self.notes_of[layer] = [f"{layer}: {constant} of its {of} inputs never change."] if constant else []
        place = self._place(layer)
        with all_or_none():
            if place is not None and join_processes().is_main_process:
                write_text_atomically(place / "notes.json", json.dumps(self.notes_of[layer]) + "\n")

    def train_jointly(self, stack: DeepAutoencoder, steps: int, optimizer: OptimizerSettings) -> TrainingResult:
        """Train all layers as one autoencoder."""
        lowest = self.backbone.layer_names[0]
        pixels = self.inputs.of(lowest)
        held_out = None if self.held_out is None else self.held_out.of(lowest)
        return self._train(
            stack,
            UNROLLED,
            functools.partial(read_rows, pixels),
            steps,
            optimizer,
            identity={"weights before": prefix_digest(self.backbone, self.backbone.layer_names[-1])},
            validate=None if held_out is None else functools.partial(stack.evaluate, held_out),
        )

    def _train(
        self,
        task: BackboneTask,
        stage: str,
        read: Callable[[Rows], Tensor],
        steps: int,
        optimizer: OptimizerSettings,
        identity: Mapping[str, Any],
        validate: Callable[[], Mapping[str, float]] | None,
    ) -> TrainingResult:
        seed = torch_seed(self.seed, f"layerwise {stage}")
        return train(
            task,
            RowFeed(read, EpochPlan(len(self.inputs), self.batch_size, seed)),
            [Phase(steps, name=stage)],
            seed=seed,
            optimizer=optimizer.for_steps(steps),
            loop=self.loop,
            folder=self._place(stage),
            identity={
                "task": type(task).__name__,
                **task.settings,
                "data": self.inputs.fingerprint,
                **self._asked,
                **identity,
            },
            provenance=self._provenance(task),
            validate=validate,
        )

    @property
    def _asked(self) -> dict[str, Any]:
        """What decides a stage's weights besides: whose metrics choose them, and, by rounding, how inputs are made."""
        chooses = self.held_out is not None and self.loop is not None and self.loop.keep_best is not None
        compared = {"validation data": self.held_out.fingerprint} if chooses and self.held_out is not None else {}
        return {**compared, **({} if self.keep_inputs else {"keep_inputs": False})}

    def _recomputing(self, position: int) -> Callable[[Rows], Tensor] | None:
        """Return what computes a layer's inputs from the data, or None where they are kept, or are the data itself."""
        if self.keep_inputs or position == 0:
            return None
        names = self.backbone.layer_names
        pixels, lower = self.inputs.of(names[0]), self.backbone.lower(names[position - 1])

        def compute(rows: Rows) -> Tensor:
            device = next(self.backbone.parameters()).device  # the loop may move it when it begins
            with torch.no_grad():
                output: Tensor = lower(self.backbone.input.normalize(read_rows(pixels, rows).to(device)))
            return output

        return compute

    def write(self, result: LayerwiseResult) -> None:
        """Write the backbone and what decodes it under the run's ``checkpoints/``, as other runs have theirs."""
        if self.folder is None:
            return
        store = CheckpointStore(self.folder / "checkpoints")
        steps = result.as_one().steps
        with all_or_none():
            if join_processes().is_main_process:  # also where one is: of layers that were deleted and trained anew
                provenance = {**self._provenance(result.stack), "steps": steps, "seed": self.seed}
                store.write(steps, lambda place: result.stack.save(place, provenance))

    def _provenance(self, task: BackboneTask) -> dict[str, Any]:
        return {"pretrained_on": f"{task.description} on {self.described_as}"}

    def _place(self, stage: str) -> Path | None:
        return None if self.folder is None else self.folder / "layers" / stage

    def _is_finished(self, stage: str, steps: int) -> bool:
        place = self._place(stage)
        return place is not None and CheckpointStore(place / "checkpoints").is_whole(steps)


def _in_turn(items: LayerInputs, layer: str) -> Inputs:
    """Return a layer's inputs: the first process computes them, and the others find them where a cache keeps them."""
    with first_process_first():
        return items.of(layer)


def _nothing(rows: Rows) -> Tensor:
    raise AssertionError(f"a finished layer was asked for {len(rows)} items")


def _lowest_layers(backbone: Backbone, layers: Sequence[str] | None) -> list[str]:
    """Return the layers to train, which must be the lowest, in order.

    Raises:
        LayerError: shows both.
    """
    names = list(backbone.layer_names if layers is None else layers)
    for name in names:
        backbone.position(name)  # refuses a name that does not exist
    if not names or names != list(backbone.layer_names[: len(names)]):
        raise LayerError(
            f"layers are trained from the lowest up, without a gap: {', '.join(backbone.layer_names)}; found "
            f"{', '.join(names) or 'none'}."
        )
    return names
