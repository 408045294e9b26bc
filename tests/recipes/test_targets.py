"""What a recipe says of targets: layers and a validation set of their own, pictures as they are, passes over labels."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from auxtasks.backbones import convnet
from auxtasks.data.images import ImageTable
from auxtasks.errors import LayerError, LeakError, RecipeError, TransferError
from recipes import build, run
from recipes.config import load_recipe
from recipes.run import pretrain_recipe, read_pretraining, transfer_run
from recipes.targets import load_target

FEW = ["transfer.arms=[raw, frozen]", "transfer.shots=[1]", "transfer.draws=1", "targets.strangers=null"]


def problems(*overrides, name="faces_demo"):
    with pytest.raises(RecipeError, match=r"\S") as caught:
        load_recipe(name, overrides)
    return list(caught.value.problems)


def report_of(place):
    return json.loads((place / "transfer" / "report.json").read_text())


# --- what may be said -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("targets.mine={path: x, layers: {stem: grit}}", "targets.mine.layers.stem: input should be 'auto', 'mean', "
         "'max', 'mean_max', 'grid', 'flatten' or 'token', found 'grit'. Did you mean \"grid\"?"),
        ("targets.mine={path: x, layers: {}}", "targets.mine.layers: must hold at least 1, found {}."),
        ("targets.mine={path: x, split: a, validation: {split: a}}", "targets.mine.validation: the same data again; "
         "say what is different of it (path, split, where, options), or leave it out."),
        ("targets.mine={path: x, test: {split: a}, validation: {path: x, split: a}}", "targets.mine.validation: the "
         "same data as the test; say what is different of it."),
        ("targets.mine={path: x, validation: {}}", "targets.mine.validation.split: a part differs from its source in "
                                                   "path, split, where or options, found none."),
        ("transfer.tuning.most_epochs=0", "transfer.tuning.most_epochs: input should be greater than or equal to 1, "
                                          "found 0."),
        ("transfer.tuning.most_epochs=3", "transfer.scratch: needs the same most_epochs as tuning: 3, found None."),
        ("transfer.augment={flp: 1}", "transfer.augment.flp: unknown key. Allowed here: blur, erase, flip, gamma, "
                                      "gradient, rotate, scale, shift, stretch. Did you mean \"flip\"?"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line(override, expected):
    assert problems(override) == [expected]


def test_augmentation_is_there_unless_it_is_taken_away():
    backbone = convnet(size=16, widths=[8], blocks=[1])
    for override, there in (("seed=0", True), ("transfer.augment.flip=0", True), ("transfer.augment=null", False)):
        settings = build.make_few_shot(load_recipe("faces_demo", [override]), backbone)
        assert (settings.augment is not None) == there


def test_passes_over_the_labels_reach_both_arms():
    recipe = load_recipe("faces_demo", ["transfer.tuning.most_epochs=3", "transfer.scratch.most_epochs=3"])
    settings = build.make_few_shot(recipe, convnet(size=16, widths=[8], blocks=[1]))
    assert (settings.tuning.most_epochs, settings.scratch.most_epochs) == (3, 3)


def test_layers_of_a_target_come_before_those_of_all():
    recipe = load_recipe(
        "faces_demo",
        ["transfer.layers={stage1: grid}", "targets.a={path: x}", "targets.b={path: x, layers: {stem: auto}}"],
    )
    backbone = convnet(size=16, widths=[8], blocks=[1])
    layers = [build.make_few_shot(recipe, backbone, recipe.targets[name]).layers for name in ("a", "b")]
    assert layers == [{"stage1": "grid"}, {"stem": "auto"}]
    assert build.make_few_shot(recipe, backbone).layers == {"stage1": "grid"}


def test_a_wrong_layer_of_a_target_fails_before_pretraining(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "read_pretraining", lambda *_: pytest.fail("too late"))
    recipe = load_recipe(str(miniature), ["targets.strangers.layers={stage7: grid}"])
    with pytest.raises(LayerError, match=r'no layer "stage7".*stem, stage1, stage2, embedding'):
        pretrain_recipe(recipe, tmp_path)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Three people with nine photos of noise each, three of which are to label, to validate on and to test on."""
    rng = np.random.default_rng(0)
    with (tmp_path / "photos.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["image", "label", "part"])
        for person in ("Ann", "Bob", "Cem"):
            for photo in range(9):
                name = f"{person}-{photo}.png"
                Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / name)
                table.writerow([name, person, ("train", "val", "test")[photo // 3]])
    return tmp_path / "photos.csv"


def parts_of(photos):
    return [f"targets.mine.path={photos}", "targets.mine.where.part=train", "targets.mine.test.where.part=test",
            "targets.mine.validation.where.part=val"]  # fmt: skip


def test_one_report_holds_a_network_cut_at_several_depths(finished, photos, tmp_path):
    overrides = [f"targets.{layer}={{path: {photos}, layers: {{{layer}: auto}}}}" for layer in ("stem", "stage1")]
    place = transfer_run(finished, [*FEW, "transfer.discriminants=null", *overrides], tmp_path / "out")
    found = report_of(place)["targets"]
    assert {name: list(target["depth"]["1"]) for name, target in found.items()} == {
        "stem": ["stem"],
        "stage1": ["stage1"],
    }
    assert {name: target["chosen"]["1"]["layer"] for name, target in found.items()} == {
        "stem": "stem",
        "stage1": "stage1",
    }


def test_choices_are_made_on_the_set_that_the_recipe_names(finished, photos, tmp_path):
    (photos.parent / "Ann-4.png").write_bytes(b"torn")
    overrides = [*FEW, *parts_of(photos), "targets.mine.on_error=skip"]
    report = report_of(transfer_run(finished, overrides, tmp_path / "out"))
    protocol = report["targets"]["mine"]["protocol"]
    assert (protocol["train_pool"], protocol["validation_labels"], protocol["test_items"]) == (9, 8, 9)
    assert "a named validation set of 8 labelled items" in protocol["choices"]
    assert "mine: 1 unreadable validation pictures were skipped." in report["notes"]
    assert "Validation labels beside them: 8" in (tmp_path / "out" / "transfer" / "report.md").read_text()


@pytest.mark.parametrize("augment", ["transfer.augment=null", "transfer.augment.flip=0"])
@pytest.mark.parametrize("twin", ["Ann-0", "Ann-3"])  # of the labels, and of the validation set
def test_pictures_that_the_test_shares_with_labels_or_validation_set_are_found(
    finished, photos, tmp_path, twin, augment
):
    (photos.parent / "Ann-6.png").write_bytes((photos.parent / f"{twin}.png").read_bytes())
    with pytest.raises(LeakError, match=r"pictures in (support|validation) and test: 1 \(\1 row \d = test row 0\)"):
        transfer_run(finished, [*FEW, *parts_of(photos), augment], tmp_path / "out")
    assert not (tmp_path / "out" / "test_openings.jsonl").exists()


def test_without_a_test_set_the_validation_set_is_compared_with_what_is_left_over(finished, photos, tmp_path):
    (photos.parent / "Ann-3.png").write_bytes((photos.parent / "Ann-0.png").read_bytes())
    overrides = [*FEW, *(part for part in parts_of(photos) if ".test." not in part)]
    with pytest.raises(LeakError, match=r"pictures in validation and test: 1 \(validation row 0 = test row 0\)"):
        transfer_run(finished, overrides, tmp_path / "out")


def test_a_validation_set_that_is_the_pool_under_another_name_is_refused(finished, photos, tmp_path):
    overrides = [*FEW, *parts_of(photos), "targets.mine.validation={where: {part: train}, split: train}"]
    with pytest.raises(TransferError, match="the validation set is the pool itself, the same 9 pictures"):
        transfer_run(finished, overrides, tmp_path / "out")


def loaded(finished, photos, *overrides):
    recipe = load_recipe(str(finished / "recipe.yaml"), [*FEW, f"targets.mine.path={photos}", *overrides])
    backbone = build.make_backbone(recipe)
    data = read_pretraining(recipe, backbone)
    return data, load_target(recipe, "mine", recipe.targets["mine"], backbone)


def test_without_augmentation_pictures_of_the_backbone_s_size_are_taken_to_the_bit(finished, photos):
    _, found = loaded(finished, photos, "transfer.augment=null")
    assert isinstance(found.table, ImageTable)
    for row, picture in enumerate(found.table.pixels):
        person, photo = ("Ann", "Bob", "Cem")[row // 9], row % 9
        expected = np.asarray(Image.open(photos.parent / f"{person}-{photo}.png"))
        np.testing.assert_array_equal(picture[:, :, 0], expected)
    _, roomy = loaded(finished, photos)
    assert roomy.table.pixels.shape == (27, 20, 20, 1)


def test_without_augmentation_leaks_are_found_all_the_same(finished, tmp_path):
    overrides = ["targets.mine={path: 'builtin:drawn_faces', options: {people: 3, photos: 5, size: 20}}",
                 "targets.strangers=null"]  # fmt: skip
    for augment in ("transfer.augment=null", "transfer.augment.flip=0"):
        with pytest.raises(LeakError, match="12 of 15 test pictures"):  # of whom pretraining saw four photos each
            transfer_run(finished, [*overrides, augment], tmp_path / augment)


# --- items set aside --------------------------------------------------------------------------------------------------


def test_items_set_aside_are_random_disjoint_and_of_the_seed(finished, photos):
    _, found = loaded(finished, photos)
    apart = found.with_set_aside(9, 0, "mine")
    assert (len(apart.table), len(apart.validation), apart.test) == (18, 9, None)
    both = np.concatenate([apart.table.pixels, apart.validation.pixels])
    assert {picture.tobytes() for picture in both} == {picture.tobytes() for picture in found.table.pixels}
    assert len({picture.tobytes() for picture in both}) == 27
    again, other = (found.with_set_aside(9, seed, "mine").validation.pixels for seed in (0, 1))
    np.testing.assert_array_equal(again, apart.validation.pixels)
    assert not np.array_equal(other, again)
    assert sorted(np.bincount(apart.validation.labels, minlength=3)) != [0, 0, 9]  # not the first ones
    assert found.with_set_aside(None, 0, "mine") is found
    assert list(apart.parts) == ["", "validation"]


def test_as_many_items_set_aside_as_there_are_is_told(finished, photos):
    _, found = loaded(finished, photos)
    for items in (27, 28):
        with pytest.raises(TransferError, match=rf"mine: validation_items is {items}, but there are 27 items: labels"):
            found.with_set_aside(items, 0, "mine")
    assert len(found.with_set_aside(26, 0, "mine").table) == 1


@pytest.mark.parametrize("room", ["true", "false"])
@pytest.mark.parametrize("augment", ["transfer.augment=null", "transfer.augment.flip=0"])
def test_pictures_that_what_is_set_aside_shares_with_what_is_left_over_are_found(
    finished, photos, tmp_path, augment, room
):
    for photo in range(1, 9):
        (photos.parent / f"Ann-{photo}.png").write_bytes((photos.parent / "Ann-0.png").read_bytes())
    overrides = [*FEW, f"targets.mine.path={photos}", "targets.mine.validation_items=9", f"targets.mine.room={room}"]
    with pytest.raises(LeakError, match=r"pictures in validation and test: [1-8] "):
        transfer_run(finished, [*overrides, augment], tmp_path / "out")
    assert not (tmp_path / "out" / "test_openings.jsonl").exists()


@pytest.mark.parametrize("part", [0, 1])  # of the labels, and of the validation set
@pytest.mark.parametrize("augment", ["transfer.augment=null", "transfer.augment.flip=0"])
def test_leaks_are_found_without_room_too(finished, photos, tmp_path, part, augment):
    (photos.parent / "Ann-6.png").write_bytes((photos.parent / f"Ann-{3 * part}.png").read_bytes())
    overrides = [*FEW, *parts_of(photos), "targets.mine.room=false", augment]
    with pytest.raises(LeakError, match=r"pictures in (support|validation) and test: 1 \(\1 row \d = test row 0\)"):
        transfer_run(finished, overrides, tmp_path / "out")


def test_choices_are_made_on_what_is_set_aside(finished, photos, tmp_path):
    overrides = [*FEW, f"targets.mine.path={photos}", "targets.mine.validation_items=9"]
    protocol = report_of(transfer_run(finished, overrides, tmp_path / "out"))["targets"]["mine"]["protocol"]
    assert (protocol["train_pool"] + protocol["test_items"], protocol["validation_labels"]) == (18, 9)
    assert "a named validation set of 9 labelled items" in protocol["choices"]


def test_a_target_at_each_depth_of_any_network_is_one_for_each_layer(finished, photos, tmp_path):
    layers = "{stem: auto, stage2: grid}"
    overrides = [*FEW, f"targets.mine={{path: {photos}, at_each_depth: true, layers: {layers}}}",
                 "transfer.discriminants=null", f"targets.all={{path: {photos}}}"]  # fmt: skip
    place = transfer_run(finished, overrides, tmp_path / "out")
    found = report_of(place)["targets"]
    assert {name: list(target["depth"]["1"]) for name, target in found.items()} == {
        "mine-stem": ["stem"], "mine-stage2": ["stage2"], "all": ["stem", "stage1", "stage2", "embedding"],
    }  # fmt: skip
    opened = [json.loads(line)["target"] for line in (place / "test_openings.jsonl").read_text().splitlines()]
    assert opened == list(found)
