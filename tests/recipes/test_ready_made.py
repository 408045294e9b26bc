"""Runs that train nothing: a network that comes with its weights, evaluated through the real entry points."""

import io
import json

import pytest
import torch
import yaml
from PIL import Image

import transfer
from auxtasks.backbones import Backbone, convnet
from auxtasks.data import load_source
from auxtasks.errors import LeakError, RecipeError
from recipes.config import load_recipe
from recipes.run import run_recipe, transfer_run

FACES = {"path": "builtin:drawn_faces", "options": {"people": 3, "photos": 4, "size": 32}}
SMALL = {
    "name": "small",
    "task": {"name": "ready_made"},
    "transfer": {
        "shots": [1],
        "draws": 2,
        "arms": ["scratch", "untrained", "frozen"],
        "heads": [{"name": "prototype"}],
        "discriminants": None,
        "tuning": {"stages": [{"steps": 2}], "batch_size": 4},
        "scratch": {"stages": [{"steps": 2}], "batch_size": 4},
    },
    "targets": {"people": FACES},
}


@pytest.fixture
def saved(tmp_path):
    backbone = convnet(size=32, channels=1, widths=[8, 8], blocks=[1, 1], embedding=6, seed=5)
    return backbone.save_pretrained(tmp_path / "saved", pretrained_on="a zoo")


def written(folder, saved, **changes):
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "backbone": {"pretrained": str(saved)}, **changes}))
    return path


def test_a_network_is_evaluated_with_the_weights_that_it_came_with(tmp_path, saved):
    place = tmp_path / "run"
    run_recipe(load_recipe(str(written(tmp_path, saved))), place)
    report = json.loads((place / "transfer" / "report.json").read_text())
    assert set(report["targets"]["people"]["arms"]) == {"scratch", "untrained", "frozen"}
    assert any("pretrained on a zoo" in note for note in report["notes"])
    assert any("not compared, since the data of the pretraining is not here" in note for note in report["notes"])
    kept = Backbone.from_pretrained(place / "checkpoints" / "step-00000000" / "backbone").module.state_dict()
    given = Backbone.from_pretrained(saved).module.state_dict()
    assert all(torch.equal(kept[name], given[name]) for name in given)
    reused = transfer.load(place).backbone.module.state_dict()
    assert all(torch.equal(reused[name], given[name]) for name in given)


def test_it_goes_on_as_any_other_run(tmp_path, saved):
    place = tmp_path / "run"
    run_recipe(load_recipe(str(written(tmp_path, saved, targets={}))), place)
    assert not (place / "transfer").exists()
    told = ["targets={others: {path: 'builtin:drawn_faces', options: {people: 2, photos: 3, size: 32}}}"]
    assert transfer_run(place, told, tmp_path / "second").joinpath("transfer", "report.md").is_file()


def test_what_labels_and_test_share_is_found_without_the_data_of_pretraining(tmp_path, saved):
    leaking = {**FACES, "test": {"options": {"photos": 6}}}
    recipe = load_recipe(str(written(tmp_path, saved, targets={"people": leaking})))
    with pytest.raises(LeakError, match="pictures in support and test"):
        run_recipe(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data", {"path": "builtin:drawn_faces"}, "data: not for the task ready_made; leave it out"),
        ("training", {"steps": 5}, "training: not for the task ready_made; leave it out"),
        ("tokenizer", {"name": "words"}, "tokenizer: not for the task ready_made; leave it out"),
    ],
)
def test_what_only_a_pretraining_needs_is_refused(tmp_path, saved, key, value, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(written(tmp_path, saved, **{key: value})))


def test_where_it_computes_may_be_said(tmp_path, saved):
    assert load_recipe(str(written(tmp_path, saved, training={"device": "cpu"}))).training.device == "cpu"


def test_edited_copies_are_looked_for_when_asked_for(tmp_path, saved):
    with pytest.raises(LeakError, match="nearly the same pictures in support and test"):
        run_recipe(load_recipe(str(written(tmp_path, saved, **edited(tmp_path)))), tmp_path / "run")
    told = edited(tmp_path)
    told["transfer"] = {**told["transfer"], "on_leak": "report"}
    run_recipe(load_recipe(str(written(tmp_path, saved, **told))), tmp_path / "told")
    report = json.loads((tmp_path / "told" / "transfer" / "report.json").read_text())
    found = next(note for note in report["notes"] if "nearly the same" in note)
    assert "nearly the same pictures in support and test: 12 of 12" in found


def edited(folder):
    """Return a target whose test photos are those of the support, recompressed."""
    photos = load_source(FACES["path"], columns={"image": "image", "label": "label"}, options=FACES["options"])
    names = photos.features["label"].names
    for part in ("labels", "test"):
        for row, photo in enumerate(photos):
            place = folder / part / names[photo["label"]]
            place.mkdir(parents=True, exist_ok=True)
            quality = {"labels": 95, "test": 80}[part]
            Image.open(io.BytesIO(photo["image"]["bytes"])).save(place / f"{row}.jpg", quality=quality)
    return {
        "transfer": {**SMALL["transfer"], "near_duplicates": True},
        "targets": {"people": {"path": str(folder / "labels"), "test": {"path": str(folder / "test")}}},
    }


def test_the_report_says_which_layers_nobody_has_trained(tmp_path, saved):
    target = convnet(size=32, channels=1, widths=[8, 8], blocks=[1, 1], embedding=6, seed=6)
    transfer.reuse(Backbone.from_pretrained(saved), target, select=transfer.Select(up_to="stage1"))
    place = tmp_path / "run"
    run_recipe(load_recipe(str(written(tmp_path, target.save_pretrained(tmp_path / "part")))), place)
    notes = json.loads((place / "transfer" / "report.json").read_text())["notes"]
    assert "Layers with random weights, which nobody has trained: stage2, embedding." in notes
