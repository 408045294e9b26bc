"""The test of a ranking run as a table: each ranker's metrics with intervals, and its difference to the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["ranking_lines"]

SHOWN = ("ndcg@5", "ndcg@10", "map", "mrr", "kendall_tau", "pair_accuracy")


def ranking_lines(found: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table of what `RankingPretraining.evaluate` wrote to ``ranking.json``.

    A cell is empty where no query says anything about a ranker's metric.

    Example:
        >>> entry = {"mean": 0.75, "ci95": [0.7, 0.8]}
        >>> ranked = {"queries": 50, "noun": "queries", "rankers": {"ranker": {"ndcg@10": entry}}, "paired": {}}
        >>> ranking_lines(ranked)[2:]
        ['| ranker | .750 [.700, .800] |', '', '50 test queries; 95 % intervals over queries.']
    """
    measured = {metric for row in found["rankers"].values() for metric in row}
    metrics = [name for name in SHOWN if name in measured]
    rows = {**found["rankers"], **{f"difference {name}": row for name, row in found["paired"].items()}}
    return [
        _row(["", *metrics]),
        _row(["---", *("---:" for _ in metrics)]),
        *(_row([name, *(_cell(row.get(metric)) for metric in metrics)]) for name, row in rows.items()),
        "",
        f"{found['queries']} test {found['noun']}; 95 % intervals over {found['noun']}.",
    ]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:  # no query says anything about it
        return ""
    mean, ends = entry["mean"], entry["ci95"]
    span = "" if ends is None else f" [{_number(ends[0])}, {_number(ends[1])}]"
    return f"{_number(mean)}{span}"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)
