"""The run folder: whose it is, what differs, and where things are."""

import json

import pytest

from auxtasks.errors import CheckpointError, RecipeError
from recipes.config import load_recipe
from recipes.folder import RunFolder, cache_folder


@pytest.fixture
def recipe():
    return load_recipe("faces_demo")


def test_claiming_writes_recipe_and_environment_and_claiming_again_changes_nothing(recipe, tmp_path):
    folder = RunFolder(tmp_path / "a" / "run")
    folder.claim(recipe)
    assert {path.name for path in folder.place.iterdir()} == {"recipe.yaml", "environment.json"}
    assert folder.recipe() == recipe
    before = (folder.place / "recipe.yaml").stat().st_mtime_ns
    folder.claim(recipe)
    assert (folder.place / "recipe.yaml").stat().st_mtime_ns == before


def test_an_empty_folder_may_be_claimed(recipe, tmp_path):
    RunFolder(tmp_path).claim(recipe)
    assert RunFolder(tmp_path).recipe() == recipe


def test_every_difference_is_told_at_once(recipe, tmp_path):
    RunFolder(tmp_path).claim(recipe)
    other = load_recipe("faces_demo", ["seed=3", "data.where.x=1", "targets.strangers=null", "transfer.shots=[2]"])
    with pytest.raises(CheckpointError, match="holds another run") as caught:
        RunFolder(tmp_path).claim(other)
    told = [line.strip() for line in str(caught.value).splitlines() if " there, " in line]
    assert "seed: 0 there, 3 asked" in told
    assert "data.where: None there, None asked" not in told
    assert "data.where.x: None there, 1 asked" in told
    assert "transfer.shots: [1, 5] there, [2] asked" in told
    assert any(line.startswith("targets.strangers.path: 'builtin:drawn_faces' there, None asked") for line in told)
    assert RunFolder(tmp_path).recipe() == recipe


def test_what_changes_no_number_may_differ(recipe, tmp_path):
    RunFolder(tmp_path).claim(recipe)
    changes = ["training.workers=3", "training.log_every=7", "training.keep_checkpoints=9", "description=other"]
    RunFolder(tmp_path).claim(load_recipe("faces_demo", changes))
    assert RunFolder(tmp_path).recipe() == recipe


def test_a_recipe_that_was_damaged_is_told(recipe, tmp_path):
    RunFolder(tmp_path).claim(recipe)
    written = tmp_path / "recipe.yaml"
    whole = written.read_text()
    written.write_text(whole.replace("seed: 0", "seed: zero", 1))
    with pytest.raises(RecipeError, match="seed: input should be a valid integer, found 'zero'"):
        RunFolder(tmp_path).recipe()
    written.write_text("a: [")
    for use in (RunFolder(tmp_path).recipe, lambda: RunFolder(tmp_path).claim(recipe)):
        with pytest.raises(RecipeError, match=r"recipe\.yaml: not valid YAML"):
            use()


def test_no_recipe_and_no_checkpoint_are_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no recipe\.yaml"):
        RunFolder(tmp_path).recipe()
    with pytest.raises(CheckpointError, match="has no checkpoint: pretrain first"):
        RunFolder(tmp_path).backbone()


def test_the_newest_checkpoint_is_the_backbone(tmp_path):
    for step in (200, 1000, 600):
        (tmp_path / "checkpoints" / f"step-{step:08d}" / "backbone").mkdir(parents=True)
    assert RunFolder(tmp_path).backbone().parent.name == "step-00001000"


def test_openings_are_appended_with_their_time(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log_opening({"target": "a"})
    folder.log_opening({"target": "b", "chosen": {1: "x"}})
    first, second = map(json.loads, (tmp_path / "test_openings.jsonl").read_text().splitlines())
    assert (first["target"], second["target"]) == ("a", "b")
    assert second["chosen"] == {"1": "x"}
    assert first["time"].endswith("+00:00")


def test_pretraining_is_finished_once_it_is_written(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.finished_pretraining() is None
    folder.finish_pretraining({"metrics": {"loss": 0.5}})
    assert folder.finished_pretraining() == {"metrics": {"loss": 0.5}}
    folder.pretraining.write_text('{"metrics"')
    with pytest.raises(CheckpointError, match=r"pretrain\.json is damaged"):
        folder.finished_pretraining()


def test_the_cache_is_where_it_was_asked_to_be(monkeypatch, tmp_path):
    monkeypatch.setenv("AUXTASKS_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("AUXTASKS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "auxtasks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / ".cache" / "auxtasks"
