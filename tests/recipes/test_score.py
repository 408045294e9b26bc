"""`auxtasks score`: files of vectors, texts and pictures, scored by what a ranking run left."""

import gzip

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from sklearn.datasets import dump_svmlight_file

from auxtasks.backbones import Backbone, mlp, transformers
from auxtasks.checkpoint import read_tensors
from auxtasks.data import load_source, train_tokenizer
from auxtasks.data.prompted_texts import encode_prompted
from auxtasks.errors import CheckpointError, ColumnError, DataError, ImageError
from recipes import build, score
from recipes.config import dump_recipe, load_recipe
from recipes.run import read_pretraining
from recipes.score import load_scorer, score_files
from transfer.scorer import Scorer

TEXTS = ["a small cat sees", "the old\tdog\nhears a cat", "a dog", "the cat hears the small old dog"]
QUESTIONS = ["who sees", None, "what dog", "who"]


def newest(run):
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def scored(command_line, *arguments):
    """Return the scores and the items that the command line prints."""
    called = command_line("score", *arguments)
    assert called.code == 0, called.err
    rows = [line.split("\t") for line in called.out.splitlines()]
    return np.array([float(row[0]) for row in rows]), [row[1] for row in rows]


# --- vectors ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(command_line, tmp_path_factory):
    """The folder of a short run of the demonstration."""
    place = tmp_path_factory.mktemp("scored") / "demo"
    called = command_line("run", "ranking_demo", "training.steps=40", "training.validate_every=20", "--out", place)
    assert called.code == 0, called.err
    return place


@pytest.fixture(scope="module")
def patients():
    """Vectors and grades of the demonstration's test."""
    columns = {name: name for name in ("qid", "grade", "features")}
    rows = load_source("builtin:severity", columns=columns, options={"split": "test"})
    return np.array(rows["features"], dtype=np.float32), np.array(rows["grade"])


@torch.no_grad()
def scores_of_the_task(run):
    """Return what the run's own task gives the rows of its test, through its evaluator."""
    recipe = load_recipe(str(run / "recipe.yaml"))
    backbone = Backbone.from_pretrained(newest(run) / "backbone")
    test = read_pretraining(recipe, backbone).test
    task = build.make_task(recipe, backbone).eval()
    task.scorer.weight.copy_(read_tensors(newest(run) / "task" / "model.safetensors")["scorer.weight"])
    evaluator = task.evaluator()
    evaluator.update(task.collate([task.view(test.record(query)) for query in range(len(test))]))
    return evaluator.scored().scores


def written(place, values, name):
    if name.endswith(".parquet"):
        Dataset.from_dict({"measured": values.tolist()}).to_parquet(place / name)
    else:
        queries = np.arange(len(values))
        dump_svmlight_file(values, np.zeros(len(values)), str(place / name), zero_based=False, query_id=queries)
    return place / name


@pytest.mark.parametrize("name", ["test.parquet", "test.svm", "test.txt"])
def test_vectors_get_the_scores_that_the_task_gives(command_line, demo, patients, tmp_path, name):
    values, grades = patients
    options = {"test.parquet": ["--column", "measured"], "test.svm": [], "test.txt": ["--kind", "svmlight"]}[name]
    found, items = scored(command_line, demo, written(tmp_path, values, name), *options)
    np.testing.assert_allclose(found, scores_of_the_task(demo), rtol=1e-4, atol=1e-6)
    assert items == [str(row) for row in range(len(values))]
    best, worst = found[grades == 4], found[grades == 0]
    assert best.mean() > found.mean() > worst.mean()


def test_several_files_are_scored_part_by_part(demo, patients, tmp_path, monkeypatch):
    first, second = written(tmp_path, patients[0][:7], "a.svm"), written(tmp_path, patients[0][7:9], "b.svm")
    whole = list(score_files(demo, [first, second]))
    assert [item for _, item in whole] == ["0", "1", "2", "3", "4", "5", "6", "0", "1"]
    monkeypatch.setattr(score, "SCORED_AT_A_TIME", 3)
    parts = list(score_files(demo, [first, second]))
    assert [item for _, item in parts] == [item for _, item in whole]
    assert [value for value, _ in parts] == pytest.approx([value for value, _ in whole], rel=1e-5)


def test_a_file_that_lacks_the_last_features_is_as_wide_as_the_network(demo, patients, tmp_path):
    values = patients[0][:5].copy()
    values[:, 8:] = 0
    dense = written(tmp_path, values, "dense.parquet")
    sparse = written(tmp_path, values, "sparse.svm")
    (tmp_path / "sparse.svm.gz").write_bytes(gzip.compress(sparse.read_bytes()))
    (tmp_path / "sparse.LIBSVM").write_bytes(sparse.read_bytes())
    expected = [value for value, _ in score_files(demo, [dense], column="measured")]
    for name in ("sparse.svm", "sparse.svm.gz", "sparse.LIBSVM"):
        assert [value for value, _ in score_files(demo, [tmp_path / name])] == pytest.approx(expected, rel=1e-5)


def test_files_count_from_where_those_of_the_run_did(demo, patients, tmp_path):
    recipe = load_recipe("ranking_features", ["data.path=x.svm", "data.options={zero_based: true, width: 10}"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(dump_recipe(recipe))
    (tmp_path / "run" / "checkpoints").symlink_to(demo / "checkpoints")
    values = patients[0][:5].copy()
    values[:, 0] = 0  # no index 0 gives the file away
    dump_svmlight_file(values, np.zeros(5), str(tmp_path / "zero.svm"), zero_based=True, query_id=np.arange(5))
    found = [value for value, _ in score_files(tmp_path / "run", [tmp_path / "zero.svm"])]
    assert found == pytest.approx(load_scorer(demo).score(values).tolist(), rel=1e-5)


@pytest.mark.parametrize("what", ["run", "checkpoint", "scorer"])
def test_a_scorer_is_read_from_a_run_a_checkpoint_or_its_own_folder(demo, patients, tmp_path, what):
    place = {"run": demo, "checkpoint": newest(demo), "scorer": tmp_path / "scorer"}[what]
    if what == "scorer":
        load_scorer(demo).save(place)
    found = load_scorer(place)
    assert (found.layer, found.backbone.input.width) == ("hidden1", 10)
    np.testing.assert_array_equal(found.score(patients[0]), load_scorer(demo).score(patients[0]))


def test_what_is_no_scorer_and_no_file_of_vectors_is_told(command_line, demo, finished, patients, tmp_path):
    with pytest.raises(CheckpointError, match='has no scorer of a target "severity"; there are none'):
        load_scorer(demo, "severity")
    with pytest.raises(CheckpointError, match="is not of a ranking task, and has 0 scorers of targets of pairs"):
        load_scorer(finished)
    with pytest.raises(CheckpointError, match="is a checkpoint of FacePairs, which scores nothing: ranking tasks do"):
        load_scorer(newest(finished))
    with pytest.raises(CheckpointError, match=r"holds no recipe\.yaml: it is not a run's folder"):
        load_scorer(tmp_path)
    called = command_line("score", demo, tmp_path / "absent.svm")
    assert (called.code, called.out) == (1, "")
    assert called.err == f"error: {tmp_path / 'absent.svm'} is not there.\n"
    called = command_line("score", demo, tmp_path, "--kind", "svmligth")
    assert called.code == 1
    assert 'found "svmligth". Did you mean "svmlight"?' in called.err
    wide = written(tmp_path, np.ones((2, 11), np.float32), "wide.parquet")
    with pytest.raises(DataError, match="the column 'features' holds 11 numbers a row; expected 10"):
        list(score_files(demo, [wide], column="measured"))
    with pytest.raises(ColumnError, match="has no column 'features', declared for the role 'features'"):
        list(score_files(demo, [wide]))


# --- texts and pictures -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory):
    """A saved scorer of texts, which no run is needed for."""
    tokenizer = train_tokenizer([*TEXTS, "who sees what"], size=60)
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 8}  # fmt: skip
    backbone = transformers(config, length=12, tokenizer=tokenizer)
    scorer = Scorer(backbone, "block1", "mean_max", np.random.default_rng(0).normal(size=16))
    return scorer, scorer.save(tmp_path_factory.mktemp("texts") / "scorer")


def test_texts_are_printed_a_line_each_with_their_scores(command_line, of_texts, tmp_path):
    scorer, place = of_texts
    spelled = [" ".join(text.split()) for text in TEXTS]
    (tmp_path / "texts.txt").write_text("\n\n".join(spelled) + "\n", encoding="utf-8")
    found, items = scored(command_line, place, tmp_path / "texts.txt")
    assert items == spelled
    np.testing.assert_allclose(found, scorer.score(TEXTS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_texts_is_scored_with_what_they_answer(command_line, of_texts, tmp_path, suffix):
    scorer, place = of_texts
    table = Dataset.from_dict({"said": TEXTS, "text": TEXTS[::-1], "asked": ["who sees", "a cat", "what dog", "who"]})
    {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet}[suffix](tmp_path / f"t{suffix}")
    found, items = scored(command_line, place, tmp_path / f"t{suffix}", "--column", "said", "--prompt", "asked")
    assert items == [" ".join(text.split()) for text in TEXTS]
    tokenizer, length = scorer.backbone.text_settings
    prompted = encode_prompted(list(zip(table["asked"], TEXTS, strict=True)), np.arange(4), tokenizer, length)
    np.testing.assert_allclose(found, scorer.score_table(prompted), rtol=1e-4, atol=1e-6)
    alone, _ = scored(command_line, place, tmp_path / f"t{suffix}")
    np.testing.assert_allclose(alone, scorer.score(TEXTS[::-1]), rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, scorer.score(TEXTS), atol=1e-4)


def test_a_text_that_answers_nothing_stands_alone(of_texts, tmp_path):
    scorer, place = of_texts
    Dataset.from_dict({"text": TEXTS, "asked": QUESTIONS}).to_parquet(tmp_path / "t.parquet")
    found = [value for value, _ in score_files(place, [tmp_path / "t.parquet"], prompt="asked")]
    assert found[1] == pytest.approx(scorer.score(TEXTS[1:2])[0], rel=1e-4)
    assert found[0] != pytest.approx(scorer.score(TEXTS[:1])[0], rel=1e-3)


def test_an_empty_text_is_named_with_its_row_in_the_file(of_texts, tmp_path, monkeypatch):
    Dataset.from_dict({"text": [*TEXTS, " "]}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(score, "SCORED_AT_A_TIME", 3)
    with pytest.raises(DataError, match=r"t\.parquet: row 4 holds an empty text: leave it out"):
        list(score_files(of_texts[1], [tmp_path / "t.parquet"]))


def test_pictures_are_scored_by_path_and_by_folder(command_line, tmp_path, monkeypatch):
    scorer = Scorer(mlp(size=4, hidden=[3]), "hidden1", "auto", np.array([1.0, -2.0, 3.0]))
    scorer.save(tmp_path / "scorer")
    rng = np.random.default_rng(0)
    paths = [tmp_path / "photos" / f"{name}.png" for name in "abc"]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (4, 4), dtype=np.uint8)).save(path)
    monkeypatch.setattr(score, "SCORED_AT_A_TIME", 2)
    found, items = scored(command_line, tmp_path / "scorer", tmp_path / "photos", paths[1])
    assert items == [str(path) for path in (*paths, paths[1])]
    np.testing.assert_allclose(found[:3], scorer.score([str(path) for path in paths]), rtol=1e-4)
    assert found[3] == pytest.approx(found[1])
    (tmp_path / "table.csv").write_text("a\n1\n")
    with pytest.raises(ImageError, match=r"table\.csv is no picture, and this model takes pictures"):
        list(score_files(tmp_path / "scorer", [tmp_path / "table.csv"]))
