"""Where a loss or a gradient stopped being finite: the step is done again, on a copy, with an eye on every layer."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from auxtasks.training.objective import Objective

__all__ = ["Finding", "Replay", "describe", "find_non_finite"]

SHOWN_ROWS = 20
SHOWN_NAMES = 3

# What stands first explains what stands behind it.
WEIGHTS, INPUT, LAYER, LOSS, GRADIENT, NORM, UNKNOWN = range(7)

MOVED = "its input is finite, the layer is not known, since weights have moved before the step was looked at"


class Finding(NamedTuple):
    """What one process found in one micro-batch; the smallest of all processes is the likeliest cause.

    Attributes:
        cause: its place among the causes.
        micro, rank: where, from 0.
        what: a sentence without its end.
        rows: of the data, that are meant; none where the data are not the cause.
        exact: whether they are the bad ones, not all of the micro-batch.
        spelt: the rows in words.
        layer: module whose output is the first in forward order that is not finite, if any.
        parameter: the first in backward order whose gradient is not finite, or one that was not before; if any.
    """

    cause: int
    micro: int
    rank: int
    what: str
    rows: tuple[int, ...] = ()
    exact: bool = False
    spelt: tuple[str, ...] = ()
    layer: str | None = None
    parameter: str | None = None


@dataclasses.dataclass(frozen=True)
class Replay:
    """A step to be done again.

    Attributes:
        objective: as it was before the step; it is left alone.
        batches: micro-batches, on its device.
        rows: of the data, of each micro-batch; empty where nobody knows them.
        spell: a row in words.
        seed: seeds what a micro-batch's forward draws, as in the step.
        divisor: of each loss.
        gradients: whether the backward pass is looked at too; not where a scaler skips gradients that overflow.
        rank: of this process.
        intact: whether the weights are those that the step had.
    """

    objective: Objective
    batches: Sequence[Any]
    rows: Sequence[Sequence[int]]
    spell: Callable[[int], str]
    seed: Callable[[int], None]
    divisor: float
    gradients: bool = True
    rank: int = 0
    intact: bool = True


def find_non_finite(replay: Replay) -> list[Finding]:
    """Return what is not finite in a step's micro-batches; every process has to call it, since tasks gather.

    Weights that have moved since tell nothing of the layers: then only the input is looked at.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.tasks import LayerAutoencoder
        >>> task = LayerAutoencoder(mlp(width=2, hidden=[1], activation="sigmoid"), "hidden1", noise=None)
        >>> batch = torch.tensor([[0.0, 1.0], [0.0, torch.nan]])
        >>> replay = Replay(task, [batch], rows=[[7, 9]], spell=str, seed=lambda micro: None, divisor=2.0)
        >>> (found,) = find_non_finite(replay)
        >>> found.rows, found.what
        ((9,), 'the input holds NaN or infinity')
    """
    if not replay.batches:
        return [Finding(UNKNOWN, 0, replay.rank, "what the step was made of is no longer held")]
    if not replay.intact:
        found = [_input(replay, micro, None, None) for micro in range(len(replay.batches))]
        return [finding for finding in found if finding] or [_at(replay, 0, UNKNOWN, MOVED, None, None, None)]
    if broken := _not_finite(replay.objective.named_parameters()):
        what = f"before the step already, {_some(broken, 'parameter')} {_were(broken)} not finite"
        return [Finding(WEIGHTS, 0, replay.rank, what, parameter=broken[0])]
    try:
        return _replayed(replay)
    except Exception as error:  # A task's own code raises what it likes, and the step's error is the one to be told.
        what = f"the step could not be done again to find out more: {type(error).__name__}: {error}"
        return [Finding(UNKNOWN, 0, replay.rank, what)]


def _replayed(replay: Replay) -> list[Finding]:
    tried = _copy(replay.objective)
    tried.log_metrics = False  # nobody asks, and a metric may refuse what is not finite
    found = [_micro_batch(replay, tried, micro) for micro in range(len(replay.batches))]
    findings = [finding for finding in found if finding]
    return findings or _norm(replay, tried)


def _copy(objective: Objective) -> Objective:
    """Return a copy with the same weights, not copied, and with gradients and buffers of its own."""
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in objective.parameters()
    }
    return copy.deepcopy(objective, shared)


class _Watch:
    """Notes the first output in forward order that is not finite, and the first such gradient in backward order."""

    def __init__(self, module: nn.Module) -> None:
        self.layer: str | None = None
        self.output: Tensor | None = None
        self.fed_finite = True
        self.parameter: str | None = None
        # Not full backward hooks, which do not go with activations in place.
        self._handles: list[Any] = [
            part.register_forward_hook(functools.partial(self._see, name))
            for name, part in module.named_modules()
            if name  # the whole's output is the loss
        ]
        self._handles += [
            parameter.register_hook(functools.partial(self._see_gradient, name))  # type: ignore[no-untyped-call]
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, name: str, _module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if self.layer is not None:
            return
        bad = next((tensor for _, tensor in _tensors(output) if not _is_finite(tensor)), None)
        if bad is not None:
            self.layer, self.output = name, bad.detach()
            self.fed_finite = all(_is_finite(tensor) for _, tensor in _tensors(given))

    def _see_gradient(self, name: str, gradient: Tensor) -> None:
        if self.parameter is None and not _is_finite(gradient):
            self.parameter = name


def _micro_batch(replay: Replay, tried: Objective, micro: int) -> Finding | None:
    batch = replay.batches[micro]
    replay.seed(micro)
    with _Watch(tried) as watch:
        output = tried(batch)
        # On every process, whatever it has found: a gradient may pass through all of them.
        if replay.gradients:
            (output.loss_sum / replay.divisor).backward()
    if found := _input(replay, micro, watch.layer, watch.parameter):
        return found
    if watch.layer is not None:
        what = _spell_layer(tried, watch.layer, fed_finite=watch.fed_finite)
        return _at(replay, micro, LAYER, what, watch.output, watch.layer, watch.parameter)
    name = type(replay.objective).__name__
    if not _is_finite(output.loss_sum):
        what = f"the outputs of all layers are finite, the loss that {name} makes of them is not"
        return _at(replay, micro, LOSS, what, None, None, watch.parameter)
    if watch.parameter is not None:
        what = (
            "the loss is finite; of the gradients, the first in backward order that is not finite is that of "
            f'"{watch.parameter}"'
        )
        return _at(replay, micro, GRADIENT, what, None, None, watch.parameter)
    return None


def _spell_layer(tried: nn.Module, layer: str, *, fed_finite: bool) -> str:
    module = tried.get_submodule(layer)
    what = f'the first layer whose output is not finite is "{layer}" ({type(module).__name__})'
    broken = _not_finite(module.named_buffers(recurse=False))
    if broken:
        return f"{what}, where {_some(broken, 'buffer')} {_were(broken)} not finite"
    return what if fed_finite else f"{what}, whose input no longer is either: look at what is computed before it"


def _input(replay: Replay, micro: int, layer: str | None, parameter: str | None) -> Finding | None:
    """Return which part of the input is not finite, if any."""
    for name, tensor in _tensors(replay.batches[micro]):
        if not _is_finite(tensor) and name not in replay.objective.may_be_nan:
            part = f" in its {name}" if name else ""
            return _at(replay, micro, INPUT, f"the input holds NaN or infinity{part}", tensor, layer, parameter)
    return None


def _at(
    replay: Replay,
    micro: int,
    cause: int,
    what: str,
    bad: Tensor | None,
    layer: str | None,
    parameter: str | None,
) -> Finding:
    """Return a finding with the rows that it is about: the bad ones, or all of the micro-batch."""
    rows = replay.rows[micro] if replay.rows else ()
    batch = replay.batches[micro]
    places = None if bad is None else _bad_places(bad, len(rows), replay.objective.items_of(batch))
    meant = tuple(rows) if places is None else tuple(rows[place] for place in places)
    meant = tuple(dict.fromkeys(meant))  # a batch may hold a row twice
    spelt = tuple(replay.spell(row) for row in meant[:SHOWN_ROWS])
    return Finding(cause, micro, replay.rank, what, meant, places is not None, spelt, layer, parameter)


def _bad_places(tensor: Tensor, items: int, items_of: Mapping[int, Tensor]) -> list[int] | None:
    """Return which items of a micro-batch are not finite in a tensor; None where it does not have a row for each."""
    if tensor.ndim == 0 or not items:
        return None
    bad = ~tensor.isfinite().reshape(len(tensor), -1).all(dim=1)
    if len(tensor) in items_of:
        return sorted(set(items_of[len(tensor)][bad].tolist()))
    return torch.nonzero(bad)[:, 0].tolist() if len(tensor) == items else None


def _norm(replay: Replay, tried: nn.Module) -> list[Finding]:
    """Return which gradient is the largest, where all are finite and yet their norm is not."""
    sizes = {name: float(p.grad.norm()) for name, p in tried.named_parameters() if p.grad is not None}
    if not sizes:
        return []
    largest = max(sizes, key=lambda name: sizes[name])
    what = (
        "the loss and the gradients of every micro-batch are finite, so it is their sum, or its norm, that is not; "
        f'the largest gradient is that of "{largest}", of length {sizes[largest]:.3g}'
    )
    return [Finding(NORM, 0, replay.rank, what, parameter=largest)]


def describe(findings: Sequence[Finding], *, processes: int, accumulation: int) -> tuple[str, Finding | None]:
    """Return what is to be said of the findings of all processes, and the one that explains the others.

    Example:
        >>> bad = Finding(LAYER, 1, 0, 'the first layer whose output is not finite is "net.0" (Linear)', (7,), True, ("7",))
        >>> describe([bad], processes=1, accumulation=2)[0]
        'In micro-batch 2 of 2: the first layer whose output is not finite is "net.0" (Linear), in row 7.'
    """  # noqa: E501  an example
    if not findings:
        return "Done again, the step is finite.", None
    first = min(findings, key=lambda finding: finding[:3])
    where = [f"micro-batch {first.micro + 1} of {accumulation}"] if accumulation > 1 and first.rows else []
    where += [f"process {first.rank + 1} of {processes}"] if processes > 1 and first.rows else []
    place = f"In {' of '.join(where)}: " if where else ""
    text = place + first.what + _spell_rows(first)
    return f"{text[0].upper()}{text[1:]}.", first


def _spell_rows(found: Finding) -> str:
    if not found.rows:
        return ""
    more = len(found.rows) - len(found.spelt)
    rows = f"{', '.join(found.spelt)}{f' and {more} more' if more else ''}"
    plural = "s" if len(found.rows) > 1 else ""
    return f", in row{plural} {rows}" if found.exact else f", in a micro-batch of row{plural} {rows}"


def _some(names: Sequence[str], noun: str) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN_NAMES])}{more}"


def _were(names: Sequence[str]) -> str:
    return "were" if len(names) > 1 else "was"


def _not_finite(named: Iterator[tuple[str, Tensor]]) -> list[str]:
    return [name for name, tensor in named if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in what a module takes or gives, or in a batch, with their names."""
    if isinstance(value, Tensor):
        yield name, value
        return
    parts: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        parts = value
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = dict(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for key, part in parts.items():
        yield from _tensors(part, f"{name}.{key}" if name else str(key))
