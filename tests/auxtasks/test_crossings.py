"""What crosses a cut is kept to the last digit that its type has, and the layers above compute with it as before."""

import dataclasses

import numpy as np
import pytest
import torch

from auxtasks.backbones import mlp, timm_backbone
from auxtasks.backbones.text import TextState, TokenBatch, pad_tokens
from auxtasks.backbones.transformers import transformers
from auxtasks.data import load_source
from auxtasks.data.augment import Augment, stack_pictures
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.plan import EpochPlan
from auxtasks.data.texts import encode_texts
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import DataError, InputMismatchError, LayerError
from auxtasks.features.batches import model_batch
from auxtasks.features.cache import FeatureCache
from auxtasks.features.crossings import crossing_bytes, crossings
from auxtasks.features.epochs import epoch_batches
from auxtasks.seeding import generator

MOVED = Augment(size=(16, 16), erase=0.5)
ROWS = np.array([5, 0, 17, 5, 30])


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    words = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat", "red", "big")
    lines = [" ".join(rng.choice(words, size=rng.integers(1, 20))) for _ in range(41)]
    tokenizer = train_tokenizer(lines, size=60)
    return tokenizer, encode_texts(load_source({"text": lines}, columns={"text": "text"}), tokenizer, length=24)


@pytest.fixture(scope="module")
def encoder(texts):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers({"model_type": "bert", **sizes}, length=24, tokenizer=texts[0])


def vectors(count=40, width=5):
    values = np.random.default_rng(0).random((count, width), dtype=np.float32)
    rows = np.arange(count)
    return FeatureTable(values, labels=rows, class_names=(), rows=rows, skipped=(), fingerprint=f"{count} x {width}")


def passes(backbone):
    """Write down how many items pass the lowest layer; an example, which measures a shape, does not count."""
    seen = []
    apply = backbone.stages[0].apply

    def counted(module, x):
        count = len(x.ids) if isinstance(x, TokenBatch) else len(x)
        if count > 1:
            seen.append(count)
        return apply(module, x)

    backbone.stages = (dataclasses.replace(backbone.stages[0], apply=counted), *backbone.stages[1:])
    return seen


# --- equal to a pass through the lower part ---------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("layer", ["stem", "stage1", "stage2", "embedding"])
def test_pictures_cross_as_they_do_in_one_pass(tmp_path, tiny_convnet, face_table, layer, folder):
    backbone = tiny_convnet(dropout=0.5).train()
    kept = crossings(backbone, face_table, layer, cache=FeatureCache(tmp_path if folder else None))
    assert backbone.training  # and dropout was off:
    backbone.eval()
    x = model_batch(backbone, face_table, ROWS)
    with torch.no_grad():
        found = kept.batch(ROWS)
        torch.testing.assert_close(found, backbone.lower(layer)(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(backbone.upper(layer)(found), backbone(x), atol=1e-5, rtol=0)
    assert found.dtype == torch.float32
    assert found.std() > 0.01
    assert kept.views == 1
    assert len(kept) == len(face_table)
    assert kept.bytes == crossing_bytes(backbone, face_table, layer) == len(face_table) * found[0].numel() * 4
    found.zero_()  # a copy of its own
    assert kept.batch(ROWS).std() > 0.01


@pytest.mark.parametrize("layer", ["embeddings", "block1", "block2"])
def test_texts_cross_without_their_padding(tmp_path, encoder, texts, layer):
    table = texts[1]
    kept = crossings(encoder, table, layer, cache=FeatureCache(tmp_path))
    assert kept.bytes == int(table.tokens.lengths.sum()) * 16 * 4  # every token once, no padding
    for rows in (ROWS, np.array([int(np.argmin(table.tokens.lengths))])):
        tokens = pad_tokens([table.tokens[row] for row in rows], pad_id=table.pad_id)
        with torch.no_grad():
            expected = encoder.eval().lower(layer)(tokens)
            found = kept.batch(rows)
            assert isinstance(found, TextState)
            assert torch.equal(found.mask, expected.mask)
            torch.testing.assert_close(found.hidden[found.mask], expected.hidden[expected.mask], atol=1e-5, rtol=0)
            assert (found.hidden[~found.mask] == 0).all()
            above, whole = encoder.upper(layer)(found), encoder(tokens)
        torch.testing.assert_close(above.hidden[above.mask], whole.hidden[whole.mask], atol=1e-5, rtol=0)


def test_vectors_and_transformers_of_pictures_cross_too(face_table, faces):
    backbone, table = mlp(width=5, hidden=[4, 3]), vectors()
    kept = crossings(backbone, table, "hidden1", cache=FeatureCache())
    expected = backbone.lower("hidden1")(torch.from_numpy(table.values[ROWS])).detach()
    torch.testing.assert_close(kept.batch(ROWS), expected, atol=1e-6, rtol=0)
    vit = timm_backbone("test_vit", size=32, channels=1)
    name = vit.layer_names[1]
    found = crossings(vit, face_table, name, cache=FeatureCache()).batch(ROWS)
    with torch.no_grad():
        x = model_batch(vit.eval(), face_table, ROWS)
        torch.testing.assert_close(vit.upper(name)(found), vit(x), atol=1e-5, rtol=0)
    assert found.ndim == 3  # tokens


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_half_the_bytes_keep_so_many_digits(tmp_path, tiny_convnet, face_table, encoder, texts, dtype, digits):
    for backbone, table, layer in ((tiny_convnet(), face_table, "stage1"), (encoder, texts[1], "block1")):
        whole = crossings(backbone, table, layer, cache=FeatureCache(tmp_path))
        expected = whole.batch(np.arange(len(table)))
        for folder in (tmp_path, None):
            for _ in range(2):  # computed, and read
                kept = crossings(backbone, table, layer, cache=FeatureCache(folder), dtype=dtype)
                found = kept.batch(np.arange(len(table)))
                for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
                    # Rounding to the nearest, as torch does: to the bit.
                    assert torch.equal(a, b.to(getattr(torch, dtype)).to(a.dtype) if b.is_floating_point() else b)
                    assert not b.is_floating_point() or 0 < (a - b).abs().max() <= b.abs().max() * 2.0**-digits
                assert kept.bytes * 2 == whole.bytes == crossing_bytes(backbone, table, layer, dtype) * 2


# --- augmented views --------------------------------------------------------------------------------------------------


def test_views_are_of_the_pictures_that_seed_view_and_item_say(tmp_path, tiny_convnet, face_table):
    backbone = tiny_convnet().eval()
    cache = FeatureCache(tmp_path)
    kept = crossings(backbone, face_table, "stage1", cache=cache, views=3, augment=MOVED, seed=7)
    assert kept.bytes == crossing_bytes(backbone, face_table, "stage1", views=3)
    view = np.array([0, 2, 1, 1, 0])
    pictures = [
        MOVED(face_table.record(row)["image"], generator(7, "views", k, row))
        for row, k in zip(ROWS.tolist(), view.tolist(), strict=True)
    ]
    with torch.no_grad():
        expected = backbone.lower("stage1")(backbone.input.normalize(stack_pictures(pictures)))
    torch.testing.assert_close(kept.batch(ROWS, view), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.batch(ROWS[1:2], 2), expected[1:2], atol=1e-5, rtol=0)
    assert not torch.allclose(kept.batch(ROWS, 0), kept.batch(ROWS, 1), atol=1e-2)
    fewer = crossings(backbone, face_table, "stage1", cache=cache, views=2, augment=MOVED, seed=7)
    torch.testing.assert_close(fewer.batch(ROWS, 1), kept.batch(ROWS, 1), atol=1e-5, rtol=0)


# --- kept -------------------------------------------------------------------------------------------------------------


def test_crossings_are_computed_once(tmp_path, tiny_convnet, face_table):
    backbone = tiny_convnet()
    seen = passes(backbone)
    first, again = (crossings(backbone, face_table, "stage1", cache=FeatureCache(tmp_path)) for _ in range(2))
    assert seen == [len(face_table)]
    assert torch.equal(first.batch(ROWS), again.batch(ROWS))
    with torch.no_grad():
        next(parameter for _, parameter in backbone.parameters_of("stage2")).add_(1)
    crossings(backbone, face_table, "stage1", cache=FeatureCache(tmp_path))  # weights above the cut may change
    assert len(seen) == 1


CHANGES = {
    "layer": {"layer": "stem"},
    "dtype": {"dtype": "bfloat16"},
    "views": {"views": 3},
    "augment": {"augment": dataclasses.replace(MOVED, flip=0.4)},
    "no augment": {"augment": None, "views": 1},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_question_is_a_miss(tmp_path, tiny_convnet, face_table, change):
    backbone = tiny_convnet()
    seen = passes(backbone)
    asked = {"layer": "stage1", "views": 2, "augment": MOVED, "seed": 0}
    crossings(backbone, face_table, cache=FeatureCache(tmp_path), **asked)
    crossings(backbone, face_table, cache=FeatureCache(tmp_path), **asked)
    assert len(seen) == 2  # one a view
    crossings(backbone, face_table, cache=FeatureCache(tmp_path), **asked | CHANGES[change])
    assert len(seen) > 2


# --- what cannot be kept ----------------------------------------------------------------------------------------------


def test_what_cannot_be_kept_is_refused(tiny_convnet, face_table, encoder, texts):
    backbone, cache = tiny_convnet(), FeatureCache()
    with pytest.raises(LayerError, match='no layer "stage9"'):
        crossings(backbone, face_table, "stage9", cache=cache)
    with pytest.raises(InputMismatchError, match=r"takes image items of shape \(1, 16, 16\), the table holds texts"):
        crossings(backbone, texts[1], "stage1", cache=cache)
    with pytest.raises(InputMismatchError, match="augment changes pictures, the table holds texts"):
        crossings(encoder, texts[1], "block1", cache=cache, augment=MOVED)
    with pytest.raises(DataError, match="views=2 without augment: all views would be the same"):
        crossings(backbone, face_table, "stage1", cache=cache, views=2)
    with pytest.raises(DataError, match="views=0: at least one"):
        crossings(backbone, face_table, "stage1", cache=cache, views=0, augment=MOVED)
    with pytest.raises(DataError, match="the table holds no pictures"):
        crossings(backbone, face_table.subset([]), "stage1", cache=cache)
    with pytest.raises(DataError, match=r'found dtype="float6"\. Did you mean "float16"\?'):
        crossings(backbone, face_table, "stage1", cache=cache, dtype="float6")
    with pytest.raises(DataError, match=r"what crosses the cut above stage1 would take 0 MB; 0 MB are allowed"):
        crossings(backbone, face_table, "stage1", cache=FeatureCache(limit_bytes=1000))


def test_pairs_are_refused_with_what_to_do():
    left = np.array([0, 1])
    pairs = PairTable(vectors(), left, left + 1, labels=left, rows=left, skipped=(), fingerprint="pairs")
    with pytest.raises(InputMismatchError, match=r"the table holds pairs: pass its items \(table.items\)"):
        crossings(mlp(width=5), pairs, "hidden1", cache=FeatureCache())


def test_a_row_or_view_that_is_not_kept_is_refused(tiny_convnet, face_table):
    kept = crossings(tiny_convnet(), face_table, "stage1", cache=FeatureCache())
    with pytest.raises(DataError, match="rows run from 0 to 32, but 32 items are kept"):
        kept.batch(np.array([0, 32]))
    with pytest.raises(DataError, match="rows run from -1 to -1"):
        kept.batch(np.array([-1]))
    with pytest.raises(DataError, match="views run from 1 to 1, but 1 views are kept"):
        kept.batch(np.array([0]), view=1)


def test_float16_refuses_what_it_has_no_number_for_and_leaves_nothing(tmp_path, face_table, tiny_convnet):
    backbone = tiny_convnet()
    with torch.no_grad():
        for _, parameter in backbone.parameters_of("embedding"):
            parameter.mul_(1e6)
    with pytest.raises(DataError, match=r'does not fit float16, which ends at 65504\. Keep them as dtype="bfloat16"'):
        crossings(backbone, face_table, "embedding", cache=FeatureCache(tmp_path), dtype="float16")
    assert not list(tmp_path.iterdir())
    kept = crossings(backbone, face_table, "embedding", cache=FeatureCache(tmp_path), dtype="bfloat16")
    assert kept.batch(ROWS).abs().max() > 65504


# --- trained on -------------------------------------------------------------------------------------------------------


def test_every_epoch_has_all_items_in_a_fresh_order(tiny_convnet, face_table):
    kept = crossings(tiny_convnet(), face_table, "stage1", cache=FeatureCache())
    orders = []
    for epoch in range(3):
        batches = list(epoch_batches(kept, 10, seed=4, epoch=epoch))
        assert [len(batch.rows) for batch in batches] == [10, 10, 10, 2]
        for batch in batches:
            assert torch.equal(batch.inputs, kept.batch(batch.rows))
        orders.append(np.concatenate([batch.rows for batch in batches]).tolist())
        assert sorted(orders[-1]) == list(range(32))
    assert len({tuple(order) for order in orders}) == 3
    again = [batch.rows for batch in epoch_batches(kept, 7, seed=4, epoch=1)]
    assert np.concatenate(again).tolist() == orders[1]
    plan = EpochPlan(32, 32, seed=4)  # what the training loop goes by
    assert [plan.rows(step).tolist() for step in range(3)] == orders


def test_every_view_is_seen_once_in_as_many_epochs(tiny_convnet, face_table):
    kept = crossings(tiny_convnet(), face_table, "stage1", cache=FeatureCache(), views=3, augment=MOVED)
    seen = np.zeros((32, 3), int)
    firsts = set()
    for epoch in range(3):
        for rows, inputs in epoch_batches(kept, 8, seed=0, epoch=epoch):
            for row, found in zip(rows.tolist(), inputs, strict=True):
                views = [view for view in range(3) if torch.equal(found, kept.batch(np.array([row]), view)[0])]
                assert len(views) == 1
                seen[row, views[0]] += 1
                firsts |= {views[0]} if epoch == 0 else set()
    assert (seen == 1).all()
    assert firsts == {0, 1, 2}


def test_features_and_texts_come_in_batches_too(encoder, texts):
    table = texts[1]
    features = FeatureCache().features(encoder, table, {"block1": "mean"})["block1"]
    for rows, inputs in epoch_batches(features, 8, seed=0, epoch=0):
        assert torch.equal(inputs, torch.from_numpy(features[rows]))
    kept = crossings(encoder, table, "block1", cache=FeatureCache())
    for rows, state in epoch_batches(kept, 8, seed=0, epoch=0):
        assert state.mask.sum(1).tolist() == table.tokens.lengths[rows].tolist()
    for items, size in ((features[:0], 8), (features, 0)):
        with pytest.raises(DataError, match=rf"at least 1, found {len(items)} and {size}"):
            epoch_batches(items, size, seed=0, epoch=0)
