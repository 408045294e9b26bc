"""A whole run: pretrain, verify, reuse, evaluate, report. Each step finds in the folder what earlier ones left."""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch.distributed as dist
from accelerate import PartialState

from auxtasks.backbones import Backbone
from auxtasks.data.decoding import Fit
from auxtasks.data.images import ImageTable
from auxtasks.data.pairs import hold_out, load_pairs, refuse_trained_people
from auxtasks.errors import TrainingError, TransferError
from auxtasks.features.cache import FeatureCache, feature_bytes
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs
from auxtasks.tasks.verification import held_out_threshold, verify
from auxtasks.training.processes import join_processes
from recipes import build
from recipes.config import Recipe, load_recipe
from recipes.folder import RunFolder, cache_folder
from transfer.choices import cross_validated
from transfer.discriminants import base_layer
from transfer.fewshot import FewShot, Outcome, evaluate_target
from transfer.leaks import find_leaks
from transfer.model import TargetModel
from transfer.report import Report, build_report, read_report, write_report
from transfer.spaces import Pretrained, default_pools

__all__ = ["pretrain_recipe", "run_recipe", "transfer_recipe", "transfer_run"]


@dataclasses.dataclass(frozen=True)
class _Pretraining:
    """The data of a run's pretraining, split by people."""

    data: build.PretrainingData
    trained: ImageTable
    held_out: ImageTable

    @classmethod
    def read(cls, recipe: Recipe, task: FacePairs) -> _Pretraining:
        data = build.read_pretraining_data(recipe, task, cache_folder())
        trained, held_out = hold_out(data.table.labels, recipe.data.holdout, recipe.seed)
        return cls(data, data.table.subset(trained), data.table.subset(held_out))

    def trained_names(self) -> set[str]:
        labels = self.trained.labels
        return {self.trained.class_names[label] for label in np.unique(labels[labels >= 0])}


def run_recipe(recipe: Recipe, place: Path, processes: int = 1) -> Report | None:
    """Do all steps of a recipe that the folder does not have yet.

    Args:
        recipe: what to do.
        place: run folder.
        processes: on how many processes of this machine the backbone is pretrained.

    Returns:
        The report; None on all processes but the first, and where the recipe has no targets.

    Raises:
        AuxtasksError: see the steps.
    """
    folder = RunFolder(place)
    folder.claim(recipe)
    if processes > 1:
        _launch_pretraining(folder, processes)
    else:
        pretrain_recipe(recipe, place)
    if not PartialState().is_main_process:
        return None
    return transfer_recipe(recipe, place) if recipe.targets else None


def _launch_pretraining(folder: RunFolder, processes: int) -> None:
    """Pretrain in N processes of this machine, started by torch's launcher."""
    if folder.finished_pretraining():
        return
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
        "-m", "recipes", "pretrain", str(folder.place / "recipe.yaml"), "--out", str(folder.place),
    ]  # fmt: skip
    code = subprocess.run(command).returncode
    if code:
        raise TrainingError(
            f"pretraining in {processes} processes ended with exit code {code}; its messages are above."
        )


def pretrain_recipe(recipe: Recipe, place: Path) -> None:
    """Pretrain the backbone, going on from the newest checkpoint, and verify it on pairs if the recipe names some.

    Raises:
        AuxtasksError: data that does not fit, training that diverges, a folder of another run.
    """
    folder = RunFolder(place)
    state = join_processes(recipe.training.device)
    if state.is_main_process:
        folder.claim(recipe)
    state.wait_for_everyone()
    if folder.finished_pretraining():
        _leave()
        return
    task = build.make_task(recipe, build.make_backbone(recipe))
    with state.main_process_first():  # the first process decodes, the others find the result
        split = _Pretraining.read(recipe, task)
    training = recipe.training
    result = pretrain(
        task,
        split.trained,
        steps=training.steps,
        batch_size=training.batch_size,
        validation=split.held_out if len(split.held_out) else None,
        seed=recipe.seed,
        optimizer=build.make_optimizer(recipe),
        loop=build.make_loop(recipe),
        workers=training.workers,
        folder=place,
        described_as=f"{len(split.trained):,} pictures of {recipe.data.path}",
    )
    if state.is_main_process:
        metrics = {
            name: value
            for name, value in result.metrics.items()
            if np.isfinite(value) and name not in ("samples_per_second", "data_wait_share")  # these are its cost
        }
        metrics |= _verify(recipe, folder, task.backbone, split)
        cost = {
            "seconds": round(result.seconds, 1),
            "samples_per_second": round(result.samples_per_second, 1),
            "peak_memory_bytes": peak_memory(),
        }
        notes = (
            [f"{len(split.data.table.skipped)} unreadable pictures were skipped."] if split.data.table.skipped else []
        )
        folder.finish_pretraining({"metrics": metrics, "cost": cost, "notes": notes})
    _leave()


def _leave() -> None:
    """Take leave of the group, if there is one."""
    if dist.is_initialized():
        # Without a barrier before it, tearing down gloo aborted 3 of 17 launches.
        dist.barrier()
        dist.destroy_process_group()


def _verify(recipe: Recipe, folder: RunFolder, backbone: Backbone, split: _Pretraining) -> dict[str, float]:
    """Score the recipe's pairs; the threshold comes from the held-out people."""
    if recipe.verification is None or recipe.data.path is None:
        return {}
    wanted = recipe.verification
    path = Path(wanted.pairs)
    if not path.is_absolute():
        path = Path(recipe.data.path).parent / path
    everyone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"where": None})})
    task = build.make_task(recipe, backbone)
    data = build.read_pretraining_data(everyone, task, cache_folder())
    pairs = load_pairs(path, data.source, key=wanted.key, protocol=wanted.protocol)
    names = data.source.features["label"].names
    people = {names[label] for label in np.unique(np.asarray(data.source["label"])[pairs.rows])}
    refuse_trained_people(people, split.trained_names())
    threshold = held_out_threshold(backbone, split.held_out, seed=recipe.seed, mirror=wanted.mirror)
    folder.log_opening({"target": "verification", "pairs": len(pairs), "threshold": threshold, "file": str(path)})
    found = verify(backbone, data.table, pairs, threshold=threshold, mirror=wanted.mirror)
    return {f"verification/{name}": value for name, value in found.items()}


def transfer_run(run: Path, overrides: Sequence[str], out: Path | None) -> Path:
    """Evaluate a run's backbone by its own recipe with overrides; return the folder of the report.

    Raises:
        RecipeError: overrides that do not fit.
        TransferError: overrides without a folder of their own, which would leave a report that its recipe denies, or of
            what the backbone was made with.
    """
    written = RunFolder(run).recipe()
    recipe = load_recipe(str(run / "recipe.yaml"), overrides)
    if out is None and overrides:
        raise TransferError(f"with overrides the result needs a folder of its own: add --out, such as --out {run}-2.")
    _refuse_another_pretraining(written, recipe, run)
    place = out or run
    RunFolder(place).claim(recipe)
    transfer_recipe(recipe, place, pretrained=run)
    return place


def _refuse_another_pretraining(written: Recipe, asked: Recipe, run: Path) -> None:
    """Refuse what describes a pretraining that never was: other people would pass for held out, and leaks unseen."""
    moved = asked.data.model_copy(update={"path": written.data.path})  # the same data may be elsewhere by now
    pairs = {
        "seed": (written.seed, asked.seed),
        "data": (written.data, moved),
        "backbone": (written.backbone, asked.backbone),
        "task": (written.task, asked.task),
    }
    changed = [key for key, (there, here) in pairs.items() if there != here]
    if changed:
        raise TransferError(
            f"{', '.join(changed)}: the backbone in {run} was made with other values, see its recipe.yaml. Only "
            "transfer, targets, name and data.path can be overridden; for the rest pretrain anew, with auxtasks run."
        )


def transfer_recipe(recipe: Recipe, place: Path, *, pretrained: Path | None = None) -> Report:
    """Reuse a run's backbone for all targets of a recipe, write the report and the target models.

    Args:
        recipe: what to do.
        place: run folder that the report goes to.
        pretrained: run folder that the backbone comes from; `place` if None.

    A report that is there already is read: the test sets are not opened a second time for the same recipe.

    Raises:
        AuxtasksError: nothing pretrained, a target that does not fit, a leak.
    """
    folder = RunFolder(place)
    if folder.report.is_file():
        return read_report(folder.report)
    if not recipe.targets:
        raise TransferError("the recipe names no target. Add one with targets.NAME.path=PATH.")
    origin = RunFolder(pretrained or place)
    backbone = Backbone.from_pretrained(origin.backbone())
    split = _Pretraining.read(recipe, build.make_task(recipe, backbone))
    settings = build.make_few_shot(recipe, backbone)
    cache = FeatureCache(cache_folder() / "features")
    pretrained_data = Pretrained(split.trained, split.held_out)
    outcomes: dict[str, Outcome] = {}
    notes: list[str] = []
    for name, target in recipe.targets.items():
        table = build.make_target(target, backbone, cache_folder())
        notes += _describe_target(name, table, backbone, settings)
        notes += _check_leaks(name, split, table, recipe.transfer.on_leak)
        outcomes[name] = evaluate_target(
            backbone,
            table,
            settings,
            seed=recipe.seed,
            name=name,
            cache=cache,
            pretrained=pretrained_data,
            open_test=folder.log_opening,
        )
        notes += outcomes[name].notes
        _target_model(backbone, table, settings, outcomes[name], recipe.seed, target.fit).save(folder.model(name))
    finished = origin.finished_pretraining()
    if finished is None:
        finished = {"metrics": {}, "cost": {}, "notes": ["The backbone is of a pretraining that was not finished."]}
    report = build_report(
        recipe.name,
        recipe.seed,
        {name: outcome.results for name, outcome in outcomes.items()},
        pretrain=finished["metrics"],
        cost={**finished["cost"], "peak_memory_bytes": peak_memory()},
        claim=f"{settings.claim}, settled in the recipe",
        notes=[*finished["notes"], *notes],
        inputs={"data": recipe.data.path, **{name: target.path for name, target in recipe.targets.items()}},
    )
    write_report(report, folder.report.parent)
    return report


def _describe_target(name: str, table: ImageTable, backbone: Backbone, settings: FewShot) -> list[str]:
    layers = dict(settings.layers or default_pools(backbone))
    size = feature_bytes(backbone, table, layers)
    print(f"{name}: {len(table):,} pictures, {len(layers)} layers: {size / 1e6:,.1f} MB of features", file=sys.stderr)
    height, width = backbone.input.shape[1:]
    skipped = [f"{name}: {len(table.skipped)} unreadable pictures were skipped."] if table.skipped else []
    kind = "grey" if backbone.input.channels == 1 else "colour"
    return [
        f"{name}: pictures were resized to {height} x {width} pixels, {kind}, as the backbone takes them.",
        *skipped,
    ]


def _check_leaks(name: str, split: _Pretraining, table: ImageTable, on_leak: str) -> list[str]:
    """Look for pictures and people that pretraining and the target share."""
    everyone = split.data.table
    # "0" of two data sets is not one person: numbers are no names.
    ours = _names(everyone.class_names[label] for label in np.unique(everyone.labels[everyone.labels >= 0]))
    theirs = _names(table.class_names)
    leaks = find_leaks(
        everyone.pixels,
        table.pixels,
        pretraining_names=ours or None,
        target_names=theirs or None,
    )
    if on_leak == "raise":
        leaks.raise_if_any()
    return [f"{name}: {line}" for line in leaks.describe().splitlines()]


def _names(labels: Iterable[str]) -> list[str]:
    return [label for label in labels if not label.isdigit()]


def _target_model(
    backbone: Backbone, table: ImageTable, settings: FewShot, outcome: Outcome, seed: int, fit: Fit
) -> TargetModel:
    """Fit the model that the user takes away, on all labels."""
    layers = dict(settings.layers or default_pools(backbone))
    features = outcome.spaces.target
    most = max(settings.protocol.shots)
    chosen = cross_validated(features, table.labels, outcome.ranked[most], seed)
    layer = base_layer(chosen.layer)
    head = chosen.build().fit(features[chosen.layer], table.labels, len(table.class_names))
    height, width = table.pixels.shape[1:3]
    return TargetModel(
        backbone=backbone,
        layer=layer,
        pool=layers[layer],
        mirror=settings.mirror,
        head=head,
        class_names=table.class_names,
        decoded_size=(height, width),
        fit=fit,
        discriminants=outcome.spaces.discriminants[layer] if layer != chosen.layer else None,
        facts={
            "fitted on": f"all {len(table)} labelled pictures; the report's scores are for {most} and fewer a class",
            "head": chosen.head,
            "backbone": str(backbone.provenance.get("pretrained_on", "random weights")),
        },
    )


def peak_memory() -> int:
    """Return the largest memory that this process had, in bytes."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
