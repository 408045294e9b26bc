"""Features of texts: the same whatever the batch, in the table's order, and kept under a key of their own."""

import dataclasses

import numpy as np
import pytest
import torch

from auxtasks.backbones import convnet
from auxtasks.backbones.text import TokenBatch
from auxtasks.backbones.transformers import transformers
from auxtasks.data import ImageTable, load_source
from auxtasks.data.texts import encode_texts
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import DataError, InputMismatchError, LayerError
from auxtasks.features.batches import check_table, model_batch
from auxtasks.features.cache import FeatureCache, feature_bytes, feature_key
from auxtasks.features.extract import extract, feature_widths, layer_shapes

LAYERS = {"embeddings": "mean", "block1": "max", "block2": "token"}
WORDS = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat", "red", "big")


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 20))) for _ in range(23)]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts, size=100)


@pytest.fixture(scope="module")
def table(texts, tokenizer):
    return encode_texts(load_source({"text": texts}, columns={"text": "text"}), tokenizer, length=24)


@pytest.fixture(scope="module")
def backbone(tokenizer):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers({"model_type": "bert", **sizes}, length=24, tokenizer=tokenizer)


def test_a_text_alone_has_the_features_it_has_among_others(backbone, table):
    backbone.train()
    found = extract(backbone, table, LAYERS, batch_size=5)
    assert backbone.training  # and dropout was off:
    backbone.eval()
    for row in range(len(table)):
        ids = torch.from_numpy(table.tokens[row].astype(np.int64))[None]
        with torch.no_grad():
            outputs = backbone.forward_layers(TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)), LAYERS)
        hidden = {name: output.hidden[0] for name, output in outputs.items()}
        np.testing.assert_allclose(found["embeddings"][row], hidden["embeddings"].mean(0), atol=1e-5)
        np.testing.assert_allclose(found["block1"][row], hidden["block1"].amax(0), atol=1e-5)
        np.testing.assert_allclose(found["block2"][row], hidden["block2"][0], atol=1e-5)
    assert np.ptp(table.tokens.lengths) > 8  # or nothing would have been padded


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_neither_the_batch_nor_the_order_matters(backbone, table, batch_size):
    expected = extract(backbone, table, LAYERS)
    order = np.random.default_rng(1).permutation(len(table))
    found = extract(backbone, table.subset(order), LAYERS, batch_size=batch_size)
    for name in LAYERS:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name][order], atol=1e-5)


def test_texts_of_like_length_share_a_batch(backbone, table, monkeypatch):
    seen = []
    apply = type(backbone).forward_layers

    def recording(self, x, *args):
        seen.append(x)
        return apply(self, x, *args)

    monkeypatch.setattr(type(backbone), "forward_layers", recording)
    extract(backbone, table, ["block1"], batch_size=6)
    assert len(seen) == 4
    longest = [int(batch.mask.sum(1).max()) for batch in seen]
    assert longest == sorted(longest)
    padded = sum(batch.mask.numel() for batch in seen)
    assert padded < 0.75 * len(table) * 24  # of one batch of all


def test_shapes_widths_and_bytes_are_known_beforehand(backbone, table):
    assert layer_shapes(backbone) == dict.fromkeys(("embeddings", "block1", "block2"), (8, 16))
    assert feature_widths(backbone, LAYERS) == dict.fromkeys(LAYERS, 16)
    assert feature_bytes(backbone, table, LAYERS) == 23 * 4 * 48
    with pytest.raises(LayerError, match="texts differ in length"):
        feature_widths(backbone, {"block1": "flatten"})


def test_what_does_not_fit_is_refused_with_both(backbone, table, face_table, tokenizer):
    with pytest.raises(InputMismatchError, match=r"takes texts of at most 24 tokens, the table holds pictures"):
        extract(backbone, face_table, ["block1"])
    with pytest.raises(InputMismatchError, match=r"takes image items of shape \(1, 16, 16\), the table holds texts"):
        extract(convnet(size=16), table, ["stage1"])
    with pytest.raises(InputMismatchError, match=r"mirror image; the table holds texts"):
        extract(backbone, table, ["block1"], mirror=True)
    with pytest.raises(DataError, match="holds no texts"):
        extract(backbone, table.subset([]), ["block1"])
    for changed, message in [
        ({"length": 4}, r"at most 4 tokens, the batch holds a text of \d+"),
        ({"vocabulary": 6}, r"knows 6 token ids, the batch holds id \d+"),
    ]:
        other = transformers(
            {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
             "intermediate_size": 8}, tokenizer=tokenizer, length=24,
        )  # fmt: skip
        other.input = dataclasses.replace(other.input, **changed)
        with pytest.raises(InputMismatchError, match=message):
            check_table(other, table)


def test_a_batch_is_on_the_backbones_device_and_padded(backbone, table):
    batch = model_batch(backbone, table, [2, 0])
    assert isinstance(batch, TokenBatch)
    assert batch.ids.shape == batch.mask.shape
    assert batch.mask.sum(1).tolist() == table.tokens.lengths[[2, 0]].tolist()
    assert (batch.ids[~batch.mask] == table.pad_id).all()


def test_features_of_texts_are_kept_and_another_text_is_a_miss(tmp_path, backbone, table, texts, tokenizer):
    cache = FeatureCache(tmp_path)
    first = cache.features(backbone, table, LAYERS)
    again = cache.features(backbone, table, LAYERS)
    assert all((first[name] == again[name]).all() for name in LAYERS)
    assert isinstance(again["block1"], np.memmap)
    assert len(list(tmp_path.iterdir())) == 1
    other = encode_texts(
        load_source({"text": [*texts[:-1], "a red dog"]}, columns={"text": "text"}), tokenizer, length=24
    )
    cache.features(backbone, other, LAYERS)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_kind_is_part_of_the_key(backbone, table, face_table):
    twin = dataclasses.replace(face_table, fingerprint=table.fingerprint)
    assert isinstance(twin, ImageTable)
    keys = {feature_key(backbone, one, LAYERS, mirror=False) for one in (table, twin)}
    assert len(keys) == 2
