"""The audited copy: what of a source would go where, before a single weight changes; then all of it, or nothing.

A state dict that is loaded loosely leaves layers random without a word, and the network still runs. Here every name of
both sides is accounted for: loaded, missing, unexpected, of another shape, left out by a rule, or not selected.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.errors import TransferError
from transfer.layers import Select, tensor_layers
from transfer.origins import note_copy

__all__ = ["CopyPlan", "Misfit", "OtherShapes", "library_module", "network_name"]

OtherShapes: TypeAlias = Literal["error", "skip"]

SHOWN = 8  # names of a list that `describe` shows


@dataclasses.dataclass(frozen=True)
class Misfit:
    """A tensor that does not fit its place.

    Attributes:
        name: in the target.
        origin: names in the source.
        found: what the source has: shape and, if it is that which does not fit, dtype.
        wanted: what the target has.

    Example:
        >>> from transfer.reuse import plan_copy
        >>> plan = plan_copy(nn.Linear(5, 3).state_dict(), nn.Linear(4, 3), other_shapes="skip")
        >>> misfit: Misfit = plan.other_shape[0]
        >>> misfit.name, misfit.found, misfit.wanted
        ('weight', '(3, 5)', '(3, 4)')
    """

    name: str
    origin: tuple[str, ...]
    found: str
    wanted: str

    def __str__(self) -> str:
        """Write it for a person."""
        origin = "" if self.origin == (self.name,) else f" (from {', '.join(self.origin)})"
        return f"{self.name}{origin} is {self.found} in the source, {self.wanted} here"


@dataclasses.dataclass(frozen=True)
class CopyPlan:
    """What would be copied, and what not. Nothing has changed before `apply`.

    Attributes:
        target: a backbone or another module.
        source: what is copied from, in words.
        tensors: what would be copied, by the target's names, in the target's order.
        origin: for each of these the names in the source.
        missing: selected tensors of the target that the source lacks: they stay as they are. A BatchNorm's counter of
            batches is not missed.
        unexpected: names of the source that have no place in the target, or none in it by the rules.
        other_shape: tensors whose shape or kind of numbers does not fit.
        not_selected: tensors of the target that `select` leaves as they are.
        left_out: names of the source that a rule leaves out on purpose.
        select: what was selected.
        other_shapes: whether a misfit is an error or skipped.
        least_share: least share of the selected parameters that must be loaded.
        sizes: numbers in each parameter of the target, buffers excluded.
        notes: what else a person should know of the two networks.
        random_in_source: names of the target whose tensor is known to be random in the source as well.
        pretrained_on: what the source's weights were trained on.

    Example:
        >>> from transfer.reuse import plan_copy
        >>> plan: CopyPlan = plan_copy(nn.Linear(4, 3).state_dict(), nn.Linear(4, 3))
        >>> plan.loaded, plan.share, plan.problems
        (('weight', 'bias'), 1.0, ())
        >>> print(plan.counts())
        2 of 2 tensors, 15 of 15 parameters (100.0%)
    """

    target: nn.Module
    source: str
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[Misfit, ...]
    not_selected: tuple[str, ...]
    left_out: tuple[str, ...]
    select: Select
    other_shapes: OtherShapes
    least_share: float
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()
    random_in_source: frozenset[str] = frozenset()
    pretrained_on: str | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the target's tensors that would be copied into."""
        return tuple(self.tensors)

    @property
    def parameters_loaded(self) -> int:
        """Numbers that would be copied into parameters."""
        return sum(self.sizes.get(name, 0) for name in self.tensors)

    @property
    def share(self) -> float:
        """Share of the target's parameters that would be loaded."""
        return self.parameters_loaded / max(1, sum(self.sizes.values()))

    @property
    def share_of_selected(self) -> float:
        """Share of the selected parameters that would be loaded."""
        left = sum(self.sizes.get(name, 0) for name in self.not_selected)
        return self.parameters_loaded / max(1, sum(self.sizes.values()) - left)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why `apply` would refuse, a text each; none if it would not."""
        return tuple(_problems(self))

    def describe(self) -> str:
        """Return the audit as a table with a line a layer, then the names that did not fit: a dry run prints it."""
        return "\n".join(_lines(self))

    def apply(self) -> CopyPlan:
        """Copy in place, all of it or nothing, and record in a backbone's provenance what came and what is random.

        Raises:
            TransferError: what `problems` says; nothing was changed.
        """
        found = self.problems
        if found:
            raise TransferError("\n".join(found))
        here = library_module(self.target).state_dict()  # shares its memory with the module
        # What can fail, such as memory that runs out, fails here, before the first weight changes.
        ready = {name: tensor.to(here[name].device, here[name].dtype) for name, tensor in self.tensors.items()}
        with torch.no_grad():
            for name, tensor in ready.items():
                here[name].copy_(tensor)
        if isinstance(self.target, Backbone):
            words = f"{self.counts()} from {self.source}"
            copied = set(self.tensors) - self.random_in_source
            note_copy(self.target, copied, words, self.pretrained_on or self.source)
        return self

    def counts(self) -> str:
        """Return how much would be loaded, in words."""
        total = len(library_module(self.target).state_dict())
        return (
            f"{len(self.tensors)} of {total} tensors, {self.parameters_loaded:,} of {sum(self.sizes.values()):,} "
            f"parameters ({self.share:.1%})"
        )


def library_module(target: nn.Module) -> nn.Module:
    """Return the module whose names count: a backbone's library's own.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> network = mlp(width=4, hidden=[3])
        >>> library_module(network) is network.module, library_module(network.module) is network.module
        (True, True)
    """
    return target.module if isinstance(target, Backbone) else target


def network_name(network: nn.Module) -> str:
    """Return what to call a network: a backbone's name in recipes, or its class.

    Example:
        >>> network_name(nn.Linear(1, 1))
        'Linear'
    """
    if not isinstance(network, Backbone):
        return type(network).__name__
    name = network.family.arguments.get("name")
    return f"{network.family.name}/{name}" if isinstance(name, str) else network.family.name


def _problems(plan: CopyPlan) -> Iterator[str]:
    """Yield why a plan cannot be carried out."""
    if plan.other_shape and plan.other_shapes == "error":
        some = "\n".join(f"  {misfit}" for misfit in plan.other_shape[:SHOWN])
        more = len(plan.other_shape) - SHOWN
        yield (
            f"{len(plan.other_shape)} tensors from {plan.source} do not fit:\n{some}"
            + (f"\n  and {more} more" if more > 0 else "")
            + f"\nSelect less, or skip them (other_shapes={'skip'!r}, or --skip-other-shapes).{_lower_part(plan)}"
        )
    elif not plan.parameters_loaded:
        yield (
            f"nothing would be loaded from {plan.source}: of {len(library_module(plan.target).state_dict())} tensors "
            f"here {len(plan.not_selected)} are not selected, and the source has none of the others. It has: "
            f"{_some(plan.unexpected) or 'nothing else'}. Missing here: {_some(plan.missing) or 'none'}."
            f"{_prefix_hint(plan)}"
        )
    elif plan.share_of_selected < plan.least_share:
        yield (
            f"{plan.share_of_selected:.1%} of the selected parameters would be loaded from {plan.source}, and at least "
            f"{plan.least_share:.1%} are asked for (least_share). Missing here: {_some(plan.missing) or 'none'}. "
            f"Not used of the source: {_some(plan.unexpected) or 'none'}.{_prefix_hint(plan)}"
        )
    broken = [
        name for name, tensor in plan.tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        yield f"{plan.source} holds NaN or infinite values in {_some(broken)}: it is damaged, or its training diverged."


def _lower_part(plan: CopyPlan) -> str:
    """Say up to which layer all tensors fit, if the target has layers."""
    if not isinstance(plan.target, Backbone):
        return ""
    layers = tensor_layers(plan.target)
    broken = {layers.get(name) for name in (*(misfit.name for misfit in plan.other_shape), *plan.missing)}
    fitting = []
    for name in plan.target.layer_names:
        if name in broken:
            break
        fitting.append(name)
    return f" All fits up to {fitting[-1]}: select that (up_to={fitting[-1]!r})." if fitting else ""


def _prefix_hint(plan: CopyPlan) -> str:
    """Guess the words before all names on one side, such as the ``module.`` of DistributedDataParallel."""
    for ours, theirs, reverse in ((plan.missing, plan.unexpected, False), (plan.unexpected, plan.missing, True)):
        wanted, counts = set(ours), Counter[str]()
        for name in theirs:
            steps = name.split(".")
            counts.update(".".join(steps[:cut]) for cut in range(1, len(steps)) if ".".join(steps[cut:]) in wanted)
        if counts and counts.most_common(1)[0][1] > len(wanted) / 2:
            prefix = counts.most_common(1)[0][0]
            pattern = prefix.replace(".", r"\.")
            rule = f'Rule("(.*)", r"{prefix}.\\1")' if reverse else f'Rule(r"{pattern}\\.(.*)", r"\\1")'
            own = rf"(.*)={prefix}.\1" if reverse else rf"{pattern}\.(.*)=\1"
            side = "here" if reverse else "in the source"
            return f" The names {side} begin with \"{prefix}.\": the rule {rule} sees to that (--rename '{own}')."
    return ""


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _lines(plan: CopyPlan) -> Iterator[str]:
    """Yield the audit, line by line."""
    is_backbone = isinstance(plan.target, Backbone)
    yield f"copy from {plan.source} into {network_name(plan.target)}, selected: {plan.select.describe()}"
    yield from _table(plan, "layer" if is_backbone else "part")
    selected = "" if not plan.not_selected else f"; of the selected parameters {plan.share_of_selected:.1%}"
    yield f"loaded: {plan.counts()}{selected}"
    for words, names in (
        ("missing in the source, left as they are", plan.missing),
        ("unexpected in the source, not used", plan.unexpected),
        ("of other shape", tuple(str(misfit) for misfit in plan.other_shape)),
        ("left out by a rule", plan.left_out),
        ("not selected", plan.not_selected),
    ):
        if names:
            yield f"{words} ({len(names)}): {_some(names)}"
    yield from (f"note: {note}" for note in plan.notes)
    yield from (f"refused: {problem}" for problem in plan.problems)


def _table(plan: CopyPlan, heading: str) -> Iterator[str]:
    """Yield a line a layer; of a module without layers, a line for each of its top parts."""
    state = library_module(plan.target).state_dict()
    layers = tensor_layers(plan.target) if isinstance(plan.target, Backbone) else {}
    rows = {name: layers.get(name, name.partition(".")[0]) for name in state}
    kinds = {
        "loaded": set(plan.loaded),
        "missing": set(plan.missing),
        "other shape": {misfit.name for misfit in plan.other_shape},
        "not selected": set(plan.not_selected),
    }
    width = max(map(len, (heading, *rows.values())), default=0)
    yield f"  {heading:<{width}}  " + "  ".join(kinds) + "  of its parameters loaded"
    for row in dict.fromkeys(rows.values()):
        names = {name for name, owner in rows.items() if owner == row}
        cells = "  ".join(f"{len(names & found):>{len(kind)}}" for kind, found in kinds.items())
        total = math.fsum(plan.sizes.get(name, 0) for name in names)
        got = math.fsum(plan.sizes.get(name, 0) for name in names & kinds["loaded"])
        share = f"{got / total:.1%}" if total else "none to load"
        yield f"  {row:<{width}}  {cells}  {share}"
