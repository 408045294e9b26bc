"""Pretrain a backbone on an auxiliary task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from auxtasks.data.loaders import BatchSource, Feed, Fingerprinted, Records
from auxtasks.data.plan import refuse_copies
from auxtasks.data.stream_rows import describe_stream
from auxtasks.errors import DataError
from auxtasks.tasks.base import AuxTask
from auxtasks.training.engine import train
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase, TrainingResult

__all__ = ["pretrain"]


def pretrain(
    task: AuxTask,
    data: Dataset | IterableDataset | Records,
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
        data: a data set with the task's columns, or what ``task.prepare`` made of one. An `IterableDataset` is
            streamed, where the task can: see `StreamFeed`.
        steps: optimizer steps.
        batch_size: of the global batch, over all processes.
        validation: held-out data whose metrics are logged, and returned under ``validation/``.
        seed: of the order of the data, the augmentation and what is random in the network.
        optimizer: see `OptimizerSettings`.
        loop: see `LoopSettings`.
        workers: loader processes, at most 1 for a stream; the result does not depend on their number.
        folder: run folder for checkpoints and metrics. A run that was stopped goes on from the newest checkpoint.
        cache: folder for decoded pictures.
        described_as: the data in a few words, for the model card.

    Returns:
        Metrics, seconds and samples a second.

    Raises:
        DataError: the data does not fit the task.
        NonFiniteError: training diverged; the last good checkpoint is kept.
        CheckpointError: the folder holds another run, or a stream's run by another number of processes.

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
    if isinstance(validation, IterableDataset):
        raise DataError("validation data is read as a whole: pass a datasets.Dataset, not a stream.")
    feed, described = _feed(task, data, batch_size, seed, workers, kept)
    held_out = _prepared(task, validation, kept) if validation is not None else None
    if held_out is not None:
        task.check_held_out(held_out)
    return train(
        task,
        feed,
        [Phase(steps)],
        seed=seed,
        optimizer=(optimizer or OptimizerSettings()).for_steps(steps),
        loop=loop,
        folder=Path(folder) if folder else None,
        identity={"task": type(task).__name__, **task.settings, "data": described, **_compared_on(held_out, loop)},
        provenance=_provenance(task, described_as),
        validate=(lambda: task.evaluate(held_out)) if held_out is not None else None,
    )


def _compared_on(held_out: Records | None, loop: LoopSettings | None) -> dict[str, str]:
    """Return what held-out data a run has, where that decides which weights it ends with."""
    if held_out is None or loop is None or loop.keep_best is None:
        return {}
    return {"validation data": _fingerprint(held_out)}


def _provenance(task: AuxTask, described_as: str | None) -> dict[str, Any]:
    """Return what the backbone is pretrained on, and what it was before, where it came with weights."""
    found: dict[str, Any] = {"pretrained_on": f"{task.description} on {described_as or 'unnamed data'}"}
    earlier = task.backbone.provenance
    # A task that is trained on has this run's own words there.
    if earlier.get("pretrained_on") not in (None, found["pretrained_on"]):
        found["began_with"] = earlier["pretrained_on"]
    return found | {key: earlier[key] for key in ("began_with", "copied") if key in earlier}


def _feed(
    task: AuxTask,
    data: Dataset | IterableDataset | Records,
    batch_size: int,
    seed: int,
    workers: int,
    cache: Path | None,
) -> tuple[BatchSource, str]:
    """Return where batches come from, and what must be the same for a resume."""
    if isinstance(data, IterableDataset):
        stream = task.stream(data, batch_size, seed, workers=workers)
        return stream, f"{describe_stream(data)}, in blocks of {stream.block_rows} rows"
    records = _prepared(task, data, cache)
    plan = task.plan(records, batch_size, seed)
    refuse_copies(plan.batch_size, len(records), f"{len(records)} records")
    feed: Feed[Any, Any] = Feed(
        records=records,
        plan=plan,
        transform=task.transform,
        collate=task.collate,
        seed=seed,
        workers=workers,
    )
    return feed, _fingerprint(records)


def _prepared(task: AuxTask, data: Dataset | Records, cache: Path | None) -> Records:
    if isinstance(data, Dataset):
        data = task.prepare(data, cache=cache)
    if len(data) == 0:
        raise DataError("the data set is empty.")
    return data


def _fingerprint(records: Records) -> str:
    if isinstance(records, Fingerprinted):
        return records.fingerprint
    return f"{len(records)} records"
