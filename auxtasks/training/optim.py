"""Optimizers, learning rates as functions of the step, and optimizer state by parameter name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from auxtasks.errors import TrainingError
from auxtasks.training.sharding import as_shard, whole

__all__ = ["OptimizerSettings", "Schedule", "build_optimizer", "named_state", "restore_state", "schedule_factor"]

Schedule = Literal["cosine", "linear", "constant"]


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """How weights follow gradients.

    Attributes:
        name: ``"adamw"`` or ``"sgd"`` (Nesterov momentum).
        learning_rate: at its peak.
        weight_decay: of matrices and kernels; vectors (biases, gains of norms) are not decayed.
        momentum: of SGD; AdamW's first coefficient.
        second_momentum: AdamW's second coefficient.
        warmup_steps: steps of linear growth from 0.
        schedule: after the warm-up: ``"cosine"`` or ``"linear"`` to 0, or ``"constant"``.
        clip_norm: largest norm of the whole gradient; None does not clip.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    second_momentum: float = 0.99
    warmup_steps: int = 100
    schedule: Schedule = "cosine"
    clip_norm: float | None = 5.0

    def for_steps(self, steps: int) -> OptimizerSettings:
        """Return settings for a run of so many steps: its warm-up is a tenth of them at most.

        A short run would otherwise end before its warm-up does.

        Example:
            >>> OptimizerSettings(warmup_steps=100).for_steps(50).warmup_steps
            5
        """
        return dataclasses.replace(self, warmup_steps=min(self.warmup_steps, steps // 10))


def schedule_factor(step: int, *, total: int, warmup: int, schedule: Schedule) -> float:
    """Return the share of the peak learning rate at a step, beginning with step 0.

    Example:
        >>> [round(schedule_factor(s, total=10, warmup=2, schedule="cosine"), 2) for s in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0 - progress if schedule == "linear" else 1.0


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    settings: OptimizerSettings,
    rate_scale: Callable[[str], float] | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer over what trains, and only that.

    Args:
        parameters: (name, parameter); those without requires_grad are left out.
        settings: see `OptimizerSettings`.
        rate_scale: share of the learning rate by parameter name, for rates by depth.

    Raises:
        TrainingError: nothing trains.

    Returns:
        An optimizer whose groups each carry ``rate_scale``; the loop sets ``lr`` from it at every step.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> optimizer = build_optimizer(layer.named_parameters(), OptimizerSettings(weight_decay=0.1))
        >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
        [(0.1, 1), (0.0, 1)]
    """
    # What is dealt out to processes (see `auxtasks.training.sharding`) cannot be in a group with what is not.
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            scale = rate_scale(name) if rate_scale else 1.0
            groups.setdefault((decay, scale, isinstance(parameter, DTensor)), []).append(parameter)
    if not groups:
        raise TrainingError(
            "nothing trains: every parameter is frozen. Leave at least one layer or the head trainable."
        )
    options: list[dict[str, Any]] = [
        {"params": members, "weight_decay": decay, "rate_scale": scale, "lr": settings.learning_rate * scale}
        for (decay, scale, _), members in groups.items()
    ]
    # Fused: one kernel over all parameters, a tenth of the time of the plain loop on CPU.
    if settings.name == "sgd":
        momentum, sharded = settings.momentum, any(is_sharded for _, _, is_sharded in groups)
        # PyTorch has no fused SGD of shares.
        kernel = {"foreach": True} if sharded else {"fused": True}
        return torch.optim.SGD(options, lr=settings.learning_rate, momentum=momentum, nesterov=momentum > 0, **kernel)
    betas = (settings.momentum, settings.second_momentum)
    return torch.optim.AdamW(options, lr=settings.learning_rate, betas=betas, fused=True)


def named_state(optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named ``parameter|key``, so that it survives another grouping.

    What is dealt out to processes is put together: every process has to call it.
    """
    return {
        f"{name}|{key}": whole(value)
        for name, parameter in parameters
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_state(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, nn.Parameter]], state: Mapping[str, Tensor]
) -> None:
    """Give each parameter that this optimizer trains the state of its name; those without one start afresh.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> optimizer = build_optimizer(layer.named_parameters(), OptimizerSettings())
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> state = named_state(optimizer, layer.named_parameters())
        >>> sorted(state)
        ['bias|exp_avg', 'bias|exp_avg_sq', 'bias|step', 'weight|exp_avg', 'weight|exp_avg_sq', 'weight|step']
        >>> other = build_optimizer(layer.named_parameters(), OptimizerSettings())
        >>> restore_state(other, layer.named_parameters(), state)
        >>> torch.equal(other.state[layer.bias]["exp_avg"], state["bias|exp_avg"])
        True
    """
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, entry = key.rpartition("|")
        by_parameter.setdefault(name, {})[entry] = value
    for name, parameter in parameters:
        if parameter in trained and name in by_parameter:
            optimizer.state[parameter] = {
                entry: as_shard(value.clone().to(parameter.device), parameter)
                for entry, value in by_parameter[name].items()
            }
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            # As the first step would; the fused kernel takes either no momenta or all: not those of what trained before
            # beside none of what has been unfrozen.
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
