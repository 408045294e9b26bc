"""The report of a few-shot evaluation: built from in-memory results, written, and read by people.

`report.json` holds every number, `report.md` answers "does pretraining help me, which layers, by how much?" in
sentences first and tables after, and the plots show the same. Nothing is measured here: what goes in is, for each
target, arm and number of shots, a table (draws, units) of scores, where a unit is a class or a test item.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue, ValidationError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError, TransferError
from transfer import plots, statistics
from transfer.discriminants import base_layer
from transfer.report_schema import DepthEntry, EstimateEntry, Report, TargetReport, list_problems

__all__ = [
    "BASELINES",
    "REUSING_ARMS",
    "Report",
    "TargetReport",
    "TargetResults",
    "Verdict",
    "build_report",
    "print_report",
    "read_report",
    "render_markdown",
    "verdicts",
    "versions",
    "write_report",
]

# In the order in which a verdict looks at them: without pretraining, without training, without a network.
BASELINES = ("scratch", "untrained", "raw")
REUSING_ARMS = ("frozen", "finetuned")

# A claim about a way of pretraining, rather than about one backbone, needs so many of them.
_SEEDS_FOR_A_CLAIM = 3
_FRACTION_METRICS = frozenset({"accuracy", "balanced_accuracy", "auc", "roc_auc", "ndcg", "f1", "average_precision"})
_PACKAGES = ("auxtasks", "torch", "torchvision", "transformers", "timm", "scikit-learn", "numpy")

Outcome = Literal["helps", "mixed", "no evidence", "hurts", "unknown"]


@dataclass(frozen=True)
class TargetResults:
    """What was measured on one target.

    Args:
        arms: arm to shots to a (draws, units) table of scores, or (seeds, draws, units); NaN where a cell was not
            measured. All arms of a number of shots share draws and units, cell by cell.
        protocol: as in `transfer.report_schema.Protocol`; "resampling" is filled in when it is missing.
        chosen: shots to {"arm": ..., "layer": ...}, settled before the test set was opened. "frozen" where missing.
        depth: shots to layer to a table of scores; layers from the input up.
        metric: what the scores are; an "accuracy" is a fraction.
        higher_is_better: whether a higher score is a better one.
        unit: what a column of the tables is: "class", "item", ...
    """

    arms: Mapping[str, Mapping[int, npt.ArrayLike]]
    protocol: Mapping[str, JsonValue]
    chosen: Mapping[int, Mapping[str, str | None]] = field(default_factory=dict)
    depth: Mapping[int, Mapping[str, npt.ArrayLike]] = field(default_factory=dict)
    metric: str = "accuracy"
    higher_is_better: bool = True
    unit: str = "class"


@dataclass(frozen=True)
class Verdict:
    """Whether pretraining helped on one target with so many labels.

    Attributes:
        target: name of the target.
        shot: labels a class.
        arm: the claimed arm.
        outcome: "helps" (above every baseline that was run), "mixed" (above scratch but not above all), "no evidence"
            (the interval of the difference to scratch contains zero), "hurts" (below zero), "unknown" (no comparison).
        headline: one sentence.
        detail: the numbers behind it.
    """

    target: str
    shot: int
    arm: str
    outcome: Outcome
    headline: str
    detail: str


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
        )
    except ValidationError as error:
        raise TransferError(f"the report does not hold together:\n{list_problems(error)}") from error


def write_report(report: Report, folder: str | Path) -> list[Path]:
    """Write report.json, report.md and the plots into `folder`, beside what is already there; return their paths.

    Raises:
        CheckpointError: when the disk is full or cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "learning_curve.png"]
    plots.save_png(plots.learning_curve(_arm_panels(report)), written[0])
    depth_panels = _depth_panels(report)
    if depth_panels:
        written.append(folder / "depth.png")
        plots.save_png(plots.depth_curve(depth_panels), written[1])
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


def verdicts(report: Report) -> list[Verdict]:
    """Return one verdict a target and number of labels, in the report's order."""
    return [
        _verdict(name, target, shot, report.pretraining_seeds)
        for name, target in report.targets.items()
        for shot in target.protocol.shots
        if shot in target.arms.get(_claimed_arm(target, shot), {})
    ]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return _installed_versions()


def render_markdown(report: Report) -> str:
    """Return `report.md`: verdicts first, then scores, differences, depth, protocol, pretraining, cost and versions."""
    blocks = [f"# Few-shot report: {report.recipe}", *_verdict_section(report)]
    blocks.append("![Score against labels a class](learning_curve.png)")
    if any(target.depth for target in report.targets.values()):
        blocks.append("![Score against layer](depth.png)")
    for name, target in report.targets.items():
        blocks += _target_section(name, target)
    blocks += _run_section(report)
    return "\n\n".join(blocks) + "\n"


def print_report(report: Report, console: Console | None = None) -> None:
    """Print verdicts and tables for a terminal."""
    console = console or Console()
    console.print(Text(f"Few-shot report: {report.recipe}", style="bold"))
    found = verdicts(report)
    for name, target in report.targets.items():
        shots, units = target.protocol.shots, _Units.of(target)
        console.print()
        console.print(Text(name, style="bold underline"))
        for verdict in found:
            if verdict.target == name:
                console.print(Text(f"  {verdict.headline}", style=_COLOURS[verdict.outcome]))
        console.print(
            _rich_table(f"{target.metric}{units.in_brackets}, [95 % interval]", "arm", shots, _arm_rows(target))
        )
        if target.paired:
            title = f"paired difference{units.difference_in_brackets}, [95 % interval]"
            console.print(_rich_table(title, "arms", shots, _paired_rows(target)))
        if target.depth:
            console.print(
                _rich_table(
                    f"{target.metric}{units.in_brackets} by layer, from the input up",
                    "layer",
                    shots,
                    _depth_rows(target),
                )
            )
    console.print()
    for line in [_backbone_remark(report), *report.notes]:
        if line:
            console.print(Text(line, style="dim"))


# ---------------------------------------------------------------------------------------------------- building


def _build_target(name: str, results: TargetResults, seed: int, resamples: int) -> TargetReport:
    limits = (0.0, 1.0) if results.metric in _FRACTION_METRICS else (-np.inf, np.inf)
    arms = {
        arm: {
            shot: _estimate(f"target {name}, arm {arm}, {shot} shots", table, seed, resamples, limits)
            for shot, table in by_shot.items()
        }
        for arm, by_shot in results.arms.items()
    }
    depth = {
        shot: {
            layer: _without_values(
                _estimate(f"target {name}, layer {layer}, {shot} shots", table, seed, resamples, limits)
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
    """Return the difference of every arm that reuses the backbone to every baseline, where both were run."""
    claimed = [choice.get("arm") or "" for choice in results.chosen.values()]
    reusing = [arm for arm in dict.fromkeys([*REUSING_ARMS, *claimed]) if arm in results.arms and arm not in BASELINES]
    paired: dict[str, dict[int, EstimateEntry]] = {}
    for arm in reusing:
        for baseline in BASELINES:
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


# ---------------------------------------------------------------------------------------------------- verdicts


def _claimed_arm(target: TargetReport, shot: int) -> str:
    if shot in target.chosen:
        return target.chosen[shot].arm
    return next((arm for arm in REUSING_ARMS if arm in target.arms), REUSING_ARMS[0])


def _verdict(name: str, target: TargetReport, shot: int, pretraining_seeds: int) -> Verdict:
    arm, units = _claimed_arm(target, shot), _Units.of(target)
    gains = {
        baseline: _Gain.of(target.paired[f"{arm}-{baseline}"][shot], target.higher_is_better)
        for baseline in BASELINES
        if shot in target.paired.get(f"{arm}-{baseline}", {})
    }
    outcome = _outcome(gains)
    scope = "" if pretraining_seeds >= _SEEDS_FOR_A_CLAIM else ", for this backbone"
    headline = f"{_labels(target, shot)}: {_claim(outcome, gains, units)}{scope}."
    return Verdict(name, shot, arm, outcome, headline, _detail(target, shot, arm, gains))


@dataclass(frozen=True)
class _Gain:
    """How much better the claimed arm is than a baseline: positive is better, whatever the metric."""

    mean: float
    ci95: tuple[float, float] | None

    @classmethod
    def of(cls, entry: EstimateEntry, higher_is_better: bool) -> _Gain:
        if higher_is_better or entry.ci95 is None:
            return cls(entry.mean if higher_is_better else -entry.mean, entry.ci95)
        return cls(-entry.mean, (-entry.ci95[1], -entry.ci95[0]))

    @property
    def is_above_zero(self) -> bool:
        return self.ci95 is not None and self.ci95[0] > 0

    @property
    def is_below_zero(self) -> bool:
        return self.ci95 is not None and self.ci95[1] < 0


def _outcome(gains: Mapping[str, _Gain]) -> Outcome:
    """Judge by the first baseline there is, and call it help only when no other baseline does as well."""
    if not gains or any(gain.ci95 is None for gain in gains.values()):
        return "unknown"
    first = next(iter(gains.values()))
    if first.is_below_zero:
        return "hurts"
    if not first.is_above_zero:
        return "no evidence"
    return "helps" if all(gain.is_above_zero for gain in gains.values()) else "mixed"


def _claim(outcome: Outcome, gains: Mapping[str, _Gain], units: _Units) -> str:
    if outcome == "unknown":
        return "it cannot be told whether pretraining helps (no baseline, or a single draw of a single unit)"
    baseline, gain = next(iter(gains.items()))
    assert gain.ci95 is not None  # or the outcome is unknown
    if outcome == "hurts":
        worse = _Gain(-gain.mean, (-gain.ci95[1], -gain.ci95[0]))
        return f"pretraining hurts, by {units.difference(worse)} against {baseline}"
    if outcome == "no evidence":
        return f"no evidence that pretraining helps: {units.difference(gain, sign='+')} over {baseline}"
    if outcome == "helps":
        return f"pretraining helps, by {units.difference(gain)} over {baseline}"
    others = [
        f"not better than {name} ({units.difference(other, sign='+')})"
        for name, other in gains.items()
        if not other.is_above_zero
    ]
    return f"better than {baseline} by {units.difference(gain)}, but {' and '.join(others)}"


def _detail(target: TargetReport, shot: int, arm: str, gains: Mapping[str, _Gain]) -> str:
    units = _Units.of(target)
    layer = target.chosen[shot].layer if shot in target.chosen else None
    scores = [f"{arm}{f' (layer {layer})' if layer else ''} {units.value(target.arms[arm][shot].mean)}"]
    for place, (baseline, gain) in enumerate(gains.items()):
        advantage = f" (advantage {units.difference(gain, sign='+')})" if place else ""  # the headline has the first
        scores.append(f"{baseline} {units.value(target.arms[baseline][shot].mean)}{advantage}")
    return f"{target.metric.capitalize()}: {', '.join(scores)}."


def _labels(target: TargetReport, shot: int) -> str:
    """Return "5 labels a class (25 in all)"."""
    noun = "label" if shot == 1 else "labels"
    if not target.protocol.classes:
        return f"{shot} {noun}"
    return f"{shot} {noun} a class ({shot * target.protocol.classes} in all)"


# ---------------------------------------------------------------------------------------------------- numbers


@dataclass(frozen=True)
class _Units:
    """How the numbers of a metric are written: fractions in per cent and points, others as they are."""

    factor: float
    digits: str
    symbol: str
    points: str

    @classmethod
    def of(cls, target: TargetReport) -> _Units:
        return cls(100.0, ".1f", " %", " points") if target.metric in _FRACTION_METRICS else cls(1.0, ".4g", "", "")

    @property
    def in_brackets(self) -> str:
        return f" ({self.symbol.strip()})" if self.symbol else ""

    @property
    def difference_in_brackets(self) -> str:
        return f" ({self.points.strip()})" if self.points else ""

    def number(self, value: float, sign: str = "") -> str:
        text = f"{value * self.factor:{sign}{self.digits}}"
        return text.replace("-", "") if float(text) == 0 else text  # no "-0.0"

    def value(self, mean: float) -> str:
        return f"{self.number(mean)}{self.symbol}"

    def interval(self, ci95: tuple[float, float] | None) -> str:
        return "[not known]" if ci95 is None else f"[{self.number(ci95[0])}, {self.number(ci95[1])}]"

    def cell(self, entry: DepthEntry, sign: str = "") -> str:
        return f"{self.number(entry.mean, sign)} {self.interval(entry.ci95)}"

    def difference(self, gain: _Gain, sign: str = "") -> str:
        return f"{self.number(gain.mean, sign)}{self.points} {self.interval(gain.ci95)}"


# ---------------------------------------------------------------------------------------------------- tables

_Rows = list[tuple[str, list[tuple[str, bool]]]]  # name of the row; text of each cell, and whether it stands out
_COLOURS: dict[Outcome, str] = {
    "helps": "green",
    "mixed": "yellow",
    "no evidence": "yellow",
    "hurts": "red",
    "unknown": "dim",
}
_NOT_RUN = "–"  # noqa: RUF001  # a dash, not a minus


def _arm_rows(target: TargetReport) -> _Rows:
    """Return one row an arm; the claimed arm of each number of shots stands out."""
    units = _Units.of(target)
    return [
        (arm, [_cell(units, by_shot.get(shot), arm == _claimed_arm(target, shot)) for shot in target.protocol.shots])
        for arm, by_shot in target.arms.items()
    ]


def _paired_rows(target: TargetReport) -> _Rows:
    """Return one row a pair of arms; differences whose interval does not contain zero stand out."""
    units = _Units.of(target)
    return [
        (
            " − ".join(pair.rsplit("-", 1)),  # noqa: RUF001  # a baseline's name has no hyphen
            [_cell(units, by_shot.get(shot), _excludes_zero(by_shot.get(shot)), "+") for shot in target.protocol.shots],
        )
        for pair, by_shot in target.paired.items()
    ]


def _depth_rows(target: TargetReport) -> _Rows:
    """Return one row a layer; the chosen layer of each number of shots stands out."""
    units = _Units.of(target)
    layers = dict.fromkeys(layer for by_layer in target.depth.values() for layer in by_layer)
    return [
        (
            layer,
            [
                _cell(units, target.depth.get(shot, {}).get(layer), layer == _chosen_layer(target, shot))
                for shot in target.protocol.shots
            ],
        )
        for layer in layers
    ]


def _cell(units: _Units, entry: DepthEntry | None, stands_out: bool, sign: str = "") -> tuple[str, bool]:
    return (_NOT_RUN, False) if entry is None else (units.cell(entry, sign), stands_out)


def _excludes_zero(entry: DepthEntry | None) -> bool:
    return entry is not None and entry.ci95 is not None and not entry.ci95[0] <= 0 <= entry.ci95[1]


def _chosen_layer(target: TargetReport, shot: int) -> str | None:
    return target.chosen[shot].layer if shot in target.chosen else None


def _rich_table(title: str, first: str, shots: Sequence[int], rows: _Rows) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column(first)
    for shot in shots:
        table.add_column(str(shot), justify="right")
    for name, cells in rows:
        table.add_row(Text(name), *(_rich_cell(text, stands_out) for text, stands_out in cells))
    return table


def _rich_cell(text: str, stands_out: bool) -> Text:
    """Return the mean above its interval, since a terminal is narrow."""
    mean, _, bounds = text.partition(" ")
    return Text.assemble((mean, "bold" if stands_out else ""), (f"\n{bounds}" if bounds else "", "dim"))


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shots_table(first: str, shots: Sequence[int], rows: _Rows) -> str:
    bold = [(name, *(f"**{text}**" if stands_out else text for text, stands_out in cells)) for name, cells in rows]
    return _markdown_table([first, *(str(shot) for shot in shots)], bold)


# ---------------------------------------------------------------------------------------------------- markdown


def _verdict_section(report: Report) -> list[str]:
    blocks = ["## Does pretraining help?"]
    if report.claim:
        blocks.append(f"Claimed before the test set was opened: {report.claim}")
    found = verdicts(report)
    for name in report.targets:
        lines = [f"- **{verdict.headline}** {verdict.detail}" for verdict in found if verdict.target == name]
        blocks += [f"### {name}", "\n".join(lines) or "No arm that reuses the backbone was run."]
    blocks.append(
        "In brackets: 95 % intervals. The difference to a baseline is taken on the same labels and the same test "
        "items. Each interval stands for itself: of twenty comparisons without any effect, about one excludes zero."
    )
    remark = _backbone_remark(report)
    return [*blocks, remark] if remark else blocks


def _backbone_remark(report: Report) -> str:
    if report.pretraining_seeds >= _SEEDS_FOR_A_CLAIM:
        return ""
    backbones = "1 backbone" if report.pretraining_seeds == 1 else f"{report.pretraining_seeds} backbones"
    return (
        f"The verdicts hold for this backbone: {backbones} took part. Whether the way of pretraining helps, whatever "
        f"its seed, takes at least {_SEEDS_FOR_A_CLAIM}."
    )


def _target_section(name: str, target: TargetReport) -> list[str]:
    shots, units = target.protocol.shots, _Units.of(target)
    direction = "higher" if target.higher_is_better else "lower"
    blocks = [
        f"## {name}",
        f"### Scores: {target.metric}{units.in_brackets}, by labels a class",
        f"Mean and 95 % interval; {direction} is better. The claimed arm is in bold.",
        _shots_table("arm", shots, _arm_rows(target)),
    ]
    if target.paired:
        blocks += [
            f"### Paired differences{units.difference_in_brackets}",
            "First arm minus second, draw by draw and unit by unit; in bold where the interval excludes zero.",
            _shots_table("arms", shots, _paired_rows(target)),
        ]
    if target.depth:
        blocks += [
            f"### Depth: {target.metric}{units.in_brackets} by layer, from the input up",
            "To look at, not to choose by: the chosen layer, in bold, was settled before the test set was opened.",
            _shots_table("layer", shots, _depth_rows(target)),
        ]
    return [*blocks, "### Protocol", _protocol_list(target)]


def _protocol_list(target: TargetReport) -> str:
    protocol = target.protocol
    used = [f"{_labels(target, shot)}" for shot in protocol.shots]
    lines = [
        f"Resampled: {protocol.resampling}",
        f"Label draws: {protocol.draws} for each number of labels",
        f"Labels used, for choices and training together: {'; '.join(used)}",
        f"Validation labels beside them: {protocol.validation_labels or 'none'}",
        f"Test items: {protocol.test_items}",
    ]
    if protocol.classes is not None:
        lines.append(f"Classes: {protocol.classes}")
    if protocol.train_pool is not None:
        lines.append(f"Pool that labels were drawn from: {protocol.train_pool} items")
    lines += [f"{key.replace('_', ' ').capitalize()}: {value}" for key, value in (protocol.model_extra or {}).items()]
    return "\n".join(f"- {line}" for line in lines)


def _run_section(report: Report) -> list[str]:
    blocks = []
    if report.pretrain:
        rows = [(metric, f"{value:.4g}") for metric, value in report.pretrain.items()]
        blocks += ["## Pretraining", _markdown_table(["metric", "value"], rows)]
    costs = _cost_lines(report)
    if costs:
        blocks += ["## Cost", "\n".join(f"- {line}" for line in costs)]
    if report.inputs:
        blocks += ["## Inputs", "\n".join(f"- {key}: {value}" for key, value in report.inputs.items())]
    if report.notes:
        blocks += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    rows = [*report.versions.items()]
    return [*blocks, "## Versions", _markdown_table(["package", "version"], [("seed", str(report.seed)), *rows])]


def _cost_lines(report: Report) -> list[str]:
    cost, lines = report.cost, []
    if cost.seconds is not None:
        minutes = f" ({cost.seconds / 60:.1f} minutes)" if cost.seconds >= 60 else ""
        lines.append(f"{cost.seconds:.1f} seconds{minutes}")
    if cost.samples_per_second is not None:
        lines.append(f"{cost.samples_per_second:.4g} samples a second in pretraining")
    if cost.peak_memory_bytes is not None:
        lines.append(f"{cost.peak_memory_bytes / 2**30:.2f} GiB of memory at the peak")
    return lines + [f"{key.replace('_', ' ')}: {value}" for key, value in (cost.model_extra or {}).items()]


# ---------------------------------------------------------------------------------------------------- panels


def _arm_panels(report: Report) -> list[plots.Panel]:
    return [
        plots.Panel(
            title=name,
            y_label=_y_label(target),
            curves=[_curve(target, arm, {float(shot): entry for shot, entry in sorted(by_shot.items())})
                    for arm, by_shot in target.arms.items()],
            chance=_chance(target),
        )
        for name, target in report.targets.items()
    ]  # fmt: skip


def _depth_panels(report: Report) -> list[plots.Panel]:
    return [_depth_panel(name, target) for name, target in report.targets.items() if target.depth]


def _depth_panel(name: str, target: TargetReport) -> plots.Panel:
    spaces = list(dict.fromkeys(space for by_space in target.depth.values() for space in by_space))
    layers = list(dict.fromkeys(base_layer(space) for space in spaces))
    curves = []
    for shot, by_space in sorted(target.depth.items()):
        labels = "1 label" if shot == 1 else f"{shot} labels"
        plain = [space for space in spaces if space in by_space and base_layer(space) == space]
        projected = [space for space in spaces if space in by_space and base_layer(space) != space]
        # A line each, or the step from the highest layer to the lowest one's discriminants would look like a fall.
        for title, line in ((labels, plain), (f"{labels}, discriminants", projected)):
            chosen = _chosen_layer(target, shot)
            if line:
                points = {float(layers.index(base_layer(space))): by_space[space] for space in line}
                curves.append(_curve(target, title, points, marked=line.index(chosen) if chosen in line else None))
    ticks = {float(place): layer for place, layer in enumerate(layers)}
    return plots.Panel(name, _y_label(target), curves, x_ticks=ticks, chance=_chance(target))


def _curve(
    target: TargetReport, name: str, points: Mapping[float, DepthEntry], marked: int | None = None
) -> plots.Curve:
    factor = _Units.of(target).factor
    entries = list(points.values())
    bounds = [entry.ci95 or (entry.mean, entry.mean) for entry in entries]
    return plots.Curve(
        name=name,
        x=list(points),
        mean=[entry.mean * factor for entry in entries],
        low=[low * factor for low, _ in bounds],
        high=[high * factor for _, high in bounds],
        marked=marked,
    )


def _y_label(target: TargetReport) -> str:
    return f"{target.metric}{_Units.of(target).in_brackets}"


def _chance(target: TargetReport) -> float | None:
    """Return the score of guessing, where the metric has one."""
    if target.metric not in {"accuracy", "balanced_accuracy"} or not target.protocol.classes:
        return None
    return 100.0 / target.protocol.classes
