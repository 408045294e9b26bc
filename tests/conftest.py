"""What several tests need: a few drawn people, and a network that is trained in milliseconds a step."""

from collections.abc import Callable

import datasets
import pytest

from auxtasks.backbones import Backbone, convnet
from auxtasks.data import ImageTable, decode_images, load_source


def draw_faces(people: int, photos: int, first_person: int = 0) -> datasets.Dataset:
    return load_source(
        "builtin:drawn_faces",
        columns={"image": "image", "label": "label"},
        options={"people": people, "photos": photos, "size": 20, "first_person": first_person},
    )


@pytest.fixture(scope="session")
def faces() -> datasets.Dataset:
    """8 people with 4 photos each, in order."""
    return draw_faces(8, 4)


@pytest.fixture(scope="session")
def strangers() -> datasets.Dataset:
    """6 people with 4 photos each, none of them among `faces`."""
    return draw_faces(6, 4, first_person=1000)


@pytest.fixture(scope="session")
def face_table(faces: datasets.Dataset) -> ImageTable:
    """`faces`, decoded to grey pictures of 20 x 20 pixels."""
    return decode_images(faces, size=(20, 20), channels=1)


@pytest.fixture
def tiny_convnet() -> Callable[..., Backbone]:
    """Build a network for pictures of 16 x 16 pixels."""

    def build(*, dropout: float = 0.0, seed: int = 0, embedding: int = 8) -> Backbone:
        return convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=embedding, dropout=dropout, seed=seed)

    return build
