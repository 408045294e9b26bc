"""Reuse of trained weights: one audited call, from any network or file of tensors into a backbone or another module.

By name, where the names agree or rules make them agree; or by the position of layers, into a network of another class
whose lower part has the same shapes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.weights import read_weights
from auxtasks.errors import TransferError
from transfer.copy_plan import CopyPlan, Misfit, OtherShapes, library_module, network_name
from transfer.layers import COUNTER, EVERYTHING, Select, select_tensors, tensor_layers
from transfer.origins import random_tensors
from transfer.rename import Renamed, Rule, apply_rules

__all__ = ["By", "CopyPlan", "Source", "plan_copy", "plan_renamed", "reuse"]

By: TypeAlias = Literal["name", "layer"]
Source: TypeAlias = Backbone | nn.Module | Mapping[str, Tensor | NDArray[Any]] | str | Path


def reuse(
    source: Source,
    target: nn.Module,
    *,
    select: Select | str = EVERYTHING,
    by: By = "name",
    rules: Sequence[Rule] = (),
    keep_unmatched: bool = True,
    other_shapes: OtherShapes = "error",
    least_share: float = 0.0,
    dry_run: bool = False,
    described_as: str | None = None,
) -> CopyPlan:
    """Copy trained weights into a network, and return the audit.

    Args:
        source: a backbone, any module, a state dict, the path of a saved backbone, a run or a target model, or of a
            file of PyTorch tensors. Files of other frameworks: `transfer.foreign`.
        target: a backbone or any module; changed in place, as a whole or not at all.
        select: what of the target may change; a text is a pattern, see `Select`.
        by: ``"name"`` of the tensors, in the libraries' modules; or ``"layer"``: the first layer of the source goes
            into the first of the target, and so on up, whatever the tensors are called. A layer goes as a whole or not
            at all: its tensors correspond by their names inside the layer or else, if these differ, by their order.
        rules: see `plan_copy`; not with ``by="layer"``.
        keep_unmatched: see `plan_copy`.
        other_shapes: see `plan_copy`.
        least_share: see `plan_copy`.
        dry_run: change nothing; print ``describe()`` of what is returned.
        described_as: what the source is, for the audit and the provenance; None says what was given.

    Raises:
        LayerError, TransferError: a selection or rules that make no sense for these networks; nothing would be loaded,
            less than asked for, or something of another shape. Nothing was changed.
        BackboneError, CheckpointError: the file or the folder cannot be read.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> source, target = mlp(width=4, hidden=[8, 8], seed=1), mlp(width=4, hidden=[8, 8, 2], seed=2)
        >>> plan = reuse(source, target, select=Select(up_to="hidden2"))
        >>> plan.counts(), target.provenance["random"]
        ('4 of 6 tensors, 112 of 130 parameters (86.2%)', ['hidden3'])
    """
    found, words = _opened(source)
    words = described_as or words
    wanted = Select(select) if isinstance(select, str) else select
    if by == "layer":
        if rules:
            raise TransferError('rules rename tensors; by="layer" does not look at names: leave the rules out.')
        renamed = _by_layer(found, target)
    else:
        renamed = apply_rules(_state(found), rules, keep_unmatched=keep_unmatched or not rules)
    plan = plan_renamed(
        renamed, target, select=wanted, other_shapes=other_shapes, least_share=least_share, described_as=words
    )
    if isinstance(found, Backbone):
        plan = _told_by(found, plan)
    return plan if dry_run else plan.apply()


def plan_copy(
    source: nn.Module | Mapping[str, Tensor | NDArray[Any]],
    target: nn.Module,
    *,
    select: Select | str = EVERYTHING,
    rules: Sequence[Rule] = (),
    keep_unmatched: bool = True,
    other_shapes: OtherShapes = "error",
    least_share: float = 0.0,
    described_as: str = "a state dict",
) -> CopyPlan:
    r"""Plan a copy by name; nothing is changed.

    Args:
        source: tensors by name, or the module that they are of.
        target: a backbone, whose tensors are named as in its library's module, or another module.
        select: what of the target may change; a text is a pattern, see `Select`.
        rules: rename the source's tensors and arrange their axes, see `apply_rules`.
        keep_unmatched: whether a tensor that no rule matches is looked for under its own name.
        other_shapes: whether a tensor that does not fit its place is an error, or skipped and listed.
        least_share: least share of the selected parameters that must be loaded, from 0 to 1.
        described_as: what the source is, for the audit and the provenance.

    Raises:
        LayerError, TransferError: a selection or rules that make no sense for these networks, or a share out of range.

    Example:
        >>> source, target = nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> plan = plan_copy(source.state_dict(), target, rules=[Rule("(.*)", r"0.\1")])
        >>> plan.loaded, plan.missing, f"{plan.share:.3f}"
        (('0.weight', '0.bias'), ('1.weight', '1.bias'), '0.692')
        >>> plan.apply() is plan, torch.equal(target[0].weight, source.weight)
        (True, True)
    """
    renamed = apply_rules(_state(source), rules, keep_unmatched=keep_unmatched or not rules)
    return plan_renamed(
        renamed,
        target,
        select=Select(select) if isinstance(select, str) else select,
        other_shapes=other_shapes,
        least_share=least_share,
        described_as=described_as,
    )


def _state(source: object) -> Mapping[str, Tensor | NDArray[Any]]:
    """Return tensors by name.

    Raises:
        TransferError: they are of something else.
    """
    if isinstance(source, nn.Module):
        found: Mapping[str, Tensor] = library_module(source).state_dict()
        return found
    if isinstance(source, Mapping):
        return source
    raise TransferError(
        f"tensors are copied from a module or from tensors by name, such as a state dict; found "
        f"{type(source).__name__}. A file or a folder is opened by reuse."
    )


def plan_renamed(
    renamed: Renamed,
    target: nn.Module,
    *,
    select: Select = EVERYTHING,
    other_shapes: OtherShapes = "error",
    least_share: float = 0.0,
    described_as: str = "a state dict",
) -> CopyPlan:
    r"""Plan a copy of tensors that already have the target's names; see `plan_copy`.

    Example:
        >>> from transfer.rename import Rule, apply_rules
        >>> source = {"0.w": torch.ones(3, 4)}
        >>> plan = plan_renamed(apply_rules(source, [Rule(r"(\d)\.w", r"\1.weight")]), nn.Sequential(nn.Linear(4, 3)))
        >>> plan.loaded, plan.missing
        (('0.weight',), ('0.bias',))
    """
    if not 0 <= least_share <= 1:
        raise TransferError(f"least_share is a share of parameters from 0 to 1; found {least_share}.")
    if other_shapes not in ("error", "skip"):
        raise TransferError(f'other_shapes is "error" or "skip"; found {other_shapes!r}.')
    module = library_module(target)
    here = module.state_dict()
    selected = set(select_tensors(target, select))
    given = _with_twins(renamed, here)
    fits = {name: _misfit(name, given.origin[name], given.tensors[name], here[name]) for name in here
            if name in selected and name in given.tensors}  # fmt: skip
    tensors = {name: given.tensors[name] for name, misfit in fits.items() if misfit is None}
    placed = {origin for name, origins in given.origin.items() if name in here for origin in origins}
    return CopyPlan(
        target=target,
        source=described_as,
        tensors=tensors,
        origin={name: given.origin[name] for name in tensors},
        missing=tuple(name for name in here if name in selected and name not in fits and not name.endswith(COUNTER)),
        unexpected=tuple(sorted({*given.unmatched, *itertools.chain(*given.origin.values())} - placed)),
        other_shape=tuple(misfit for misfit in fits.values() if misfit is not None),
        not_selected=tuple(name for name in here if name not in selected),
        left_out=given.left_out,
        select=select,
        other_shapes=other_shapes,
        least_share=least_share,
        sizes={name: parameter.numel() for name, parameter in module.named_parameters()},
    )


def _with_twins(renamed: Renamed, here: Mapping[str, Tensor]) -> Renamed:
    """Give tied weights, several names of one memory, what the source has for one of them: files often hold only one.

    Raises:
        TransferError: the source has several that differ.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in here.items():
        if tensor.numel() and not tensor.is_meta:  # those without memory all begin at nowhere
            groups.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), []).append(name)
    tensors, origin = dict(renamed.tensors), dict(renamed.origin)
    for names in groups.values():
        given = [name for name in names if name in tensors]
        for name in given[1:]:
            if not torch.equal(tensors[name], tensors[given[0]]):
                raise TransferError(
                    f"{given[0]} and {name} are one tensor here (tied weights), and two that differ in the source."
                )
        for name in names if given else ():
            tensors.setdefault(name, tensors[given[0]])
            origin.setdefault(name, origin[given[0]])
    return dataclasses.replace(renamed, tensors=tensors, origin=origin)


def _misfit(name: str, origin: tuple[str, ...], given: Tensor, own: Tensor) -> Misfit | None:
    """Return why a tensor cannot go to its place, or None."""
    if own.is_meta or given.is_meta:
        side = "here" if own.is_meta else "in the source"
        raise TransferError(f"{name} has no memory {side} (device meta): make it real first, with to_empty.")
    if given.shape != own.shape:
        return Misfit(name, origin, str(tuple(given.shape)), str(tuple(own.shape)))
    # PyTorch would cast the whole numbers of a quantised network to weights, without the scale that they are of.
    whole_as_weight = own.is_floating_point() and not given.is_floating_point()
    if whole_as_weight or not torch.can_cast(given.dtype, own.dtype):
        return Misfit(name, origin, str(given.dtype), str(own.dtype))
    return None


def _opened(source: Source) -> tuple[nn.Module | Mapping[str, Tensor | NDArray[Any]], str]:
    """Return a source as a module or a state dict, and what to call it."""
    if isinstance(source, Backbone):
        trained = source.provenance.get("pretrained_on")
        return source, network_name(source) + (f" pretrained on {trained}" if trained else "")
    if isinstance(source, nn.Module):
        return source, network_name(source)
    if isinstance(source, Mapping):
        return source, "a state dict"
    place = Path(source).expanduser()
    if not place.is_dir():
        return read_weights(place), f"weights file {place.name}"
    # A backbone's own folder, a target model's, or a run's.
    steps = sorted(place.glob("checkpoints/step-*/backbone"))
    found = next((folder for folder in (place, place / "backbone", *reversed(steps)) if _is_saved(folder)), None)
    if found is None:
        raise TransferError(
            f"{place} holds no backbone: expected manifest.json there, in backbone/, or in a run's checkpoints. A "
            "folder of another framework is read by transfer.foreign."
        )
    return Backbone.from_pretrained(found), str(place)


def _is_saved(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _told_by(source: Backbone, plan: CopyPlan) -> CopyPlan:
    """Add to a plan what a source knows of itself: what it was trained on, what of it is random, how it reads."""
    recorded = random_tensors(source) if "random" in source.provenance else frozenset()
    notes = list(_differences(source, plan.target)) if isinstance(plan.target, Backbone) else []
    random = frozenset(name for name, origins in plan.origin.items() if set(origins) & recorded)
    if random:
        notes.append(f"{len(random)} tensors are random in the source as well: nobody has trained them.")
    trained = source.provenance.get("pretrained_on")
    if trained is None and "random" not in source.provenance:
        notes.append("the source does not say what it was trained on: if nobody has trained it, all of it is random.")
    return dataclasses.replace(
        plan, notes=tuple(notes), random_in_source=random, pretrained_on=None if trained is None else str(trained)
    )


def _differences(source: Backbone, target: Backbone) -> Iterator[str]:
    """Yield in what the two read their input differently: the same weights then see other numbers."""
    if source.input.to_json() != target.input.to_json():
        yield f"the source was trained on {source.input.to_json()}; here the input is {target.input.to_json()}."
    if source.tokenizer is not None and target.tokenizer is not None:
        ours, theirs = target.tokenizer.get_vocab(), source.tokenizer.get_vocab()
        differing = sum(ours.get(word) != place for word, place in theirs.items())
        if differing:
            yield f"{differing} of {len(theirs)} words of the source's tokenizer have another row here, or none."


def _by_layer(source: nn.Module | Mapping[str, Tensor | NDArray[Any]], target: nn.Module) -> Renamed:
    """Rename a source's tensors to those at the same places of the target's layers."""
    if not isinstance(source, Backbone) or not isinstance(target, Backbone):
        raise TransferError(
            'by="layer" needs two backbones: other networks have no table of layers. Copy by name, with rules.'
        )
    state, here = source.module.state_dict(), target.module.state_dict()
    theirs, ours = _inside(source), _inside(target)
    pairs: dict[str, str] = {}
    for lower, upper in zip(source.layer_names, target.layer_names, strict=False):
        pairs |= _paired(theirs[lower], ours[upper], state, here)
    return Renamed(
        tensors={ours_: state[name] for ours_, name in pairs.items()},
        origin={ours_: (name,) for ours_, name in pairs.items()},
        left_out=(),
        unmatched=tuple(name for name in state if name not in set(pairs.values())),
    )


def _inside(backbone: Backbone) -> dict[str, dict[str, str]]:
    """Return for each layer its tensors: names inside the layer, and in the module."""
    owners = tensor_layers(backbone)
    found: dict[str, dict[str, str]] = {name: {} for name in backbone.layer_names}
    for stage in backbone.stages:
        for name in (name for name, layer in owners.items() if layer == stage.name):
            place, path = max(
                ((place, path) for place, path in enumerate(stage.owns) if name == path or name.startswith(f"{path}.")),
                key=lambda owner: len(owner[1]),
            )
            # Layers of one sub-module are compared inside it; of several, by what each is called.
            inner = name.removeprefix(path).removeprefix(".")
            found[stage.name][inner if len(stage.owns) == 1 else f"{place}.{inner}"] = name
    return found


def _paired(
    theirs: Mapping[str, str], ours: Mapping[str, str], state: Mapping[str, Tensor], here: Mapping[str, Tensor]
) -> dict[str, str]:
    """Pair the tensors of two layers: names of the target with names of the source.

    A layer with another number of tensors is another layer: nothing is paired. Of one with other shapes, only the
    tensors that differ are, so that the audit shows them and no half of a layer is loaded.
    """
    if set(theirs) == set(ours):
        pairs = {ours[inner]: theirs[inner] for inner in ours}
    elif len(theirs) == len(ours):
        pairs = dict(zip(ours.values(), theirs.values(), strict=True))
    else:
        return {}
    unfit = {name: origin for name, origin in pairs.items() if here[name].shape != state[origin].shape}
    return unfit or pairs
