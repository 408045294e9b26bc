"""Stages whose gradients are computed from their input alone: what lies between is computed again, not kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from auxtasks.backbones.stages import Crossing, Stage, owned_modules

__all__ = ["apply_recomputed"]


def apply_recomputed(stage: Stage, module: nn.Module, x: Crossing) -> Any:
    """Compute a stage now, and once more when its gradients are asked for; the gradients are the same to the bit.

    The second time draws what the first one drew, in dropout, and moves no running statistics.

    Args:
        stage: a row of a backbone's table.
        module: the library's whole module.
        x: what crosses the cut below the stage.

    Example:
        >>> import torch
        >>> from auxtasks.backbones import mlp
        >>> backbone, x = mlp(width=2, hidden=[3], seed=0), torch.ones(1, 2, requires_grad=True)
        >>> stage = backbone.stages[0]
        >>> gradients = [torch.autograd.grad(output.sum(), x)[0] for output in
        ...              (stage.apply(backbone.module, x), apply_recomputed(stage, backbone.module, x))]
        >>> torch.equal(*gradients)
        True

    Reference:
        Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """
    return checkpoint(
        stage.apply,
        module,
        x,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _kept_buffers(module, stage)),
    )


@contextlib.contextmanager
def _kept_buffers(module: nn.Module, stage: Stage) -> Iterator[None]:
    """Let a stage move copies of its buffers: a BatchNorm would otherwise count every batch twice."""
    held = [
        (part, name, buffer)
        for owned in owned_modules(module, stage.owns)
        for part in owned.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    try:
        for part, name, buffer in held:
            setattr(part, name, buffer.clone())
        yield
    finally:
        for part, name, buffer in held:
            setattr(part, name, buffer)
