"""`auxtasks episodes`: a finished run's backbone on episodes of a target, against episodes done by hand."""

import json
import shutil

import numpy as np
import pytest

from auxtasks.backbones import Backbone
from auxtasks.errors import CheckpointError, LayerError, TransferError
from auxtasks.features.extract import extract
from recipes.config import load_recipe
from recipes.episodes import episodes_run
from recipes.folder import RunFolder
from recipes.targets import load_target
from transfer.episodes import draw_episodes
from transfer.heads import build_head

SIZES = {"way": 3, "shot": 1, "queries": 2, "episodes": 20}


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run: the log of openings is written into it."""
    place = tmp_path / "run"
    shutil.copytree(finished, place)
    return place


def test_the_scores_are_those_of_heads_on_the_backbones_features(run):
    found = episodes_run(run, [], "strangers", **SIZES)
    recipe = load_recipe(str(run / "recipe.yaml"))
    backbone = Backbone.from_pretrained(RunFolder(run).backbone())
    table = load_target(recipe, "strangers", recipe.targets["strangers"], backbone).table
    drawn = draw_episodes(table.labels, **SIZES, seed=recipe.seed)
    values = extract(backbone, table, {"embedding": "auto"})["embedding"]
    for words in ("prototype", "ridge"):
        right = [
            np.mean(build_head(words).fit(values[rows], [0, 1, 2], 3).predict(values[query]) == drawn.query_labels)
            for rows, query in zip(drawn.support, drawn.query, strict=True)
        ]
        assert found.scores["embedding"][words].accuracies == pytest.approx(right)
    assert list(found.scores) == ["embedding"]
    text = "\n".join(found.lines())
    assert (
        "strangers: 20 episodes, 3-way, 1-shot, 2 queries a class, from 15 pictures of 3 classes; chance 33.3 %" in text
    )
    assert f"{found.scores['embedding']['ridge'].mean * 100:.1f} % [" in text
    assert "The best of several layers or heads, picked here, was picked on what it is tested on." in text
    assert any("strangers" in note for note in found.notes)  # leaks were looked for


def test_the_opening_is_logged_with_what_was_asked(run):
    before = (run / "test_openings.jsonl").read_text().splitlines()
    episodes_run(run, [], "strangers", **SIZES, layer="all")
    *kept, line = (run / "test_openings.jsonl").read_text().splitlines()
    assert kept == before
    event = json.loads(line)
    assert (event["target"], event["episodes"]) == ("strangers", SIZES)
    assert event["layers"][-1] == "embedding"
    assert event["heads"] == ["prototype", "ridge"]


def test_all_layers_or_one_by_name(run):
    everything = episodes_run(run, [], "strangers", **SIZES, layer="all")
    assert list(everything.scores) == ["stem", "stage1", "stage2", "embedding"]
    assert "The best of several layers or heads, picked here, was picked on what it is tested on." in everything.lines()
    one = episodes_run(run, [], "strangers", **SIZES, layer="stage2")
    np.testing.assert_array_equal(
        one.scores["stage2"]["ridge"].accuracies, everything.scores["stage2"]["ridge"].accuracies
    )


def test_heads_that_are_not_fitted_in_batches_are_left_out_with_a_note(run):
    heads = "transfer.heads=[{name: neighbors, options: {k: 1}}, {name: logistic, options: {C: 10.0}}]"
    found = episodes_run(run, [heads], "strangers", **SIZES)
    assert list(found.scores["embedding"]) == ["logistic C=10.0"]
    assert not any("picked on what it is tested on" in line for line in found.lines())  # there is one of each
    assert "Left out, since it is not fitted in batches: neighbors k=1." in found.notes
    with pytest.raises(TransferError, match=r"only neighbors; episodes are for prototype, logistic, ridge"):
        episodes_run(run, ["transfer.heads=[{name: neighbors}]"], "strangers", **SIZES)


def test_what_cannot_be_done_is_refused_before_anything_is_opened(run, tmp_path):
    before = (run / "test_openings.jsonl").read_text()
    with pytest.raises(TransferError, match=r'no target "stranger" in the recipe of .* Did you mean "strangers"\?'):
        episodes_run(run, [], "stranger", **SIZES)
    with pytest.raises(LayerError, match=r'no layer "stage3"\. Did you mean "stage\d"\? There are stem, .* and "all"'):
        episodes_run(run, [], "strangers", **SIZES, layer="stage3")
    with pytest.raises(
        TransferError, match=r"need 5 classes of 3 items: 3 of 3 classes have so many, the largest has 5"
    ):
        episodes_run(run, [], "strangers", **{**SIZES, "way": 5})
    with pytest.raises(TransferError, match=r"seed: the backbone in .* was made with other values"):
        episodes_run(run, ["seed=5"], "strangers", **SIZES)
    with pytest.raises(CheckpointError, match=r"holds no recipe.yaml"):
        episodes_run(tmp_path / "nowhere", [], "strangers", **SIZES)
    assert (run / "test_openings.jsonl").read_text() == before
