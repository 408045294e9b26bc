"""Weights, gradients and optimizer state dealt out to the processes, in place of a copy of all in each of them.

An objective stays whole, as its caller knows it. What trains is a copy of it, of which each process holds a share; a
stage of the backbone is put together when it computes, and taken apart behind it. Where the objective is looked at, to
validate, to save and at the end, it gets the weights of the copy. So a checkpoint holds what it always holds.

How much a process holds of a network of P weights, trained with AdamW in float32 by N processes: 16 P / N bytes and
a stage more, and 4 P of the whole objective, which a GPU is spared between validations; without sharding 16 P.

Reference:
    Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", SC 2020; Zhao et al.,
    "PyTorch FSDP", VLDB 2023. Here PyTorch's `fully_shard` does it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.stages import owned_modules
from auxtasks.training.objective import Objective, StepOutput

__all__ = ["ShardedObjective", "as_shard", "clip_shards", "local", "whole"]


class ShardedObjective(nn.Module):
    """A copy of an objective that is dealt out to all processes; the objective itself stays whole.

    Args:
        objective: what it is a copy of.
        accelerator: of the run, of several processes.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> from auxtasks.training.accelerator import make_accelerator
        >>> from auxtasks.training.settings import LoopSettings
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> task = LayerAutoencoder(mlp(width=2, hidden=[1], activation="sigmoid"), "hidden1")
        >>> model = ShardedObjective(task, make_accelerator(LoopSettings(device="cpu"), None))
        >>> model(torch.ones(4, 2)).loss_sum.backward()
        >>> parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        >>> norm = clip_shards([parameter.grad for parameter in parameters], limit=0.5)
        >>> clipped = torch.stack([local(parameter.grad).norm() for parameter in parameters]).norm()
        >>> round(min(norm.item(), 0.5), 4) == round(clipped.item(), 4)
        True
        >>> first = parameters[0]
        >>> torch.equal(whole(as_shard(torch.ones(first.shape), first)), torch.ones(first.shape))
        True
        >>> with torch.no_grad():
        ...     _ = local(first).fill_(7.0)
        >>> model.gather()
        >>> next(iter(task.parameters())).unique().tolist()
        [7.0]
        >>> dist.destroy_process_group()
    """

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        super().__init__()
        self.module = copy.deepcopy(objective)
        self._objective = (objective,)  # in a tuple, where it is no part of this module
        self._accelerator = accelerator
        _deal_out(self.module, accelerator.device, accelerator.num_processes)

    def forward(self, batch: object) -> StepOutput:
        """Compute the loss of a micro-batch, in the run's precision; its backward leaves mean gradients, in shares."""
        objective = self._objective[0]
        self.module.log_metrics = objective.log_metrics
        if self._accelerator.device.type != "cpu":
            objective.to("cpu")  # the device is for what trains
        with self._accelerator.autocast():
            output = self.module(batch)
        found: StepOutput = convert_to_fp32(output)
        return found

    @torch.no_grad()
    def gather(self) -> None:
        """Give the objective the weights and buffers of this copy; every process has to call it."""
        for part in self.module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
        objective = self._objective[0].to(self._accelerator.device)
        wanted = dict(objective.named_parameters())
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:  # all else has stayed the same
                wanted[name].copy_(whole(parameter))
        kept = dict(objective.named_buffers())
        for name, buffer in self.module.named_buffers():
            kept[name].copy_(buffer)


def _deal_out(module: Objective, device: torch.device, processes: int) -> None:
    """Replace a module's parameters by shares of them, stage by stage and then all that is left."""
    mesh = init_device_mesh(device.type, (processes,))
    # A single number cannot be dealt out: each process has it, and the mean of its gradients.
    numbers = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    for number in numbers:
        number.data = number.data.to(device)
        number.register_post_accumulate_grad_hook(_average_gradient)  # type: ignore[no-untyped-call]
    if module.network is not None and module.network.can_be_cut:
        for parts in _units(module.network):
            for part in parts:
                part.register_forward_hook(_no_view)  # before those of `fully_shard`
            fully_shard(parts, mesh=mesh, ignored_params=numbers)
    fully_shard(module, mesh=mesh, ignored_params=numbers)


def _units(network: Backbone) -> Iterator[list[nn.Module]]:
    """Yield the modules of each stage that has weights; parameters that no module of its own holds are left out."""
    for stage in network.stages:
        parts = [part for part in owned_modules(network.module, stage.owns) if any(True for _ in part.parameters())]
        if parts:
            yield parts


def _no_view(part: nn.Module, inputs: object, output: object) -> object:
    """Return what a part gives, as a tensor of its own: a view of another that is changed in place loses its hooks."""
    del part, inputs
    return output.clone() if isinstance(output, Tensor) and output._is_view() else output


def _average_gradient(number: Tensor) -> None:
    """Average a gradient over processes, as it is done with what is dealt out.

    What an earlier micro-batch has left there is the same on all processes, and its average changes nothing.
    """
    assert number.grad is not None  # called behind its accumulation
    dist.all_reduce(number.grad)
    number.grad /= dist.get_world_size()


def local(tensor: Tensor) -> Tensor:
    """Return this process's share of a tensor that is dealt out, which shares its memory; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Put a tensor that is dealt out together, on every process; any other is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_shard(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Deal a tensor of a parameter's shape out as the parameter is; leave any other as it is."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    # Without communication: every process has the whole.
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


@torch.no_grad()
def clip_shards(gradients: Sequence[Tensor], limit: float | None) -> Tensor:
    """Scale gradients down to a norm of at most `limit`; return the norm that all of them together had.

    Args:
        gradients: shares, and whole ones that are the same on every process.
        limit: None leaves them as they are.
    """
    shares = [local(gradient) for gradient in gradients if isinstance(gradient, DTensor)]
    squared = nn.utils.get_total_norm(shares).square()
    dist.all_reduce(squared)
    others = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norm = (squared + nn.utils.get_total_norm(others).to(squared).square()).sqrt()
    if limit is not None:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)  # as in torch.nn.utils.clip_grad_norm_
        for gradient in gradients:
            local(gradient).mul_(scale)
    return norm
