"""The report: numbers against loops, verdicts against planted effects, files against what was built."""

import io
import json
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image
from rich.console import Console

from auxtasks.errors import CheckpointError, TransferError
from transfer import plots
from transfer.report import TargetResults, build_report, read_report, versions, write_report
from transfer.report_markdown import render_markdown
from transfer.report_terminal import print_report
from transfer.verdicts import verdicts

SHOTS = [1, 4]
LAYERS = ["conv1", "conv2", "embedding"]
LEVELS = {"scratch": 0.5, "untrained": 0.4, "raw": 0.45, "frozen": 0.7, "finetuned": 0.72}


def table(level, seed, draws=6, units=8, spread=0.03):
    """Scores around a level; draws and units of one seed are equally hard for every arm."""
    hard = 0.1 * np.random.default_rng(0).normal(size=(draws, units))
    own = spread * np.random.default_rng(seed).normal(size=(draws, units))
    own -= own.mean()  # so that the means are the levels
    return level + hard - hard.mean() + own


def results(levels=None, shots=SHOTS, **changes):
    levels = levels or LEVELS
    arms = {arm: {shot: table(level, hash_of(arm, shot)) for shot in shots} for arm, level in levels.items()}
    protocol = {
        "shots": shots, "draws": 6, "classes": 8, "train_pool": 400, "validation_labels": 0, "test_items": 640,
    }  # fmt: skip
    depth = {shot: {layer: table(0.5, hash_of(layer, shot)) for layer in LAYERS} for shot in shots}
    chosen = {shot: {"arm": "frozen", "layer": "conv2"} for shot in shots}
    return TargetResults(**{"arms": arms, "protocol": protocol, "depth": depth, "chosen": chosen} | changes)


def hash_of(name, shot):
    return sum(name.encode()) * 100 + shot


def report_of(target=None, **changes):
    return build_report(
        "faces-demo",
        3,
        {"people": target or results()},
        pretrain={"auc": 0.91},
        cost={"seconds": 90.0, "samples_per_second": 800.0, "peak_memory_bytes": 2**30},
        versions={"torch": "2.0"},
        resamples=300,
        **changes,
    )


def outcomes(report):
    return [verdict.outcome for verdict in verdicts(report)]


def test_means_values_and_pairs_by_loops():
    given = results()
    target = report_of(given).targets["people"]
    for arm, by_shot in given.arms.items():
        for shot, scores in by_shot.items():
            entry = target.arms[arm][shot]
            assert entry.mean == pytest.approx(sum(map(sum, scores)) / scores.size)
            assert entry.values == pytest.approx([sum(row) / len(row) for row in scores])
            assert 0 <= entry.ci95[0] < entry.mean < entry.ci95[1] <= 1
    pairs = {f"{arm}-{base}" for arm in ("frozen", "finetuned") for base in ("scratch", "raw", "untrained")}
    assert set(target.paired) == pairs
    difference = np.mean(given.arms["frozen"][4] - given.arms["raw"][4], axis=1)
    assert target.paired["frozen-raw"][4].values == pytest.approx(list(difference))
    assert target.depth[1]["conv1"].mean == pytest.approx(given.depth[1]["conv1"].mean())


def test_the_json_has_the_documented_shape(tmp_path):
    report = report_of(notes=["resized"], claim="frozen", inputs={"images": "built-in"})
    write_report(report, tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["schema"] == 1
    assert {"schema", "recipe", "seed", "targets", "pretrain", "cost", "versions"} <= set(found)
    assert (found["recipe"], found["seed"], found["pretrain"]) == ("faces-demo", 3, {"auc": 0.91})
    assert found["cost"] == {"seconds": 90.0, "samples_per_second": 800.0, "peak_memory_bytes": 2**30}
    target = found["targets"]["people"]
    keys = ["metric", "higher_is_better", "protocol", "arms", "paired", "depth", "chosen", "failed_runs", "crossing"]
    assert list(target) == keys
    assert set(target["protocol"]) == {
        "shots", "draws", "classes", "train_pool", "validation_labels", "test_items", "resampling",
    }  # fmt: skip
    assert set(target["arms"]["frozen"]["4"]) == set(target["paired"]["frozen-scratch"]["4"]) == {
        "mean", "ci95", "values",
    }  # fmt: skip
    assert set(target["depth"]["1"]["conv1"]) == {"mean", "ci95"}
    assert target["chosen"]["1"] == {"arm": "frozen", "layer": "conv2"}
    assert "label draws and test classes" in target["protocol"]["resampling"]


def test_a_report_read_back_is_the_one_written(tmp_path):
    report = report_of()
    paths = write_report(report, tmp_path / "transfer")
    assert sorted(path.name for path in paths) == ["depth.png", "learning_curve.png", "report.json", "report.md"]
    assert sorted(path.name for path in (tmp_path / "transfer").iterdir()) == sorted(path.name for path in paths)
    again = read_report(tmp_path / "transfer" / "report.json")
    assert again == report
    assert render_markdown(again) == render_markdown(report) == (tmp_path / "transfer" / "report.md").read_text()


def test_pictures_are_shown_with_their_captions_and_read_back(tmp_path):
    shown = {"Weights; grey is zero": "filters.png", "Pictures, and below each what is made of it": "again.png"}
    report = report_of(pictures=shown)
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["pictures"] == shown
    assert list(read_report(tmp_path / "report.json").pictures.items()) == list(shown.items())
    text = (tmp_path / "report.md").read_text()
    places = [text.index(f"![{caption}]({file})\n\n{caption}\n") for caption, file in shown.items()]
    assert text.index("## Pretraining") < places[0] < places[1] < text.index("## Cost")


def test_a_report_without_pictures_shows_none_and_one_written_before_there_were_any_is_read(tmp_path):
    report = report_of()
    write_report(report, tmp_path)
    assert report.pictures == {}
    assert re.findall(r"!\[.*?\]\((.*?)\)", render_markdown(report)) == ["learning_curve.png", "depth.png"]
    older = json.loads((tmp_path / "report.json").read_text())
    del older["pictures"]
    (tmp_path / "report.json").write_text(json.dumps(older))
    assert read_report(tmp_path / "report.json") == report


def test_the_same_results_give_the_same_files(tmp_path):
    for folder in ("a", "b"):
        write_report(report_of(), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("levels", "outcome", "sentence"),
    [
        ({}, "helps", r"pretraining helps, by 20\.0 points \[1\d\.\d, 2\d\.\d\] over scratch, for this backbone"),
        (
            {"frozen": 0.5},
            "no evidence",
            r"no evidence that pretraining helps: \+?0\.0 points \[-\d\.\d, \d\.\d\] over",
        ),
        ({"frozen": 0.3}, "hurts", r"pretraining hurts, by 20\.0 points \[1\d\.\d, 2\d\.\d\] against scratch"),
        ({"raw": 0.7}, "mixed", r"better than scratch by 20\.0 points .*, but not better than raw \(\+?0\.0 points"),
        ({"raw": 0.9, "untrained": 0.8}, "mixed", r"not better than untrained \(-10.* and not better than raw \(-20"),
    ],
)
def test_verdicts_follow_planted_effects(levels, outcome, sentence):
    report = report_of(results(LEVELS | levels))
    assert outcomes(report) == [outcome] * 2
    assert re.search(sentence, verdicts(report)[1].headline)
    assert verdicts(report)[1].headline in render_markdown(report)


def test_a_verdict_counts_labels_and_names_layer_and_scores():
    verdict = verdicts(report_of())[1]
    assert verdict.headline.startswith("4 labels a class (32 in all): ")
    assert verdict.detail.startswith(
        "Accuracy: frozen (layer conv2) 70.0 %, scratch 50.0 %, untrained 40.0 % (advantage"
    )


def test_without_a_difference_verdicts_seldom_claim_help():
    claims = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        arms = {arm: {4: 0.5 + 0.1 * rng.normal(size=(6, 8))} for arm in LEVELS}
        report = build_report("none", seed, {"t": results(arms=arms, shots=[4])}, resamples=300)
        claims += outcomes(report) == ["helps"]
    assert claims <= 3


def test_a_lower_score_can_be_the_better_one():
    levels = {"scratch": 3.0, "frozen": 1.0}
    target = report_of(results(levels, metric="error", higher_is_better=False))
    assert outcomes(target) == ["helps", "helps"]
    assert re.search(r"helps, by 2 \[[12]\.\d+, [23](\.\d+)?\] over scratch", verdicts(target)[0].headline)
    assert target.targets["people"].paired["frozen-scratch"][1].mean == pytest.approx(-2.0)
    assert outcomes(report_of(results(levels, metric="error"))) == ["hurts", "hurts"]


def test_the_claimed_arm_is_judged_not_the_best_one():
    chosen = {1: {"arm": "frozen", "layer": "conv1"}, 4: {"arm": "finetuned"}}
    report = report_of(results(LEVELS | {"frozen": 0.5}, chosen=chosen))
    assert outcomes(report) == ["no evidence", "helps"]
    assert [verdict.arm for verdict in verdicts(report)] == ["frozen", "finetuned"]


def test_another_claimed_arm_is_paired_too():
    report = report_of(results(LEVELS | {"ours": 0.8}, chosen={4: {"arm": "ours"}}))
    assert report.targets["people"].paired["ours-scratch"][4].mean == pytest.approx(0.3)
    assert outcomes(report) == ["helps", "helps"]


def test_for_this_backbone_is_said_until_there_are_three():
    assert "for this backbone" in render_markdown(report_of(pretraining_seeds=2))
    assert "2 backbones took part" in render_markdown(report_of(pretraining_seeds=2))
    assert "this backbone" not in render_markdown(report_of(pretraining_seeds=3))


def test_seeds_as_a_third_axis_are_resampled_and_said_so():
    arms = {arm: {4: np.stack([table(level, seed) for seed in range(3)])} for arm, level in LEVELS.items()}
    report = report_of(results(arms=arms, shots=[4]), pretraining_seeds=3)
    assert report.targets["people"].protocol.resampling.startswith("pretraining seeds, label draws and test classes")
    assert len(report.targets["people"].arms["frozen"][4].values) == 18


def test_nothing_to_compare_with_is_said():
    assert outcomes(report_of(results({"frozen": 0.7}))) == ["unknown"] * 2
    arms = {arm: {4: [[level]]} for arm, level in LEVELS.items()}
    alone = report_of(results(arms=arms, shots=[4]))
    assert outcomes(alone) == ["unknown"]
    assert "[not known]" in render_markdown(alone)
    baselines = report_of(results({"scratch": 0.5, "raw": 0.4}, chosen={}))
    assert verdicts(baselines) == []
    assert "No arm that reuses the backbone was run." in render_markdown(baselines)


def test_the_markdown_answers_first_and_holds_the_rest():
    text = render_markdown(report_of(notes=["Images were resized."], claim="frozen, layer by cross-validation"))
    order = [
        "# Few-shot report: faces-demo",
        "## Does pretraining help?",
        "frozen, layer by cross-validation",
        "pretraining helps",
        "| arm | 1 | 4 |",
        "| **70.0 [",
        "### Paired differences (points)",
        "### Depth: accuracy (%)",
        "| conv2 | **50.0",
        "### Protocol",
        "- Labels used, for choices and training together: 1 label a class (8 in all); 4 labels a class (32 in all)",
        "- Validation labels beside them: none",
        "- Test items: 640",
        "## Pretraining",
        "| auc | 0.91 |",
        "## Cost",
        "- 90.0 seconds (1.5 minutes)",
        "- 1.00 GiB of memory at the peak",
        "## Notes",
        "- Images were resized.",
        "## Versions",
        "| torch | 2.0 |",
    ]
    found = [text.replace("frozen | **70", "| **70").find(line) for line in order]
    assert -1 not in found, order[found.index(-1)]
    assert found == sorted(found)


def test_minus_zero_is_not_written():
    text = render_markdown(report_of(results(LEVELS | {"frozen": 0.5})))
    assert "-0.0 " not in text
    assert "-0.0 [" not in text


def test_the_terminal_shows_verdicts_and_tables():
    screen = io.StringIO()
    print_report(report_of(notes=["Images were resized."]), Console(file=screen, width=100))
    text = screen.getvalue()
    assert "4 labels a class (32 in all): pretraining helps" in text
    for line in ["frozen", "frozen − scratch", "conv2", "70.0", "Images were resized."]:  # noqa: RUF001
        assert line in text
    assert max(map(len, text.splitlines())) <= 100


def test_versions_are_those_installed():
    assert versions()["numpy"] == np.__version__
    assert "python" in build_report("demo", 0, {"people": results()}, resamples=300).versions


def test_tables_that_do_not_fit_are_refused_by_name():
    arms = results().arms | {"scratch": {1: np.zeros((6, 8)), 4: np.zeros((5, 8))}}
    with pytest.raises(TransferError, match=r"target people, frozen against scratch, 4 shots: .*\(6, 8\) and \(5, 8\)"):
        report_of(results(arms=arms))
    arms = results().arms | {"raw": {1: np.full((6, 8), np.nan)}}
    with pytest.raises(TransferError, match="target people, arm raw, 1 shots: every cell of the table is NaN"):
        report_of(results(arms=arms))


def test_a_protocol_with_gaps_is_refused_with_all_of_them():
    with pytest.raises(TransferError, match=r"(?s)draws: Field required.*validation_labels: Field required"):
        report_of(results(protocol={"shots": SHOTS, "test_items": 10}))
    with pytest.raises(TransferError, match=r"shots \[4\] are not among protocol.shots \[1\]"):
        report_of(results(protocol=dict(results().protocol) | {"shots": [1]}))
    with pytest.raises(TransferError, match=r"chosen names the arms \['frozn'\]"):
        report_of(results(chosen={1: {"arm": "frozn"}}))


def test_a_damaged_report_is_refused(tmp_path):
    write_report(report_of(), tmp_path)
    path = tmp_path / "report.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"schema": 2}))
    with pytest.raises(CheckpointError, match=r"(?s)not a report of schema 1.*schema: Input should be 1"):
        read_report(path)
    whole["targets"]["people"]["arms"]["frozen"]["4"]["ci95"] = [0.9, 0.1]
    path.write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match=r"targets\.people\.arms\.frozen\.4: .*0.9 down to 0.1"):
        read_report(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(CheckpointError, match=r"report\.json is damaged"):
        read_report(path)


def test_plots_are_pictures_and_leave_no_global_state(tmp_path):
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    write_report(report_of(), tmp_path)
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend() == backend
    assert pyplot.get_fignums() == []
    for name in ("learning_curve.png", "depth.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 600
            colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
            assert len(colours) > 50  # something was drawn


def test_plots_show_the_reports_numbers():
    curves = [plots.Curve("frozen", [1, 4], [60, 70], [55, 65], [65, 75]), plots.Curve("new", [1], [50], [50], [50])]
    axes = plots.learning_curve([plots.Panel("people", "accuracy (%)", curves, chance=12.5)]).axes[0]
    lines = [list(line.get_ydata()) for line in axes.get_lines()]
    assert [60, 70] in lines
    assert [50] in lines
    assert [12.5, 12.5] in lines
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert {"frozen", "new"} <= {text.get_text() for text in axes.texts}
    layers = plots.Panel(
        "people", "%", [plots.Curve("1 label", [0, 1], [3, 4], [2, 3], [5, 6], marked=1)], {0: "a", 1: "b"}
    )
    axes = plots.depth_curve([layers, layers, layers]).axes[2]
    rings = [line for line in axes.get_lines() if line.get_markersize() > 10]
    assert [list(ring.get_ydata()) for ring in rings] == [[4]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_a_disk_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"could not write .*a\.png"):
        plots.save_png(plots.learning_curve([plots.Panel("t", "y", [plots.Curve("a", [1], [1], [1], [1])])]),
                       tmp_path / "missing" / "a.png")  # fmt: skip
