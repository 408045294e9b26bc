"""Edited copies are found, strangers are not, and what is kept is not trusted when it is damaged."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import transfer.near_texts as near_texts_module
from auxtasks.data import decode_images, load_source
from auxtasks.errors import LeakError, TransferError
from transfer.near_duplicates import find_near_duplicates
from transfer.near_pictures import near_pictures, picture_signatures
from transfer.near_texts import near_texts, text_signatures, words_of


@pytest.fixture(scope="module")
def faces():
    rows = load_source(
        "builtin:drawn_faces", columns={"image": "image"}, options={"people": 12, "photos": 3, "size": 64}
    )
    return decode_images(rows, size=(64, 64), channels=3).pixels


def recompressed(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer).convert("RGB"))


EDITS = {
    "recompressed": recompressed,
    "half size": lambda picture: np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX)),
    "brighter": lambda picture: np.asarray(ImageEnhance.Brightness(Image.fromarray(picture)).enhance(1.2)),
    "less contrast": lambda picture: np.asarray(ImageEnhance.Contrast(Image.fromarray(picture)).enhance(0.7)),
    "mirrored": lambda picture: np.ascontiguousarray(picture[:, ::-1]),
    "grey": lambda picture: np.asarray(Image.fromarray(picture).convert("L"))[..., None],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_of_a_picture_is_found(faces, edit):
    rows = [4, 17, 30]
    test = np.stack([EDITS[edit](faces[row]) for row in rows])
    found = near_pictures(picture_signatures(faces), picture_signatures(test))
    assert [(seen, row) for seen, row, _ in found] == [(4, 0), (17, 1), (30, 2)]
    assert all(alike >= 0.94 for *_, alike in found)


def test_other_photos_are_no_copies_though_they_are_of_the_same_person(faces):
    assert near_pictures(picture_signatures(faces[1::3]), picture_signatures(faces[::3])) == []


def test_flat_pictures_are_no_copies_of_each_other():
    flat = np.stack([np.full((32, 32, 1), level, np.uint8) for level in (0, 90, 255)])
    assert near_pictures(picture_signatures(flat[:2]), picture_signatures(flat[2:])) == []


def shingles(text):
    found = words_of(text)
    return set(found) | set(itertools.pairwise(found))


def test_the_agreement_of_signatures_is_the_share_of_words_in_common():
    # The oracle: the Jaccard similarity of words and pairs of neighbouring words, from sets.
    errors = []
    for seed in range(6):
        words = [f"w{seed}x{number}" for number in range(30)]
        texts = [" ".join(text) for text in np.random.default_rng(seed).choice(words, (20, 40))]
        signatures = text_signatures(texts)
        for first, second in itertools.combinations(range(20), 2):
            one, other = shingles(texts[first]), shingles(texts[second])
            jaccard = len(one & other) / len(one | other)
            errors.append(np.mean(signatures[first] == signatures[second]) - jaccard)
    assert np.abs(errors).mean() < 0.06  # of 64 numbers, whose standard error is at most .0625
    assert abs(np.mean(errors)) < 0.02


SENTENCE = "The old house stood near a river in the north of the country ."


@pytest.mark.parametrize(
    ("edited", "found"),
    [
        ("The old house stood by a river in the north of the country .", True),
        ("The old house stood near a river in the north of the country again .", True),
        ("THE OLD HOUSE STOOD NEAR A RIVER IN THE NORTH OF THE COUNTRY !", True),
        ("country the of north the in river a near stood house old The .", False),
        ("The new car stood near a tree in the middle of the road .", False),
    ],
)
def test_a_word_makes_no_other_text_and_another_order_does(edited, found):
    assert bool(near_texts(["It rains .", SENTENCE], [edited])) == found


def test_short_texts_are_alike_by_chance_and_are_not_named():
    assert near_texts(["That much was for sure ."], ["That was for sure ."]) == []
    assert len(near_texts(["That much was for sure ."], ["That was for sure ."], shortest=5)) == 1


def test_what_is_equal_is_left_to_the_exact_search(faces):
    assert not find_near_duplicates(faces[:6], faces[:3])
    assert not find_near_duplicates([SENTENCE], [SENTENCE.upper()])


def test_what_was_found_is_told_and_raised(faces):
    found = find_near_duplicates(faces, np.stack([recompressed(faces[7])]))
    assert found.describe().startswith("nearly the same pictures in pretraining and test: 1 of 1 test pictures (corr")
    assert "pretraining row 7 = test row 0, 0.9" in found.describe()
    with pytest.raises(LeakError, match="remove them from pretraining; where they are none, report them"):
        found.raise_if_any()
    nothing = find_near_duplicates(faces[:3], faces[9:12])
    nothing.raise_if_any()
    assert "0 of 3" in nothing.describe("support")


def test_signatures_are_kept_and_a_damaged_file_is_not_used(faces, tmp_path, monkeypatch):
    test = np.stack([recompressed(faces[7])])
    first = find_near_duplicates(faces, test, folder=tmp_path)
    files = sorted(tmp_path.glob("*/signatures.safetensors"))
    assert len(files) == 2
    monkeypatch.setattr("transfer.near_duplicates.picture_signatures", None)  # would fail where it is called
    assert find_near_duplicates(faces, test, folder=tmp_path) == first
    monkeypatch.undo()
    for file in files:
        file.write_bytes(file.read_bytes()[:50])
    assert find_near_duplicates(faces, test, folder=tmp_path) == first
    assert all(len(file.read_bytes()) > 50 for file in files)


@pytest.mark.parametrize(
    ("seen", "test", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), ["a text"], "pictures and texts cannot be compared"),
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 4, 4, 3), np.uint8), "found float32 of shape"),
    ],
)
def test_what_cannot_be_compared_is_refused(seen, test, message):
    with pytest.raises(TransferError, match=message):
        find_near_duplicates(seen, test)


def test_nothing_is_nearly_nothing():
    assert near_texts([], ["a text"]) == []
    empty = np.zeros((0, 4, 4, 3), np.uint8)
    assert near_pictures(picture_signatures(empty), picture_signatures(np.zeros((1, 4, 4, 3), np.uint8))) == []


def test_short_texts_that_come_often_make_no_candidates(monkeypatch):
    looked_for = []
    candidates = near_texts_module._candidates
    monkeypatch.setattr(
        near_texts_module, "_candidates", lambda seen, test: looked_for.append(len(test)) or candidates(seen, test)
    )
    long = "The old house stood near a river in the north ."
    found = near_texts_module.near_texts(["Thank you ."] * 9 + [long], ["Thank you ."] * 9 + [long.upper()])
    assert (found, looked_for) == ([(9, 9, 1.0)], [1])
