"""What the cache holds is told and cleared, and nothing else is touched."""

import os
import time

import numpy as np
import pytest

from auxtasks.backbones import convnet
from auxtasks.data import decode_images
from auxtasks.errors import DataError
from auxtasks.features.cache import FeatureCache
from auxtasks.features.crossings import crossings
from recipes.cache import clear_cache, describe_cache, feature_cache, kept_in

LAYERS = {"stage1": "grid", "embedding": "auto"}


@pytest.fixture
def backbone():
    found = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8)
    found.provenance["pretrained_on"] = "drawn faces"
    return found


@pytest.fixture
def folder(tmp_path, faces, backbone):
    """A cache folder with pictures, features and crossings, in the order of their last use."""
    table = decode_images(faces, size=(20, 20), channels=1, cache=tmp_path / "pictures")
    cache = FeatureCache(tmp_path / "features")
    cache.features(backbone, table, LAYERS)
    crossings(backbone, table, "stage1", cache=cache, dtype="float16")
    ages = {"pictures": 30, "stage1": 2, "embedding": 10}
    for kept in kept_in(tmp_path):
        days = next(days for word, days in ages.items() if word == kept.kind or word in kept.what.split(";")[1])
        days = 10 if "embedding" in kept.what else days
        then = time.time() - days * 24 * 3600
        for path in kept.place.iterdir():
            os.utime(path, (then, then))
    return tmp_path


def test_all_that_is_kept_is_listed(folder):
    pictures, features, crossing = kept_in(folder)
    assert pictures.what == "32 pictures of 20 x 20 pixels, 1 channel"
    assert features.what == "features; stage1 (grid), embedding (auto); 32 pictures; convnet, pretrained on drawn faces"
    assert crossing.what == ("what crosses a cut; stage1 (above); 32 pictures; convnet, pretrained on drawn faces")
    for kept in (pictures, features, crossing):
        assert kept.bytes == sum(path.stat().st_size for path in kept.place.iterdir())
        assert kept.place.parent == folder / kept.kind
    printed = describe_cache(folder).splitlines()
    assert len(printed) == 6
    assert printed[0] == str(folder)
    assert printed[1].split() == ["KIND", "KEY", "SIZE", "LAST", "USED", "WHAT"]
    assert [line.split()[:2] for line in printed[2:5]] == [
        [kept.kind, kept.name] for kept in (pictures, features, crossing)
    ]
    assert printed[-1] == f"3 kept, {sum(kept.bytes for kept in (pictures, features, crossing)) / 1e6:,.1f} MB"


def test_what_is_unfinished_or_damaged_is_said_to_be(folder, backbone):
    pictures, features, crossing = kept_in(folder)
    (features.place / "manifest.json").write_text("{")
    (pictures.place / "pixels.npy").write_bytes(b"")
    crossing.place.rename(crossing.place.with_name(f".{crossing.name}.unfinished"))
    what = {kept.name: kept.what for kept in kept_in(folder)}
    assert what[features.name] == "of an earlier version, or damaged"
    assert what[pictures.name].startswith("damaged (")
    assert what[crossing.name].startswith("unfinished: ")
    assert "0 in use" not in clear_cache(folder)
    assert kept_in(folder) == []


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({}, []),
        ({"kind": "features"}, ["pictures"]),
        ({"kind": "pictures"}, ["features", "features"]),
        ({"unused_days": 5}, ["features"]),
        ({"unused_days": 20}, ["features", "features"]),
        ({"unused_days": 40}, ["pictures", "features", "features"]),
        ({"unused_days": 5, "kind": "features"}, ["pictures", "features"]),
    ],
)
def test_what_is_asked_for_is_cleared(folder, asked, left):
    before = kept_in(folder)
    line = clear_cache(folder, **asked)
    assert [kept.kind for kept in kept_in(folder)] == left
    freed = sum(kept.bytes for kept in before) - sum(kept.bytes for kept in kept_in(folder))
    assert line == f"{folder}: {3 - len(left)} removed, {freed / 1e6:,.1f} MB freed."


def test_one_is_cleared_by_the_beginning_of_its_key(folder):
    _, features, crossing = kept_in(folder)
    assert clear_cache(folder, keys=[features.name[:8]]).startswith(f"{folder}: 1 removed")
    assert crossing.name in [kept.name for kept in kept_in(folder)]
    assert features.name not in [kept.name for kept in kept_in(folder)]
    with pytest.raises(DataError, match=r'nothing with the key "zzz" is kept in .*See `auxtasks cache list`'):
        clear_cache(folder, keys=["zzz"])
    with pytest.raises(DataError, match=r'no kind "picture"\. Kinds: features, pictures.*Did you mean "pictures"\?'):
        clear_cache(folder, kind="picture")


def test_what_is_in_use_stays(folder, faces, backbone):
    table = decode_images(faces, size=(20, 20), channels=1)
    held = FeatureCache(folder / "features").features(backbone, table, LAYERS)
    assert clear_cache(folder).endswith("; 1 in use stayed.")
    assert [kept.kind for kept in kept_in(folder)] == ["features"]
    assert np.isfinite(held["stage1"]).all()


def test_what_an_interrupted_removal_of_something_unfinished_left_is_listed_and_cleared(folder):
    left = folder / "features" / f".{'a' * 32}.unfinished.removed-1-2"
    left.mkdir()
    (left / "a.npy").write_bytes(b"1234")
    assert "left over: " in describe_cache(folder)
    clear_cache(folder)
    assert not left.exists()


def test_nothing_else_in_the_folder_is_touched(folder):
    mine = [folder / "letters", folder / "pictures" / "holidays", folder / "features" / "mine"]
    for place in mine:
        place.mkdir()
        (place / "text").write_text("mine")
    (folder / "pictures" / "a.txt").write_text("mine")
    clear_cache(folder)
    assert kept_in(folder) == []
    assert all((place / "text").read_text() == "mine" for place in mine)
    assert (folder / "pictures" / "a.txt").read_text() == "mine"


def test_the_cache_of_all_runs_is_the_default(folder, monkeypatch):
    monkeypatch.setenv("AUXTASKS_CACHE", str(folder))
    assert len(kept_in()) == 3
    assert describe_cache().startswith(str(folder))
    clear_cache()
    assert describe_cache() == f"{folder}: nothing is kept."


def test_features_have_the_limit_that_the_environment_says(folder, faces, backbone, monkeypatch):
    table = decode_images(faces, size=(20, 20), channels=1)
    monkeypatch.setenv("AUXTASKS_CACHE", str(folder))
    assert isinstance(feature_cache().features(backbone, table, LAYERS)["stage1"], np.memmap)  # what is there
    assert len(kept_in()) == 3
    monkeypatch.setenv("AUXTASKS_CACHE_GB", "0.000001")
    with pytest.raises(DataError, match=r"the features of stem would take .* are allowed or free"):
        feature_cache().features(backbone, table, {"stem": "grid"})
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv("AUXTASKS_CACHE_GB", wrong)
        with pytest.raises(DataError, match=rf'AUXTASKS_CACHE_GB="{wrong}": expected how many gigabytes'):
            feature_cache()
