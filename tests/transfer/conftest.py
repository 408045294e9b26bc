"""A few drawn people, pictures and texts whose class can be seen at a glance, networks that train in milliseconds."""

import dataclasses

import numpy as np
import pytest

from auxtasks.backbones.transformers import transformers
from auxtasks.data import ImageTable, decode_images, load_source
from auxtasks.data.texts import encode_texts
from auxtasks.data.tokenizers import train_tokenizer


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


GOOD, BAD = ("fine", "lovely", "great"), ("awful", "dull", "poor")
FILLER = ("the", "film", "was", "and", "its", "story", "actors", "seemed", "to", "me", "very", "long", "music", "of")


def written_texts(count, seed=0):
    """Opinions of 5 to 14 words, alternately bad and good: two words of each tell which."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(count):
        words = list(rng.choice(FILLER, size=rng.integers(3, 13)))
        for word in rng.choice((BAD, GOOD)[number % 2], size=2):
            words.insert(int(rng.integers(len(words) + 1)), word)
        texts.append(" ".join(words))
    return texts, [("bad", "good")[number % 2] for number in range(count)]


def text_source(texts, labels):
    return load_source({"text": texts, "label": labels}, columns={"text": "text", "label": "label"})


@pytest.fixture(scope="session")
def tokenizer():
    """Knows the words of `opinions`."""
    return train_tokenizer(written_texts(200, seed=99)[0], size=200)


@pytest.fixture(scope="session")
def opinions(tokenizer):
    """40 labelled texts, as tokens."""
    return encode_texts(text_source(*written_texts(40)), tokenizer, length=24)


@pytest.fixture(scope="session")
def opinions_test(tokenizer):
    """31 other labelled texts, whose class names come in another order; class by class not the same number."""
    texts, labels = written_texts(31, seed=7)
    table = encode_texts(text_source(texts, labels), tokenizer, length=24)
    turned = np.array([table.class_names[::-1].index(name) for name in table.class_names])
    return dataclasses.replace(table, labels=turned[table.labels], class_names=table.class_names[::-1])


@pytest.fixture(scope="session")
def make_encoder(tokenizer):
    """Build a BERT with layers embeddings, block1 and block2, for texts of at most 24 tokens."""

    def build():
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return transformers({"model_type": "bert", **sizes}, length=24, tokenizer=tokenizer)

    return build


@pytest.fixture
def encoder(make_encoder):
    return make_encoder()
