"""What is kept is served only when nothing that it depends on has changed."""

import dataclasses

import numpy as np
import pytest
import torch

from auxtasks.errors import DataError
from auxtasks.features import cache as cache_module
from auxtasks.features import entries as entries_module
from auxtasks.features.cache import FeatureCache, feature_bytes
from auxtasks.features.extract import extract, feature_computation

LAYERS = {"stage1": "grid", "embedding": "auto"}


@pytest.fixture
def computed(monkeypatch):
    """Write down each time that features are computed, from the first block on."""
    calls = []

    def counted(backbone, table, layers, **settings):
        found = feature_computation(backbone, table, layers, **settings)

        def values(block):
            if block == 0:
                calls.append(dict(layers))
            return found.values(block)

        return dataclasses.replace(found, values=values)

    monkeypatch.setattr(cache_module, "feature_computation", counted)
    return calls


def features(folder, backbone, table, layers=None, mirror=False):
    return FeatureCache(folder).features(backbone, table, layers or LAYERS, mirror=mirror)


def test_features_are_computed_once_and_served_to_the_bit(tmp_path, tiny_convnet, face_table, computed):
    first = features(tmp_path, tiny_convnet(), face_table)
    again = features(tmp_path, tiny_convnet(), face_table)
    assert len(computed) == 1
    plain = extract(tiny_convnet(), face_table, LAYERS)
    for name in LAYERS:
        assert (first[name] == plain[name]).all()
        assert (again[name] == plain[name]).all()
        assert isinstance(again[name], np.memmap)
        assert again[name].dtype == np.float32


def test_what_is_kept_cannot_be_written_to(tmp_path, tiny_convnet, face_table):
    features(tmp_path, tiny_convnet(), face_table)
    kept = features(tmp_path, tiny_convnet(), face_table)
    with pytest.raises(ValueError, match="read-only"):
        kept["embedding"][0] = 0


def nudge(backbone):
    with torch.no_grad():
        next(backbone.parameters())[0, 0, 0, 0] += 1e-6
    return backbone


def one_pixel_changed(faces, table):
    pixels = table.pixels.copy()
    pixels[3, 2, 1, 0] ^= 1
    from auxtasks.data import decode_images, load_source

    source = load_source(
        {"image": list(pixels[..., 0]), "label": [f"{label}" for label in table.labels]},
        columns={"image": "image", "label": "label"},
    )
    return decode_images(source, size=(20, 20), channels=1)


@pytest.mark.parametrize("what", ["weight", "layer", "pool", "mirror", "pixel", "fewer", "order"])
def test_a_change_of_anything_is_a_miss(tmp_path, tiny_convnet, faces, face_table, computed, what):
    backbone = tiny_convnet()
    features(tmp_path, backbone, face_table)
    table, layers, mirror = face_table, LAYERS, False
    match what:
        case "weight":
            backbone = nudge(tiny_convnet())
        case "layer":
            layers = {"stage2": "grid", "embedding": "auto"}
        case "pool":
            layers = {"stage1": "mean", "embedding": "auto"}
        case "mirror":
            mirror = True
        case "pixel":
            table = one_pixel_changed(faces, face_table)
        case "fewer":
            table = face_table.subset(range(31))
        case "order":
            table = face_table.subset([*range(1, 32), 0])
    found = features(tmp_path, backbone, table, layers, mirror)
    assert len(computed) == 2
    expected = extract(backbone, table, layers, mirror=mirror)
    assert all((found[name] == expected[name]).all() for name in layers)


def test_a_statistic_of_batchnorm_is_part_of_the_weights(tmp_path, faces, computed):
    from auxtasks.backbones import timm_backbone
    from auxtasks.data import decode_images

    table = decode_images(faces, size=(32, 32), channels=1).subset(range(4))
    backbone = timm_backbone("test_resnet", size=32, channels=1)
    layers = {backbone.layer_names[0]: "mean"}
    features(tmp_path, backbone, table, layers)
    next(buffer for name, buffer in backbone.named_buffers() if name.endswith("running_mean"))[0] += 1
    features(tmp_path, backbone, table, layers)
    assert len(computed) == 2


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        ("cut", "stage1.npy|mmap length"),
        ("changed", "stage1.npy does not hold what was written"),
        ("empty", "EOF"),
        ("gone", "No such file"),
        ("no_manifest", "manifest.json is missing"),
        ("half_manifest", "manifest.json is damaged"),
        ("other_json", "indices must be integers"),
        ("other_array", r"holds float32 of shape \(32, 8\), not float32 of shape \(32, 72\)"),
    ],
)
def test_a_damaged_file_is_computed_anew(tmp_path, tiny_convnet, face_table, computed, damage, wrong):
    # Copies: what is kept on disk is memory-mapped, and damaged below.
    expected = {name: of.copy() for name, of in features(tmp_path, tiny_convnet(), face_table).items()}
    (place,) = tmp_path.iterdir()
    path, manifest = place / "stage1.npy", place / "manifest.json"
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:-4])
        case "changed":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case "no_manifest":
            manifest.unlink()
        case "half_manifest":
            manifest.write_text(manifest.read_text()[:20])
        case "other_json":
            manifest.write_text("[]")
        case "other_array":
            path.write_bytes((place / "embedding.npy").read_bytes())
    with pytest.warns(UserWarning, match=rf"{place.name} is damaged \(.*{wrong}.*\); it is computed anew"):
        features(tmp_path, tiny_convnet(), face_table)
    for _ in range(2):
        found = features(tmp_path, tiny_convnet(), face_table)
        assert all((found[name] == expected[name]).all() for name in LAYERS)
    assert len(computed) == 2  # anew, and then kept again
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_too_much_is_refused_before_anything_is_computed(tmp_path, tiny_convnet, face_table, computed):
    assert feature_bytes(tiny_convnet(), face_table, LAYERS) == 32 * 4 * (8 * 9 + 8)
    layers = {"stage1": "flatten", "stage2": "flatten"}
    needed = feature_bytes(tiny_convnet(), face_table, layers)
    assert needed == 32 * 4 * (8 * 64 + 16 * 16)
    big = dataclasses.replace(face_table, labels=np.zeros(1_000_000, np.int64))  # its length is that of its labels
    cache = FeatureCache(tmp_path, limit_bytes=100_000_000)
    with pytest.raises(DataError, match=r"of stage1, stage2 would take 3,072 MB; 100 MB are allowed or free"):
        cache.features(tiny_convnet(), big, layers)
    assert not computed
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_refused_with_what_is_free(tmp_path, tiny_convnet, face_table, monkeypatch):
    monkeypatch.setattr(entries_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0})())
    with pytest.raises(DataError, match=r"would take 0 MB; 0 MB are allowed or free"):
        features(tmp_path / "not" / "there", tiny_convnet(), face_table)


def test_without_a_folder_nothing_is_kept(tiny_convnet, face_table, computed):
    for _ in range(2):
        features(None, tiny_convnet(), face_table)
    assert len(computed) == 2


def test_weights_above_the_deepest_layer_asked_for_may_change(tmp_path, tiny_convnet, face_table, computed):
    backbone = tiny_convnet()
    features(tmp_path, backbone, face_table, {"stage1": "grid"})
    with torch.no_grad():
        for _, parameter in backbone.parameters_of("embedding"):
            parameter.add_(1)
    features(tmp_path, backbone, face_table, {"stage1": "grid"})
    assert len(computed) == 1
    with torch.no_grad():
        for _, parameter in backbone.parameters_of("stem"):
            parameter.add_(1)
    features(tmp_path, backbone, face_table, {"stage1": "grid"})
    assert len(computed) == 2
