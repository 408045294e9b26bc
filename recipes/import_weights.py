"""Weights of a file, a run or a saved backbone into another network, audited: the work of ``auxtasks import``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from auxtasks.backbones import Backbone, build
from auxtasks.backbones.tokenizer import read_tokenizer
from auxtasks.checkpoint import read_json
from auxtasks.errors import CheckpointError, RecipeError
from recipes.folder import saved_backbone
from recipes.recipe_yaml import parse_yaml
from transfer.copy_plan import CopyPlan, OtherShapes
from transfer.foreign.check import check_file
from transfer.foreign.load import load_foreign
from transfer.foreign.rule_sets import find_rule_set
from transfer.foreign.weights import KINDS, read_foreign
from transfer.layers import Select
from transfer.origins import random_layers
from transfer.rename import Rule
from transfer.reuse import By, reuse

__all__ = ["import_weights"]

FOLDER_MARKS = ("manifest.json", "target.json", "recipe.yaml")  # of a saved backbone, a target model, a run


def import_weights(
    source: Path,
    into: str,
    arguments: Sequence[str] = (),
    *,
    out: Path | None = None,
    rules: str | None = None,
    select: str | None = None,
    up_to: str | None = None,
    renames: Sequence[str] = (),
    by: By = "name",
    skip_other_shapes: bool = False,
    least_share: float = 0.0,
    check: Path | None = None,
    tolerance: float = 1e-5,
    dry_run: bool = False,
    tell: Callable[[str], object] = print,
) -> CopyPlan:
    r"""Copy weights into a network, print the audit, and save the network as a backbone's folder.

    Args:
        source: a weights file of any framework, a run, a saved backbone or a target model.
        into: a backbone's name as `build` takes it, or the folder of a saved backbone, a run or a target model.
        arguments: of the builder, as ``key=value``; values are YAML, ``key.sub=value`` sets one key of a mapping,
            ``key=@FILE`` reads JSON. ``tokenizer=FOLDER`` is read as a tokenizer.
        out: folder to write; needed unless `dry_run`. One that is there is replaced if it holds a saved backbone.
        rules: name of a shipped set of rename rules, for a weights file; not with ``by="layer"``.
        select: a pattern over the network's names, see `Select`.
        up_to: a layer of the network, taken with all below it.
        renames: ``A=B`` each: a name that the regular expression A matches as a whole becomes B, with ``\1`` for its
            groups; an empty B leaves the tensor out.
        by: ``"layer"`` copies by the position of layers, from another backbone, see `reuse`.
        skip_other_shapes: skip tensors of another shape; they are an error else.
        least_share: least share of the selected parameters that must be loaded.
        check: a file ``.npz`` with ``inputs`` and the ``outputs`` that the other framework gave for them: the network
            must give the same, or it is not saved. Not with `dry_run`, which computes nothing.
        tolerance: largest difference of outputs, as a share of the largest output where that is above 1.
        dry_run: print the audit and write nothing.
        tell: takes what is printed.

    Raises:
        RecipeError: options or arguments that make no sense; all at once.
        AuxtasksError: a file that cannot be read, a network that cannot be built, or a copy that is refused. Nothing
            was written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> tensors = {"module.fc.weight": torch.ones(3, 4), "module.fc.bias": torch.zeros(3)}
        >>> renames = [r"module\.fc\.(.*)=0.0.\1"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "foreign.safetensors"
        ...     save_file(tensors, file)
        ...     plan = import_weights(file, "mlp", ["width=4", "hidden=[3]"], renames=renames, dry_run=True)
        copy from foreign.safetensors (safetensors) into mlp, selected: everything
          layer    loaded  missing  other shape  not selected  of its parameters loaded
          hidden1       2        0            0             0  100.0%
        loaded: 2 of 2 tensors, 15 of 15 parameters (100.0%)
        >>> plan.problems
        ()
    """
    _check_options(out, dry_run=dry_run, rules=rules, source=source, by=by, check=check)
    backbone = _network(into, arguments)
    wanted = Select(pattern=select, up_to=up_to)
    shapes: OtherShapes = "skip" if skip_other_shapes else "error"
    own = [_rename(text) for text in renames]
    if rules is not None:
        named = find_rule_set(rules)
        plan = load_foreign(
            source,
            backbone,
            dataclasses.replace(named, rules=(*own, *named.rules)),
            select=wanted,
            other_shapes=shapes,
            least_share=least_share,
            dry_run=True,
        )
    else:
        found, words = _opened(source)
        plan = reuse(
            found,
            backbone,
            select=wanted,
            by=by,
            rules=own,
            other_shapes=shapes,
            least_share=least_share,
            described_as=words,
            dry_run=True,
        )
    tell(plan.describe())
    if dry_run or out is None:
        return plan
    plan.apply()
    if check is not None:
        agreed = check_file(backbone, check, tolerance=tolerance)
        tell(f"outputs agree: the largest difference is {agreed.difference:.3g}, at a scale of {agreed.scale:.3g}")
    backbone.save_pretrained(out)
    random = random_layers(backbone)
    tell(
        f"still random: {', '.join(random)}: train them before you use what they compute." if random else "none random"
    )
    tell(f"saved in {out}; in a recipe: backbone.pretrained={out}")
    return plan


def _check_options(
    out: Path | None, *, dry_run: bool, rules: str | None, source: Path, by: By, check: Path | None
) -> None:
    """Refuse options that exclude each other, and a folder that is somebody else's, before anything is read."""
    problems = []
    if out is None and not dry_run:
        problems.append("--out: name the folder for the network, or ask for --dry-run.")
    if out is not None and _is_somebodys(out):
        problems.append(f"--out: {out} is there and is no saved backbone's folder: it is not replaced.")
    if rules is not None and _is_ours(source):
        problems.append(f"--rules: {source} is a folder of this project, whose names need no rules.")
    if rules is not None and by == "layer":
        problems.append("--by-layer: copies by the position of layers, and --rules by name: leave one of them out.")
    if check is not None and dry_run:
        problems.append("--check: compares what the network computes with its new weights, and --dry-run copies none.")
    if problems:
        raise RecipeError(problems)


def _is_somebodys(out: Path) -> bool:
    """Whether a path holds what is no saved backbone: an empty folder holds nothing."""
    if not out.exists() or (out / "manifest.json").is_file():
        return False
    return not out.is_dir() or any(out.iterdir())


def _is_ours(source: Path) -> bool:
    return any((source / mark).is_file() for mark in FOLDER_MARKS)


def _backbone_in(folder: Path) -> Path:
    """Return the saved backbone of a run, of a target model, or the folder itself."""
    return folder / "backbone" if (folder / "target.json").is_file() else saved_backbone(folder)


def _opened(source: Path) -> tuple[Backbone | Mapping[str, Any], str]:
    """Return the backbone or the tensors at a path, and what they are."""
    if _is_ours(source):
        return Backbone.from_pretrained(_backbone_in(source)), str(source)
    if not source.exists() and not list(source.parent.glob(f"{source.name}.*")):
        raise CheckpointError(f"{source} is not there: expected a weights file, a run's folder or a saved backbone's.")
    found = read_foreign(source)
    return found.tensors, f"{found.path.name} ({KINDS[found.kind].what})"


def _network(into: str, arguments: Sequence[str]) -> Backbone:
    """Build a network by its name, or read the one at a folder."""
    given = _arguments(arguments)
    if _is_ours(Path(into)):
        if given:
            raise RecipeError([f"{key}: {into} is a saved network, which has its arguments." for key in given])
        return Backbone.from_pretrained(_backbone_in(Path(into)))
    if isinstance(given.get("tokenizer"), str):
        given["tokenizer"] = read_tokenizer(Path(given["tokenizer"]))
    return build(into, **given)


def _arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` arguments of a builder.

    Example:
        >>> _arguments(["size=64", "config.hidden_size=32", "widths=[8, 16]"])
        {'size': 64, 'config': {'hidden_size': 32}, 'widths': [8, 16]}
    """
    found: dict[str, Any] = {}
    problems = []
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            problems.append(f"{text}: an argument of the network is key=value.")
            continue
        *groups, last = key.split(".")
        at: Any = found
        for group in groups:
            at = at.setdefault(group, {}) if isinstance(at, dict) else at
        if not isinstance(at, dict):
            problems.append(f"{key}: {'.'.join(groups)} is a value, not a group of keys.")
            continue
        try:
            at[last] = read_json(Path(value[1:])) if value.startswith("@") else parse_yaml(value, key)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return found


def _rename(text: str) -> Rule:
    r"""Read ``A=B`` as a rule; the last equals sign parts them, since only a pattern may hold others.

    Example:
        >>> _rename(r"module\.(.*)=\1").renames("module.conv1.weight")
        'conv1.weight'
        >>> _rename("(?=fc).*=").renames("fc.weight") is None
        True
    """
    pattern, equals, target = text.rpartition("=")
    if not equals or not pattern:
        raise RecipeError([f"--rename {text}: expected A=B, a regular expression and the name that it becomes."])
    return Rule(pattern, target or None)
