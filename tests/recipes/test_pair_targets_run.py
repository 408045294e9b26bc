"""Runs that rank items above corruptions of them, and what their networks are reused for: items, and pairs of texts."""

import json

import numpy as np
import pytest
import yaml
from datasets import Dataset

from auxtasks.backbones import Backbone
from auxtasks.data import load_source
from auxtasks.data.corruptions import KINDS
from auxtasks.errors import CheckpointError
from recipes.config import load_recipe
from recipes.run import pretrain_recipe, transfer_recipe
from recipes.score import load_scorer
from transfer.scorer import Scorer

FEW = {
    "shots": [2, 4],
    "draws": 2,
    "heads": [{"name": "prototype"}, {"name": "ridge"}],
    "discriminants": None,
    "tuning": {"stages": [{"steps": 1, "top_layers": 0}, {"steps": 1}], "batch_size": 8},
    "scratch": {"stages": [{"steps": 2}], "batch_size": 8},
    "on_leak": "report",
}
PAIR_ARMS = {"scratch", "untrained", "raw", "longer", "frozen", "finetuned"}


def bert(blocks, width):
    # Absolute positions: by rotary ones a fresh network tells orders apart by rounding errors only.
    return {"model_type": "bert", "hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0}  # fmt: skip


def corpus():
    """Return some of the sentences that are pretrained on."""
    return list(load_source("builtin:sentences", columns={"text": "text"}, options={"limit": 300, "part": 0})["text"])


def text_recipe(folder):
    return {
        "name": "tiny_corruptions",
        "data": {"path": "builtin:sentences", "options": {"limit": 300, "part": 0}, "holdout": 0.1},
        "tokenizer": {"kind": "wordpiece", "size": 300},
        "backbone": {"name": "transformers", "arguments": {"config": bert(1, 16), "length": 24}},
        "task": {"name": "max_margin_ranking", "sentences": {"count": 2, "corruptions": {"swap": 1, "replace": 2}}},
        "training": {"steps": 4, "batch_size": 8, "workers": 0, "log_every": 2},
        "minimal_pairs": {"swaps": {"path": str(folder / "minimal.parquet")}},
        "transfer": FEW,
        "targets": {
            "parts": {"path": str(folder / "parts"), "split": "train", "test": {"split": "test"}},
            "better": {"path": str(folder / "better"), "holds": "pairs", "split": "train", "test": {"split": "test"},
                       "shots": [4]},
        },
    }  # fmt: skip


def preferences(part, count):
    """Return sentences, and the same in a worse order and without their first word."""
    columns = {name: name for name in ("chosen", "rejected")}
    rows = load_source("builtin:sentence_preferences", columns=columns, options={"limit": 200, "part": part})
    pairs = [(good, bad.split(" ", 1)[1]) for good, bad in zip(rows["chosen"], rows["rejected"], strict=True)]
    return [list(side) for side in zip(*pairs[:count], strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Minimal pairs, a target of texts, one of pairs, and the recipe for all of them."""
    place = tmp_path_factory.mktemp("corruptions")
    good, bad = preferences(1, 30)
    Dataset.from_dict({"sentence_good": good, "sentence_bad": bad}).to_parquet(place / "minimal.parquet")
    seen = corpus()
    for number, part in enumerate(("train", "test")):
        chosen, rejected = (side[20 * number : 20 * number + 20] for side in preferences(1, 40))
        if part == "test":
            chosen[:2] = seen[:2]
        texts = {"text": [*chosen, *rejected], "label": ["good"] * 20 + ["bad"] * 20}
        for name, rows in (("parts", texts), ("better", {"chosen": chosen, "rejected": rejected})):
            (place / name).mkdir(exist_ok=True)
            Dataset.from_dict(rows).to_parquet(place / name / f"{part}.parquet")
    (place / "recipe.yaml").write_text(yaml.safe_dump(text_recipe(place)))
    return place


@pytest.fixture(scope="module")
def told(command_line, folder):
    called = command_line("run", folder / "recipe.yaml", "--out", folder / "run")
    assert called.code == 0, called.err
    return called


@pytest.fixture(scope="module")
def done(told, folder):
    return folder / "run"


def report_of(place):
    return json.loads((place / "transfer" / "report.json").read_text())


def table_cells(text):
    """Return the cells of all tables of a text."""
    return {cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line.split("|")}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- sentences above corruptions --------------------------------------------------------------------------------------


def test_a_scorer_of_sentences_is_judged_by_minimal_pairs_and_reused_for_texts(done):
    report = report_of(done)
    measured = report["pretrain"]
    assert 0 <= measured["swaps/accuracy"] <= 1
    assert {f"validation/pair_accuracy/{kind}" for kind in KINDS} <= set(measured)
    assert measured["bag_of_words/pair_accuracy/swap"] == 0.5
    assert not (done / "ranking.json").exists()
    parts = report["targets"]["parts"]
    assert set(parts["arms"]) == PAIR_ARMS - {"longer"}
    assert (parts["protocol"]["test_items"], parts["protocol"]["train_pool"]) == (40, 40)
    openings = [opening["target"] for opening in lines(done / "test_openings.jsonl")]
    assert openings == ["minimal pairs swaps", "better", "parts"]  # once each


def test_labelled_pairs_are_never_streamed_but_a_corpus_is(command_line, folder, tmp_path):
    for part, texts in (("train", corpus()[:200]), ("validation", corpus()[200:230])):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "corpus" / f"{part}.parquet")
    called = command_line(
        "pretrain", folder / "recipe.yaml", f"data.path={tmp_path / 'corpus'}", "data.options=null", "data.split=train",
        "data.streaming=true", "data.validation.split=validation", "training.steps=2", "minimal_pairs=null",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert called.code == 0, called.err
    assert load_scorer(tmp_path / "out").score(["one text"]).shape == (1,)


# --- pairs as a target ------------------------------------------------------------------------------------------------


def test_pairs_are_evaluated_with_all_arms_on_the_same_labels(done):
    better = report_of(done)["targets"]["better"]
    # The recipe's arms are those of every target; `longer` is asked for below.
    assert set(better["arms"]) == PAIR_ARMS - {"longer"}
    assert (better["protocol"]["test_items"], better["protocol"]["classes"]) == (20, 2)
    for arm in better["arms"].values():
        assert all(0 <= entry["mean"] <= 1 and len(entry["values"]) == 2 for entry in arm.values())
    assert {"frozen-scratch", "frozen-untrained", "frozen-raw"} <= set(better["paired"])


@pytest.fixture(scope="module")
def longer(command_line, done, folder):
    """The folder of a second evaluation: pairs alone, the longer text beside, and longer texts."""
    place = folder / "longer"
    called = command_line(
        "transfer", done, "targets.parts=null", "transfer.arms=[scratch, untrained, raw, longer, frozen, finetuned]",
        "transfer.length=40", "--out", place,
    )  # fmt: skip
    assert called.code == 0, called.err
    assert "longer" in called.out
    return place


def test_the_longer_text_is_an_arm_of_pairs(longer):
    better = report_of(longer)["targets"]["better"]
    assert set(better["arms"]) == PAIR_ARMS
    chosen, rejected = preferences(1, 40)
    chosen[20:22] = corpus()[:2]
    ahead = [len(good) > len(bad) for good, bad in zip(chosen[20:], rejected[20:], strict=True)]
    equal = [len(good) == len(bad) for good, bad in zip(chosen[20:], rejected[20:], strict=True)]
    assert not any(equal)
    assert better["arms"]["longer"]["4"]["mean"] == pytest.approx(np.mean(ahead))
    assert {"frozen-longer", "finetuned-longer"} <= set(better["paired"])
    assert "longer" in (longer / "transfer" / "report.md").read_text()


def test_the_longer_text_is_no_arm_of_texts(command_line, done, tmp_path):
    called = command_line(
        "transfer", done, "targets.better=null", "transfer.arms=[longer, frozen]", "--out", tmp_path / "out"
    )
    assert called.code == 1
    assert "longer" in called.err


def test_texts_may_be_read_further_than_in_pretraining(done, longer):
    before, after = load_scorer(done, "better"), load_scorer(longer, "better")
    assert (before.backbone.input.length, after.backbone.input.length) == (24, 40)
    text = " ".join(["word"] * 30)
    assert after.score([text]) != before.score([text])
    notes = [note for note in report_of(done)["notes"] if "were cut to 24 tokens" in note]
    assert notes
    assert not [note for note in report_of(longer)["notes"] if "were cut to 24" in note]


def test_a_length_beyond_the_positions_is_refused_before_the_training(command_line, folder, tmp_path):
    called = command_line("run", folder / "recipe.yaml", "transfer.length=65", "--out", tmp_path / "out")
    assert called.code == 1
    assert "65" in called.err
    assert "64" in called.err
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_texts_of_pairs_that_pretraining_saw_are_told(done, command_line, tmp_path):
    notes = report_of(done)["notes"]
    (told,) = [note for note in notes if note.startswith("better: texts in pretraining and test:")]
    assert told.startswith("better: texts in pretraining and test: 2 ")
    called = command_line("transfer", done, "targets.parts=null", "transfer.on_leak=raise", "--out", tmp_path / "out")
    assert called.code == 1
    assert "the test set is not unseen" in called.err
    assert not (tmp_path / "out" / "test_openings.jsonl").exists()


def test_a_target_s_scorer_is_taken_away_and_scores_files(command_line, done, folder, tmp_path):
    scorer = load_scorer(done, "better")
    assert scorer.facts["fitted on"].startswith("all 20 labelled pairs; the report's scores are for 4")
    saved = Scorer.load(done / "transfer" / "model" / "better")
    texts = corpus()[:5]
    np.testing.assert_array_equal(saved.score(texts), scorer.score(texts))
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    called = command_line("score", done, tmp_path / "texts.txt", "--target", "better")
    assert called.code == 0, called.err
    printed = [float(line.split("\t")[0]) for line in called.out.splitlines()]
    assert printed == pytest.approx(scorer.score(texts).tolist(), rel=1e-4, abs=1e-6)
    # Without a target it is the task's own scorer.
    own = command_line("score", done, tmp_path / "texts.txt")
    assert [float(line.split("\t")[0]) for line in own.out.splitlines()] == pytest.approx(
        load_scorer(done).score(texts).tolist(), rel=1e-4, abs=1e-6
    )
    assert own.out != called.out
    with pytest.raises(
        CheckpointError, match=r'no scorer of a target "beter"; there are better\. Did you mean "better"'
    ):
        load_scorer(done, "beter")
    assert not (done / "transfer" / "model" / "better" / "target.json").exists()
    assert (done / "transfer" / "model" / "parts" / "target.json").is_file()


def test_a_run_evaluated_on_pairs_alone_has_one_scorer_that_needs_no_name(command_line, done, longer, tmp_path):
    (tmp_path / "sentences").mkdir()
    recipe = yaml.safe_load((longer / "recipe.yaml").read_text())
    recipe["task"] = {"name": "shuffled_sentences"}
    (tmp_path / "sentences" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "sentences" / "transfer").symlink_to(longer / "transfer")
    assert load_scorer(tmp_path / "sentences").facts == load_scorer(longer, "better").facts


def test_the_report_of_pairs_is_written_for_readers(told, done):
    text = (done / "transfer" / "report.md").read_text()
    assert "better" in text
    assert "pairs" in text
    assert PAIR_ARMS - {"longer"} <= table_cells(text)
    assert "better: 20 pairs, 2 layers:" in told.err


# --- another network beside -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(folder):
    """The folder of another run: another tokenizer, two blocks, other widths, another task."""
    recipe = text_recipe(folder) | {
        "name": "other", "task": {"name": "shuffled_sentences"}, "tokenizer": {"kind": "bpe", "size": 400},
        "backbone": {"name": "transformers", "arguments": {"config": bert(2, 8), "length": 20}}, "targets": {},
    }  # fmt: skip
    (folder / "other.yaml").write_text(yaml.safe_dump(recipe))
    pretrain_recipe(load_recipe(str(folder / "other.yaml"), ["training.steps=2"]), folder / "other")
    return folder / "other"


@pytest.fixture(scope="module")
def beside(command_line, done, other, folder):
    """The folder of an evaluation with the other run's network beside."""
    place = folder / "beside"
    called = command_line(
        "transfer", done, f"transfer.beside.other={other}", "transfer.arms=[raw, frozen]", "--out", place
    )
    assert called.code == 0, called.err
    assert "other" in called.out
    return place


@pytest.mark.parametrize("target", ["parts", "better"])
def test_another_network_is_one_more_arm_on_the_same_labels(done, beside, target):
    found, before = report_of(beside)["targets"][target], report_of(done)["targets"][target]
    assert set(found["arms"]) == {"raw", "frozen", "other"}
    assert {arm: found["arms"][arm] for arm in ("raw", "frozen")} == {
        arm: before["arms"][arm] for arm in ("raw", "frozen")
    }
    assert set(found["paired"]) == {"frozen-raw", "frozen-other", "other-raw"}
    for shot, entry in found["paired"]["frozen-other"].items():
        ours, theirs = (found["arms"][arm][shot]["values"] for arm in ("frozen", "other"))
        assert entry["values"] == pytest.approx(np.subtract(ours, theirs))
        assert entry["mean"] == pytest.approx(np.mean(entry["values"]))


def test_its_pretraining_figures_and_its_place_are_in_the_report(beside, other):
    report = report_of(beside)
    own = json.loads((other / "pretrain.json").read_text())["metrics"]
    assert own
    assert {name: value for name, value in report["pretrain"].items() if name.startswith("other/")} == {
        f"other/{name}": value for name, value in own.items()
    }
    assert report["inputs"]["beside other"] == str(other)
    cells = table_cells((beside / "transfer" / "report.md").read_text())
    assert {"frozen", "other", "frozen \N{MINUS SIGN} other", "other \N{MINUS SIGN} raw"} <= cells
    assert {"learning_curve.png", "depth.png"} <= {path.name for path in (beside / "transfer").iterdir()}
    (first, *_) = lines(beside / "test_openings.jsonl")
    assert first["arms"] == ["frozen", "other", "raw"]


def test_a_saved_backbone_beside_has_no_figures(done, other, folder, tmp_path):
    backbone = sorted((other / "checkpoints").glob("step-*"))[-1] / "backbone"
    overrides = [
        f"transfer.beside.other={backbone}",
        "transfer.arms=[frozen]",
        "targets.parts=null",
        "transfer.length=30",
    ]
    recipe = load_recipe(str(folder / "recipe.yaml"), overrides)
    report = transfer_recipe(recipe, tmp_path, pretrained=done)
    assert set(report.targets["better"].arms) == {"frozen", "other"}
    assert not [name for name in report.pretrain if name.startswith("other/")]
    assert Backbone.from_pretrained(backbone).input.length == 20  # it is a copy that reads further


def test_a_network_beside_that_is_not_there_is_told_before_the_training(command_line, folder, tmp_path):
    called = command_line(
        "run", folder / "recipe.yaml", f"transfer.beside.other={tmp_path / 'no'}", "--out", tmp_path / "out"
    )
    assert called.code == 1
    assert f"error: {tmp_path / 'no'} is not there: expected a run's folder, or a saved backbone's." in called.err
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_network_beside_that_takes_no_text_is_refused(command_line, done, finished, tmp_path):
    called = command_line("transfer", done, f"transfer.beside.faces={finished}", "--out", tmp_path / "out")
    assert called.code == 1
    assert "error: " in called.err
    assert not (tmp_path / "out" / "test_openings.jsonl").exists()


# --- vectors and pictures above corruptions ---------------------------------------------------------------------------


def items_recipe(place, **keys):
    recipe = {
        "name": "tiny_items",
        "training": {"steps": 4, "batch_size": 8, "workers": 0, "log_every": 2, "validate_every": 2},
        "task": {"name": "max_margin_ranking", "items": {"strengths": [0.5, 1.0]}},
        "transfer": {**FEW, "augment": None, "draws": 1, "shots": [4], "arms": ["untrained", "frozen", "finetuned"]},
        **keys,
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return place / "recipe.yaml"


def test_vectors_above_corruptions_serve_a_target_of_vectors(command_line, tmp_path):
    recipe = items_recipe(
        tmp_path,
        data={"path": "builtin:features", "holdout": 0.2},
        backbone={"name": "mlp", "standardize": True, "arguments": {"hidden": [6]}},
        targets={"flowers": {"path": "builtin:features"}},
    )
    called = command_line("run", recipe, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    report = report_of(tmp_path / "run")
    flowers = report["targets"]["flowers"]
    assert set(flowers["arms"]) == {"untrained", "frozen", "finetuned"}
    assert flowers["protocol"]["classes"] == 3
    assert flowers["arms"]["frozen"]["4"]["mean"] > 0.6
    (leak,) = [note for note in report["notes"] if "in pretraining and test" in note]
    assert leak.startswith("flowers: vectors in pretraining and test: ")
    assert {"validation/pair_accuracy/strength 0.5", "validation/pair_accuracy/strength 1"} <= set(report["pretrain"])
    assert load_scorer(tmp_path / "run").backbone.input.width == 4
    assert "flowers: 150 vectors, 1 layers:" in called.err


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "mlp", "arguments": {"size": 8, "hidden": [6]}},
        {"name": "convnet", "arguments": {"size": 8, "channels": 1, "widths": [8], "blocks": [1], "embedding": 4}},
    ],
)
def test_pictures_above_corruptions_serve_a_target_of_pictures(command_line, tmp_path, backbone):
    recipe = items_recipe(
        tmp_path,
        data={"path": "builtin:digits", "options": {"split": "train"}, "holdout": 0.1},
        backbone=backbone,
        targets={"digits": {"path": "builtin:digits", "options": {"split": "test"}}},
    )
    called = command_line("run", recipe, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    digits = report_of(tmp_path / "run")["targets"]["digits"]
    assert set(digits["arms"]) == {"untrained", "frozen", "finetuned"}
    assert digits["protocol"]["classes"] == 10
    assert digits["arms"]["frozen"]["4"]["mean"] > 0.2
