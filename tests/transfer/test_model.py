"""The target model: the same predictions after a reload, from any picture, and clear words for what is broken."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import transfer
from auxtasks.data import decode_images, load_source
from auxtasks.errors import CheckpointError, ImageError
from auxtasks.features.extract import extract
from transfer import model as model_module
from transfer.discriminants import fit_discriminants
from transfer.heads import build_head
from transfer.model import TargetModel, find_models

HEADS = [("prototype", {}), ("logistic", {"C": 10.0, "scaling": "rms"}), ("ridge", {"scaling": "l2"}),
         ("neighbors", {"k": 3})]  # fmt: skip


def fitted_model(backbone, table, *, layer="stage2", pool="grid", mirror=True, head=HEADS[0], **changes):
    features = extract(backbone, table, {layer: pool}, mirror=mirror)[layer]
    if changes.get("discriminants"):
        features = changes["discriminants"](features)
    fitted = build_head(head[0], **head[1]).fit(features, table.labels, len(table.class_names))
    size = table.pixels.shape[1:3]
    return TargetModel(backbone, layer, pool, mirror, fitted, table.class_names, size, **changes)


@pytest.fixture
def model(backbone, portraits):
    return fitted_model(backbone, portraits, facts={"fitted on": "all 24 labelled pictures"})


@pytest.fixture
def saved(model, tmp_path):
    return model.save(tmp_path / "model")


def pictures(table, count=6):
    return [Image.fromarray(pixels[:, :, 0]) for pixels in table.pixels[:count]]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head[0])
def test_a_reloaded_model_predicts_the_same_to_the_bit(backbone, portraits, tmp_path, head):
    model = fitted_model(backbone, portraits, head=head)
    again = transfer.load(model.save(tmp_path / "model"))
    items = pictures(portraits, 24)
    np.testing.assert_array_equal(again.predict_proba(items), model.predict_proba(items))
    assert again.predict(items) == model.predict(items)
    assert len(set(model.predict(items))) > 1


def test_a_reloaded_model_is_the_same_in_all_it_holds(backbone, portraits, tmp_path):
    model = fitted_model(backbone, portraits, layer="stage1", pool="max", mirror=False, fit="crop", facts={"a": [1]})
    again = transfer.load(model.save(tmp_path / "model"))
    for name in ("layer", "pool", "mirror", "class_names", "decoded_size", "fit", "facts", "discriminants"):
        assert getattr(again, name) == getattr(model, name), name


def test_discriminants_travel_with_the_model(backbone, portraits, tmp_path):
    features = extract(backbone, portraits, {"stage2": "grid"}, mirror=True)["stage2"]
    found = fit_discriminants(features, portraits.labels, components=3)
    model = fitted_model(backbone, portraits, discriminants=found)
    again = transfer.load(model.save(tmp_path / "model"))
    items = pictures(portraits)
    np.testing.assert_array_equal(again.predict_proba(items), model.predict_proba(items))
    np.testing.assert_allclose(model.predict_proba(items), model.head.predict_proba(found(features[:6])), atol=1e-6)
    plain = fitted_model(backbone, portraits)
    assert not np.allclose(plain.predict_proba(items), model.predict_proba(items))


def test_paths_images_bytes_and_arrays_give_the_same(saved, portraits, tmp_path):
    model = transfer.load(saved)
    image = pictures(portraits)[0]
    image.save(tmp_path / "a.png")
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    forms = [image, tmp_path / "a.png", str(tmp_path / "a.png"), encoded.getvalue(), portraits.pixels[0]]
    together = model.predict_proba(forms)
    np.testing.assert_allclose(together, np.repeat(together[:1], len(forms), axis=0), atol=1e-12)
    alone = [model.predict_proba([form])[0] for form in forms]
    np.testing.assert_array_equal(alone, np.repeat(alone[:1], len(forms), axis=0))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "LA"])
def test_a_picture_of_another_size_and_mode_works(model, mode):
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 61), dtype=np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(large).astype(np.uint16) * 256)
    elif mode in ("P", "LA"):
        picture = large.convert("RGBA").convert(mode) if mode == "LA" else large.convert("RGB").convert(mode)
    else:
        picture = large.convert(mode)
    assert picture.mode == mode
    probabilities = model.predict_proba([picture])
    assert probabilities.shape == (1, 4)
    assert probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_photo_is_prepared_for_prediction_as_it_was_for_training(backbone, tmp_path, fit):
    rng = np.random.default_rng(0)
    for person in ("Ann", "Bob"):
        (tmp_path / person).mkdir()
        for photo in range(3):  # wide ones, so that the ways to fit them differ
            pixels = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / person / f"{photo}.png")
    source = load_source(tmp_path, columns={"image": "image", "label": "label"})
    table = decode_images(source, size=(20, 20), channels=1, fit=fit)
    model = fitted_model(backbone, table, fit=fit)
    trained_on = extract(backbone, table, {"stage2": "grid"}, mirror=True)["stage2"]
    paths = sorted(tmp_path.rglob("*.png"))
    np.testing.assert_array_equal(model._features(paths), trained_on)
    others = [other for other in ("stretch", "crop", "pad") if other != fit]
    for other in others:
        assert not np.allclose(fitted_model(backbone, table, fit=other)._features(paths), trained_on)


def test_many_pictures_are_predicted_in_parts(model, portraits, monkeypatch):
    items = pictures(portraits, 24)
    whole = model.predict_proba(items)
    sizes, table_of = [], model_module.table_of

    def counting(some, *args):
        sizes.append(len(some))
        return table_of(some, *args)

    monkeypatch.setattr(model_module, "table_of", counting)
    monkeypatch.setattr(model_module, "PREDICTED_AT_A_TIME", 7)
    np.testing.assert_allclose(model.predict_proba(items), whole, atol=1e-6)
    assert sizes == [7, 7, 7, 3]


def test_no_picture_gives_no_answer(model):
    assert model.predict_proba([]).shape == (0, 4)
    assert model.predict([]) == []


def test_a_picture_that_cannot_be_read_is_named(model, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    with pytest.raises(ImageError, match=r"torn\.jpg"):
        model.predict([tmp_path / "torn.jpg"])
    with pytest.raises(ImageError, match=r"absent\.png"):
        model.predict(["absent.png"])


def test_the_card_says_what_it_is_and_how_to_use_it(saved):
    card = (saved / "README.md").read_text()
    assert "# Target model: 4 classes" in card
    assert "layer `stage2` (grid) of a `convnet` backbone" in card
    assert "- fitted on: all 24 labelled pictures" in card
    assert "transfer.load(" in card


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_run_with_one_target_needs_no_choice_and_one_with_several_does(model, portraits, tmp_path):
    place = tmp_path / "transfer" / "model"
    model.save(place / "ann")
    items = pictures(portraits)
    assert transfer.load(tmp_path).predict(items) == model.predict(items)
    model.save(place / "bob")
    assert list(find_models(tmp_path)) == ["ann", "bob"]
    with pytest.raises(CheckpointError, match=r"has 2 target models, choose one: ann, bob"):
        transfer.load(tmp_path)
    assert transfer.load(tmp_path, "bob").predict(items) == model.predict(items)
    assert transfer.load(place / "bob").predict(items) == model.predict(items)
    with pytest.raises(CheckpointError, match=r'no target "bop" at .* Did you mean "bob"\? It has: ann, bob'):
        transfer.load(tmp_path, "bop")


def test_no_model_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"no target model at .*transfer/model/.*auxtasks transfer"):
        transfer.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no target model at .*absent"):
        transfer.load(tmp_path / "absent")


@pytest.mark.parametrize("name", ["head.safetensors", "backbone/model.safetensors", "backbone/manifest.json",
                                  "backbone/config.json"])  # fmt: skip
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing"):
        transfer.load(saved)


@pytest.mark.parametrize("name", ["target.json", "head.safetensors", "backbone/model.safetensors",
                                  "backbone/manifest.json"])  # fmt: skip
def test_a_file_cut_short_is_named(saved, name):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
        transfer.load(saved)


def test_a_missing_backbone_and_missing_discriminants_are_named(backbone, portraits, tmp_path):
    features = extract(backbone, portraits, {"stage2": "grid"}, mirror=True)["stage2"]
    found = fit_discriminants(features, portraits.labels, components=2)
    place = fitted_model(backbone, portraits, discriminants=found).save(tmp_path / "model")
    (place / "discriminants.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"discriminants\.safetensors is missing"):
        transfer.load(place)
    shutil.rmtree(place / "backbone")
    with pytest.raises(CheckpointError, match=r"backbone is not a folder"):
        transfer.load(place)


def test_changed_weights_are_noticed(saved):
    path = saved / "backbone" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match the digest"):
        transfer.load(saved)


def test_a_newer_schema_is_refused(saved):
    settings = json.loads((saved / "target.json").read_text())
    (saved / "target.json").write_text(json.dumps(settings | {"schema": 99}))
    with pytest.raises(CheckpointError, match=r"has schema 99; this version reads schema 1"):
        transfer.load(saved)


def test_a_setting_that_is_missing_is_named(saved):
    settings = json.loads((saved / "target.json").read_text())
    del settings["pool"]
    (saved / "target.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"target\.json is damaged: .*pool"):
        transfer.load(saved)


def test_what_is_saved_holds_no_pickle(saved):
    names = sorted(path.name for path in saved.rglob("*") if path.is_file())
    assert {path.rsplit(".", 1)[1] for path in names} == {"json", "md", "safetensors"}
