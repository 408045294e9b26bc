"""Features of vectors and of pairs: each item once, left minus right, in the table's order, under keys of their own."""

import dataclasses

import numpy as np
import pytest
import torch

from auxtasks.backbones import convnet, mlp
from auxtasks.backbones.text import TokenBatch
from auxtasks.backbones.transformers import transformers
from auxtasks.data import load_source
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.texts import encode_texts
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import DataError, InputMismatchError
from auxtasks.features.batches import PairBatch, check_table, item_noun, model_batch, model_input
from auxtasks.features.cache import FeatureCache, feature_bytes, feature_key
from auxtasks.features.extract import extract, pooled_layers


def vectors(count=20, width=5, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return FeatureTable(values, np.full(count, -1), (), np.arange(count), (), f"{count} x {width}, seed {seed}")


def pairs_of(items, count=30, among=None, seed=1):
    """Pairs of some of the items, each in several."""
    left, right = np.random.default_rng(seed).integers(0, among or len(items), size=(2, count))
    return PairTable(items, left, right, np.arange(count) % 2, np.arange(count), (), f"{count} pairs, seed {seed}")


@pytest.fixture(scope="module")
def texts():
    words = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat")
    rng = np.random.default_rng(0)
    written = [" ".join(rng.choice(words, size=rng.integers(1, 20))) for _ in range(17)]
    tokenizer = train_tokenizer(written, size=60)
    return encode_texts(load_source({"text": written}, columns={"text": "text"}), tokenizer, length=24), tokenizer


@pytest.fixture(scope="module")
def encoder(texts):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers({"model_type": "bert", **sizes}, length=24, tokenizer=texts[1])


@pytest.fixture
def computed(monkeypatch):
    """Write down how many items each pass through a network has."""
    sizes = []

    def count(network):
        apply = network.forward_layers

        def counted(x, *args):
            sizes.append(len(x.ids if isinstance(x, TokenBatch) else x))
            return apply(x, *args)

        monkeypatch.setattr(network, "forward_layers", counted)
        return sizes

    return count


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_features_of_vectors_are_those_of_each():
    backbone, table = mlp(width=5, hidden=[4, 3], mean=[1.0] * 5, std=[2.0] * 5), vectors()
    found = extract(backbone, table, ["hidden1", "hidden2"], batch_size=7)
    for row in range(len(table)):
        x = (torch.from_numpy(table.values[row : row + 1].copy()) - 1) / 2
        with torch.no_grad():
            one = backbone.forward_layers(x, ["hidden1", "hidden2"])
        for name, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values[row], one[name][0].numpy(), atol=1e-6)


def test_vectors_as_they_are_are_features():
    table = vectors()
    np.testing.assert_array_equal(extract(mlp(width=5, hidden=[]), table, ["input"])["input"], table.values)
    batch = model_batch(mlp(width=5, hidden=[]), table, [3, 0])
    np.testing.assert_array_equal(batch.numpy(), table.values[[3, 0]])
    assert item_noun(table) == "vectors"


def test_vectors_that_do_not_fit_are_refused_with_both(encoder, face_table):
    with pytest.raises(InputMismatchError, match=r"items of shape \(4,\), the table holds vectors of 5 features"):
        check_table(mlp(width=4, hidden=[3]), vectors())
    with pytest.raises(InputMismatchError, match=r"image items of shape \(1, 16, 16\), the table holds vectors of 5"):
        check_table(convnet(size=16), vectors())
    with pytest.raises(InputMismatchError, match="texts of at most 24 tokens, the table holds vectors"):
        check_table(encoder, vectors())
    with pytest.raises(InputMismatchError, match=r"features items of shape \(5,\), the table holds pictures"):
        check_table(mlp(width=5), face_table)
    with pytest.raises(InputMismatchError, match="mirror image; the table holds vectors"):
        extract(mlp(width=5), vectors(), ["hidden1"], mirror=True)
    with pytest.raises(DataError, match="the table holds no vectors"):
        extract(mlp(width=5), vectors().subset([]), ["hidden1"])


# --- pairs ------------------------------------------------------------------------------------------------------------


def check_differences(backbone, pairs, layers, **options):
    of_items = extract(backbone, pairs.items, layers, **options)
    found = extract(backbone, pairs, layers, batch_size=4, **options)
    for name in layers:
        expected = [of_items[name][a] - of_items[name][b] for a, b in zip(pairs.left, pairs.right, strict=True)]
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
        assert np.abs(found[name]).max() > 1e-3


def test_pairs_are_left_minus_right(encoder, texts, tiny_convnet, face_table):
    check_differences(mlp(width=5, hidden=[4, 3]), pairs_of(vectors()), {"hidden1": "auto", "hidden2": "auto"})
    check_differences(encoder, pairs_of(texts[0]), {"embeddings": "mean", "block1": "token"})
    check_differences(tiny_convnet(), pairs_of(face_table), {"stage1": "grid", "embedding": "auto"})
    check_differences(tiny_convnet(), pairs_of(face_table), {"stage1": "grid"}, mirror=True)


def test_each_item_that_is_needed_is_computed_once(encoder, texts, computed):
    backbone = mlp(width=5, hidden=[4])
    pairs = pairs_of(vectors(), count=60, among=12)
    needed = len({*pairs.left.tolist(), *pairs.right.tolist()})
    sizes = computed(backbone)
    extract(backbone, pairs, ["hidden1"], batch_size=5)
    assert sum(sizes) == needed <= 12
    sizes.clear()
    computed(encoder)
    extract(encoder, pairs_of(texts[0], count=60, among=6), ["block1"])
    assert sum(sizes) == 6


def test_swapped_sides_have_the_opposite_features_to_the_bit(encoder, texts):
    pairs = pairs_of(texts[0])
    swapped = dataclasses.replace(pairs, left=pairs.right, right=pairs.left)
    found, other = (extract(encoder, table, ["block1"])["block1"] for table in (pairs, swapped))
    np.testing.assert_array_equal(found, -other)


def test_a_batch_of_pairs_computes_items_once_and_has_a_gradient(computed):
    backbone, items = mlp(width=5, hidden=[4], mean=[0.5] * 5), vectors(6)
    left, right = torch.tensor([0, 1, 1, 5]), torch.tensor([2, 0, 5, 5])
    batch = PairBatch(torch.from_numpy(items.values), left, right)
    sizes = computed(backbone)
    output = pooled_layers(backbone, model_input(backbone, batch), {"hidden1": "auto"})["hidden1"]
    assert sizes == [6]
    of_items = backbone(torch.from_numpy(items.values) - 0.5)
    torch.testing.assert_close(output, of_items[left] - of_items[right])
    assert torch.equal(output[3], torch.zeros(4))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_pairs_that_do_not_fit_are_refused(encoder, texts):
    with pytest.raises(InputMismatchError, match=r"features items of shape \(4,\), the table holds vectors of 5"):
        extract(mlp(width=4), pairs_of(vectors()), ["hidden1"])
    with pytest.raises(InputMismatchError, match="mirror image; the table holds texts"):
        extract(encoder, pairs_of(texts[0]), ["block1"], mirror=True)
    with pytest.raises(DataError, match="the table holds no pairs"):
        extract(mlp(width=5), pairs_of(vectors()).subset([]), ["hidden1"])


# --- kept -------------------------------------------------------------------------------------------------------------


def test_vectors_and_pairs_are_kept_to_the_bit(tmp_path):
    backbone, items = mlp(width=5, hidden=[4]), vectors()
    cache, layers = FeatureCache(tmp_path), {"hidden1": "auto"}
    for place, table in enumerate(
        (items, pairs_of(items), pairs_of(items).subset(range(29)), vectors(seed=1)), start=1
    ):
        first, again = (cache.features(backbone, table, layers)["hidden1"] for _ in range(2))
        assert len(list(tmp_path.iterdir())) == place
        assert isinstance(again, np.memmap)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(first, extract(backbone, table, layers)["hidden1"])
        assert feature_bytes(backbone, table, layers) == first.nbytes


def test_the_kind_of_item_and_the_scale_are_part_of_the_key(texts):
    items, other = (dataclasses.replace(table, fingerprint="one") for table in (vectors(17), texts[0]))
    tables = [items, other, *(dataclasses.replace(pairs_of(table), fingerprint="one") for table in (items, other))]
    layers = {"hidden1": "auto"}
    assert len({feature_key(mlp(width=5), table, layers, mirror=False) for table in tables}) == 4
    scaled = mlp(width=5, std=[2.0] * 5)
    assert feature_key(scaled, items, layers, mirror=False) != feature_key(mlp(width=5), items, layers, mirror=False)
    # A backbone without any weight has a key too.
    assert feature_key(mlp(width=5, hidden=[]), items, {"input": "auto"}, mirror=False)
