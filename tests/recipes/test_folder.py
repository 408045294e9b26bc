"""The run folder: whose it is, what differs, and where things are."""

import dataclasses
import json

import pytest

from auxtasks.errors import CheckpointError, RecipeError
from auxtasks.training.file_list import FILE_LIST, write_file_list
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.run_lock import LOCK
from auxtasks.training.settings import LoopSettings, Phase, run_identity
from recipes.build import make_loop
from recipes.cache_place import cache_folder
from recipes.config import load_recipe
from recipes.folder import _WITHOUT_EFFECT, RunFolder


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
    (tmp_path / "checkpoints").mkdir()
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


def test_a_folder_in_which_nothing_was_done_yet_is_taken_over(recipe, tmp_path):
    """A run refused for its data has left its recipe: the corrected command shall not be told of another run."""
    folder, other = RunFolder(tmp_path), load_recipe("faces_demo", ["seed=3"])
    folder.claim(recipe)
    (tmp_path / "environment.json").write_text("of the first")
    with folder.only_run():
        folder.claim(other)
    assert folder.recipe() == other
    assert json.loads((tmp_path / "environment.json").read_text()).keys() == {"versions", "platform", "cpus"}
    folder.finish_pretraining({"metrics": {}})
    with pytest.raises(CheckpointError, match="seed: 3 there, 0 asked"):
        folder.claim(recipe)


def test_what_changes_no_number_may_differ(recipe, tmp_path):
    RunFolder(tmp_path).claim(recipe)
    (tmp_path / "checkpoints").mkdir()  # else any other recipe takes it over
    changes = [
        "training.workers=3", "training.log_every=7", "training.keep_checkpoints=9", "training.checkpoint_every=11",
        "training.gradient_checkpointing=true", "training.device=cpu", "description=other",
    ]  # fmt: skip
    other = load_recipe("faces_demo", changes)
    assert other != recipe
    RunFolder(tmp_path).claim(other)
    assert RunFolder(tmp_path).recipe() == recipe


def test_what_may_differ_decides_nothing_in_the_training_loop_either(recipe):
    training = [key.removeprefix("training.") for key in _WITHOUT_EFFECT if key.startswith("training.")]
    loop = dataclasses.asdict(make_loop(recipe))
    assert set(training) - set(loop) == {"workers"}  # which has a test of its own, as all of them have
    optimizer, phases = OptimizerSettings(), [Phase(1)]
    identity = run_identity({}, LoopSettings(**loop), seed=0, phases=phases, optimizer=optimizer, batch_size=1)
    assert not set(training) & {*identity, *identity["optimizer"]}


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
        place = tmp_path / "checkpoints" / f"step-{step:08d}"
        (place / "backbone").mkdir(parents=True)
        write_file_list(place)
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
    found = {"metrics": {"loss": 0.5}, "cost": {"seconds": 1.5}, "notes": ["a note"]}
    folder.finish_pretraining(found)
    assert folder.finished_pretraining() == found
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


# One command at a time


def test_a_second_command_on_the_folder_is_refused_and_the_lock_is_no_file_of_it(recipe, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.only_run():
        folder.claim(recipe)  # the lock is in it already, and does not make it somebody else's
        with pytest.raises(CheckpointError, match=rf"{folder.place} is in use by another run: "), folder.only_run():
            pass
    assert {path.name for path in folder.place.iterdir()} == {"recipe.yaml", "environment.json"}


def test_commands_that_only_read_are_never_refused(finished, command_line):
    with RunFolder(finished).only_run():
        for arguments in (["report", finished], ["inspect", finished]):
            called = command_line(*arguments)
            assert called.code == 0, called.err
        assert command_line("transfer", finished).code == 1


@pytest.mark.parametrize(("name", "value"), [("RANK", "1"), ("AUXTASKS_LAUNCHED", "1")])
def test_processes_of_a_command_are_on_the_folder_in_its_name(tmp_path, monkeypatch, name, value):
    with RunFolder(tmp_path).only_run():
        monkeypatch.setenv(name, value)
        with RunFolder(tmp_path).only_run():
            pass
        assert (tmp_path / LOCK).exists()


def test_a_command_that_was_killed_while_it_took_the_folder_can_be_given_again(recipe, tmp_path):
    (tmp_path / ".recipe.yaml.writing-999999999").write_text("half")
    folder = RunFolder(tmp_path)
    with folder.only_run():
        folder.claim(recipe)
    (tmp_path / "environment.json").unlink()  # killed behind the recipe
    (tmp_path / "transfer").mkdir()
    (tmp_path / "transfer" / ".report.json.writing-999999999").write_text("half")
    with folder.only_run():
        folder.claim(recipe)
    assert {path.name for path in tmp_path.rglob("*")} == {"recipe.yaml", "environment.json", "transfer"}


def test_a_command_clears_nothing_away_below_a_folder_that_is_no_run_s(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".a.writing-999999999").write_text("")
    with RunFolder(tmp_path).only_run():
        pass
    assert (tmp_path / "other" / ".a.writing-999999999").exists()


def test_a_damaged_backbone_is_told_where_it_is_asked_for(tmp_path):
    place = tmp_path / "checkpoints" / "step-00000004"
    for part in ("backbone", "training"):
        (place / part).mkdir(parents=True)
        (place / part / "a.txt").write_text("whole")
    write_file_list(place)
    (tmp_path / "checkpoints" / "damaged-step-00000009" / "backbone").mkdir(parents=True)
    (place / "training" / "a.txt").write_text("wh0le")  # nobody who reuses the backbone reads this
    assert RunFolder(tmp_path).backbone() == place / "backbone"
    (place / "backbone" / "a.txt").write_text("wh0le")
    with pytest.raises(CheckpointError, match=r"backbone/a\.txt is damaged: .*remove .*pretrain\.json if it is there"):
        RunFolder(tmp_path).backbone()


def test_a_backbone_of_a_checkpoint_that_was_copied_in_part_is_told(tmp_path):
    place = tmp_path / "checkpoints" / "step-00000004"
    (place / "backbone").mkdir(parents=True)
    with pytest.raises(
        CheckpointError, match=rf"{FILE_LIST} is missing: the folder .*step-00000004 is not complete\. To"
    ):
        RunFolder(tmp_path).backbone()
