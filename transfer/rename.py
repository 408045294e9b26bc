r"""Declarative rename rules: what another framework calls a tensor, and how it arranges its axes, against what we do.

A network's weights are a flat table of names and arrays everywhere; only the names and the order of the axes differ. A
list of `Rule` says both, so that a new kind of checkpoint is a table to write and no code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.errors import TransferError, did_you_mean

__all__ = ["Layout", "Renamed", "Rule", "apply_rules", "to_tensor"]

Layout: TypeAlias = Literal[
    "as is", "linear", "conv", "depthwise", "heads in", "heads bias", "heads out", "flattened", "bgr"
]

PartOf: TypeAlias = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""Says what a tensor is called in the target, and how its axes are arranged there.

    Layouts, from what stands in the source to what PyTorch has (H, W: height and width of a kernel; I, O: channels in
    and out; C, M: channels and multiplier; D: width; h, K: heads and width of one):

    ============ =============================== =====================================================
    as is        any                             the same
    linear       (in, out)                       (out, in)
    conv         (H, W, I, O), 1-D, 3-D likewise (O, I, H, W)
    depthwise    (H, W, C, M)                    (C*M, 1, H, W)
    heads in     (D, h, K)                       (h*K, D)
    heads bias   (h, K)                          (h*K,)
    heads out    (h, K, D)                       (D, h*K)
    flattened    (H*W*C, out), channels last     (out, C*H*W), channels first; needs `grid`
    bgr          (O, 3, H, W), blue first        (O, 3, H, W), red first
    ============ =============================== =====================================================

    Attributes:
        pattern: regular expression that matches the whole name in the source.
        to: the name in the target, with ``\1`` or ``\g<name>`` for groups of the pattern; None leaves the tensor out on
            purpose (slots of an optimizer, step counters).
        layout: how the axes are arranged anew.
        part: (place, of): the target is `of` such tensors, joined along axis 0 after their axes were arranged; a fused
            query-key-value matrix is three.
        grid: of layout "flattened": height and width that a dense layer's input had before it was flattened.

    Raises:
        TransferError: no regular expression, no such layout, or a part or grid that makes no sense; shows it.

    Example:
        >>> Rule(r"layer(\d+)/kernel", r"layers.\1.weight", "linear").renames("layer3/kernel")
        'layers.3.weight'
    """

    pattern: str
    to: str | None
    layout: Layout = "as is"
    part: PartOf | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise TransferError(f"rule {self.pattern!r}: the pattern is no regular expression: {error}.") from error
        if self.layout not in get_args(Layout):
            raise TransferError(
                f'rule {self.pattern!r}: no layout "{self.layout}".{did_you_mean(self.layout, get_args(Layout))} '
                f"Layouts: {', '.join(get_args(Layout))}."
            )
        if (self.layout == "flattened") != (self.grid is not None):
            raise TransferError(
                f'rule {self.pattern!r}: grid belongs to the layout "flattened" and to no other; found layout '
                f'"{self.layout}", grid {self.grid}.'
            )
        if self.to is not None and not self.to.isprintable():
            raise TransferError(
                f"rule {self.pattern!r}: its target {self.to!r} holds a control character: write groups in a raw "
                r'string, r"\1".'
            )
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise TransferError(f"rule {self.pattern!r}: part is (place, of) with 0 <= place < of; found {self.part}.")

    def renames(self, name: str) -> str | None:
        """Return the target's name for a source name that the pattern matches, or None if the rule leaves it out.

        Raises:
            TransferError: the pattern does not match, or `to` uses a group that it does not have.
        """
        found = re.fullmatch(self.pattern, name)
        if found is None:
            raise TransferError(f"rule {self.pattern!r} does not match the name {name!r}.")
        if self.to is None:
            return None
        try:
            return found.expand(self.to)
        except (re.error, IndexError) as error:
            raise TransferError(
                f"rule {self.pattern!r}: its target {self.to!r} names a group that the pattern lacks: {error}."
            ) from error


@dataclasses.dataclass(frozen=True)
class Renamed:
    r"""A source's tensors under the target's names.

    Attributes:
        tensors: by the target's names, axes as the target has them.
        origin: for each of them the names in the source, several where parts were joined.
        left_out: names that a rule leaves out on purpose.
        unmatched: names that no rule matches; in `tensors` under their own names only if that was asked for.

    Example:
        >>> import torch
        >>> renamed: Renamed = apply_rules({"conv1.w": torch.ones(2)}, [Rule(r"conv(\d)\.w", r"stage\1.weight")])
        >>> list(renamed.tensors), renamed.origin, renamed.unmatched
        (['stage1.weight'], {'stage1.weight': ('conv1.w',)}, ())
    """

    tensors: dict[str, Tensor]
    origin: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    unmatched: tuple[str, ...]


def apply_rules(
    tensors: Mapping[str, Tensor | NDArray[Any]], rules: Sequence[Rule], *, keep_unmatched: bool = False
) -> Renamed:
    """Rename tensors and arrange their axes; the first rule that matches a name wins.

    Args:
        tensors: the source's, by its own names.
        rules: in order.
        keep_unmatched: whether a tensor that no rule matches stays, under its own name and as it is.

    Raises:
        TransferError: two tensors for one target, a part that is missing, parts that do not fit together, or a layout
            that does not fit a shape; names the tensors.

    Example:
        >>> source = {"enc/kernel": np.ones((2, 3), np.float32), "enc/kernel/Adam": np.ones((2, 3), np.float32)}
        >>> rules = [Rule(".*/Adam", None), Rule("enc/kernel", "encoder.weight", "linear")]
        >>> renamed = apply_rules(source, rules)
        >>> {name: tuple(tensor.shape) for name, tensor in renamed.tensors.items()}, renamed.left_out
        ({'encoder.weight': (3, 2)}, ('enc/kernel/Adam',))
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    found: dict[str, dict[PartOf | None, str]] = {}  # target -> its parts -> source
    ready: dict[str, Tensor] = {}
    left_out: list[str] = []
    unmatched: list[str] = []
    for name, value in tensors.items():
        rule = next((rule for pattern, rule in compiled if pattern.fullmatch(name)), None)
        if rule is None:
            unmatched.append(name)
            if not keep_unmatched:
                continue
        target = name if rule is None else rule.renames(name)
        if target is None:
            left_out.append(name)
            continue
        _note(found.setdefault(target, {}), target, name, None if rule is None else rule.part)
        ready[name] = to_tensor(value, name) if rule is None else _arranged(to_tensor(value, name), rule, name)
    return Renamed(
        tensors={target: _joined(target, parts, ready) for target, parts in found.items()},
        origin={target: tuple(name for _, name in _in_order(parts)) for target, parts in found.items()},
        left_out=tuple(left_out),
        unmatched=tuple(unmatched),
    )


def to_tensor(value: Tensor | NDArray[Any], name: str) -> Tensor:
    """Return an array as a tensor: native byte order, in its own dtype, writable memory.

    Raises:
        TransferError: no numbers, such as strings or objects; names it.

    Example:
        >>> to_tensor(np.asarray([1.0, 2.0], dtype=">f4"), "big-endian")
        tensor([1., 2.])
    """
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # NumPy has none; JAX brings its own, which PyTorch does not know
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    # A memory-mapped file is read-only, and PyTorch warns of such arrays: its tensors can be written to.
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
    try:
        return torch.from_numpy(array.reshape(np.shape(value)))
    except TypeError as error:
        raise TransferError(f"{name} holds no numbers that a network could hold, but {array.dtype}.") from error


def _note(parts: dict[PartOf | None, str], target: str, name: str, part: PartOf | None) -> None:
    """Remember that a source makes a target, or a part of it, and refuse a second one for the same place."""
    others = [*parts.values()]
    if part in parts or (others and None in (part, *parts)):
        raise TransferError(
            f"two tensors for one target: {others[0] if part not in parts else parts[part]!r} and {name!r} both become "
            f"{target!r}. Make the rules tell them apart, or say which part of it each one is."
        )
    parts[part] = name


def _in_order(parts: Mapping[PartOf | None, str]) -> Iterator[tuple[PartOf | None, str]]:
    yield from sorted(parts.items(), key=lambda item: item[0] or (0, 1))


def _joined(target: str, parts: Mapping[PartOf | None, str], ready: Mapping[str, Tensor]) -> Tensor:
    """Join the parts of a target along axis 0, in the order of their places."""
    if None in parts:
        return ready[parts[None]]
    places = sorted(part for part in parts if part is not None)
    of = places[0][1]
    names = [name for _, name in _in_order(parts)]
    if any(other != of for _, other in places) or len(places) < of:
        raise TransferError(
            f"{target!r} is made of {of} parts; found {len(places)}: "
            + ", ".join(f"{name!r} is part {part[0]} of {part[1]}" for part, name in _in_order(parts) if part)
            + f". Missing: {', '.join(str(place) for place in range(of) if (place, of) not in parts) or 'none'}."
        )
    try:
        return torch.cat([ready[name] for name in names])
    except RuntimeError as error:
        shapes = ", ".join(f"{name!r} {tuple(ready[name].shape)}" for name in names)
        raise TransferError(f"the parts of {target!r} do not fit together along axis 0: {shapes}.") from error


def _arranged(tensor: Tensor, rule: Rule, name: str) -> Tensor:
    """Arrange a tensor's axes as its rule says."""
    if rule.layout == "flattened" and rule.grid is not None:
        height, width = rule.grid
        if tensor.ndim != 2 or tensor.shape[0] % (height * width):
            raise _unfit(tensor, rule, name, f"(H*W*C, out) with H*W = {height}*{width}")
        return _flattened(tensor, height, width).contiguous()
    arrange, fits, wanted = LAYOUTS[rule.layout]
    if not fits(tensor):
        raise _unfit(tensor, rule, name, wanted)
    return arrange(tensor).contiguous()


def _unfit(tensor: Tensor, rule: Rule, name: str, wanted: str) -> TransferError:
    return TransferError(
        f'{name!r} has the shape {tuple(tensor.shape)}; the layout "{rule.layout}" of rule {rule.pattern!r} takes '
        f"{wanted}."
    )


def _conv(kernel: Tensor) -> Tensor:
    """(spatial..., I, O) -> (O, I, spatial...)."""
    return kernel.permute(-1, -2, *range(kernel.ndim - 2))


def _depthwise(kernel: Tensor) -> Tensor:
    """(H, W, C, M) -> (C*M, 1, H, W): the multiples of one channel lie side by side, as groups have it."""
    return kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1)


def _heads_in(kernel: Tensor) -> Tensor:
    """(D, h, K) -> (h*K, D)."""
    return kernel.flatten(1).T


def _heads_out(kernel: Tensor) -> Tensor:
    """(h, K, D) -> (D, h*K)."""
    return kernel.flatten(0, 1).T


def _flattened(matrix: Tensor, height: int, width: int) -> Tensor:
    """(H*W*C, out) -> (out, C*H*W): PyTorch flattens channels first."""
    return matrix.reshape(height, width, -1, matrix.shape[1]).permute(3, 2, 0, 1).flatten(1)


LAYOUTS: dict[Layout, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], bool], str]] = {
    # layout: (how to arrange, whether it fits, what it takes, in words)
    "as is": (lambda tensor: tensor, lambda _: True, "any shape"),
    "linear": (lambda tensor: tensor.T, lambda tensor: tensor.ndim == 2, "2 axes (in, out)"),
    "conv": (_conv, lambda tensor: 3 <= tensor.ndim <= 5, "3 to 5 axes (spatial..., I, O)"),
    "depthwise": (_depthwise, lambda tensor: tensor.ndim == 4, "4 axes (H, W, C, M)"),
    "heads in": (_heads_in, lambda tensor: tensor.ndim == 3, "3 axes (D, heads, K)"),
    "heads bias": (lambda tensor: tensor.flatten(), lambda tensor: tensor.ndim == 2, "2 axes (heads, K)"),
    "heads out": (_heads_out, lambda tensor: tensor.ndim == 3, "3 axes (heads, K, D)"),
    "bgr": (
        lambda tensor: tensor.flip(1),
        lambda tensor: tensor.ndim == 4 and tensor.shape[1] == 3,
        "4 axes (O, I, H, W) with I = 3",
    ),
}
