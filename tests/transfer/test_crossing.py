"""Crossing points against loops and planted effects; failed runs by counting; both in the report's three forms."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from auxtasks.errors import TransferError
from transfer.crossing import chance_level, crossing_point, failed_share
from transfer.report import TargetResults, build_report, read_report, write_report
from transfer.report_markdown import render_markdown
from transfer.report_terminal import print_report
from transfer.verdicts import crossing_sentence


def by_loops(mean, shots):
    """From which number of labels on the differences stay above zero."""
    last = None
    for place, value in enumerate(mean):
        if value <= 0:
            last = place
    if last is None:
        return 0.0
    if last == len(mean) - 1:
        return math.inf
    left, right = math.log(shots[last]), math.log(shots[last + 1])
    return math.exp(left + (right - left) * (0 - mean[last]) / (mean[last + 1] - mean[last]))


def arms(slope=0.1, start=-0.15, shots=(1, 2, 5, 10, 50), draws=12, noise=0.01, seed=0):
    """Scores whose difference is a straight line over the logarithm of the labels, on noise."""
    rng = np.random.default_rng(seed)
    low = {shot: 0.5 + 0.05 * rng.normal(size=draws) for shot in shots}
    high = {shot: low[shot] + start + slope * math.log(shot) + noise * rng.normal(size=draws) for shot in shots}
    return low, high


@pytest.mark.parametrize("seed", range(20))
def test_the_point_is_that_of_loops(seed):
    rng = np.random.default_rng(seed)
    shots = (1, 3, 4, 20)
    low = {shot: rng.normal(size=5) for shot in shots}
    high = {shot: rng.normal(size=5) for shot in shots}
    mean = [sum(high[shot][draw] - low[shot][draw] for draw in range(5)) / 5 for shot in shots]
    assert crossing_point(low, high).at == pytest.approx(by_loops(mean, shots))


def test_a_planted_crossing_is_found_within_its_interval():
    found = crossing_point(*arms())
    truth = math.exp(1.5)
    assert found.at == pytest.approx(truth, rel=0.15)
    assert found.ci95[0] < truth < found.ci95[1] < 2 * truth
    assert found.ci95[0] <= found.at <= found.ci95[1]
    assert found.is_known
    assert found == crossing_point(*arms())  # the same seed, the same interval


def test_the_interval_covers_the_truth_as_often_as_it_says():
    truth = math.exp(1.5)
    hits = [
        (found := crossing_point(*arms(draws=6, noise=0.05, seed=seed), resamples=400)).ci95[0]
        <= truth
        <= found.ci95[1]
        for seed in range(200)
    ]
    assert 0.9 <= np.mean(hits) <= 1.0


def test_the_interval_narrows_with_draws_and_widens_with_noise():
    def width(**given):
        low, high = crossing_point(*arms(**given)).ci95
        return math.log(high / low)

    assert width(draws=50, noise=0.05) < width(draws=8, noise=0.05)
    assert width(draws=20, noise=0.01) < width(draws=20, noise=0.08)


def test_arms_that_never_cross_say_on_which_side():
    low, high = arms(start=-1.0)
    assert crossing_point(low, high).at == math.inf
    assert crossing_point(low, high).ci95 == (math.inf, math.inf)
    assert crossing_point(high, low).at == 0.0
    assert crossing_point(*arms(start=1.0)).ci95 == (0.0, 0.0)
    # Where lower is better, the arms change places.
    assert crossing_point(low, high, higher_is_better=False).at == 0.0


def test_arms_that_are_alike_are_not_told_apart():
    found = crossing_point(*arms(slope=0.0, start=0.0, noise=0.05))
    assert found.ci95 == (0.0, math.inf)
    assert not found.is_known


def test_one_draw_has_a_point_and_no_interval():
    found = crossing_point({1: [0.5], 4: [0.5]}, {1: [0.4], 4: [0.6]})
    assert found.at == pytest.approx(2.0)
    assert found.ci95 is None
    assert not found.is_known


def test_what_does_not_pair_is_refused():
    with pytest.raises(TransferError, match=r"frozen and finetuned share 1 numbers of labels"):
        crossing_point({1: [0.5], 2: [0.5]}, {1: [0.5]})
    with pytest.raises(TransferError, match=r"same draws at every number of labels, found 1 and 2 at 1; 1 and 1 at 2"):
        crossing_point({1: [0.5], 2: [0.5]}, {1: [0.5, 0.6], 2: [0.5]})


def test_failed_runs_are_those_that_are_not_above_chance():
    assert failed_share([0.5, 0.51, 0.2, 1 - 0.5], 0.5) == 0.75
    assert failed_share([0.2 + 0.1 - 0.05], 0.25) == 1.0  # 0.25 and a digit
    assert failed_share([3.0, 1.0], 2.0, higher_is_better=False) == 0.5
    with pytest.raises(TransferError, match="no run was scored"):
        failed_share([], 0.5)
    assert chance_level("balanced_accuracy", 5) == 0.2
    assert chance_level("ndcg", 5) is None


# --- in the report ----------------------------------------------------------------------------------------------------


def report_of(start=-0.15, slope=0.1, shots=(1, 5, 50), *, classes=4, seeds=1, wobble=0.0, **changes):
    rng = np.random.default_rng(0)
    draws, units = 8, 40
    hard = 0.02 * rng.normal(size=(draws, units))
    luck = wobble * rng.normal(size=(draws, 1))
    tables = {
        "frozen": dict.fromkeys(shots, 0.6 + hard),
        "finetuned": {shot: 0.6 + hard + luck + start + slope * math.log(shot) for shot in shots},
        "scratch": {shot: 0.25 + hard - hard.mean(axis=1, keepdims=True) + (shot > 1) * 0.1 for shot in shots},
    }
    if seeds > 1:
        tables = {
            arm: {shot: np.stack([found] * seeds) for shot, found in each.items()} for arm, each in tables.items()
        }
    protocol = {"shots": [*shots], "draws": draws, "classes": classes, "validation_labels": 0, "test_items": 40}
    return build_report("demo", 0, {"digits": TargetResults(tables, protocol)}, versions={}, resamples=200, **changes)


def printed(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=160))
    return out.getvalue()


def test_the_report_has_both_in_all_three_forms(tmp_path):
    report = report_of()
    write_report(report, tmp_path)
    target = json.loads((tmp_path / "report.json").read_text())["targets"]["digits"]
    assert target["failed_runs"]["scratch"] == {"1": 1.0, "5": 0.0, "50": 0.0}
    assert set(target["failed_runs"]["frozen"].values()) == {0.0}
    crossing = target["crossing"]
    assert (crossing["low"], crossing["high"]) == ("frozen", "finetuned")
    assert crossing["at"] == pytest.approx(math.exp(1.5), rel=1e-6)
    assert crossing["ci95"][0] <= crossing["at"] <= crossing["ci95"][1]
    text = render_markdown(report)
    assert "**frozen is better below about 4.5 labels a class (18 in all), finetuned above**" in text
    assert "Failed runs" in text
    assert "| scratch | 100 % | 0 % | 0 % |" in text
    assert "| frozen |" not in text[text.index("Failed runs") : text.index("### Protocol")]  # none of its runs failed
    assert "frozen is better below about 4.5 labels a class" in printed(report)
    assert "scratch: 100 % of the draws at 1 label a class are not above chance (25.0 %)" in printed(report)


def test_a_report_read_back_says_the_same_and_derives_it_anew(tmp_path):
    report = report_of()
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    older = json.loads((tmp_path / "report.json").read_text())
    for key in ("failed_runs", "crossing"):
        del older["targets"]["digits"][key]
    (tmp_path / "report.json").write_text(json.dumps(older))
    assert render_markdown(read_report(tmp_path / "report.json")) == render_markdown(report)


def test_ends_that_were_not_measured_are_zero_or_null_in_json(tmp_path):
    write_report(report_of(start=-0.4, slope=0.0), tmp_path)
    crossing = json.loads((tmp_path / "report.json").read_text())["targets"]["digits"]["crossing"]
    assert (crossing["at"], crossing["ci95"]) == (None, [None, None])
    write_report(report_of(start=0.1, slope=0.0), tmp_path)
    crossing = json.loads((tmp_path / "report.json").read_text())["targets"]["digits"]["crossing"]
    assert (crossing["at"], crossing["ci95"]) == (0.0, [0.0, 0.0])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"start": -0.4, "slope": 0.0}, "finetuned is not better with the most labels measured, 50 a class"),
        ({"start": 0.1, "slope": 0.0}, "finetuned is better at every number of labels measured, from 1 a class on"),
    ],
)
def test_the_sentence_says_where_they_do_not_cross(given, sentence):
    assert sentence in crossing_sentence(report_of(**given).targets["digits"])


def test_seeds_are_no_further_draws():
    one = report_of(wobble=0.03).targets["digits"]
    tripled = report_of(seeds=3, wobble=0.03).targets["digits"]
    assert len(tripled.arms["frozen"][1].values) == 3 * len(one.arms["frozen"][1].values)
    assert one.crossing.ci95[0] < one.crossing.ci95[1]
    assert tripled.crossing.at == pytest.approx(one.crossing.at)
    assert tripled.crossing.ci95 == pytest.approx(one.crossing.ci95)


def test_many_labels_are_written_out_and_pairs_have_no_classes():
    many = report_of(start=-0.55, shots=(1, 50, 1000)).targets["digits"]
    assert "frozen is better below about 245 labels a class (979 in all), finetuned above" in crossing_sentence(many)
    assert "e+" not in crossing_sentence(many)
    pairs = report_of(classes=None).targets["digits"]
    assert crossing_sentence(pairs).startswith("frozen is better below about 4.5 labels, finetuned above (")
    never = report_of(start=-0.4, slope=0.0, classes=None).targets["digits"]
    assert "with the most labels measured, 50 (" in crossing_sentence(never)


def test_one_number_of_labels_has_no_crossing_and_a_metric_without_chance_no_failures():
    report = report_of(shots=(5,))
    assert report.targets["digits"].crossing is None
    assert crossing_sentence(report.targets["digits"]) == ""
    tables = {"frozen": {1: [[0.5, 0.6]]}, "scratch": {1: [[0.5, 0.4]]}}
    protocol = {"shots": [1], "draws": 1, "validation_labels": 0, "test_items": 2}
    found = build_report("demo", 0, {"a": TargetResults(tables, protocol, metric="ndcg")}, versions={}, resamples=100)
    assert found.targets["a"].failed_runs == {}
    assert "Failed runs" not in render_markdown(found)
