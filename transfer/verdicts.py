"""Did pretraining help? One sentence a target and number of labels, from the paired differences to the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from transfer.report_numbers import Gain, Units, metric_title
from transfer.report_schema import Report, TargetReport

__all__ = [
    "BASELINES",
    "REUSING_ARMS",
    "Outcome",
    "Verdict",
    "backbone_remark",
    "claimed_arm",
    "crossing_sentence",
    "failed_sentences",
    "spell_labels",
    "verdicts",
]

# In the order in which a verdict looks at them: without pretraining, training, a network, or any label.
BASELINES = ("scratch", "untrained", "raw", "longer")
REUSING_ARMS = ("frozen", "finetuned")

# A claim about a way of pretraining, rather than about one backbone, needs so many of them.
_SEEDS_FOR_A_CLAIM = 3

Outcome = Literal["helps", "mixed", "no evidence", "hurts", "unknown"]


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


def verdicts(report: Report) -> list[Verdict]:
    """Return one verdict a target and number of labels, in the report's order.

    Example:
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.8, 0.9]]}, "scratch": {5: [[0.5, 0.4], [0.4, 0.5]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> report = build_report("demo", 0, {"digits": TargetResults(arms, protocol)})
        >>> found: Verdict = verdicts(report)[0]
        >>> found.outcome, claimed_arm(report.targets["digits"], 5), spell_labels(report.targets["digits"], 5)
        ('helps', 'frozen', '5 labels a class (10 in all)')
        >>> found.headline.partition(", by")[0]
        '5 labels a class (10 in all): pretraining helps'
        >>> backbone_remark(report).partition(":")[0]
        'The verdicts hold for this backbone'
    """
    return [
        _verdict(name, target, shot, report.pretraining_seeds)
        for name, target in report.targets.items()
        for shot in target.protocol.shots
        if shot in target.arms.get(claimed_arm(target, shot), {})
    ]


def backbone_remark(report: Report) -> str:
    """Return what the verdicts hold for, or nothing where enough backbones took part."""
    if report.pretraining_seeds >= _SEEDS_FOR_A_CLAIM:
        return ""
    backbones = "1 backbone" if report.pretraining_seeds == 1 else f"{report.pretraining_seeds} backbones"
    return (
        f"The verdicts hold for this backbone: {backbones} took part. Whether the way of pretraining helps, whatever "
        f"its seed, takes at least {_SEEDS_FOR_A_CLAIM}."
    )


def claimed_arm(target: TargetReport, shot: int) -> str:
    """Return the arm that a verdict speaks for: the chosen one, or the first that reuses the backbone."""
    if shot in target.chosen:
        return target.chosen[shot].arm
    return next((arm for arm in REUSING_ARMS if arm in target.arms), REUSING_ARMS[0])


def spell_labels(target: TargetReport, shot: int) -> str:
    """Return "5 labels a class (25 in all)"."""
    noun = "label" if shot == 1 else "labels"
    if not target.protocol.classes:
        return f"{shot} {noun}"
    return f"{shot} {noun} a class ({shot * target.protocol.classes} in all)"


def crossing_sentence(target: TargetReport) -> str:
    """Say from how many labels on fine-tuning beats the frozen network, or that it cannot be told; "" without both.

    Example:
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {
        ...     "frozen": {1: [[0.6, 0.6], [0.6, 0.7]], 5: [[0.7, 0.7], [0.7, 0.7]]},
        ...     "finetuned": {1: [[0.4, 0.5], [0.5, 0.5]], 5: [[0.9, 0.8], [0.9, 0.9]]},
        ... }
        >>> protocol = {"shots": [1, 5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> target = build_report("demo", 0, {"digits": TargetResults(arms, protocol)}).targets["digits"]
        >>> crossing_sentence(target).partition(" (")[0]
        'frozen is better below about 2.1 labels a class'
        >>> failed_sentences(target)[0]
        'finetuned: 100 % of the draws at 1 label a class are not above chance (50.0 %)'
    """
    found = target.crossing
    if found is None:
        return ""
    low, high = found.low, found.high
    shots = target.arms[low].keys() & target.arms[high].keys()
    fewest, most = min(shots), max(shots)
    each = " a class" if target.protocol.classes else ""
    if found.ci95 is None:
        sure = "a single draw, so no interval"
    elif found.ci95 == (0.0, None):
        return f"It cannot be told where {high} overtakes {low}: the draws allow any number of labels."
    else:
        ends = [_spell_end(end, fewest, most) for end in found.ci95]
        sure = f"95 % interval over label draws: {ends[0] if ends[0] == ends[1] else ' to '.join(ends)}"
    if found.at is None:
        return f"{high} is not better with the most labels measured, {most}{each} ({sure})."
    if found.at == 0:
        return f"{high} is better at every number of labels measured, from {fewest}{each} on ({sure})."
    total = f" ({found.at * target.protocol.classes:.0f} in all)" if target.protocol.classes else ""
    return f"{low} is better below about {_spell_number(found.at)} labels{each}{total}, {high} above ({sure})."


def _spell_end(end: float | None, fewest: int, most: int) -> str:
    if end is None:
        return f"more than {most}"
    return _spell_number(end) if end else f"fewer than {fewest}"


def _spell_number(labels: float) -> str:
    """Return "4.5", or "132": two digits would make that "1.3e+02"."""
    return f"{labels:.2g}" if labels < 10 else f"{labels:.0f}"


def failed_sentences(target: TargetReport) -> list[str]:
    """Say of each arm and number of labels what share of the draws is not above chance, where any is."""
    chance = target.chance
    if chance is None:
        return []
    return [
        f"{arm}: {share * 100:.0f} % of the draws at {spell_labels(target, shot).split(' (')[0]} are not above chance "
        f"({Units.of(target).value(chance)})"
        for arm, by_shot in target.failed_runs.items()
        for shot, share in by_shot.items()
        if share
    ]


def _verdict(name: str, target: TargetReport, shot: int, pretraining_seeds: int) -> Verdict:
    arm, units = claimed_arm(target, shot), Units.of(target)
    gains = {
        baseline: Gain.of(target.paired[f"{arm}-{baseline}"][shot], target.higher_is_better)
        for baseline in BASELINES
        if shot in target.paired.get(f"{arm}-{baseline}", {})
    }
    outcome = _outcome(gains)
    scope = "" if pretraining_seeds >= _SEEDS_FOR_A_CLAIM else ", for this backbone"
    headline = f"{spell_labels(target, shot)}: {_claim(outcome, gains, units)}{scope}."
    return Verdict(name, shot, arm, outcome, headline, _detail(target, shot, arm, gains))


def _outcome(gains: Mapping[str, Gain]) -> Outcome:
    """Judge by the first baseline there is, and call it help only when no other baseline does as well."""
    if not gains or any(gain.ci95 is None for gain in gains.values()):
        return "unknown"
    first = next(iter(gains.values()))
    if first.is_below_zero:
        return "hurts"
    if not first.is_above_zero:
        return "no evidence"
    return "helps" if all(gain.is_above_zero for gain in gains.values()) else "mixed"


def _claim(outcome: Outcome, gains: Mapping[str, Gain], units: Units) -> str:
    if outcome == "unknown":
        return "it cannot be told whether pretraining helps (no baseline, or a single draw of a single unit)"
    baseline, gain = next(iter(gains.items()))
    assert gain.ci95 is not None  # or the outcome is unknown
    if outcome == "hurts":
        worse = Gain(-gain.mean, (-gain.ci95[1], -gain.ci95[0]))
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


def _detail(target: TargetReport, shot: int, arm: str, gains: Mapping[str, Gain]) -> str:
    units = Units.of(target)
    layer = target.chosen[shot].layer if shot in target.chosen else None
    scores = [f"{arm}{f' (layer {layer})' if layer else ''} {units.value(target.arms[arm][shot].mean)}"]
    for place, (baseline, gain) in enumerate(gains.items()):
        advantage = f" (advantage {units.difference(gain, sign='+')})" if place else ""  # the headline has the first
        scores.append(f"{baseline} {units.value(target.arms[baseline][shot].mean)}{advantage}")
    title = metric_title(target.metric)
    return f"{title[0].upper()}{title[1:]}: {', '.join(scores)}."
