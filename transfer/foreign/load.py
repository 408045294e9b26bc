"""Weights of another framework into a network here: read, renamed by rules, copied with an audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from auxtasks.backbones.base import Backbone
from transfer.copy_plan import CopyPlan, OtherShapes
from transfer.foreign.rule_set import RuleSet
from transfer.foreign.rule_sets import find_rule_set
from transfer.foreign.weights import KINDS, read_foreign
from transfer.layers import EVERYTHING, Select
from transfer.rename import Rule
from transfer.reuse import reuse

__all__ = ["load_foreign"]


def load_foreign(
    path: str | Path,
    backbone: nn.Module,
    rules: str | RuleSet | Sequence[Rule] = (),
    *,
    kind: str | None = None,
    select: Select | str = EVERYTHING,
    other_shapes: OtherShapes = "error",
    least_share: float = 0.0,
    dry_run: bool = False,
) -> CopyPlan:
    """Copy the weights of any framework's file into a network, and return the audit.

    Args:
        path: see `read_foreign`.
        backbone: a backbone, or any module; changed in place, as a whole or not at all.
        rules: the name of a shipped set (`transfer.foreign.rule_sets.RULE_SETS`), such a set, or rules of your own.
            With a set, what no rule matches is listed as unexpected; with none, names must agree as they are.
        kind: of file, if its contents and suffix do not tell.
        select: what of the network may change, see `transfer.reuse.reuse`.
        other_shapes: whether a tensor of another shape is an error, or skipped and listed.
        least_share: least share of the selected parameters that must be loaded, from 0 to 1.
        dry_run: change nothing; print ``describe()`` of what is returned.

    Raises:
        CheckpointError: the file cannot be read.
        TransferError: no such rules, rules that do not fit, or a copy that is refused; nothing was changed.

    Example:
        >>> import tempfile, numpy as np
        >>> from auxtasks.backbones import mlp
        >>> file, target = Path(tempfile.mkdtemp()) / "dense.npz", mlp(width=2, hidden=[3], seed=0)
        >>> np.savez(file, **{"dense/kernel": np.ones((2, 3), np.float32), "dense/bias": np.ones(3, np.float32)})
        >>> own = [Rule("dense/kernel", "0.0.weight", "linear"), Rule("dense/bias", "0.0.bias")]
        >>> load_foreign(file, target, own).counts()
        '2 of 2 tensors, 9 of 9 parameters (100.0%)'
    """
    named = find_rule_set(rules) if isinstance(rules, str) else rules if isinstance(rules, RuleSet) else None
    given = named.rules if named is not None else () if isinstance(rules, str | RuleSet) else tuple(rules)
    found = read_foreign(path, kind)
    plan = reuse(
        found.tensors if named is None else named.prepare(found.tensors),
        backbone,
        select=select,
        rules=given,
        keep_unmatched=not given,
        other_shapes=other_shapes,
        least_share=least_share,
        dry_run=True,
        described_as=f"{found.path.name} ({KINDS[found.kind].what}" + (f"; {named.name})" if named else ")"),
    )
    if named is not None:
        # Weights that are copied right and fed wrong give wrong outputs without an error.
        notes = (*plan.notes, f"trained on: {named.preprocessing}", *_other_scale(named, backbone))
        plan = dataclasses.replace(plan, notes=notes)
    return plan if dry_run else plan.apply()


def _other_scale(named: RuleSet, network: nn.Module) -> Iterator[str]:
    """Yield how a backbone must be built to normalise its pictures as the weights' own network did, if it does not."""
    if not isinstance(network, Backbone) or network.input.kind != "image" or not named.mean:
        return
    own = (*network.input.mean, *network.input.std)
    wanted = (*named.mean, *named.std)
    if network.input.per_image or len(own) != len(wanted) or not np.allclose(own, wanted, rtol=1e-4, atol=0):
        mean, std = (",".join(f"{value:.7g}" for value in values) for values in (named.mean, named.std))
        yield (
            f"this network normalises its pictures in another way (mean {network.input.mean}, deviation "
            f"{network.input.std}): what it computes is wrong until it is trained anew. Build it with mean=[{mean}] "
            f"std=[{std}]."
        )
