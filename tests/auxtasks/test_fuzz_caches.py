"""What is kept of an earlier computation, with bytes changed at random: the result is that of a computation anew.

Nothing is refused here, and nothing is believed: a cache that cannot be read costs time, never a result.
"""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from auxtasks import checkpoint
from auxtasks.backbones import mlp
from auxtasks.data import ImageTable, align, decode_images, encode_features, load_source, train_tokenizer
from auxtasks.data.align import Face, align_faces
from auxtasks.data.sentences import read_sentences
from auxtasks.features.cache import FeatureCache
from auxtasks.features.computation import Computation
from recipes.cache import describe_cache
from transfer.near_duplicates import find_near_duplicates

pytestmark = pytest.mark.filterwarnings("ignore:.* is damaged:UserWarning")

NOISE = np.random.default_rng(0).integers(256, size=(4, 24, 24, 3), dtype=np.uint8)
TEXTS = ["the old dog sleeps.", "a cat hears the dog.", "the cat sees a dog."] * 2
INTERRUPTED = "stopped"


def features(folder):
    """Outputs of a network."""
    rows = load_source({"features": [[0.0, 1.0], [1.0, 0.5], [2.0, 0.0]]}, columns={"features": "features"})
    found = FeatureCache(folder).features(mlp(width=2, hidden=[3], seed=0), encode_features(rows), {"hidden1": "auto"})
    return list(found.values())


def numbers(folder, *, stops_at=None):
    """Outputs of a computation in blocks, which may be interrupted."""

    def values(block):
        if block == stops_at:
            raise KeyboardInterrupt(INTERRUPTED)
        return {"a": np.full((2, 3), block, np.float32), "b": np.full((2, 1), -block, np.float32)}

    whole = Computation(4, lambda block: np.arange(2 * block, 2 * block + 2), values, "numbers")
    found = FeatureCache(folder).arrays("key", {"a": (8, 3), "b": (8, 1)}, whole, about={})
    return [stored.whole() for stored in found.values()]


def pictures(folder):
    rows = load_source(
        {"image": list(NOISE), "label": ["a", "b", "a", "b"]}, columns={"image": "image", "label": "label"}
    )
    table: ImageTable = decode_images(rows, size=(6, 5), channels=1, cache=folder)
    return [table.pixels, table.rows, table.labels, table.fingerprint, table.skipped]


def sentences(folder):
    table = read_sentences(TEXTS, train_tokenizer(TEXTS, size=60), length=16, cache=folder)
    lexicon = table.lexicon
    ragged = [part for rows in (table.words, lexicon.inner, lexicon.initial) for part in (rows.values, rows.offsets)]
    plain = [lexicon.same_as, lexicon.closes, lexicon.prefix, lexicon.suffix, lexicon.pad_id]
    return [*ragged, *plain, table.rows, table.fingerprint, table.keep_initial, table.truncated, dict(table.left_out)]


def near(folder):
    dimmed = (NOISE[1:3] * 0.9).astype(np.uint8)
    return [find_near_duplicates(NOISE, dimmed, folder=folder).pairs]


def crops(folder):
    rows = load_source({"image": [Image.fromarray(one) for one in NOISE]}, columns={"image": "image"})
    found = align_faces(rows, size=(8, 8), cache=folder)
    return [np.stack([np.asarray(one) for one in found["image"]]), found["face_found"][:]]


# What is kept, and which of its files is damaged.
KEPT = [
    (features, "*/hidden1.npy"), (features, "*/manifest.json"),
    (pictures, "*/pixels.npy"), (pictures, "*/rows.npy"), (pictures, "*/manifest.json"),
    (sentences, "*/words.npy"), (sentences, "*/inner_offsets.npy"), (sentences, "*/manifest.json"),
    (near, "*/signatures.safetensors"), (near, "*/manifest.json"),
    (crops, "faces-*/faces.parquet"), (crops, "faces-*/manifest.json"),
]  # fmt: skip
SUBFOLDERS = {"features": "features", "pictures": "pictures", "sentences": "sentences", "near": "near_duplicates",
              "crops": "aligned"}  # fmt: skip


@pytest.fixture(autouse=True)
def face_in_the_middle(monkeypatch):
    """Let the detector find a face at once."""
    face = Face(box=(6, 6, 18, 18), eyes=((9, 10), (15, 11)), probability=1.0)
    monkeypatch.setattr(align, "_detector", lambda _: lambda _: face)


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("make", "file"), KEPT, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_kept_file_with_bytes_changed_changes_no_result(tmp_path, count_refused, make, file):
    # Copied, since what is kept may be mapped.
    expected = [np.copy(part) for part in make(tmp_path / "first" / SUBFOLDERS[make.__name__])]
    kept = sorted((tmp_path / "first" / SUBFOLDERS[make.__name__]).glob(file))[0]
    inside, content, number = kept.relative_to(tmp_path / "first"), kept.read_bytes(), itertools.count()
    changes = []

    def read(changed):
        cache = tmp_path / f"{next(number)}"  # a path of its own: files that were read once are known by theirs
        shutil.copytree(tmp_path / "first", cache)
        (cache / inside).write_bytes(changed)
        assert describe_cache(cache)
        assert_equal(make(cache / inside.parts[0]), expected)
        changes.append(changed != content)
        shutil.rmtree(cache)

    read(content)
    count_refused(content, read, share=0.4)
    assert any(changes)


@pytest.mark.parametrize("file", ["a.npy", "b.npy", "progress.json"])
def test_an_unfinished_file_with_bytes_changed_changes_no_result(tmp_path, count_refused, file):
    expected = numbers(None)
    with pytest.raises(KeyboardInterrupt, match=INTERRUPTED):
        numbers(tmp_path / "first", stops_at=3)
    content, number = (tmp_path / "first" / ".key.unfinished" / file).read_bytes(), itertools.count()

    def read(changed):
        cache = shutil.copytree(tmp_path / "first", tmp_path / f"{next(number)}")
        (cache / ".key.unfinished" / file).write_bytes(changed)
        assert_equal(numbers(cache), expected)
        assert_equal(numbers(cache), expected)  # of what is now kept

    read(content)
    count_refused(content, read, share=0.4)


def test_a_cache_that_is_believed_is_found_out(tmp_path, count_refused, monkeypatch):
    """The comparison sees a wrong number: without its digest a damaged file would be served."""
    expected = [np.copy(part) for part in features(tmp_path)]
    (kept,) = tmp_path.glob("*/hidden1.npy")
    content, genuine = kept.read_bytes(), checkpoint.file_digest(kept)
    monkeypatch.setattr(checkpoint, "file_digest", lambda _: genuine)

    def read(_):
        kept.write_bytes(content[:-1] + b"\x40")
        assert_equal(features(tmp_path), expected)

    assert count_refused(content, read, AssertionError, share=0.4) > 0
