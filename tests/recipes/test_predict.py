"""Predictions for files and folders, and the look at a backbone."""

import numpy as np
import pytest
from PIL import Image

import transfer
from auxtasks.errors import CheckpointError, DataError, ImageError
from recipes import predict
from recipes.predict import describe_backbone, predict_files


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    paths = [tmp_path / name for name in ("b.png", "a.JPG", "deep/c.png", "deep/deeper/d.bmp")]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (30, 25, 3), dtype=np.uint8)).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    return paths


def test_answers_are_those_of_the_model(finished, photos):
    model = transfer.load(finished)
    answers = list(predict_files(finished, photos, None))
    assert [path for path, _, _ in answers] == [str(path) for path in photos]
    assert [name for _, name, _ in answers] == model.predict(photos)
    assert [share for _, _, share in answers] == pytest.approx(model.predict_proba(photos).max(axis=1).tolist())


def test_folders_are_searched_for_pictures_in_order(finished, photos, tmp_path):
    answers = list(predict_files(finished, [photos[0], tmp_path], "strangers"))
    assert [path for path, _, _ in answers] == [str(path) for path in (photos[0], *sorted(photos))]


def test_many_pictures_are_answered_in_parts(finished, photos, monkeypatch):
    whole = list(predict_files(finished, photos, None))
    monkeypatch.setattr(predict, "PREDICTED_AT_A_TIME", 3)
    parts = list(predict_files(finished, photos, None))
    assert [answer[:2] for answer in parts] == [answer[:2] for answer in whole]
    assert [answer[2] for answer in parts] == pytest.approx([answer[2] for answer in whole])


def test_what_cannot_be_predicted_is_named(finished, tmp_path):
    with pytest.raises(DataError, match=r"absent\.png is not there"):
        list(predict_files(finished, [tmp_path / "absent.png"], None))
    with pytest.raises(DataError, match="holds no pictures"):
        list(predict_files(finished, [tmp_path], None))
    for name in ("notes.txt", "NOTES.CSV", "table.parquet"):
        (tmp_path / name).write_text("no picture")
        with pytest.raises(ImageError, match=rf"{name} is no picture, and this model takes pictures: name some"):
            list(predict_files(finished, [tmp_path / name], None))
    (tmp_path / "torn.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"torn\.png"):
        list(predict_files(finished, [tmp_path / "torn.png"], None))
    with pytest.raises(CheckpointError, match=r'no target "nobody".*It has: strangers'):
        list(predict_files(finished, [], "nobody"))


def test_a_backbone_is_described_from_the_run_and_from_its_own_folder(finished):
    text = describe_backbone(finished)
    assert "family convnet, input image (1, 16, 16)" in text
    assert "  stage2           16" in text
    assert "steps: 4" in text
    own = finished / "checkpoints" / "step-00000004" / "backbone"
    assert describe_backbone(own) == text
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        describe_backbone(finished / "transfer")
