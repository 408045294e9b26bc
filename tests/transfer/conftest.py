"""A few drawn people, pictures whose class can be seen at a glance, and networks that train in milliseconds."""

import numpy as np
import pytest

from auxtasks.data import ImageTable, decode_images, load_source


def table_of_pixels(pixels, labels):
    """Make a table of decoded pictures."""
    labels = np.asarray(labels, dtype=np.int64)
    names = tuple(f"class{label}" for label in range(labels.max() + 1))
    return ImageTable(pixels, labels, names, np.arange(len(labels)), skipped=(), fingerprint=f"{pixels.sum()}")


@pytest.fixture(scope="session")
def portraits():
    """Four drawn people with six photos each, decoded for a network that takes 16 x 16 pixels."""
    source = load_source(
        "builtin:drawn_faces",
        columns={"image": "image", "label": "label"},
        options={"people": 4, "photos": 6, "size": 20},
    )
    return decode_images(source, size=(20, 20), channels=1)


@pytest.fixture(scope="session")
def quadrants():
    """Four classes with eight pictures each: which quarter is bright, on noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 8)
    pixels = rng.integers(0, 60, size=(32, 20, 20, 1), dtype=np.uint8)
    for picture, label in zip(pixels, labels, strict=True):
        top, left = 10 * (label // 2), 10 * (label % 2)
        picture[top : top + 10, left : left + 10] += 180
    return table_of_pixels(pixels, labels)


@pytest.fixture
def backbone(tiny_convnet):
    """Layers stem, stage1, stage2 and embedding, for pictures of 16 x 16 pixels."""
    return tiny_convnet()
