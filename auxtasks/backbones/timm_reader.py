"""Layers of timm models that have no table of stages: read in one pass, but not cut.

The layers are what timm itself offers (`forward_intermediates`), or else the modules that its `feature_info` names;
which parameters a layer owns then follows from autograd: those that it depends on and no layer below it does.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.stages import Reader, Stage
from auxtasks.errors import BackboneError

__all__ = ["LAST", "readable"]

LAST = "pooled"  # the last layer of every model: what timm's own forward returns without a classifier


def readable(module: nn.Module, spec: InputSpec) -> tuple[list[Stage], Reader]:
    """Find a way to read a model without a table, and prove it on a picture.

    Raises:
        BackboneError: neither way gives layers and timm's own output; says why.

    Example:
        >>> import timm
        >>> module = timm.create_model("test_efficientnet", pretrained=False).eval()
        >>> stages, reader = readable(module, InputSpec.image((32, 32), 3, mean=(0.5,) * 3, std=(0.5,) * 3))
        >>> pictures = torch.zeros(2, 3, 32, 32)
        >>> outputs = reader(module, pictures, [stage.name for stage in stages])
        >>> all(outputs[stage.name].shape[1] == stage.dim for stage in stages), len(stages) > 2
        (True, True)
    """
    problems = []
    for way in (_by_intermediates, _by_hooks):
        try:
            outputs, reader = _probe(module, spec, way)
            owned = _owned_by_layer(module, spec, reader, tuple(outputs))
        except _NotReadableError as problem:
            problems.append(f"{way.__name__.removeprefix('_by_')}: {problem}")
            continue
        stages = [
            Stage(name, owned[name], output.shape[1 if output.ndim == 4 else -1], _cannot_be_cut)
            for name, output in outputs.items()
        ]
        return stages, reader
    raise BackboneError(f"the layers of timm's {type(module).__name__} cannot be read: {'; '.join(problems)}.")


class _NotReadableError(Exception):
    """This way of reading a model's layers does not work for it."""


def _cannot_be_cut(module: nn.Module, _: Tensor) -> Tensor:
    raise BackboneError(f"{type(module).__name__} has no table of stages; use forward_layers.")


@contextlib.contextmanager
def _probing() -> Iterator[None]:
    """Turn what an unknown model raises at a call that it does not support into `_NotReadableError`."""
    try:
        yield
    except _NotReadableError:
        raise
    except Exception as error:  # of any type: asserts, missing attributes, shapes that do not fit
        raise _NotReadableError(f"{type(error).__name__}: {error}") from error


def _pictures(spec: InputSpec, count: int) -> Tensor:
    """Return pictures (count, C, H, W) that draw no random number and are not flat."""
    return torch.linspace(-1, 1, count * math.prod(spec.shape)).view(count, *spec.shape)


def _probe(
    module: nn.Module, spec: InputSpec, way: Callable[[nn.Module, Tensor], Reader]
) -> tuple[dict[str, Tensor], Reader]:
    """Read all layers of one picture and compare the last with timm's own output."""
    picture = _pictures(spec, 1)
    module.eval()  # a picture alone has no batch statistics
    try:
        with _probing(), torch.no_grad():
            reader = way(module, picture)
            names = _layers_of(reader)
            outputs = reader(module, picture, names)
            if not torch.equal(outputs[LAST], module(picture)):
                raise _NotReadableError("the last layer is not what the model's own forward returns")
    finally:
        module.train()  # as it was built
    return {name: outputs[name] for name in names}, reader


def _layers_of(reader: Reader) -> tuple[str, ...]:
    assert isinstance(reader, functools.partial)  # both ways below make one
    layers: tuple[str, ...] = reader.keywords["layers"]
    return (*layers, LAST)


def _by_intermediates(module: Any, picture: Tensor) -> Reader:
    """Read by timm's `forward_intermediates`; the layers bear the names of its `feature_info`."""
    if not hasattr(module, "forward_intermediates"):
        raise _NotReadableError("the model has no forward_intermediates")
    with torch.no_grad():
        count = len(module.forward_intermediates(picture, output_fmt="NCHW", intermediates_only=True))
    names = _feature_names(module)
    if len(names) != count:
        names = tuple(f"feature{place + 1}" for place in range(count))
    return functools.partial(_read_intermediates, layers=names)


def _feature_names(module: nn.Module) -> tuple[str, ...]:
    """Return the modules that timm's `feature_info` names, from the input up; none where a name is missing."""
    infos = getattr(module, "feature_info", None) or ()
    names = [info.get("module", "") for info in infos]
    return tuple(names) if all(names) and len(set(names)) == len(names) else ()


def _read_intermediates(module: Any, x: Tensor, names: Sequence[str], *, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Read layers in one pass that stops at the deepest: (B, C, H, W) each, and the pooled vectors."""
    places = [place for place, layer in enumerate(layers) if layer in names]
    if not places:
        return {LAST: module(x)}
    ask = functools.partial(module.forward_intermediates, x, indices=places, output_fmt="NCHW")
    if LAST not in names:
        outputs = ask(stop_early=True, intermediates_only=True)
        return {layers[place]: output for place, output in zip(places, outputs, strict=True)}
    final, outputs = ask()
    read = {layers[place]: output for place, output in zip(places, outputs, strict=True)}
    return {**read, LAST: module.forward_head(final)}


def _by_hooks(module: nn.Module, _: Tensor) -> Reader:
    """Read the outputs of the modules that `feature_info` names, while timm's own forward runs."""
    names = _feature_names(module)
    if not names:
        raise _NotReadableError("the model names no modules in feature_info")
    return functools.partial(_read_hooked, layers=names)


class _DeepestReached(Exception):  # noqa: N818 - no error: it ends a forward that has computed what was asked for
    pass


def _read_hooked(module: nn.Module, x: Tensor, names: Sequence[str], *, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Read layers in one pass that stops at the deepest: as (B, C, H, W) where the model is laid out (B, H, W, C)."""
    wanted = [layer for layer in layers if layer in names]
    deepest = None if LAST in names else wanted[-1]
    channels_last = getattr(module, "output_fmt", "NCHW") == "NHWC"
    read: dict[str, Tensor] = {}

    def keep(_: nn.Module, __: object, output: Tensor, *, layer: str) -> None:
        # A copy, since an in-place activation above the layer would change what was read.
        kept = output.clone()
        read[layer] = kept.permute(0, 3, 1, 2) if channels_last and kept.ndim == 4 else kept
        if layer == deepest:
            raise _DeepestReached

    handles = [
        module.get_submodule(layer).register_forward_hook(functools.partial(keep, layer=layer)) for layer in wanted
    ]
    try:
        read[LAST] = module(x)
    except _DeepestReached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return read


def _owned_by_layer(
    module: nn.Module, spec: InputSpec, reader: Reader, names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Give each parameter to the lowest layer whose output depends on it, as autograd sees it.

    A parameter that nothing depends on stops learning: DDP raises at a parameter that gets no gradient.
    """
    left = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    owned: dict[str, tuple[str, ...]] = {}
    # In training mode, since some models (LeViT) cache in eval mode what a parameter gives; with two pictures, the
    # fewest that have batch statistics.
    with _probing(), _buffers_kept(module), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        outputs = reader(module, _pictures(spec, 2), names)
        for layer in names:
            mine = _depended_on(outputs[layer], left)
            owned[layer] = tuple(_largest(module, mine))
            left = {name: parameter for name, parameter in left.items() if name not in mine}
    for parameter in left.values():
        parameter.requires_grad_(False)
    return owned


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put the running statistics back after a pass in training mode."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])


def _depended_on(output: Tensor, parameters: Mapping[str, nn.Parameter]) -> set[str]:
    """Return the names of the parameters that an output depends on."""
    if not parameters or not output.requires_grad:
        return set()
    gradients = torch.autograd.grad(output.sum(), list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _largest(module: nn.Module, names: set[str], prefix: str = "") -> Iterator[str]:
    """Yield the largest sub-modules whose parameters are all among `names`, and the single parameters left over.

    Sub-modules, since a frozen layer's BatchNorm and dropout have to be put in eval mode too.
    """
    for child, inner in module.named_children():
        path = f"{prefix}{child}"
        inside = {name for name, _ in inner.named_parameters(prefix=path)}
        if inside and inside <= names:
            yield path
        elif inside & names:
            yield from _largest(inner, names, f"{path}.")
    for name, _ in module.named_parameters(recurse=False):
        if f"{prefix}{name}" in names:
            yield f"{prefix}{name}"
