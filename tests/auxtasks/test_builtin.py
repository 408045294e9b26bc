"""Built-in data: drawn faces are pure functions, differ as stated, and are neither trivial nor hopeless."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression

from auxtasks.data.builtin import BUILTINS, digits, features, load_builtin
from auxtasks.data.builtin_rankings import sentence_preferences, severity
from auxtasks.data.drawn_faces import draw_face, drawn_faces
from auxtasks.data.images import decode_images
from auxtasks.errors import DataError


def test_a_photo_is_a_pure_function_of_its_numbers() -> None:
    few = decode_images(drawn_faces(people=2, photos=2), size=(48, 48), channels=1, workers=1)
    many = decode_images(drawn_faces(people=4, photos=3), size=(48, 48), channels=1, workers=1)
    later = drawn_faces(people=2, photos=2, first_person=2)
    shifted = decode_images(later, size=(48, 48), channels=1, workers=1)
    photos = many.pixels.reshape(4, 3, 48, 48, 1)
    np.testing.assert_array_equal(few.pixels.reshape(2, 2, 48, 48, 1), photos[:2, :2])
    np.testing.assert_array_equal(shifted.pixels.reshape(2, 2, 48, 48, 1), photos[2:, :2])
    assert later.features["label"].names == ["person00002", "person00003"]
    np.testing.assert_array_equal(draw_face(3, 1), photos[3, 1])


def test_people_photos_and_seeds_differ() -> None:
    faces = [draw_face(0, 0), draw_face(0, 1), draw_face(1, 0), draw_face(0, 0, seed=1)]
    for index, face in enumerate(faces):
        for other in faces[index + 1 :]:
            assert (face != other).mean() > 0.5


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (48, 3), (65, 1)])
def test_sizes_and_channels(size: int, channels: int) -> None:
    face = draw_face(5, 2, size=size, channels=channels)
    assert (face.shape, face.dtype) == ((size, size, channels), np.uint8)
    assert face.std() > 5


def test_colour_and_grey_are_the_same_photo() -> None:
    # Not to the pixel: sensor noise is drawn for each channel.
    grey = draw_face(9, 0, channels=1)[..., 0].astype(float)
    colour = np.asarray(Image.fromarray(draw_face(9, 0, channels=3)).convert("L"), dtype=float)
    assert np.corrcoef(grey.ravel(), colour.ravel())[0, 1] > 0.97


def test_all_styles_are_drawn() -> None:
    # 60 people hold every hair style, glasses, beards and moles: none may fail or leave the range.
    faces = np.stack([draw_face(person, 0, size=32) for person in range(60)])
    assert (faces.reshape(60, -1).std(axis=1) > 4).all()
    assert 60 < faces.mean() < 160


def baseline(faces: np.ndarray, shots: int, shuffled: bool = False) -> float:
    """Accuracy of 50 components and logistic regression on (people, photos, pixels), tested on photos 5 onward."""
    people, photos, pixels = faces.shape
    support = faces[:, :shots].reshape(-1, pixels)
    labels = np.repeat(np.arange(people), shots)
    if shuffled:
        labels = np.random.default_rng(0).permutation(labels)
    components = PCA(min(50, len(support) - 1), random_state=0).fit(support)
    head = LogisticRegression(max_iter=1000).fit(components.transform(support), labels)
    return head.score(components.transform(faces[:, 5:].reshape(-1, pixels)), np.repeat(np.arange(people), photos - 5))


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    table = decode_images(drawn_faces(people=30, photos=15), size=(32, 32), channels=1, workers=1)
    return table.pixels.reshape(30, 15, -1) / 255


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_classical_baseline_is_neither_trivial_nor_hopeless(faces: np.ndarray) -> None:
    assert 0.3 < baseline(faces, shots=5) < 0.6
    assert 0.08 < baseline(faces, shots=1) < 0.3
    assert baseline(faces, shots=5, shuffled=True) < 0.15


def test_light_and_pose_dominate_the_distance_of_pixels(faces: np.ndarray) -> None:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum(-1)).mean())

    same = distance(faces[:, :7], faces[:, 7:14])
    different = distance(faces[:-1, :7], faces[1:, 7:14])
    assert same < different < 1.4 * same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": 0}, r"drawn_faces: people must be at least 1, found 0"),
        ({"photos": 0}, r"photos must be at least 1, found 0"),
        ({"size": 8}, r"size must be at least 16, found 8"),
        ({"first_person": -1}, r"first_person must be at least 0, found -1"),
        ({"channels": 2}, r"channels is 1 \(grey\) or 3 \(RGB\); found 2"),
    ],
)
def test_wrong_numbers(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        drawn_faces(**options)


def test_digits_are_the_bundled_ones() -> None:
    from sklearn.datasets import load_digits

    table = decode_images(digits(), size=(8, 8), channels=1, workers=1)
    np.testing.assert_array_equal(np.rint(table.pixels[..., 0] * (16 / 255)), load_digits().images)
    np.testing.assert_array_equal(table.labels, load_digits().target)
    parts = [digits("train")["label"], digits("test")["label"]]
    assert [len(part) for part in parts] == [1297, 500]
    np.testing.assert_array_equal(np.concatenate(parts), load_digits().target)
    assert table.class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("iris", (150, 4), 3), ("wine", (178, 13), 3), ("breast_cancer", (569, 30), 2), ("digits", (1797, 64), 10)],
)
def test_features_are_the_bundled_ones(name: str, shape: tuple[int, int], classes: int) -> None:
    import sklearn.datasets

    dataset = features(name)
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    values = np.asarray(dataset.with_format("numpy")["features"][:])
    assert (values.shape, values.dtype) == (shape, np.float32)
    np.testing.assert_array_equal(values, bunch.data.astype(np.float32))
    assert dataset["label"][:] == bunch.target.tolist()
    assert dataset.features["label"].num_classes == classes


def test_severity_deals_the_bundled_patients_to_clinics() -> None:
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    everyone = severity()
    values = np.array(everyone["features"][:], dtype=np.float32)
    # Every patient once, with the fifth that a sort by progression puts them in, but for a few ties.
    order = [np.flatnonzero((bunch.data.astype(np.float32) == row).all(axis=1)) for row in values]
    assert all(len(found) == 1 for found in order)
    patients = np.concatenate(order)
    assert sorted(patients) == list(range(442))
    fifths = np.argsort(np.argsort(bunch.target, kind="stable"), kind="stable") * 5 // 442
    grades = np.array(everyone["grade"][:])
    assert (grades == fifths[patients]).mean() > 0.98
    assert all(80 <= (grades == grade).sum() <= 96 for grade in range(5))
    qids = np.array(everyone["qid"][:])
    assert sorted(set(np.bincount(qids))) == [11, 12]
    assert (qids == np.sort(qids)).all()
    parts = [severity(split) for split in ("train", "validation", "test")]
    assert [len(set(part["qid"])) for part in parts] == [24, 8, 8]
    np.testing.assert_array_equal(np.concatenate([part["qid"][:] for part in parts]), qids)
    np.testing.assert_array_equal(np.concatenate([part["features"][:] for part in parts]), values)


def test_severity_can_be_learned_by_a_line() -> None:
    train, test = (severity(split) for split in ("train", "test"))
    line = LinearRegression().fit(np.array(train["features"][:]), train["grade"][:])
    qids, grades = np.array(test["qid"][:]), np.array(test["grade"][:])
    scores = line.predict(np.array(test["features"][:]))
    better = [
        scores[a] > scores[b]
        for a in range(len(qids))
        for b in range(len(qids))
        if qids[a] == qids[b] and grades[a] > grades[b]
    ]
    assert 0.65 < np.mean(better) < 0.9


def test_sentence_preferences_are_the_same_words_in_another_order() -> None:
    pairs = sentence_preferences(limit=400)
    assert 390 <= len(pairs) <= 400
    for pair in pairs:
        good, bad = pair["chosen"], pair["rejected"]
        assert good != bad
        assert sorted(good.rstrip(".!?").split()) == sorted(bad.rstrip(".!?").split())
        assert (good.split()[0], good[-1]) == (bad.split()[0], bad[-1])
    assert pairs.to_dict() == sentence_preferences(limit=400).to_dict()
    halves = [set(sentence_preferences(limit=400, part=part)["chosen"]) for part in (0, 1)]
    assert not halves[0] & halves[1]


def test_table_of_builtins_names_every_option() -> None:
    assert list(BUILTINS) == sorted(BUILTINS) == [
        "digits", "drawn_faces", "features", "sentence_order", "sentence_preferences", "sentence_topics", "sentences",
        "severity",
    ]  # fmt: skip
    for builtin in BUILTINS.values():
        assert list(builtin.options) == list(inspect.signature(builtin.make).parameters)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "drawn_fases",
            {},
            r"no built-in data set 'drawn_fases'; there are digits, drawn_faces, features, sentence_order, "
            r"sentence_preferences, sentence_topics, sentences, severity\. Did you mean \"drawn_faces\"\?",
        ),
        ("digits", {"people": 3}, r"builtin:digits has no option 'people'; allowed are split"),
        ("digits", {"split": "tset"}, r"digits: there is no split 'tset'; .*Did you mean \"test\"\?"),
        ("drawn_faces", {"people": 3.0}, r"builtin:drawn_faces: people must be int, found 3.0"),
        ("drawn_faces", {"people": True}, r"people must be int, found True"),
        ("severity", {"split": "valid"}, r"severity: there is no split 'valid'; there are all, train, .*Did you mean"),
        ("sentence_preferences", {"part": 2}, r"part must be 0, 1, or -1 for both, found 2"),
        ("features", {"name": "irsi"}, r"no table 'irsi'; .*Did you mean \"iris\"\?"),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, str | int | float | bool], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_builtin(name, options)
