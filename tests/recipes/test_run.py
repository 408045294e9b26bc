"""The steps of a run: resumed, verified, and evaluated with what pretraining left."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import transfer
from auxtasks.checkpoint import read_tensors
from auxtasks.data import decode_images, load_source
from auxtasks.errors import DataError, LeakError, TransferError
from auxtasks.features.extract import extract
from auxtasks.tasks import FacePairs
from recipes import target_models, training
from recipes.config import load_recipe
from recipes.run import pretrain_recipe, run_recipe, transfer_recipe, transfer_run
from transfer.choices import Candidate

FEW = ["transfer.arms=[raw, frozen]", "transfer.shots=[1]"]


def weights(place):
    return read_tensors(place / "checkpoints" / "step-00000004" / "backbone" / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- pretraining ------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(finished, miniature, tmp_path, monkeypatch):
    recipe = load_recipe(str(miniature))
    forward, calls = FacePairs.forward, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(FacePairs, "forward", dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            run_recipe(recipe, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (tmp_path / "pretrain.json").exists()
    report = run_recipe(recipe, tmp_path)
    assert same(weights(tmp_path), weights(finished))
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [2, 4, 4]
    straight = json.loads((finished / "transfer" / "report.json").read_text())["targets"]["strangers"]["arms"]
    again = json.loads((tmp_path / "transfer" / "report.json").read_text())["targets"]["strangers"]["arms"]
    assert again == straight
    assert list(report.targets) == ["strangers"]


def test_workers_do_not_change_the_weights(finished, miniature, tmp_path):
    pretrain_recipe(load_recipe(str(miniature), ["training.workers=1"]), tmp_path)
    assert same(weights(tmp_path), weights(finished))


def test_another_seed_changes_the_weights(finished, miniature, tmp_path):
    pretrain_recipe(load_recipe(str(miniature), ["seed=1"]), tmp_path)
    assert not same(weights(tmp_path), weights(finished))


def test_a_finished_pretraining_is_not_done_again(finished, miniature, tmp_path, monkeypatch):
    place = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.setattr(training, "pretrain", lambda *_, **__: pytest.fail("trained again"))
    before = (place / "pretrain.json").read_bytes()
    pretrain_recipe(load_recipe(str(miniature)), place)
    assert (place / "pretrain.json").read_bytes() == before


def test_a_run_without_targets_pretrains_and_reports_nothing(miniature, tmp_path):
    recipe = load_recipe(str(miniature), ["targets=null", "training.steps=1"])
    assert run_recipe(recipe, tmp_path) is None
    assert (tmp_path / "pretrain.json").is_file()
    assert not (tmp_path / "transfer").exists()
    with pytest.raises(TransferError, match="names no target"):
        transfer_recipe(recipe, tmp_path)


def test_a_batch_that_cannot_be_made_is_told(miniature, tmp_path):
    recipe = load_recipe(str(miniature), ["training.batch_size=9"])
    with pytest.raises(DataError, match="a batch of 9 photos cannot hold 2 photos of each person"):
        pretrain_recipe(recipe, tmp_path)


# --- verification -----------------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    """Eight people with four photos each, as a table; the last three are kept for pairs."""
    rng = np.random.default_rng(0)
    with (tmp_path / "people.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["image", "file", "name", "part"])
        for person in range(8):
            for photo in range(4):
                name = f"{person}-{photo}.png"
                pixels = rng.integers(0, 40, (20, 20), dtype=np.uint8) + 25 * person
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
                table.writerow([name, name, f"person {person}", "train" if person < 5 else "test"])
    return tmp_path / "people.csv"


def write_pairs(people, first_person):
    with (people.parent / "pairs.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["left", "right", "same"])
        for person in range(first_person, 7):
            table.writerow([f"{person}-0.png", f"{person}-1.png", 1])
            table.writerow([f"{person}-2.png", f"{person + 1}-0.png", 0])


def verified(miniature, people, *overrides):
    return load_recipe(
        str(miniature),
        [f"data.path={people}", "data.label=name", "data.options=null", "data.where.part=train", "data.holdout=0.4",
         "verification.pairs=pairs.csv", "targets=null", "training.steps=2", *overrides],
    )  # fmt: skip


def test_pairs_of_strangers_are_verified_after_pretraining(miniature, people, tmp_path):
    write_pairs(people, first_person=5)
    place = tmp_path / "run"
    pretrain_recipe(verified(miniature, people), place)
    metrics = json.loads((place / "pretrain.json").read_text())["metrics"]
    found = {name: value for name, value in metrics.items() if name.startswith("verification/")}
    assert {"verification/roc_auc", "verification/accuracy"} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    (opening,) = lines(place / "test_openings.jsonl")
    assert (opening["target"], opening["pairs"]) == ("verification", 4)


def test_pairs_of_people_that_were_trained_on_are_refused(miniature, people, tmp_path):
    write_pairs(people, first_person=0)
    with pytest.raises(LeakError, match=r"people in the pairs were trained on, such as 'person "):
        pretrain_recipe(verified(miniature, people), tmp_path / "run")
    assert not (tmp_path / "run" / "test_openings.jsonl").exists()


# --- transfer ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def wide_photos(tmp_path):
    """A folder of three people with three photos each, twice as wide as high."""
    rng = np.random.default_rng(0)
    for person in ("Ann", "Bob", "Cem"):
        (tmp_path / "wide" / person).mkdir(parents=True)
        for photo in range(3):
            pixels = rng.integers(0, 256, (20, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "wide" / person / f"{photo}.png")
    return tmp_path / "wide"


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_target_model_prepares_photos_as_the_recipe_says(finished, wide_photos, tmp_path, fit):
    overrides = ["targets.strangers=null", f"targets.wide.path={wide_photos}", f"targets.wide.fit={fit}", *FEW]
    transfer_run(finished, overrides, tmp_path / "out")
    model = transfer.load(tmp_path / "out")
    source = load_source(wide_photos, columns={"image": "image", "label": "label"})
    table = decode_images(source, size=(20, 20), channels=1, fit=fit)
    expected = extract(model.backbone, table, {model.layer: model.pool}, mirror=model.mirror)[model.layer]
    expected = model.discriminants(expected) if model.discriminants else expected
    np.testing.assert_array_equal(model._features(sorted(wide_photos.rglob("*.png"))), expected)
    assert model.class_names == ("Ann", "Bob", "Cem")


def test_a_filter_leaves_no_class_without_a_picture(finished, people, tmp_path):
    overrides = [
        "targets.strangers=null", f"targets.some.path={people}", "targets.some.label=name",
        "targets.some.where.part=test", *FEW,
    ]  # fmt: skip
    transfer_run(finished, overrides, tmp_path / "out")
    assert transfer.load(tmp_path / "out").class_names == ("person 5", "person 6", "person 7")


def test_several_targets_are_in_one_report_and_do_not_change_each_other(finished, wide_photos, people, tmp_path):
    wide = [f"targets.wide.path={wide_photos}"]
    others = [f"targets.a.path={people}", "targets.a.label=name"]
    alone = transfer_run(finished, ["targets.strangers=null", *wide, *FEW], tmp_path / "alone")
    both = transfer_run(finished, ["targets.strangers=null", *others, *wide, *FEW], tmp_path / "both")
    one, two = (json.loads((place / "transfer" / "report.json").read_text())["targets"] for place in (alone, both))
    assert (list(one), list(two)) == (["wide"], ["a", "wide"])
    assert two["wide"]["arms"] == one["wide"]["arms"]
    assert two["wide"]["chosen"] == one["wide"]["chosen"]
    assert [line["target"] for line in lines(both / "test_openings.jsonl")] == ["a", "wide"]


def test_data_that_moved_can_be_named_anew(miniature, people, tmp_path):
    recipe = verified(miniature, people, "verification=null")
    pretrain_recipe(recipe, tmp_path / "run")
    moved = shutil.copytree(people.parent, tmp_path.with_name(f"{tmp_path.name}-moved"), ignore=lambda *_: ["run"])
    overrides = [f"data.path={moved / people.name}", f"targets.a.path={moved / people.name}", "targets.a.label=name",
                 "targets.a.where.part=test", *FEW]  # fmt: skip
    place = transfer_run(tmp_path / "run", overrides, tmp_path / "out")
    assert (place / "transfer" / "report.json").is_file()


def test_a_backbone_without_finished_pretraining_is_noted(finished, miniature, wide_photos, tmp_path):
    place = shutil.copytree(finished, tmp_path / "copy")
    (place / "pretrain.json").unlink()
    overrides = ["targets.strangers=null", f"targets.wide.path={wide_photos}", *FEW]
    transfer_run(place, overrides, tmp_path / "out")
    notes = json.loads((tmp_path / "out" / "transfer" / "report.json").read_text())["notes"]
    assert "The backbone is of a pretraining that was not finished." in notes


# --- the target model -------------------------------------------------------------------------------------------------


def chosen_on(monkeypatch, labels, most):
    """Return the rows that layer and head are chosen on, where at most so many may be."""
    seen = []
    monkeypatch.setattr(target_models, "CHOOSE_ON", most)
    chosen = lambda features, own, ranked, seed: seen.append((features, own))  # noqa: E731
    monkeypatch.setattr(target_models, "cross_validated", chosen)
    features = {"stem": np.arange(len(labels), dtype=np.float32)[:, None], "top": np.zeros((len(labels), 2))}
    target_models._choose(features, labels, [Candidate("stem", "ridge", {}), Candidate("top", "ridge", {})], seed=0)
    ((features, own),) = seen
    rows = features["stem"][:, 0].astype(int)
    np.testing.assert_array_equal(own, labels[rows])
    assert len(features["top"]) == len(rows) == len(set(rows))
    return rows


def test_layer_and_head_of_a_target_model_are_chosen_on_some_of_many_items(monkeypatch):
    labels = np.repeat([0, 1, 2], [300, 3, 2])
    rows = chosen_on(monkeypatch, labels, most=20)
    assert len(rows) <= 20
    assert (np.bincount(labels[rows], minlength=3) >= 2).all()  # which cross-validation needs
    np.testing.assert_array_equal(chosen_on(monkeypatch, labels, most=20), rows)


def test_layer_and_head_of_a_target_model_are_chosen_on_all_of_few_items(monkeypatch):
    labels = np.repeat([0, 1, 2], [30, 3, 2])
    np.testing.assert_array_equal(chosen_on(monkeypatch, labels, most=5000), np.arange(35))


def test_more_classes_than_items_to_choose_on_keep_two_items_each(monkeypatch):
    labels = np.repeat(np.arange(10), 5)
    rows = chosen_on(monkeypatch, labels, most=8)
    assert np.bincount(labels[rows]).tolist() == [2] * 10


def test_a_single_candidate_needs_no_choice(monkeypatch):
    monkeypatch.setattr(target_models, "cross_validated", lambda *_: pytest.fail("chose among one"))
    only = Candidate("stem", "ridge", {})
    assert target_models._choose({"stem": np.zeros((4, 1), np.float32)}, np.array([0, 0, 1, 1]), [only], 0) is only
