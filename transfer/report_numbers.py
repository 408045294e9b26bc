"""A report's numbers as its reader meets them: turned so that positive is better, and in the metric's units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transfer.report_schema import DepthEntry, EstimateEntry, TargetReport

__all__ = ["Gain", "Units", "limits", "metric_title"]

FRACTION_METRICS = frozenset({"accuracy", "balanced_accuracy", "auc", "roc_auc", "ndcg", "f1", "average_precision"})
_CORRELATIONS = frozenset({"matthews"})
_TITLES = {"matthews": "Matthews correlation"}


def limits(metric: str) -> tuple[float, float]:
    """Return the lowest and the highest value that a metric can have.

    Example:
        >>> limits("accuracy"), limits("matthews")
        ((0.0, 1.0), (-1.0, 1.0))
    """
    if metric in FRACTION_METRICS:
        return (0.0, 1.0)
    return (-1.0, 1.0) if metric in _CORRELATIONS else (-math.inf, math.inf)


def metric_title(metric: str) -> str:
    """Return a metric's name as a reader knows it.

    Example:
        >>> metric_title("matthews"), metric_title("accuracy")
        ('Matthews correlation', 'accuracy')
    """
    return _TITLES.get(metric, metric)


@dataclass(frozen=True)
class Gain:
    """How much better the claimed arm is than a baseline: positive is better, whatever the metric.

    Example:
        >>> from transfer.report_schema import EstimateEntry
        >>> difference = EstimateEntry(mean=-0.02, ci95=(-0.03, -0.01), values=[-0.01, -0.03])
        >>> Gain.of(difference, higher_is_better=False).is_above_zero
        True
    """

    mean: float
    ci95: tuple[float, float] | None

    @classmethod
    def of(cls, entry: EstimateEntry, higher_is_better: bool) -> Gain:
        """Turn a paired difference round where a lower score is the better one."""
        if higher_is_better or entry.ci95 is None:
            return cls(entry.mean if higher_is_better else -entry.mean, entry.ci95)
        return cls(-entry.mean, (-entry.ci95[1], -entry.ci95[0]))

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.ci95 is not None and self.ci95[0] > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.ci95 is not None and self.ci95[1] < 0


@dataclass(frozen=True)
class Units:
    """How the numbers of a metric are written: fractions in per cent and points, others as they are.

    Example:
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> report = build_report("demo", 0, {"digits": TargetResults(arms, protocol)})
        >>> units = Units.of(report.targets["digits"])
        >>> units.value(0.8512), units.interval((0.8, 0.9))
        ('85.1 %', '[80.0, 90.0]')
    """

    factor: float
    digits: str
    symbol: str
    points: str

    @classmethod
    def of(cls, target: TargetReport) -> Units:
        """Return the units of a target's metric."""
        if target.metric in FRACTION_METRICS:
            return cls(100.0, ".1f", " %", " points")
        return cls(1.0, ".3f" if target.metric in _CORRELATIONS else ".4g", "", "")

    @property
    def in_brackets(self) -> str:
        """The unit of a score for a heading, such as " (%)", or nothing."""
        return f" ({self.symbol.strip()})" if self.symbol else ""

    @property
    def difference_in_brackets(self) -> str:
        """The unit of a difference for a heading, such as " (points)", or nothing."""
        return f" ({self.points.strip()})" if self.points else ""

    def number(self, value: float, sign: str = "") -> str:
        """Return a number without its unit; `sign` is "+" where gains shall show theirs."""
        text = f"{value * self.factor:{sign}{self.digits}}"
        return text.replace("-", "") if float(text) == 0 else text  # no "-0.0"

    def value(self, mean: float) -> str:
        """Return a score with its unit, such as "71.5 %"."""
        return f"{self.number(mean)}{self.symbol}"

    def interval(self, ci95: tuple[float, float] | None) -> str:
        """Return an interval, such as "[68.0, 75.0]"."""
        return "[not known]" if ci95 is None else f"[{self.number(ci95[0])}, {self.number(ci95[1])}]"

    def cell(self, entry: DepthEntry, sign: str = "") -> str:
        """Return a mean and its interval for a table, whose heading has the unit."""
        return f"{self.number(entry.mean, sign)} {self.interval(entry.ci95)}"

    def difference(self, gain: Gain, sign: str = "") -> str:
        """Return a gain with its unit and interval for a sentence."""
        return f"{self.number(gain.mean, sign)}{self.points} {self.interval(gain.ci95)}"
