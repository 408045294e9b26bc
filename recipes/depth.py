"""A depth search on one target of a run: where to cut its backbone, frozen or fine-tuned, and a report of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from auxtasks.errors import CheckpointError, TransferError, did_you_mean
from recipes import build
from recipes.cache import feature_cache
from recipes.folder import RunFolder
from recipes.reused_run import named_target, reused_backbone, reused_recipe
from recipes.run import read_pretraining
from recipes.targets import load_target
from transfer.depth import search_depth
from transfer.depth_fits import Mode
from transfer.depth_report import DepthReport, build_depth_report, read_depth_report, write_depth_report

__all__ = ["depth_run", "parse_modes"]


def parse_modes(text: str) -> tuple[Mode, ...]:
    """Return the modes of "frozen,finetuned".

    Raises:
        TransferError: another word; shows what is allowed.

    Example:
        >>> parse_modes("finetuned, frozen")
        ('finetuned', 'frozen')
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = get_args(Mode)
    for word in words:
        if word not in known:
            raise TransferError(f'no such mode: "{word}".{did_you_mean(word, known)} There are {", ".join(known)}.')
    if not words:
        raise TransferError(f"no mode is asked for. There are {', '.join(known)}.")
    return tuple(cast(Mode, word) for word in words)


def depth_run(
    run: Path,
    overrides: Sequence[str],
    name: str,
    out: Path,
    *,
    modes: Sequence[Mode] = ("frozen", "finetuned"),
    shots: int | None = None,
    whole: bool = False,
    draws: int | None = None,
    folds: int = 5,
    repeats: int = 1,
    show_progress: bool = True,
) -> DepthReport:
    """Search the depth for one target with a run's backbone, test what was chosen, and write a report.

    Layers, heads, mirror, tuning and augmentation are those of the recipe's transfer section, with overrides. A report
    that is there already is read: the test is not opened a second time.

    Args:
        run: a run folder; it stays as it is.
        overrides: ``key.sub=value``, of transfer and targets.
        name: of the target.
        out: folder for depth.json, depth.md, depth.png, the recipe and the log of the test's opening.
        modes: which to try.
        shots: labels a class; None takes the recipe's largest number.
        whole: take all labels, once; then only a fixed test set can be tested on.
        draws: how many times labels are drawn; None as the recipe says.
        folds, repeats: of the cross-validation, where the target has no validation set.
        show_progress: draw a bar where it takes long.

    Raises:
        RecipeError: overrides that do not fit.
        TransferError: no such target, what the backbone was made with, both `shots` and `whole`, a target that does not
            fit.
        CheckpointError: nothing pretrained, or a folder that holds something else.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from recipes.config import load_recipe
        >>> from recipes.finetune import finetune_run
        >>> from recipes.finetune_table import finetune_lines
        >>> from recipes.run import pretrain_recipe
        >>> network = "backbone={name: mlp, arguments: {width: 4, hidden: [8, 8]}}"
        >>> few = "{stages: [{steps: 2}], learning_rates: [1e-3]}"
        >>> reuse = [f"transfer.tuning={few}", f"transfer.scratch={few}", "transfer.heads=[{name: ridge}]"]
        >>> recipe = load_recipe("ready_made", [network, *reuse, "targets.mine.path=builtin:features"])
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=f"{folder}/cache"):
        ...     run = Path(folder) / "run"
        ...     pretrain_recipe(recipe, run)
        ...     asked = {"modes": ["frozen"], "shots": 3, "draws": 2, "folds": 3, "show_progress": False}
        ...     report = depth_run(run, [], "mine", Path(folder) / "depth", **asked)
        ...     tuned = finetune_run(run, [], "mine", Path(folder) / "tuned", layer=report.chosen.layer)
        >>> sorted({row.layer for row in report.rows}), len(report.choices)
        (['hidden1', 'hidden2'], 2)
        >>> tuned["layer"] == report.chosen.layer
        True
        >>> finetune_lines(tuned)[0]
        'mine: 150 labelled vectors, 3 classes'
    """
    if whole and shots is not None:
        raise TransferError(f"shots is {shots}, and all labels are asked for as well: leave one out.")
    folder, recipe = RunFolder(out), reused_recipe(run, overrides)
    target = named_target(recipe, name, run, out)
    backbone = reused_backbone(recipe, run)
    settings = build.make_few_shot(recipe, backbone, target)
    asked = (
        None if whole else shots or max(settings.protocol.shots),
        1 if whole else draws or settings.protocol.draws,
        [mode for mode in get_args(Mode) if mode in modes],
    )
    # A class with so many labels has no more folds: asking for more asks for the same search.
    made_folds = folds if asked[0] is None else min(folds, asked[0])
    folder.claim(recipe)
    kept = out / "depth.json"
    if kept.is_file():
        return _same(read_depth_report(kept), kept, name, *asked, folds=made_folds, repeats=repeats)
    loaded = load_target(recipe, name, target, backbone).with_set_aside(target.validation_items, recipe.seed, name)
    notes = [*loaded.notes, *read_pretraining(recipe, backbone).leaks(name, target, loaded)]
    found = search_depth(
        backbone,
        loaded.table,
        shots=asked[0],
        draws=asked[1],
        modes=asked[2],
        layers=settings.layers,
        heads=settings.heads,
        folds=folds,
        repeats=repeats,
        validation=loaded.validation,
        test=loaded.test,
        metric=target.metric,
        mirror=settings.mirror,
        tuning=settings.tuning,
        augment=settings.augment,
        loop=settings.loop,
        cache=feature_cache(),
        seed=recipe.seed,
        show_progress=show_progress,
    )
    tested = None
    if found.protocol.test_items:
        tested = found.test(lambda event: folder.log_opening({"target": name, "for": "depth search", **event}))
    report = build_depth_report(name, found, tested, notes, folds=made_folds, repeats=repeats)
    write_depth_report(report, out)
    return report


def _same(
    found: DepthReport,
    path: Path,
    name: str,
    shots: int | None,
    draws: int,
    modes: Sequence[Mode],
    *,
    folds: int,
    repeats: int,
) -> DepthReport:
    """Return a report that is there already, if it is the one asked for."""
    there = (found.target, found.shots, found.draws, list(dict.fromkeys(row.mode for row in found.rows)))
    if there != (name, shots, draws, list(modes)):
        raise CheckpointError(
            f"{path} is of another search: target {there[0]}, {_labels(there[1])}, {there[2]} draws, "
            f"{', '.join(there[3])}; asked for {name}, {_labels(shots)}, {draws} draws, {', '.join(modes)}. Choose "
            "another folder (--out)."
        )
    # Both are None on a named validation set, where they make no difference.
    if found.folds is not None and (found.folds, found.repeats) != (folds, repeats):
        raise CheckpointError(
            f"{path} is of another search: folds={found.folds}, repeats={found.repeats}; asked for {folds=}, "
            f"{repeats=}. Choose another folder (--out)."
        )
    return found


def _labels(shots: int | None) -> str:
    return "all labels" if shots is None else f"{shots} shots"
