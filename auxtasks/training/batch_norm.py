"""Batch statistics, which make a result depend on how a batch is split: refused where it is split.

In training a BatchNorm normalises by the items that one forward sees, and moves its running statistics by them. Split
over processes or into micro-batches, that is a part of the batch: another loss, other gradients, other statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from auxtasks.data.loaders import Shard
from auxtasks.errors import TrainingError
from auxtasks.training.objective import Objective
from auxtasks.training.settings import Phase

__all__ = ["batch_statistics", "refuse_batch_norm"]

SHOWN = 3  # names in a message


def batch_statistics(module: nn.Module) -> list[str]:
    """Return the names of the parts that, in the mode that they are in, compute with statistics of the batch.

    Those are all BatchNorms in training mode, whichever library's; one without running statistics in any mode; and
    others that keep running statistics, such as timm's EvoNorm of the batch.

    Args:
        module: with parts in training and in eval mode.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.GroupNorm(1, 2))
        >>> batch_statistics(network), batch_statistics(network.eval())
        (['1'], [])
    """
    return [name for name, part in module.named_modules() if _sees_the_batch(part)]


def _sees_the_batch(part: nn.Module) -> bool:
    return _could_see_the_batch(part) and (part.training or not _runs_statistics(part))


def _could_see_the_batch(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) or _runs_statistics(part)


def _runs_statistics(part: nn.Module) -> bool:
    """Return whether batches move its statistics; a FrozenBatchNorm holds its weight as a buffer as well."""
    held = {name for name, _ in part.named_buffers(recurse=False)}
    return "running_var" in held and "weight" not in held


def refuse_batch_norm(objective: Objective, phases: Sequence[Phase], shard: Shard, device: torch.device) -> None:
    """Refuse a run whose result would depend on how its batches are split, before anything is done.

    A BatchNorm that is frozen in all phases is in eval mode, and refused by nobody. PyTorch's SyncBatchNorm takes the
    statistics of all processes, but needs GPUs; over micro-batches it takes none either.

    Args:
        objective: what is to be trained; stays as it is.
        phases: what they freeze is tried on a copy without weights.
        shard: how a batch is split.
        device: that is trained on.

    Raises:
        TrainingError: names the parts, the phase, and what to do.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> task = LayerAutoencoder(mlp(width=2, hidden=[1], activation="sigmoid"), "hidden1")
        >>> task.norm = nn.BatchNorm1d(2)
        >>> refuse_batch_norm(task, [Phase(1)], Shard(0, processes=1), torch.device("cpu"))
        >>> try:
        ...     refuse_batch_norm(task, [Phase(1)], Shard(0, processes=2), torch.device("cpu"))
        ... except TrainingError as error:
        ...     print(str(error).partition(", and")[0])
        LayerAutoencoder would train norm on the statistics of a batch
    """
    if shard.processes * shard.accumulation == 1:
        return
    if not any(_could_see_the_batch(part) for part in objective.modules()):
        return
    tried = _without_weights(objective)
    for place, phase in enumerate(phases, start=1):
        if phase.begin:
            phase.begin(tried)
        tried.train()
        names = [
            name for name in batch_statistics(tried) if not _synchronises(tried.get_submodule(name), shard, device)
        ]
        if names and phase.steps:
            where = f' in phase {place} of {len(phases)}, "{phase.name}"' if len(phases) > 1 else ""
            raise TrainingError(_message(type(objective).__name__, names, where, shard))


def _synchronises(part: nn.Module, shard: Shard, device: torch.device) -> bool:
    return isinstance(part, nn.SyncBatchNorm) and device.type != "cpu" and shard.accumulation == 1


def _without_weights(objective: Objective) -> Objective:
    """Return a copy whose tensors hold nothing: what is frozen in it takes no memory and changes nothing."""
    empty: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for parameter in objective.parameters()
    }
    empty |= {id(buffer): buffer.detach().to("meta") for buffer in objective.buffers()}
    return copy.deepcopy(objective, empty)


def _message(objective: str, names: Sequence[str], where: str, shard: Shard) -> str:
    others = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    if shard.processes > 1:
        part, instead = f"{shard.processes} processes, each of which sees its own share", "train in one process"
    else:
        part, instead = f"{shard.accumulation} micro-batches", "use accumulation=1, with a smaller batch if need be"
    return (
        f"{objective} would train {', '.join(names[:SHOWN])}{others}{where} on the statistics of a batch, and the "
        f"batch is split into {part}: the result would depend on the split. Either {instead}, or freeze these layers "
        "(then they keep the statistics that they have), or take a network without BatchNorm, such as convnet, which "
        "has GroupNorm."
    )
