"""Runs that rank labelled queries, from the command line on: what they leave, say and refuse."""

import json

import numpy as np
import pytest
import yaml
from datasets import Dataset
from scipy.stats import kendalltau

from auxtasks.backbones import Backbone
from auxtasks.checkpoint import read_tensors
from auxtasks.data import load_source
from auxtasks.errors import DataError
from auxtasks.ranking_metrics import ndcg
from auxtasks.seeding import generator
from recipes import build, ranking, training
from recipes.config import load_recipe, recipe_text
from recipes.ranking_table import ranking_lines
from recipes.run import pretrain_recipe, read_pretraining
from recipes.schema import Source
from transfer.scorer import Scorer

FEW_STEPS = ["training.steps=20", "training.batch_size=8", "training.validate_every=10"]
SHOWN = {"ndcg@5", "ndcg@10", "map", "mrr", "kendall_tau", "pair_accuracy"}
WORDS = ["the", "old", "dog", "sees", "a", "small", "cat", "and", "hears", "red", "birds", "near", "big", "houses"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(path):
    return json.loads(path.read_text())


def newest(run):
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def weights_of(run):
    return read_tensors(newest(run) / "backbone" / "model.safetensors")


# --- the demonstration ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(command_line, tmp_path_factory):
    """What a short run of the demonstration said, and its folder."""
    place = tmp_path_factory.mktemp("ranking") / "demo"
    called = command_line("run", "ranking_demo", *FEW_STEPS, "--out", place)
    assert called.code == 0, called.err
    return called, place


@pytest.fixture(scope="module")
def demo(told):
    return told[1]


def test_the_test_is_opened_once_and_its_numbers_are_those_of_the_saved_scorer(demo):
    found = read(demo / "ranking.json")
    assert set(found) == {"queries", "noun", "resampled", "rankers", "paired"}
    assert set(found["rankers"]) == {"ranker", "rank_svm"}
    assert set(found["paired"]) == {"ranker-rank_svm"}
    assert all(set(row) == SHOWN for row in (*found["rankers"].values(), *found["paired"].values()))
    (opening,) = lines(demo / "test_openings.jsonl")
    assert (opening["target"], opening["queries"], opening["rankers"]) == ("test queries", 8, ["rank_svm", "ranker"])
    rows = load_source(
        "builtin:severity", columns={n: n for n in ("qid", "grade", "features")}, options={"split": "test"}
    )
    scores, grades, clinics = (
        Scorer.load(newest(demo)).score(np.array(rows["features"], dtype=np.float32)),
        np.array(rows["grade"]),
        np.array(rows["qid"]),
    )
    by_clinic = [(scores[clinics == clinic], grades[clinics == clinic]) for clinic in np.unique(clinics)]
    mean = found["rankers"]["ranker"]
    assert mean["ndcg@10"]["mean"] == pytest.approx(np.mean([ndcg(*clinic, top=10) for clinic in by_clinic]), abs=1e-6)
    taus = [kendalltau(*clinic).statistic for clinic in by_clinic]
    assert mean["kendall_tau"]["mean"] == pytest.approx(np.mean(taus), abs=1e-6)
    right = [
        np.mean([(s[i] > s[j]) + (s[i] == s[j]) / 2 for i in range(len(s)) for j in range(len(s)) if g[i] > g[j]])
        for s, g in by_clinic
    ]
    assert mean["pair_accuracy"]["mean"] == pytest.approx(np.mean(right), abs=1e-6)
    measured = read(demo / "pretrain.json")["metrics"]
    assert measured["test/ranker/ndcg@10"] == pytest.approx(mean["ndcg@10"]["mean"])
    assert {name for name in measured if name.startswith("test/rank_svm/")} == {f"test/rank_svm/{m}" for m in SHOWN}


def test_a_few_steps_rank_better_than_chance_and_intervals_end_where_a_metric_does(demo):
    found = read(demo / "ranking.json")["rankers"]["ranker"]
    assert found["pair_accuracy"]["mean"] > 0.6
    for metric, entry in found.items():
        low, high = entry["ci95"]
        assert (-1 if metric == "kendall_tau" else 0) <= low <= entry["mean"] <= high <= 1
    differences = read(demo / "ranking.json")["paired"]["ranker-rank_svm"]
    rank_svm = read(demo / "ranking.json")["rankers"]["rank_svm"]
    for metric, entry in differences.items():
        assert entry["mean"] == pytest.approx(found[metric]["mean"] - rank_svm[metric]["mean"])


def test_the_table_is_printed_and_a_second_start_trains_and_tests_nothing(command_line, told, monkeypatch):
    called, place = told
    table = called.out.splitlines()
    assert table[0] == "|  | ndcg@5 | ndcg@10 | map | mrr | kendall_tau | pair_accuracy |"
    assert [row.split(" | ")[0] for row in table[2:5]] == ["| ranker", "| rank_svm", "| difference ranker-rank_svm"]
    assert table[-1] == "8 test queries; 95 % intervals over queries."
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    monkeypatch.setattr(training, "pretrain", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(ranking, "choose_rank_svm", lambda *_, **__: pytest.fail("tested again"))
    for command in (
        ["run", "ranking_demo", *FEW_STEPS, "--out", place], ["pretrain", "ranking_demo", *FEW_STEPS, "--out", place],
        ["report", place],
    ):  # fmt: skip
        again = command_line(*command)
        assert (again.code, again.out) == (0, called.out), again.err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_the_network_takes_width_mean_and_deviation_from_the_training_clinics(demo):
    backbone = Backbone.from_pretrained(newest(demo) / "backbone")
    rows = load_source("builtin:severity", columns={"features": "features"}, options={"split": "train"})
    values = np.array(rows["features"], dtype=np.float64)
    assert backbone.input.width == 10
    np.testing.assert_allclose(backbone.input.mean, values.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(backbone.input.std, values.std(axis=0), rtol=1e-9)


def test_a_table_without_a_metric_leaves_its_cell_empty():
    entry = {"mean": 0.5, "ci95": None}
    found = {
        "queries": 2,
        "noun": "pairs",
        "rankers": {"ranker": {"map": entry}, "longer": {"map": entry, "mrr": entry}},
        "paired": {"ranker-longer": {"map": {"mean": -0.25, "ci95": [-0.5, 0.0]}}},
    }
    assert ranking_lines(found)[-1] == "2 test pairs; 95 % intervals over pairs."
    assert ranking_lines(found)[2:5] == [
        "| ranker | .500 |  |", "| longer | .500 | .500 |", "| difference ranker-longer | -.250 [-.500, .000] |  |",
    ]  # fmt: skip


def test_what_no_query_tells_is_left_out_of_intervals():
    nothing, some = np.array([np.nan, np.nan]), np.array([1.0, np.nan])
    by_query = {"ranker": {"map": nothing, "mrr": some}, "longer": {"map": some, "mrr": 1 - some}}
    found = ranking._intervals(by_query, ("map", "mrr"), seed=0)
    assert {name: list(row) for name, row in found["rankers"].items()} == {"ranker": ["mrr"], "longer": ["map", "mrr"]}
    assert found["paired"]["ranker-longer"]["mrr"]["mean"] == 1.0
    assert list(found["paired"]["ranker-longer"]) == ["mrr"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.keep_best=null", "training.patience=3"],
            "patience=3 waits for a new best validation: set keep_best",
        ),
        (["training.validate_every=0"], 'keep_best="ndcg@10" chooses among validations, but with validate_every=0'),
        (["training.keep_best=ndgc@10", *FEW_STEPS], 'keep_best="ndgc@10" is none of the validation metrics of step'),
    ],
)
def test_a_best_validation_that_cannot_be_is_told(command_line, tmp_path, overrides, message):
    called = command_line("pretrain", "ranking_demo", *overrides, "--out", tmp_path / "out")
    assert called.code == 1
    assert message in called.err
    assert not (tmp_path / "out" / "test_openings.jsonl").exists()


# --- what the data says of vectors ------------------------------------------------------------------------------------


def vectors(tmp_path, values):
    Dataset.from_dict({"features": np.asarray(values, dtype=np.float32).tolist()}).to_parquet(tmp_path / "v.parquet")
    return Source(path=str(tmp_path / "v.parquet"))


def test_absent_features_say_nothing_of_mean_and_deviation(tmp_path):
    values = np.array([[1, 0.1, 0, 7], [0, 3.1, 0, 7], [5, 0.1, 0, 7], [0, 2.1, 0, 7]])
    found = build._of_vectors(vectors(tmp_path, values), 0)
    assert found["width"] == 4
    assert found["mean"] == pytest.approx([3, 1.35, 0, 7])
    assert found["std"] == pytest.approx([2, np.std([0.1, 3.1, 0.1, 2.1]), 1, 1])
    of_a_tenth = build._of_vectors(vectors(tmp_path, values), 0.1)  # which is another number in float32
    assert of_a_tenth["mean"] == pytest.approx([1.5, 2.6, 0, 7])


def test_pairs_of_vectors_are_standardised_by_both_sides(tmp_path):
    chosen, rejected = [[1.0, 2.0], [3.0, 2.0]], [[5.0, 2.0], [7.0, 2.0]]
    Dataset.from_dict({"a": chosen, "b": rejected}).to_parquet(tmp_path / "pairs.parquet")
    source = Source(path=str(tmp_path / "pairs.parquet"), holds="pairs", chosen="a", rejected="b")
    assert build._of_vectors(source, None) == {"width": 2, "mean": [4.0, 2.0], "std": [np.sqrt(5.0), 1.0]}


# --- lists from files in svmlight format ------------------------------------------------------------------------------


def write_lists(place, queries, seed, *, width=5, first=0):
    rng, found = np.random.default_rng(seed), []
    for query in range(first, first + queries):
        for values in rng.normal(size=(5, width)):
            features = " ".join(f"{place + 1}:{value:.4f}" for place, value in enumerate(values))
            found.append(f"{int(np.clip(round(values[0] + 1), 0, 2))} qid:{query} {features}")
    place.write_text("\n".join(found) + "\n")


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """A folder of three files in svmlight format, of which each may be replaced by another."""
    place = tmp_path_factory.mktemp("lists")
    for seed, (name, queries) in enumerate((("train", 20), ("validation", 6), ("test", 6))):
        write_lists(place / f"{name}.svm", queries, seed, first=100 * seed)
    write_lists(place / "narrow.svm", 6, 3, width=4, first=300)
    (place / "below.svm").write_text((place / "train.svm").read_text().replace("0 qid:3 ", "-1 qid:3 "))
    rows = (place / "train.svm").read_text().splitlines()
    (place / "again.svm").write_text("\n".join([*rows, rows[0]]) + "\n")
    rows[7] = " ".join("2:nan" if part.startswith("2:") else part for part in rows[7].split())
    (place / "nan.svm").write_text("\n".join(rows) + "\n")
    return place


@pytest.fixture
def of_lists(command_line, lists, tmp_path):
    """Run on lists by path, with overrides; return what was said, and the folder."""

    def ask(*overrides, **parts):
        files = {name: lists / f"{parts.get(name, name)}.svm" for name in ("train", "validation", "test")}
        called = command_line(
            "run", "ranking_features", f"data.path={files['train']}", "data.split=null",
            f"data.validation.path={files['validation']}", "data.validation.split=null",
            f"data.test.path={files['test']}", "data.test.split=null", "backbone.arguments.hidden=[8]",
            *FEW_STEPS, *overrides, "--out", tmp_path / "out",
        )  # fmt: skip
        return called, tmp_path / "out"

    return ask


def test_lists_by_path_are_ranked(of_lists):
    called, place = of_lists()
    assert called.code == 0, called.err
    assert read(place / "ranking.json")["queries"] == 6
    assert read(place / "ranking.json")["rankers"]["rank_svm"]["pair_accuracy"]["mean"] > 0.8
    notes = read(place / "pretrain.json")["notes"]
    assert all("say nothing" in note for note in notes)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_part_of_another_width_is_named_with_both(of_lists, lists, part):
    called, place = of_lists(**{part: "narrow"})
    assert called.code == 1
    assert called.err == (
        f"error: {lists / 'narrow.svm'}: the backbone takes features items of shape (5,), the table holds vectors of 4 "
        "features. A file in svmlight format tells its width by its largest index alone: say it (options.width).\n"
    )
    assert not (place / "checkpoints").exists()


def test_the_width_of_all_parts_can_be_said(of_lists):
    called, place = of_lists("data.options.width=5", test="narrow")
    assert called.code == 0, called.err
    assert Backbone.from_pretrained(newest(place) / "backbone").input.width == 5


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_feature_that_is_no_number_is_named(of_lists, lists, part):
    called, _ = of_lists(**{part: "nan"})
    assert called.code == 1
    assert called.err.startswith(f"error: {lists / 'nan.svm'}: row 7 holds nan as feature 1 (from 0) of the column")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_grades_that_no_metric_is_computed_of_are_refused_before_the_training(of_lists, lists, part):
    called, place = of_lists(**{part: "below"})
    assert called.code == 1
    assert called.err.startswith(f"error: {lists / 'below.svm'}: grades must be from 0 to 100 to have")
    assert "of query 3)" in called.err
    assert not (place / "checkpoints").exists()


def test_such_grades_can_be_trained_on(of_lists):
    called, place = of_lists(train="below")
    assert called.code == 0, called.err
    assert read(place / "ranking.json")["queries"] == 6


def test_a_query_that_comes_back_is_named_with_both_rows(of_lists, lists):
    called, _ = of_lists(train="again")
    assert called.code == 1
    assert called.err.startswith(
        f"error: {lists / 'again.svm'}: the query 0 begins in row 0, and comes back in row 100 after other queries."
    )


def test_a_share_of_whole_queries_is_held_out(lists):
    overrides = [f"data.path={lists / 'train.svm'}", "data.split=null", "data.validation=null", "data.test=null",
                 "data.holdout=0.2"]  # fmt: skip
    recipe = load_recipe("ranking_features", overrides)
    data = read_pretraining(recipe, build.make_backbone(recipe))
    held_out = sorted(int(query) for query in generator(0, "holdout").permutation(20)[:4])
    assert [int(name) for name in data.held_out.names] == held_out
    assert [int(name) for name in data.trained.names] == [query for query in range(20) if query not in held_out]
    assert (len(data.held_out.grades), data.test) == (20, None)
    few = load_recipe("ranking_features", [*overrides, "data.validation_items=2"])
    assert len(read_pretraining(few, build.make_backbone(few)).held_out) == 2
    everything = load_recipe("ranking_features", [*overrides[:-1], "data.holdout=0.99"])
    with pytest.raises(DataError, match=r"data\.holdout is 0\.99, which leaves none of 20 queries to train on"):
        read_pretraining(everything, build.make_backbone(everything))


def test_the_best_of_a_validation_that_is_not_there_is_refused(of_lists):
    called, place = of_lists("data.validation=null", "data.holdout=0")
    assert called.code == 1
    assert 'keep_best="ndcg@10" is a metric of held-out data, and there is none.' in called.err
    assert not (place / "ranking.json").exists()


# --- pairs of texts ---------------------------------------------------------------------------------------------------


def write_text_pairs(place):
    """Write parquet files of pairs: the chosen text says "good" and is longer."""
    place.mkdir()
    for seed, (part, count) in enumerate((("train", 60), ("validation", 20), ("test", 16))):
        rng = np.random.default_rng(seed)
        said = [list(rng.choice(WORDS, 6)) for _ in range(count)]
        rows = {
            "chosen": [" ".join([*words, "good"]) for words in said],
            "rejected": [" ".join([*words[:-1], "bad"]) for words in said],
            "question": [f"what {rng.choice(WORDS)}" for _ in said],
        }
        Dataset.from_dict(rows).to_parquet(place / f"{part}.parquet")


CONFIG = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 16, "max_position_embeddings": 32}  # fmt: skip


@pytest.fixture(scope="module")
def text_recipe(tmp_path_factory):
    """The shipped recipe for pairs of texts, made tiny."""
    place = tmp_path_factory.mktemp("text_pairs")
    write_text_pairs(place / "pairs")
    recipe = yaml.safe_load(recipe_text("ranking_text"))
    recipe["data"]["path"] = str(place / "pairs")
    recipe["tokenizer"]["size"] = 90
    recipe["backbone"]["arguments"] = {"config": CONFIG, "length": 16}
    recipe["training"] |= {
        "steps": 6, "batch_size": 8, "validate_every": 3, "mixed_precision": "no", "learning_rate": 5e-3,
        "warmup_steps": 1,
    }  # fmt: skip
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return place / "recipe.yaml"


@pytest.fixture(scope="module")
def of_texts(command_line, text_recipe):
    place = text_recipe.parent / "run"
    called = command_line("run", text_recipe, "--out", place)
    assert called.code == 0, called.err
    return place


def test_pairs_of_texts_are_tested_beside_the_longer_text_and_words(of_texts):
    found = read(of_texts / "ranking.json")
    assert set(found["rankers"]) == {"ranker", "longer", "rank_svm"}
    assert set(found["paired"]) == {"ranker-longer", "ranker-rank_svm"}
    assert all(set(row) == {"pair_accuracy"} for row in found["rankers"].values())
    assert found["rankers"]["longer"]["pair_accuracy"]["mean"] == 1.0
    assert found["rankers"]["rank_svm"]["pair_accuracy"]["mean"] == 1.0
    assert found["queries"] == 16
    measured = read(of_texts / "pretrain.json")["metrics"]
    assert {name for name in measured if name.startswith("test/")} == {
        f"test/{name}/pair_accuracy" for name in found["rankers"]
    }
    (opening,) = lines(of_texts / "test_openings.jsonl")
    assert opening["rankers"] == ["longer", "rank_svm", "ranker"]


def test_the_tokenizer_is_trained_on_both_texts_and_on_what_they_answer(of_texts, text_recipe):
    recipe = load_recipe(str(text_recipe), ["data.prompt=question"])
    texts = ranking.pair_texts(recipe)
    assert len(texts) == len(set(texts))
    assert any(text.startswith("what ") for text in texts)
    assert not any(text.startswith("what ") for text in ranking.pair_texts(load_recipe(str(text_recipe))))
    tokenizer = Backbone.from_pretrained(newest(of_texts) / "backbone").tokenizer
    assert tokenizer.tokenize("good bad") == ["good", "bad"]


def test_texts_are_read_after_what_they_answer(text_recipe, tmp_path):
    recipe = load_recipe(str(text_recipe), ["data.prompt=question", "training.steps=2", "training.validate_every=1"])
    pretrain_recipe(recipe, tmp_path)
    backbone = Backbone.from_pretrained(newest(tmp_path) / "backbone")
    data = read_pretraining(recipe, backbone)
    assert data.trained.items.texts[0].startswith("what ")
    tokens = backbone.tokenizer.convert_ids_to_tokens(data.trained.items.tokens[0])
    assert (tokens.count("[SEP]"), tokens[1]) == (2, "what")
    assert read(tmp_path / "ranking.json")["rankers"]["longer"]["pair_accuracy"]["mean"] == 1.0


def test_a_share_of_the_pairs_is_held_out_and_what_they_share_is_noted(text_recipe, of_texts):
    backbone = Backbone.from_pretrained(newest(of_texts) / "backbone")
    recipe = load_recipe(str(text_recipe), ["data.validation=null", "data.holdout=0.25"])
    data = read_pretraining(recipe, backbone)
    assert (len(data.trained), len(data.held_out)) == (45, 15)
    assert data.notes == ["pairs that are validated on were drawn at random, and share items with those trained on."]
    none = load_recipe(str(text_recipe), ["data.validation=null", "data.holdout=0", "training.keep_best=null"])
    assert read_pretraining(none, backbone).notes == []


# --- beginning with a network that is there ---------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["run", "backbone"])
def test_a_run_begins_with_the_network_of_another(command_line, text_recipe, of_texts, tmp_path, of):
    start = of_texts if of == "run" else newest(of_texts) / "backbone"
    recipe = yaml.safe_load(text_recipe.read_text())
    recipe["backbone"] = {"name": "transformers", "pretrained": str(start)}
    del recipe["tokenizer"]
    recipe["training"] |= {"steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "validate_every": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    called = command_line("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert called.code == 0, called.err
    before, after = weights_of(of_texts), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(after[name].allclose(before[name], atol=1e-6) for name in before)
    assert not (tmp_path / "out" / "tokenizer").exists()
    loaded, begun = (Backbone.from_pretrained(newest(run) / "backbone") for run in (of_texts, tmp_path / "out"))
    assert loaded.tokenizer.get_vocab() == begun.tokenizer.get_vocab()


def test_a_network_that_is_not_there_is_told_before_anything_is_read(command_line, text_recipe, tmp_path):
    recipe = yaml.safe_load(text_recipe.read_text())
    recipe["backbone"] = {"name": "transformers", "pretrained": str(tmp_path / "nowhere")}
    del recipe["tokenizer"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    called = command_line("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert called.code == 1
    assert "nowhere is not there: expected a run's folder, or a saved backbone's." in called.err
