"""The depth search: scores by hand, choices on held-out labels alone, a test that is opened once, one pass for all."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score

from auxtasks.errors import CheckpointError, LayerError, TransferError
from auxtasks.features.extract import extract
from transfer import depth, depth_protocol
from transfer.choices import Candidate
from transfer.depth import search_depth
from transfer.depth_curve import DepthPoint, Scored, best_cut, join_draws, one_standard_error, point_of
from transfer.depth_fits import Cut, Fit, Fits, Setting
from transfer.depth_report import build_depth_report, depth_markdown, depth_panel, read_depth_report, write_depth_report
from transfer.finetune import Stage, Tuning
from transfer.heads import build_head
from transfer.items import gather_items
from transfer.protocol import Protocol, plan_draws
from transfer.spaces import default_pools

PROTOTYPE = (("prototype", {}),)
SHORT = Tuning(stages=(Stage(1, top_layers=1), Stage(1)), batch_size=8)


def frozen(backbone, table, **changes):
    return search_depth(backbone, table, **{"modes": ["frozen"], "heads": PROTOTYPE, **changes})


def thirds(table):
    """Split a table with eight items a class into pool, test and validation set of all classes."""
    place = np.arange(len(table)) % 8
    return [table.subset(np.flatnonzero(rows)) for rows in (place < 4, (place == 4) | (place == 5), place > 5)]


# --- scores by hand ---------------------------------------------------------------------------------------------------


@pytest.fixture
def told_of_folds(monkeypatch):
    """Keep the fold of each item that every draw and repeat has dealt out."""
    dealt = []
    fold = depth_protocol.stratified_folds
    monkeypatch.setattr(depth_protocol, "stratified_folds", lambda *args: dealt.append(fold(*args)) or dealt[-1])
    return dealt


@pytest.mark.parametrize("head", [("prototype", {}), ("ridge", {"alpha": 2.0}), ("neighbors", {})])
def test_a_curve_is_cross_validation_inside_each_draw(backbone, portraits, told_of_folds, head):
    found = frozen(backbone, portraits, shots=4, draws=3, folds=3, repeats=2, heads=[head], seed=5)
    draws = plan_draws(portraits.labels, Protocol((4,), 3, 5), portraits.class_names)
    assert len(told_of_folds) == 6
    for layer, pool in default_pools(backbone).items():
        features = extract(backbone, portraits, {layer: pool})[layer]
        for draw in draws:
            support, right = draw.support[4], []
            for fold_of in told_of_folds[2 * draw.number : 2 * draw.number + 2]:
                for fold in range(3):
                    inside, outside = support[fold_of != fold], support[fold_of == fold]
                    fitted = build_head(head[0], **head[1]).fit(features[inside], portraits.labels[inside], 4)
                    right += (fitted.predict(features[outside]) == portraits.labels[outside]).tolist()
            assert len(right) == 2 * 16
            assert found.curve["frozen"][layer].values[draw.number] == pytest.approx(np.mean(right), abs=1e-12)
        assert found.curve["frozen"][layer].mean == pytest.approx(np.mean(found.curve["frozen"][layer].values))
    assert found.chosen_by.endswith("cross-validation with 3 folds, 2 times inside 16 labels")


def test_a_named_validation_set_is_predicted_from_the_whole_support(backbone, quadrants):
    pool, test, validation = thirds(quadrants)
    found = frozen(backbone, pool, shots=2, draws=2, validation=validation, test=test)
    draws = plan_draws(pool.labels, Protocol((2,), 2, 0), pool.class_names, test=np.arange(8))
    tested = found.test()
    for layer, how in default_pools(backbone).items():
        inside, outside, at_last = (extract(backbone, part, {layer: how})[layer] for part in (pool, validation, test))
        held_out, last = [], []
        for draw in draws:
            rows = draw.support[2]
            fitted = build_head("prototype").fit(inside[rows], pool.labels[rows], 4)
            held_out.append(accuracy_score(validation.labels, fitted.predict(outside)))
            last.append(accuracy_score(test.labels, fitted.predict(at_last)))
        assert found.curve["frozen"][layer].values == pytest.approx(held_out)
        assert tested.curve["frozen"][layer].values == pytest.approx(last)
    assert "named validation set of 8 labelled items" in found.chosen_by
    assert (found.protocol.labels, found.protocol.validation_labels, tested.items) == (8, 8, 8)


def test_without_a_test_set_each_draw_is_tested_on_what_it_leaves_over(backbone, portraits):
    found = frozen(backbone, portraits, shots=4, draws=3)
    tested = found.test()
    draws = plan_draws(portraits.labels, Protocol((4,), 3, 0), portraits.class_names)
    by_draw = []
    for draw, cut in zip(draws, found.choices, strict=True):
        features = extract(backbone, portraits, {cut.layer: default_pools(backbone)[cut.layer]})[cut.layer]
        fitted = build_head("prototype").fit(features[draw.support[4]], portraits.labels[draw.support[4]], 4)
        by_draw.append(accuracy_score(portraits.labels[draw.test], fitted.predict(features[draw.test])))
    assert tested.chosen.values == pytest.approx(by_draw)
    assert tested.items == 8


def test_all_labels_have_the_corrected_interval_of_their_splits(backbone, portraits):
    found = frozen(backbone, portraits, folds=3, repeats=4)
    for point in found.curve["frozen"].values():
        assert len(point.values) == 12
        assert point.mean == pytest.approx(np.mean(point.values))  # folds of eight items each
    splits = (0.5, 0.75, 1.0, 0.75)
    scored = Scored(np.full((1, 8), 0.75), (splits,), overlap=0.25)
    point = point_of(scored, "ridge", seed=0)
    error = np.sqrt((1 / 4 + 0.25) * np.var(splits, ddof=1))
    reach = stats.t.ppf(0.975, 3) * error
    assert point.standard_error == pytest.approx(error)
    assert point.ci95 == pytest.approx((0.75 - reach, min(1.0, 0.75 + reach)))


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_layer_that_tells_classes_apart_is_found(backbone, quadrants, monkeypatch):
    """Features are planted: only stage2 knows the class; the shuffled control finds nothing."""
    rng = np.random.default_rng(0)
    truth = np.eye(4, dtype=np.float32)[quadrants.labels] + 0.1 * rng.normal(size=(32, 4)).astype(np.float32)
    noise = {name: rng.normal(size=(32, 4)).astype(np.float32) for name in backbone.layer_names}
    for planted, expected in ((truth, 1.0), (rng.permutation(truth), None)):
        features = {**noise, "stage2": planted}
        monkeypatch.setattr(depth.FeatureCache, "features", lambda *_, features=features, **__: features)
        found = frozen(backbone, quadrants, shots=6, draws=4)
        point = found.curve["frozen"]["stage2"]
        if expected:
            assert found.chosen == Cut("stage2", "frozen")
            assert set(found.choices) == {found.chosen}
            assert found.test().chosen.mean == expected
            assert "No other cut" in found.remark
        else:
            assert point.mean < 0.5
            assert found.test().chosen.mean < 0.6


def test_no_test_label_decides_anything(backbone, quadrants):
    pool, test, validation = thirds(quadrants)
    turned = dataclasses.replace(test, labels=(test.labels + 1) % 4, fingerprint="turned")
    found = [frozen(backbone, pool, shots=2, draws=3, validation=validation, test=part) for part in (test, turned)]
    assert found[0].curve == found[1].curve
    assert found[0].choices == found[1].choices
    assert found[0].test().chosen.values != found[1].test().chosen.values


def test_the_test_is_opened_once_and_after_the_choice(backbone, portraits, monkeypatch):
    events = []
    tested = depth_protocol.DepthProtocol.tested
    monkeypatch.setattr(
        depth_protocol.DepthProtocol, "tested", lambda *args: events.append("labels read") or tested(*args)
    )
    found = frozen(backbone, portraits, shots=4)
    assert not events
    first = found.test(events.append)
    assert events[0] == {"chosen": dataclasses.asdict(found.chosen), "choices": [str(found.choices[0])]}
    assert events[1:] == ["labels read"] * (len(default_pools(backbone)) + 1)
    count = len(events)
    assert found.test(events.append) is first
    assert len(events) == count


def test_the_same_seed_gives_the_same_search_and_another_another(backbone, portraits):
    given = {seed: [frozen(backbone, portraits, shots=4, draws=2, seed=seed) for _ in range(2)] for seed in (0, 1)}
    assert given[0][0].curve == given[0][1].curve
    assert given[0][0].curve != given[1][0].curve


def test_each_cut_has_the_best_of_its_heads_draw_by_draw(backbone, portraits):
    heads = [("prototype", {}), ("ridge", {"alpha": 1.0})]
    both = frozen(backbone, portraits, shots=4, draws=4, heads=heads).curve["frozen"]
    alone = [frozen(backbone, portraits, shots=4, draws=4, heads=[head]).curve["frozen"] for head in heads]
    for layer, point in both.items():
        assert point.values == tuple(np.maximum(alone[0][layer].values, alone[1][layer].values))


def test_among_equals_the_cheaper_cut_is_taken():
    cuts = [Cut("stem", "frozen"), Cut("top", "frozen"), Cut("stem", "finetuned")]
    assert best_cut(dict.fromkeys(cuts, 0.5)) == cuts[0]
    assert best_cut({cuts[0]: 0.4, cuts[1]: 0.5, cuts[2]: 0.5}) == cuts[1]


def test_what_is_within_one_standard_error_is_told():
    def point(mean):
        return DepthPoint(mean, None, (mean,), 0.05, "ridge")

    points = {
        Cut("stem", "frozen"): point(0.80),
        Cut("top", "frozen"): point(0.86),
        Cut("top", "finetuned"): point(0.9),
    }
    remark = one_standard_error(points)
    assert "(5.0 points) of the best (top, finetuned): top, frozen. The cheapest is top, frozen." in remark
    assert "stem" not in remark


def test_draws_are_joined_each_with_its_own_head():
    first = Scored(np.array([[1.0, np.nan], [0.0, 0.0]]), ((1.0,), (0.0,)), 0.5)
    second = Scored(np.array([[0.0, 0.0], [1.0, 0.5]]), ((0.0,), (0.75,)), 0.5)
    joined = join_draws([first, second])
    np.testing.assert_array_equal(joined.values, [1.0, 0.75])
    assert joined.splits == ((1.0,), (0.75,))


# --- fine-tuned -------------------------------------------------------------------------------------------------------


def test_each_fine_tuned_cut_is_a_network_trained_up_to_its_layer(backbone, quadrants, monkeypatch):
    pool, test, validation = thirds(quadrants)
    trained = []
    predict = depth.TunedArm.predict

    def recorded(self, support, labels, rows, **options):
        trained.append((self.layer, len(support), options["draw"]))
        return predict(self, support, labels, rows, **options)

    monkeypatch.setattr(depth.TunedArm, "predict", recorded)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    found = search_depth(
        backbone, pool, shots=2, draws=2, validation=validation, test=test, heads=PROTOTYPE, tuning=SHORT
    )
    names = list(backbone.layer_names)
    assert trained == [(layer, 8, draw) for layer in names for draw in (0, 1)]
    assert list(found.curve) == ["frozen", "finetuned"]
    assert list(found.curve["finetuned"]) == names
    assert found.curve["finetuned"]["stem"].head == "linear"
    found.test()
    assert len(trained) == 2 * len(names)  # the fits of the choice have answered for the test as well
    assert all(bool((value == before[name]).all()) for name, value in backbone.state_dict().items())


def test_fine_tuning_is_cross_validated_on_the_same_folds(backbone, portraits, told_of_folds):
    found = search_depth(
        backbone, portraits, shots=4, folds=2, layers={"stage2": "grid"}, heads=PROTOTYPE, tuning=SHORT
    )
    assert len(told_of_folds) == 1
    assert {mode: list(by_layer) for mode, by_layer in found.curve.items()} == {
        "frozen": ["stage2"], "finetuned": ["stage2"],
    }  # fmt: skip
    assert list(found.test().curve) == ["frozen", "finetuned"]


# --- one pass, all kinds of items -------------------------------------------------------------------------------------


def test_all_layers_come_from_one_pass(backbone, portraits, monkeypatch):
    asked = []
    forward = type(backbone).forward_layers

    def counted(self, x, names, *args, **options):
        asked.append((len(x), sorted(names)))
        return forward(self, x, names, *args, **options)

    monkeypatch.setattr(type(backbone), "forward_layers", counted)
    frozen(backbone, portraits, shots=4, draws=3).test()
    assert [found for found in asked if found[0] == len(portraits)] == [(24, sorted(backbone.layer_names))]
    assert max(count for count, _ in asked) == 24
    assert sum(count for count, _ in asked if count > 1) == 24


def test_texts(encoder, opinions, opinions_test):
    found = frozen(encoder, opinions, shots=8, draws=2, test=opinions_test, metric="matthews")
    assert list(found.curve["frozen"]) == list(encoder.layer_names)
    tested = found.test()
    assert tested.metric == "matthews"
    assert tested.items == 31


def test_fits_of_different_sizes_are_answered_in_their_order():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    features = {"top": (np.eye(3)[labels] + rng.normal(size=(40, 3))).astype(np.float32)}
    asked = [Fit(0, np.arange(n), np.arange(n, n + 1 + n % 4)) for n in (9, 12, 9, 15, 12, 13)]
    setting = Setting(Cut("top", "frozen"), "ridge", Candidate("top", "ridge"))
    answers = Fits(features, labels, 3, lambda layer: pytest.fail(layer)).predict(setting, asked)
    for fit, answer in zip(asked, answers, strict=True):
        head = build_head("ridge").fit(features["top"][fit.train], labels[fit.train], 3)
        np.testing.assert_array_equal(answer, head.predict(features["top"][fit.ask]))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 1}, "nothing can be held out of it to choose a layer on: draw 2 or more"),
        ({"draws": 3}, "draws is 3, but all labels are taken.*set shots"),
        ({"shots": 2, "folds": 1}, "at least 2 folds and 1 repeat, found folds=1, repeats=1"),
        ({"shots": 2, "repeats": 0}, "found folds=5, repeats=0"),
        ({"shots": 9}, "4 of 4 classes have too few items for 9 shots and a test"),
        ({"modes": ["tuned"]}, 'no such mode: "tuned". Did you mean "finetuned"\\? There are frozen, finetuned'),
        ({"modes": []}, "no mode is asked for"),
        ({"layers": {}}, "no layers to choose from"),
        ({"heads": []}, "no heads for the frozen layers"),
        ({"heads": [("ridges", {})]}, 'unknown head "ridges".*Did you mean "ridge"'),
        ({"shots": 2, "metric": "matthews"}, "for two classes, the target has 4"),
    ],
)
def test_what_does_not_fit_is_refused(backbone, portraits, changes, message):
    with pytest.raises(TransferError, match=message):
        frozen(backbone, portraits, **changes)


def test_an_unknown_layer_is_refused(backbone, portraits):
    with pytest.raises(LayerError, match="stage7"):
        frozen(backbone, portraits, layers={"stage7": "grid"})


def test_all_labels_leave_nothing_to_test_on(backbone, portraits):
    events = []
    with pytest.raises(TransferError, match=r"nothing to test on: the search has used all 24 labels\. Pass a test set"):
        frozen(backbone, portraits).test(events.append)
    assert not events


def test_all_labels_need_labels_of_every_class(backbone, portraits):
    unlabelled = dataclasses.replace(portraits, labels=np.where(np.arange(24) == 3, -1, portraits.labels))
    with pytest.raises(TransferError, match="1 of 24 items have no label"):
        frozen(backbone, unlabelled)
    absent = portraits.subset(np.flatnonzero(portraits.labels != 2))
    with pytest.raises(TransferError, match=f"class {absent.class_names[2]!r} has no labelled item"):
        frozen(backbone, absent)


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_report_is_written_read_and_drawn(backbone, quadrants, tmp_path):
    pool, test, validation = thirds(quadrants)
    found = search_depth(
        backbone, pool, shots=2, draws=2, validation=validation, test=test, heads=PROTOTYPE, tuning=SHORT
    )
    report = build_depth_report("quadrants", found, found.test(), ["a note"])
    written = write_depth_report(report, tmp_path / "depth")
    assert [path.name for path in written] == ["depth.png", "depth.md", "depth.json"]
    assert written[0].stat().st_size > 10_000
    assert read_depth_report(written[2]) == report
    assert sum(row.draws_that_chose_it for row in report.rows) == 2
    assert [len(row.test.values) for row in report.rows] == [2] * 8
    text = written[1].read_text()
    assert f"**Cut at {found.chosen}**, by 2 labels a class (8 in all, 2 draws)" in text
    assert "to look at, not to choose by" in text
    assert "- a note" in text
    panel = depth_panel(report)
    assert [curve.name for curve in panel.curves] == [
        "frozen, validation", "frozen, test", "finetuned, validation", "finetuned, test",
    ]  # fmt: skip
    ringed = [curve for curve in panel.curves if curve.marked is not None]
    assert len(ringed) == 2
    assert all(backbone.layer_names[curve.marked] == found.chosen.layer for curve in ringed)
    point = found.curve["frozen"]["stem"]
    assert panel.curves[0].mean[0] == pytest.approx(100 * point.mean)


def test_a_search_of_all_labels_reports_no_test(backbone, portraits, tmp_path):
    report = build_depth_report("faces", frozen(backbone, portraits), None)
    text = depth_markdown(report)
    assert "Not tested: there is no test set." in text
    assert "by all labels (24 in all)." in text
    assert [row.test for row in report.rows] == [None] * 4
    assert len(depth_panel(report).curves) == 1


def test_a_damaged_report_is_refused(tmp_path):
    place = tmp_path / "depth.json"
    place.write_text('{"target": "faces", "rows": []}')
    with pytest.raises(CheckpointError, match=r"not the report of a depth search:\n(.|\n)*chosen"):
        read_depth_report(place)


def test_gathered_items_keep_the_test_apart(quadrants):
    pool, test, validation = thirds(quadrants)
    items = gather_items(pool, test, validation)
    plan = depth_protocol.plan_depth(items, shots=2, draws=3, folds=5, repeats=1, metric="accuracy", seed=0)
    for fit in plan.fits:
        assert not set(fit.train) & (set(items.test) | set(items.validation))
        np.testing.assert_array_equal(fit.ask, np.concatenate([items.validation, items.test]))
    plan = depth_protocol.plan_depth(
        gather_items(pool, test), shots=3, draws=2, folds=5, repeats=2, metric="accuracy", seed=0
    )
    assert (plan.folds, len(plan.fits)) == (3, 12)  # no more folds than a class has labels
    for fit in plan.fits:
        assert not set(fit.ask) & (set(fit.train) | set(items.test))
