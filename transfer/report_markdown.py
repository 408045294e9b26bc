"""`report.md`: the verdicts in sentences first, the tables after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transfer.report_numbers import Units, metric_title
from transfer.report_schema import Report, TargetReport
from transfer.report_tables import Rows, arm_rows, depth_rows, paired_rows
from transfer.verdicts import backbone_remark, crossing_sentence, spell_labels, verdicts

__all__ = ["render_markdown"]


def render_markdown(report: Report) -> str:
    """Return `report.md`: verdicts first, then scores, differences, depth, protocol, pretraining, cost and versions.

    Example:
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}, "scratch": {5: [[0.5, 0.4], [0.4, 0.5]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> print(render_markdown(build_report("demo", 0, {"digits": TargetResults(arms, protocol)})).splitlines()[0])
        # Few-shot report: demo
    """
    blocks = [f"# Few-shot report: {report.recipe}", *_verdict_section(report)]
    blocks.append("![Score against labels a class](learning_curve.png)")
    if any(target.depth for target in report.targets.values()):
        blocks.append("![Score against layer](depth.png)")
    for name, target in report.targets.items():
        blocks += _target_section(name, target)
    blocks += _run_section(report)
    return "\n\n".join(blocks) + "\n"


def _verdict_section(report: Report) -> list[str]:
    blocks = ["## Does pretraining help?"]
    if report.claim:
        blocks.append(f"Claimed before the test set was opened: {report.claim}")
    found = verdicts(report)
    for name in report.targets:
        lines = [f"- **{verdict.headline}** {verdict.detail}" for verdict in found if verdict.target == name]
        blocks += [f"### {name}", "\n".join(lines) or "No arm that reuses the backbone was run."]
        if crossing := crossing_sentence(report.targets[name]):
            claim, _, rest = crossing.partition(" (95 % ")  # what is claimed in bold, as of the verdicts
            blocks.append(f"- **{claim}** (95 % {rest}" if rest else f"- {crossing}")
    blocks.append(
        "In brackets: 95 % intervals. The difference to a baseline is taken on the same labels and the same test "
        "items. Each interval stands for itself: of twenty comparisons without any effect, about one excludes zero."
    )
    remark = backbone_remark(report)
    return [*blocks, remark] if remark else blocks


def _target_section(name: str, target: TargetReport) -> list[str]:
    shots, units = target.protocol.shots, Units.of(target)
    direction = "higher" if target.higher_is_better else "lower"
    blocks = [
        f"## {name}",
        f"### Scores: {metric_title(target.metric)}{units.in_brackets}, by labels a class",
        f"Mean and 95 % interval; {direction} is better. The claimed arm is in bold.",
        _shots_table("arm", shots, arm_rows(target)),
    ]
    if target.paired:
        blocks += [
            f"### Paired differences{units.difference_in_brackets}",
            "First arm minus second, draw by draw and unit by unit; in bold where the interval excludes zero.",
            _shots_table("arms", shots, paired_rows(target)),
        ]
    if failed := _failed_rows(target):
        blocks += [
            "### Failed runs",
            f"Share of the label draws that are not above chance ({units.value(target.chance or 0.0)}); the other arms "
            "have none.",
            _markdown_table(["arm", *(str(shot) for shot in shots)], failed),
        ]
    if target.depth:
        blocks += [
            f"### Depth: {metric_title(target.metric)}{units.in_brackets} by layer, from the input up",
            "To look at, not to choose by: the chosen layer, in bold, was settled before the test set was opened.",
            _shots_table("layer", shots, depth_rows(target)),
        ]
    return [*blocks, "### Protocol", _protocol_list(target)]


def _failed_rows(target: TargetReport) -> list[list[str]]:
    """Return one row for each arm of which some runs failed."""
    return [
        [arm, *(f"{by_shot[shot] * 100:.0f} %" if shot in by_shot else "" for shot in target.protocol.shots)]
        for arm, by_shot in target.failed_runs.items()
        if any(by_shot.values())
    ]


def _protocol_list(target: TargetReport) -> str:
    protocol = target.protocol
    used = [f"{spell_labels(target, shot)}" for shot in protocol.shots]
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
    blocks += [f"![{caption}]({file})\n\n{caption}" for caption, file in report.pictures.items()]
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


def _shots_table(first: str, shots: Sequence[int], rows: Rows) -> str:
    bold = [(name, *(f"**{text}**" if stands_out else text for text, stands_out in cells)) for name, cells in rows]
    return _markdown_table([first, *(str(shot) for shot in shots)], bold)


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
