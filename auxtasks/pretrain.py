"""Pretrain a backbone on an auxiliary task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from datasets import Dataset

from auxtasks.data.images import ImageTable
from auxtasks.data.loaders import Feed, Records
from auxtasks.errors import DataError
from auxtasks.tasks.base import AuxTask
from auxtasks.training.engine import train
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase, TrainingResult

__all__ = ["pretrain"]


def pretrain(
    task: AuxTask,
    data: Dataset | Records,
    *,
    steps: int,
    batch_size: int = 128,
    validation: Dataset | Records | None = None,
    seed: int = 0,
    optimizer: OptimizerSettings | None = None,
    loop: LoopSettings | None = None,
    workers: int = 0,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    described_as: str | None = None,
) -> TrainingResult:
    """Train a task in place; its backbone is then ready to be reused.

    Args:
        task: backbone and head.
        data: a data set with the task's columns, or what ``task.prepare`` made of one.
        steps: optimizer steps.
        batch_size: of the global batch, over all processes.
        validation: held-out data whose metrics are logged, and returned under ``validation/``.
        seed: of the order of the data, the augmentation and what is random in the network.
        optimizer: see `OptimizerSettings`.
        loop: see `LoopSettings`.
        workers: loader processes; the result does not depend on their number.
        folder: run folder for checkpoints and metrics. A run that was stopped goes on from the newest checkpoint.
        cache: folder for decoded pictures.
        described_as: the data in a few words, for the model card.

    Returns:
        Metrics, seconds and samples a second.

    Raises:
        DataError: the data does not fit the task.
        NonFiniteError: training diverged; the last good checkpoint is kept.
        CheckpointError: the folder holds another run.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import load_source
        >>> from auxtasks.tasks import FacePairs
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"},
        ...                     options={"people": 4, "photos": 3})
        >>> task = FacePairs(convnet(size=16, widths=[8], blocks=[1], embedding=8), photos=2)
        >>> result = pretrain(task, faces, steps=2, batch_size=8)
        >>> result.steps
        2
    """
    kept = Path(cache) if cache else None
    records = _prepared(task, data, kept)
    held_out = _prepared(task, validation, kept) if validation is not None else None
    feed: Feed[Any, Any] = Feed(
        records=records,
        plan=task.plan(records, batch_size, seed),
        transform=task.transform,
        collate=task.collate,
        seed=seed,
        workers=workers,
    )
    optimizer = optimizer or OptimizerSettings()
    # A short run would otherwise end before its warm-up does.
    optimizer = dataclasses.replace(optimizer, warmup_steps=min(optimizer.warmup_steps, steps // 10))
    return train(
        task,
        feed,
        [Phase(steps)],
        seed=seed,
        optimizer=optimizer,
        loop=loop,
        folder=Path(folder) if folder else None,
        identity={"task": type(task).__name__, **task.settings, "data": _fingerprint(records)},
        provenance={"pretrained_on": f"{task.description} on {described_as or 'unnamed data'}"},
        validate=(lambda: task.evaluate(held_out)) if held_out is not None else None,
    )


def _prepared(task: AuxTask, data: Dataset | Records, cache: Path | None) -> Records:
    if isinstance(data, Dataset):
        data = task.prepare(data, cache=cache)
    if len(data) == 0:
        raise DataError("the data set is empty.")
    return data


def _fingerprint(records: Records) -> str:
    return records.fingerprint if isinstance(records, ImageTable) else f"{len(records)} records"
