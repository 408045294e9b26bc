"""What the report's two plots show: its scores as curves, a panel a target."""

from __future__ import annotations

from collections.abc import Mapping

from transfer import plots
from transfer.discriminants import base_layer
from transfer.report_numbers import Units, metric_title
from transfer.report_schema import DepthEntry, Report, TargetReport
from transfer.report_tables import chosen_layer

__all__ = ["arm_panels", "depth_panels"]


def arm_panels(report: Report) -> list[plots.Panel]:
    """Return scores against labels a class: a panel a target, a curve an arm.

    Example:
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}, "scratch": {5: [[0.5, 0.4], [0.4, 0.5]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> depth = {5: {"stage1": [[0.7, 0.6], [0.6, 0.7]], "stage2": [[0.9, 0.8], [0.8, 0.9]]}}
        >>> report = build_report("demo", 0, {"digits": TargetResults(arms, protocol, depth=depth)})
        >>> [panel.title for panel in arm_panels(report)], depth_panels(report)[0].x_ticks
        (['digits'], {0.0: 'stage1', 1.0: 'stage2'})
    """
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


def depth_panels(report: Report) -> list[plots.Panel]:
    """Return scores against layers: a panel a target whose depth was measured, curves by labels."""
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
            chosen = chosen_layer(target, shot)
            if line:
                points = {float(layers.index(base_layer(space))): by_space[space] for space in line}
                curves.append(_curve(target, title, points, marked=line.index(chosen) if chosen in line else None))
    ticks = {float(place): layer for place, layer in enumerate(layers)}
    return plots.Panel(name, _y_label(target), curves, x_ticks=ticks, chance=_chance(target))


def _curve(
    target: TargetReport, name: str, points: Mapping[float, DepthEntry], marked: int | None = None
) -> plots.Curve:
    factor = Units.of(target).factor
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
    return f"{metric_title(target.metric)}{Units.of(target).in_brackets}"


def _chance(target: TargetReport) -> float | None:
    """Return the score of guessing, where the metric has one."""
    if target.metric == "matthews":
        return 0.0
    if target.metric not in {"accuracy", "balanced_accuracy"} or not target.protocol.classes:
        return None
    return 100.0 / target.protocol.classes
