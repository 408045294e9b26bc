"""The report of a few-shot evaluation: built from in-memory results, written, and read by people.

`report.json` holds every number, `report.md` answers "does pretraining help me, which layers, by how much?" in
sentences first and tables after, and the plots show the same. Nothing is measured here: what goes in is, for each
target, arm and number of shots, a table (draws, units) of scores, where a unit is a class or a test item.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue, ValidationError

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError, TransferError
from transfer import plots, statistics
from transfer.report_markdown import render_markdown
from transfer.report_numbers import limits
from transfer.report_panels import arm_panels, depth_panels
from transfer.report_schema import DepthEntry, EstimateEntry, Report, TargetReport, list_problems
from transfer.verdicts import BASELINES, REUSING_ARMS

__all__ = [
    "Report",
    "TargetReport",
    "TargetResults",
    "build_report",
    "read_report",
    "versions",
    "write_report",
]

_PACKAGES = ("auxtasks", "torch", "torchvision", "transformers", "timm", "scikit-learn", "numpy")


@dataclass(frozen=True)
class TargetResults:
    """What was measured on one target.

    Args:
        arms: arm to shots to a (draws, units) table of scores, or (seeds, draws, units); NaN where a cell was not
            measured. All arms of a number of shots share draws and units, cell by cell.
        protocol: as in `transfer.report_schema.Protocol`; "resampling" is filled in when it is missing.
        chosen: shots to {"arm": ..., "layer": ...}, settled before the test set was opened. "frozen" where missing.
        depth: shots to layer to a table of scores; layers from the input up.
        metric: what the scores are; an "accuracy" is a fraction, "matthews" a correlation.
        higher_is_better: whether a higher score is a better one.
        unit: what a column of the tables is: "class", "item", ...

    Example:
        >>> scores = {"frozen": {1: [[0.6], [0.7]]}}
        >>> TargetResults(scores, {"shots": [1], "draws": 2, "classes": 2}, unit="item").higher_is_better
        True
    """

    arms: Mapping[str, Mapping[int, npt.ArrayLike]]
    protocol: Mapping[str, JsonValue]
    chosen: Mapping[int, Mapping[str, str | None]] = field(default_factory=dict)
    depth: Mapping[int, Mapping[str, npt.ArrayLike]] = field(default_factory=dict)
    metric: str = "accuracy"
    higher_is_better: bool = True
    unit: str = "class"


def build_report(
    recipe: str,
    seed: int,
    targets: Mapping[str, TargetResults],
    *,
    pretrain: Mapping[str, float] | None = None,
    cost: Mapping[str, float | None] | None = None,
    versions: Mapping[str, str] | None = None,
    pretraining_seeds: int = 1,
    claim: str = "",
    notes: Iterable[str] = (),
    inputs: Mapping[str, JsonValue] | None = None,
    pictures: Mapping[str, str] | None = None,
    resamples: int = 2000,
) -> Report:
    """Compute means, intervals and paired differences, and check the result.

    Args:
        recipe: name of the recipe.
        seed: of the run, and of the bootstrap.
        targets: by name.
        pretrain: metrics of the pretraining task.
        cost: seconds, samples_per_second, peak_memory_bytes.
        versions: of the packages; those that are installed when missing.
        pretraining_seeds: number of pretrained backbones behind the results.
        claim: what was claimed before the test set was opened.
        notes: for the reader.
        inputs: where the data and the backbone came from.
        pictures: of the pretraining: what each shows, and its file beside the report.
        resamples: of the bootstrap.

    Raises:
        TransferError: tables that do not fit each other, or a protocol that lacks an entry; names target, arm, shots.

    Example:
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}, "scratch": {5: [[0.5, 0.4], [0.4, 0.5]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> report = build_report("demo", 0, {"digits": TargetResults(arms, protocol)})
        >>> round(report.targets["digits"].paired["frozen-scratch"][5].mean, 3)
        0.4
    """
    try:
        return Report(
            recipe=recipe,
            seed=seed,
            targets={name: _build_target(name, results, seed, resamples) for name, results in targets.items()},
            pretrain=dict(pretrain or {}),
            cost=dict(cost or {}),  # type: ignore[arg-type]  # checked and converted here
            versions=dict(_installed_versions() if versions is None else versions),
            pretraining_seeds=pretraining_seeds,
            claim=claim,
            notes=list(notes),
            inputs=dict(inputs or {}),
            pictures=dict(pictures or {}),
        )
    except ValidationError as error:
        raise TransferError(f"the report does not hold together:\n{list_problems(error)}") from error


def write_report(report: Report, folder: str | Path) -> list[Path]:
    """Write report.json, report.md and the plots into `folder`, beside what is already there; return their paths.

    Raises:
        CheckpointError: when the disk is full or cannot be written.

    Example:
        >>> import tempfile
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}, "scratch": {5: [[0.5, 0.4], [0.4, 0.5]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> report = build_report("demo", 0, {"digits": TargetResults(arms, protocol)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(sorted(path.name for path in write_report(report, folder)))
        ...     print(read_report(Path(folder) / "report.json").recipe)
        ['learning_curve.png', 'report.json', 'report.md']
        demo
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "learning_curve.png"]
    plots.save_png(plots.learning_curve(arm_panels(report)), written[0])
    by_depth = depth_panels(report)
    if by_depth:
        written.append(folder / "depth.png")
        plots.save_png(plots.depth_curve(by_depth), written[1])
    written += [folder / "report.md", folder / "report.json"]
    checkpoint.write_text_atomically(written[-2], render_markdown(report))
    # Last, so that a report.json never stands beside older plots.
    checkpoint.write_text_atomically(written[-1], report.model_dump_json(by_alias=True, indent=2) + "\n")
    return written


def read_report(path: Path) -> Report:
    """Read a report.json.

    Raises:
        CheckpointError: when it is missing, damaged, or of another schema; lists all problems.
    """
    found = checkpoint.read_json(path)
    try:
        return Report.model_validate(found)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a report of schema 1:\n{list_problems(error)}") from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on.

    Example:
        >>> {"python", "torch"} <= versions().keys()
        True
    """
    return _installed_versions()


def _build_target(name: str, results: TargetResults, seed: int, resamples: int) -> TargetReport:
    reach = limits(results.metric)
    arms = {
        arm: {
            shot: _estimate(f"target {name}, arm {arm}, {shot} shots", table, seed, resamples, reach)
            for shot, table in by_shot.items()
        }
        for arm, by_shot in results.arms.items()
    }
    depth = {
        shot: {
            layer: _without_values(
                _estimate(f"target {name}, layer {layer}, {shot} shots", table, seed, resamples, reach)
            )
            for layer, table in by_layer.items()
        }
        for shot, by_layer in results.depth.items()
    }
    return TargetReport.model_validate(
        {
            "metric": results.metric,
            "higher_is_better": results.higher_is_better,
            "protocol": {"resampling": _resampling(results, resamples), **results.protocol},
            "arms": arms,
            "paired": _paired(name, results, seed, resamples),
            "depth": depth,
            "chosen": {shot: dict(choice) for shot, choice in results.chosen.items()},
        }
    )


def _paired(name: str, results: TargetResults, seed: int, resamples: int) -> dict[str, dict[int, EstimateEntry]]:
    """Return the difference of every arm that reuses a backbone to every baseline, where both were run.

    An arm that is none of ours is another backbone beside this one: a baseline too, and compared with the others.
    """
    others = [arm for arm in results.arms if arm not in (*REUSING_ARMS, *BASELINES)]
    reusing = [arm for arm in (*REUSING_ARMS, *others) if arm in results.arms]
    paired: dict[str, dict[int, EstimateEntry]] = {}
    for arm in reusing:
        for baseline in BASELINES if arm in others else (*BASELINES, *others):
            shared = [shot for shot in results.arms[arm] if shot in results.arms.get(baseline, {})]
            if not shared:
                continue
            paired[f"{arm}-{baseline}"] = {
                shot: _difference(
                    f"target {name}, {arm} against {baseline}, {shot} shots",
                    (results.arms[arm][shot], results.arms[baseline][shot]), seed, resamples,
                )
                for shot in shared
            }  # fmt: skip
    return paired


def _estimate(
    where: str, table: npt.ArrayLike, seed: int, resamples: int, limits: tuple[float, float]
) -> EstimateEntry:
    try:
        found = statistics.interval(table, resamples=resamples, seed=seed, limits=limits)
    except TransferError as error:
        raise TransferError(f"{where}: {error}") from error
    return _entry(found)


def _difference(where: str, tables: tuple[npt.ArrayLike, npt.ArrayLike], seed: int, resamples: int) -> EstimateEntry:
    try:
        found = statistics.paired_difference(*tables, resamples=resamples, seed=seed)
    except TransferError as error:
        raise TransferError(f"{where}: {error}") from error
    return _entry(found)


def _entry(estimate: statistics.Estimate) -> EstimateEntry:
    return EstimateEntry(mean=estimate.mean, ci95=estimate.ci95, values=list(estimate.values))


def _without_values(entry: EstimateEntry) -> DepthEntry:
    return DepthEntry(mean=entry.mean, ci95=entry.ci95)


def _resampling(results: TargetResults, resamples: int) -> str:
    several = any(np.ndim(table) > 2 for by_shot in results.arms.values() for table in by_shot.values())
    seeds = "pretraining seeds, " if several else ""
    plural = "classes" if results.unit == "class" else f"{results.unit}s"
    return (
        f"{seeds}label draws and test {plural}, each with replacement and independently (pigeonhole bootstrap, "
        f"{resamples} resamples, widened for few draws)"
    )


def _installed_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
