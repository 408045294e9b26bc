"""Entries of caches that are damaged or hostile: each is computed anew, and nothing of it is believed."""

import io
import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from auxtasks.backbones import mlp
from auxtasks.data import decode_images, encode_features, load_source
from auxtasks.data.array_files import map_array
from auxtasks.data.sealed import write_sealed
from auxtasks.errors import CheckpointError
from auxtasks.features.cache import FeatureCache
from auxtasks.features.computation import Computation
from auxtasks.features.entries import entries
from recipes.cache import describe_cache

WHOLE = np.arange(6, dtype=np.float32).reshape(2, 3)
STOPPED = "stopped"


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(**changes):
    """Return the file of `WHOLE` whose header says something else of the same bytes."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2, 3)} | changes
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + WHOLE.tobytes()


class Runs:
    """What a pickle would do."""

    def __reduce__(self):
        return (Path("ran").touch, ())


def objects():
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return buffer.getvalue() + pickle.dumps([Runs()])


CONTENT = npy(WHOLE)
DAMAGED = {
    "empty": (b"", "a.npy is cut short: EOF in its header"),
    "magic": (b"x" + CONTENT[1:], "a.npy has a damaged header"),
    "version": (CONTENT[:6] + b"\x03" + CONTENT[7:], "damaged header"),
    "header cut": (CONTENT[:50], "cut short: EOF in its header"),
    "header longer than the file": (CONTENT[:8] + b"\xff\xff" + CONTENT[10:], "cut short"),
    "header flipped": (CONTENT.replace(b"'descr'", b"'descs'"), "damaged header"),
    "brackets": (CONTENT.replace(b"(2, 3), }", b"((((((((("), "damaged header"),
    "call": (CONTENT.replace(b"'<f4'", b"exit("), "damaged header"),
    "of Python 2": (CONTENT.replace(b"(2, 3), } ", b"(2L, 3), }"), "damaged header"),
    "shape too large": (with_header(shape=(10**30,)), "damaged header"),
    "shape of a petabyte": (with_header(shape=(10**15,)), r"shape \(1000000000000000,\) takes"),
    "negative shape": (with_header(shape=(-2, -3)), "damaged header"),
    "more rows than there are": (
        with_header(shape=(3, 3)),
        r"a.npy has 152 bytes; float32 of shape \(3, 3\) takes 164",
    ),
    "array cut": (CONTENT[:-1], "has 151 bytes"),
    "array longer": (CONTENT + b"\0", "has 153 bytes"),
    "other byte order": (with_header(descr=">f4"), "damaged header"),
    "columns first": (with_header(fortran_order=True), "damaged header"),
    "no such type": (with_header(descr="<f3"), "damaged header"),
    "objects": (objects(), "damaged header"),
    "zip": (b"PK\x03\x04" + b"\0" * 60, "cut short|damaged header"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_array_is_refused_without_being_evaluated(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    content, expected = DAMAGED[damage]
    Path("a.npy").write_bytes(content)
    assert content != CONTENT
    with pytest.raises(CheckpointError, match=expected):
        map_array(Path("a.npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]  # nothing ran


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16, np.uint8, np.int64, np.int32, np.bool_])
@pytest.mark.parametrize("shape", [(0,), (5,), (0, 3), (2, 3), (2, 3, 4, 1)])
def test_what_numpy_writes_is_mapped(tmp_path, dtype, shape):
    expected = np.ones(shape, dtype)
    np.save(tmp_path / "a.npy", expected)
    found = map_array(tmp_path / "a.npy")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


# --- features ---------------------------------------------------------------------------------------------------------


def features(folder):
    rows = load_source({"features": [[0.0, 1.0], [1.0, 0.5]]}, columns={"features": "features"})
    found = FeatureCache(folder).features(mlp(width=2, hidden=[3], seed=0), encode_features(rows), {"hidden1": "auto"})
    return found["hidden1"].copy()


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_features_are_computed_anew(tmp_path, damage):
    expected = features(tmp_path)
    (place,) = tmp_path.iterdir()
    (place / "hidden1.npy").write_bytes(DAMAGED[damage][0])
    with pytest.warns(UserWarning, match=r"is damaged \(hidden1\.npy .*\); it is computed anew"):
        np.testing.assert_array_equal(features(tmp_path), expected)
    np.testing.assert_array_equal(features(tmp_path), expected)


MANIFESTS = ["", "[]", "7", "null", '"text"', "{", "\0", "[" * 5000, "{}", '{"shapes": {}, "digests": {}}',
             '{"shapes": {"hidden1": 5}, "digests": {"hidden1": 5}}',
             '{"shapes": {"hidden1": [1e999]}, "digests": {"hidden1": null}}',
             '{"shapes": {"hidden1": [2, 3]}, "digests": []}',
             '{"shapes": {"hidden1": [3, 2]}, "digests": {"hidden1": "0"}}']  # fmt: skip


@pytest.mark.parametrize("content", MANIFESTS, ids=range(len(MANIFESTS)))
def test_features_with_a_damaged_manifest_are_computed_anew(tmp_path, content):
    expected = features(tmp_path / "features")
    (place,) = (tmp_path / "features").iterdir()
    (place / "manifest.json").write_text(content)
    assert "of an earlier version, or damaged" in describe_cache(tmp_path)
    with pytest.warns(UserWarning, match=r"is damaged \(.*\); it is computed anew"):
        np.testing.assert_array_equal(features(tmp_path / "features"), expected)


@pytest.mark.parametrize("about", [[], "x", 3, {"layers": 5}, {"layers": ["a"]}, {"holds": []}])
def test_an_entry_that_describes_itself_wrongly_is_listed(tmp_path, about):
    features(tmp_path / "features")
    (place,) = (tmp_path / "features").iterdir()
    manifest = json.loads((place / "manifest.json").read_text()) | {"about": about}
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert place.name in describe_cache(tmp_path)
    assert len(entries(tmp_path / "features")) == 1


def numbers(folder, *, stops_at=None):
    def values(block):
        if block == stops_at:
            raise KeyboardInterrupt(STOPPED)
        return {"a": np.full((2, 3), block, np.float32)}

    whole = Computation(4, lambda block: np.arange(2 * block, 2 * block + 2), values, "numbers")
    return FeatureCache(folder).arrays("key", {"a": (8, 3)}, whole, about={})["a"].whole()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A computation that ended after three of four blocks."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt, match=STOPPED):
        numbers(folder, stops_at=3)
    return folder


@pytest.mark.parametrize(
    "changes",
    [{"done": 10**9}, {"done": 5}, {"done": -1}, {"done": 2}, {"done": 4}, {"done": True}, {"done": "x"},
     {"done": 2.5}, {"done": None}, {"blocks": -1}, {"blocks": "4"}, {"digests": []}, {"digests": ["a"]},
     {"digests": "a"}, {"digests": {"a": 3}}, {"digests": {"a": "0"}}, {"digests": {}}, {"digests": None}],
    ids=str,
)  # fmt: skip
def test_progress_that_cannot_be_is_not_gone_on_from(tmp_path, interrupted, changes):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    progress = tmp_path / ".key.unfinished" / "progress.json"
    found = json.loads(progress.read_text())
    assert found["done"] == 3
    progress.write_text(json.dumps(found | changes))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*unfinished is damaged; it is computed anew from the start")
        np.testing.assert_array_equal(numbers(tmp_path), np.repeat(np.arange(4), 6).reshape(8, 3))


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_unfinished_array_with_damage_is_begun_anew(tmp_path, interrupted, damage):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    (tmp_path / ".key.unfinished" / "a.npy").write_bytes(DAMAGED[damage][0])
    np.testing.assert_array_equal(numbers(tmp_path), np.repeat(np.arange(4), 6).reshape(8, 3))


def test_an_unfinished_array_of_another_type_is_begun_anew(tmp_path, interrupted):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    file = tmp_path / ".key.unfinished" / "a.npy"
    file.write_bytes(file.read_bytes().replace(b"<f4", b"<i4"))  # numbers would be cut to whole ones
    np.testing.assert_array_equal(numbers(tmp_path), np.repeat(np.arange(4), 6).reshape(8, 3))


# --- pictures ---------------------------------------------------------------------------------------------------------


def decoded(folder):
    noise = np.random.default_rng(0).integers(256, size=(3, 6, 6), dtype=np.uint8)
    rows = load_source({"image": list(noise), "label": ["a", "b", "c"]}, columns={"image": "image", "label": "label"})
    return decode_images(rows, size=(4, 4), channels=1, cache=folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [*(("pixels.npy", content) for content, _ in DAMAGED.values()),
     ("rows.npy", npy(np.array([0, 2, 1]))), ("rows.npy", npy(np.array([0, 1]))), ("rows.npy", npy(np.eye(3))),
     ("rows.npy", npy(np.arange(3.0))), ("rows.npy", npy(np.array(7))), ("rows.npy", objects()),
     *(("manifest.json", content.encode()) for content in MANIFESTS)],
)  # fmt: skip
def test_damaged_pictures_are_decoded_anew(tmp_path, file, content):
    expected = decoded(None)
    decoded(tmp_path / "pictures")
    (place,) = (tmp_path / "pictures").iterdir()
    (place / file).write_bytes(content)
    assert place.name in describe_cache(tmp_path)
    with pytest.warns(UserWarning, match=r"is damaged \(.*\); the pictures are decoded anew"):
        found = decoded(tmp_path / "pictures")
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("facts", [{}, {"rows": 3}, {"rows": "3", "pixels_sha256": ""}, {"rows": None}])
def test_pictures_with_a_manifest_of_another_version_are_decoded_anew(tmp_path, facts):
    decoded(tmp_path)
    (place,) = tmp_path.iterdir()
    write_sealed(place / "manifest.json", facts)
    with pytest.warns(UserWarning, match=r"is damaged \(.*\); the pictures are decoded anew"):
        np.testing.assert_array_equal(decoded(tmp_path).pixels, decoded(None).pixels)
