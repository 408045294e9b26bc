"""Scorers: the scores of the task that they come from, of any kind of item, also from a folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from auxtasks import checkpoint
from auxtasks.backbones import mlp
from auxtasks.errors import CheckpointError, DataError, InputMismatchError
from auxtasks.features.batches import model_batch
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, MaxMarginRanking
from auxtasks.training.settings import LoopSettings
from transfer import scorer as scorer_module
from transfer.model import table_of_items
from transfer.scorer import Scorer

QUIET = LoopSettings(show_progress=False)


def scorer_of(task: MaxMarginRanking) -> Scorer:
    return Scorer(task.backbone, task.layer, task.pool, task.scorer.weight.detach().double().numpy()[0])


def vectors(count, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    words = ["fine", "awful", "the", "film", "story", "was", "dull", "great"]
    return [" ".join(rng.choice(words, size=rng.integers(1, 12))) for _ in range(count)]


@pytest.fixture(params=["vectors", "texts", "pictures"])
def known(request, make_encoder, tiny_convnet, quadrants):
    """A task, items that it scores, and their scores by the task, one after the other."""
    if request.param == "vectors":
        task, items = MaxMarginRanking(mlp(width=4, hidden=[5], mean=[0.5] * 4, std=[2.0] * 4)), vectors(9)
    elif request.param == "texts":
        task, items = MaxMarginRanking(make_encoder()), texts(9)
    else:
        task, items = MaxMarginRanking(tiny_convnet(dropout=0.5)), [Image.fromarray(quadrants.pixels[row, :, :, 0])
                                                                    for row in range(9)]  # fmt: skip
    task.eval()
    table = table_of_items(task.backbone, items, task.backbone.input.size)
    with torch.no_grad():
        if request.param == "pictures":
            raw = torch.from_numpy(np.array(table.pixels)).permute(0, 3, 1, 2)
            expected = [float(task.score(raw[row : row + 1])) for row in range(9)]
        elif request.param == "vectors":
            expected = [float(task.score(torch.from_numpy(items[row : row + 1]))) for row in range(9)]
        else:
            expected = [float(task.score(model_batch(task.backbone, table, [row]))) for row in range(9)]
    task.train()
    assert len(set(expected)) > 5
    return task, items, np.array(expected)


def test_scores_are_those_of_the_task(known):
    task, items, expected = known
    scorer = scorer_of(task)
    found = scorer.score(items)
    assert (found.shape, found.dtype) == ((9,), np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scorer.score(items[3:4]), expected[3:4], rtol=1e-4, atol=1e-5)
    assert task.training


def test_a_saved_scorer_scores_the_same(known, tmp_path):
    task, items, expected = known
    scorer = scorer_of(task)
    place = scorer.save(tmp_path / "scorer")
    assert place == tmp_path / "scorer"
    assert {path.name for path in place.iterdir()} == {"backbone", "scorer.json", "weights.safetensors"}
    found = Scorer.load(str(place))
    np.testing.assert_array_equal(found.score(items), scorer.score(items))
    np.testing.assert_allclose(found.score(items), expected, rtol=1e-4, atol=1e-5)
    assert (found.layer, found.pool) == (task.layer, task.pool)


def test_facts_are_kept(tmp_path):
    weights = np.array([1.0, -1.0])
    weights.flags.writeable = False
    facts = {"trained_on": "films", "ndcg@10": 0.5}
    place = Scorer(mlp(width=2, hidden=[]), "input", "auto", weights, facts).save(tmp_path / "a")
    assert Scorer.load(place).facts == facts
    assert Scorer.load(place).score([[1, 0], [0, 1]]).tolist() == [1, -1]
    # Written over as a whole.
    Scorer(mlp(width=2, hidden=[]), "input", "auto", -weights).save(place)
    assert Scorer.load(place).score([[1, 0]]).tolist() == [-1]
    assert Scorer.load(place).facts == {}


def test_a_checkpoint_of_a_ranking_run_is_a_scorer(tmp_path, make_encoder):
    pairs = {"chosen": ["fine film", "great story"], "rejected": ["awful film", "dull story"]}
    runs = {
        "vectors": (mlp(width=4, hidden=[6]), {"qid": [1, 1, 1], "grade": [2, 0, 1], "features": vectors(3).tolist()}),
        "texts": (make_encoder(), pairs),
    }
    for name, (backbone, rows) in runs.items():
        task = MaxMarginRanking(backbone)
        pretrain(task, Dataset.from_dict(rows), steps=3, batch_size=2, loop=QUIET, folder=tmp_path / name)
        [place] = (tmp_path / name / "checkpoints").glob("step-*")
        assert place.name == "step-00000003"
        items = vectors(5, seed=1) if name == "vectors" else texts(5)
        np.testing.assert_allclose(Scorer.load(place).score(items), scorer_of(task).score(items), rtol=1e-6)
        assert Scorer.load(place).layer == backbone.layer_names[-1]


def test_another_layer_can_be_read():
    backbone = mlp(width=4, hidden=[5, 3])
    weights = np.arange(5.0)
    values = vectors(6)
    with torch.no_grad():
        hidden = torch.relu(backbone.forward_layers(torch.from_numpy(values), ["hidden1"])["hidden1"]).numpy()
    np.testing.assert_allclose(Scorer(backbone, "hidden1", "auto", weights).score(values), hidden @ weights, rtol=1e-5)


def test_many_items_are_scored_part_by_part(monkeypatch):
    scorer, values = scorer_of(MaxMarginRanking(mlp(width=4, hidden=[5]))), vectors(25)
    whole = scorer.score(values)
    sizes = []
    table_of_some = scorer_module.table_of_items
    monkeypatch.setattr(scorer_module, "SCORED_AT_A_TIME", 10)
    monkeypatch.setattr(scorer_module, "table_of_items", lambda b, items, s: sizes.append(len(items)) or
                        table_of_some(b, items, s))  # fmt: skip
    np.testing.assert_allclose(scorer.score(values), whole, rtol=1e-6)
    assert sizes == [10, 10, 5]


def test_all_parts_are_scored_one_at_a_time():
    scorer, asked = scorer_of(MaxMarginRanking(mlp(width=4, hidden=[5]))), []

    def parts():
        for part in range(1000):
            asked.append(part)
            yield vectors(3, seed=part)

    scores = scorer.score_all(parts())
    assert asked == []
    np.testing.assert_array_equal(next(scores), scorer.score(vectors(3, seed=0)))
    np.testing.assert_array_equal(next(scores), scorer.score(vectors(3, seed=1)))
    assert asked == [0, 1]


def test_no_items_have_no_scores(make_encoder):
    for scorer in (scorer_of(MaxMarginRanking(mlp(width=4))), scorer_of(MaxMarginRanking(make_encoder()))):
        assert scorer.score([]).shape == (0,)
        assert [part.shape for part in scorer.score_all([[]])] == [(0,)]


# What cannot be


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(
        DataError, match=r'"hidden1", pooled by "auto", has 5 features, the weights have the shape \(4,'
    ):
        Scorer(mlp(width=4, hidden=[5]), "hidden1", "auto", np.zeros(4))


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (np.zeros((3, 5)), InputMismatchError, r"vectors of 4 features.*found the shape \(3, 5\)"),
        (np.zeros(4), InputMismatchError, r"found the shape \(4,\)"),
        (["a text"], InputMismatchError, "vectors of 4 features"),
        ("a text", InputMismatchError, "expected a list of items, found str"),
        ([[0, 0, 0, 0], [0, np.nan, 0, 0]], DataError, "row 1 holds NaN"),
    ],
)
def test_items_that_the_backbone_does_not_take_are_refused(items, error, message):
    with pytest.raises(error, match=message):
        scorer_of(MaxMarginRanking(mlp(width=4))).score(items)


def test_vectors_are_no_texts(make_encoder):
    with pytest.raises(InputMismatchError, match="the backbone takes texts; item 1 is int, not str"):
        scorer_of(MaxMarginRanking(make_encoder())).score(["a", 2])


def test_folders_without_a_scorer_are_refused(tmp_path, faces, tiny_convnet):
    with pytest.raises(CheckpointError, match=r"holds no scorer: expected scorer\.json, or a checkpoint of a ranking"):
        Scorer.load(tmp_path)
    FacePairs(tiny_convnet(), photos=2).save(tmp_path / "faces", {})
    with pytest.raises(CheckpointError, match="is a checkpoint of FacePairs, which scores nothing: ranking tasks do"):
        Scorer.load(tmp_path / "faces")


def test_damaged_folders_are_refused(tmp_path):
    whole = Scorer(mlp(width=2, hidden=[]), "input", "auto", np.ones(2)).save(tmp_path / "whole")

    def damaged(name):
        return shutil.copytree(whole, tmp_path / name)

    (damaged("no weights") / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is missing"):
        Scorer.load(tmp_path / "no weights")
    checkpoint.write_tensors(damaged("others") / "weights.safetensors", {"bias": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="is damaged: the scorer's weights, layer or pooling are not there"):
        Scorer.load(tmp_path / "others")
    checkpoint.write_json(damaged("no layer") / "scorer.json", {"schema": 1, "pool": "auto"})
    with pytest.raises(CheckpointError, match="is damaged: the scorer's weights, layer or pooling are not there"):
        Scorer.load(tmp_path / "no layer")
    checkpoint.write_json(damaged("later") / "scorer.json", {"schema": 2, "layer": "input", "pool": "auto"})
    with pytest.raises(CheckpointError, match="has schema 2; this version reads schema 1"):
        Scorer.load(tmp_path / "later")
    shutil.rmtree(damaged("no backbone") / "backbone")
    with pytest.raises(CheckpointError, match="backbone"):
        Scorer.load(tmp_path / "no backbone")
