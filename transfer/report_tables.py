"""The rows of a report's tables, for Markdown and for a terminal."""

from __future__ import annotations

from transfer.report_numbers import Units
from transfer.report_schema import DepthEntry, TargetReport
from transfer.verdicts import claimed_arm

__all__ = ["Rows", "arm_rows", "chosen_layer", "depth_rows", "paired_rows"]

Rows = list[tuple[str, list[tuple[str, bool]]]]  # name of the row; text of each cell, and whether it stands out
_NOT_RUN = "–"  # noqa: RUF001  # a dash, not a minus


def arm_rows(target: TargetReport) -> Rows:
    """Return one row an arm; the claimed arm of each number of shots stands out.

    Example:
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}, "scratch": {5: [[0.5, 0.4], [0.4, 0.5]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> depth = {5: {"stage1": [[0.7, 0.6], [0.6, 0.7]], "stage2": [[0.9, 0.8], [0.8, 0.9]]}}
        >>> chosen = {5: {"arm": "frozen", "layer": "stage2"}}
        >>> results = TargetResults(arms, protocol, depth=depth, chosen=chosen)
        >>> target = build_report("demo", 0, {"digits": results}).targets["digits"]
        >>> [(name, cells[0][1]) for name, cells in arm_rows(target)]
        [('frozen', True), ('scratch', False)]
        >>> [(name, cells[0][1]) for name, cells in depth_rows(target)]
        [('stage1', False), ('stage2', True)]
        >>> len(paired_rows(target)), chosen_layer(target, 5)
        (1, 'stage2')
    """
    units = Units.of(target)
    return [
        (arm, [_cell(units, by_shot.get(shot), arm == claimed_arm(target, shot)) for shot in target.protocol.shots])
        for arm, by_shot in target.arms.items()
    ]


def paired_rows(target: TargetReport) -> Rows:
    """Return one row a pair of arms; differences whose interval does not contain zero stand out."""
    units = Units.of(target)
    return [
        (
            " − ".join(pair.rsplit("-", 1)),  # noqa: RUF001  # a baseline's name has no hyphen
            [_cell(units, by_shot.get(shot), _excludes_zero(by_shot.get(shot)), "+") for shot in target.protocol.shots],
        )
        for pair, by_shot in target.paired.items()
    ]


def depth_rows(target: TargetReport) -> Rows:
    """Return one row a layer; the chosen layer of each number of shots stands out."""
    units = Units.of(target)
    layers = dict.fromkeys(layer for by_layer in target.depth.values() for layer in by_layer)
    return [
        (
            layer,
            [
                _cell(units, target.depth.get(shot, {}).get(layer), layer == chosen_layer(target, shot))
                for shot in target.protocol.shots
            ],
        )
        for layer in layers
    ]


def chosen_layer(target: TargetReport, shot: int) -> str | None:
    """Return the layer that was settled before the test set was opened, if there is one."""
    return target.chosen[shot].layer if shot in target.chosen else None


def _cell(units: Units, entry: DepthEntry | None, stands_out: bool, sign: str = "") -> tuple[str, bool]:
    return (_NOT_RUN, False) if entry is None else (units.cell(entry, sign), stands_out)


def _excludes_zero(entry: DepthEntry | None) -> bool:
    return entry is not None and entry.ci95 is not None and not entry.ci95[0] <= 0 <= entry.ci95[1]
