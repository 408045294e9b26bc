"""Features in one pass equal those computed one by one, and leave the backbone as it was."""

import dataclasses

import numpy as np
import pytest
import torch

from auxtasks.backbones import mlp, pool_layer, timm_backbone
from auxtasks.data import decode_images
from auxtasks.data.augment import center
from auxtasks.errors import InputMismatchError, LayerError
from auxtasks.features.batches import picture_batch
from auxtasks.features.extract import extract, feature_widths, layer_shapes

LAYERS = {"stem": "grid", "stage1": "flatten", "stage2": "max", "embedding": "auto"}


def one_by_one(backbone, table, name, pool):
    """The slow way: one picture, one layer at a time."""
    rows = []
    for index in range(len(table)):
        picture = np.array(center(table.record(index)["image"], (16, 16)))
        x = backbone.input.normalize(torch.from_numpy(picture).permute(2, 0, 1)[None])
        with torch.no_grad():
            rows.append(pool_layer(backbone.eval().lower(name)(x), pool)[0].numpy())
    return np.stack(rows)


def test_layers_equal_those_computed_one_by_one(tiny_convnet, face_table):
    backbone = tiny_convnet(dropout=0.5).train()
    found = extract(backbone, face_table, LAYERS, batch_size=7)
    assert backbone.training  # and dropout was off:
    for name, pool in LAYERS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], one_by_one(backbone, face_table, name, pool), rtol=1e-4, atol=1e-5)
    assert {name: values.shape[1] for name, values in found.items()} == feature_widths(backbone, LAYERS)


def test_names_alone_are_pooled_by_themselves(tiny_convnet, face_table):
    found = extract(tiny_convnet(), face_table, ["stage2", "embedding"])
    assert {name: values.shape for name, values in found.items()} == {"stage2": (32, 16), "embedding": (32, 8)}


@pytest.mark.parametrize("pool", ["flatten", "grid"])
def test_a_mirror_image_is_averaged_in_place(tiny_convnet, face_table, pool):
    backbone = tiny_convnet()
    table = face_table.subset(range(6))
    mirrored = decode_images_of(table.pixels[:, :, ::-1], table)
    plain, other = (
        extract(backbone, t, {"stage1": "flatten"})["stage1"].reshape(6, 8, 8, 8) for t in (table, mirrored)
    )
    layer = torch.from_numpy((plain + other[:, :, :, ::-1]) / 2)
    found = extract(backbone, table, {"stage1": pool}, mirror=True)["stage1"]
    np.testing.assert_allclose(found, pool_layer(layer, pool).numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(found - pool_layer(torch.from_numpy(plain.copy()), pool).numpy()).max() > 0.01


def test_a_mirrored_picture_has_the_same_averaged_embedding(tiny_convnet, face_table):
    table = face_table.subset(range(6))
    mirrored = decode_images_of(table.pixels[:, :, ::-1], table)
    a, b = (extract(tiny_convnet(), t, ["embedding"], mirror=True)["embedding"] for t in (table, mirrored))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def decode_images_of(pixels, table):
    return dataclasses.replace(table, pixels=np.ascontiguousarray(pixels))


def test_the_batch_size_changes_nothing_and_no_statistics_move(faces):
    backbone = timm_backbone("test_resnet", size=32, channels=1)  # with BatchNorm
    table = decode_images(faces, size=(32, 32), channels=1).subset(range(9))
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    assert before
    layer = backbone.layer_names[-1]
    a, b = (extract(backbone, table, [layer], batch_size=size)[layer] for size in (2, 9))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())
    assert all(module.training for module in backbone.modules())


def test_pictures_are_shown_without_augmentation(face_table):
    pictures = picture_batch(face_table, [3, 1], (20, 20))
    assert pictures.dtype == torch.uint8
    assert (pictures.permute(0, 2, 3, 1).numpy() == face_table.pixels[[3, 1]]).all()


def test_shapes_and_widths_are_known_without_pictures(tiny_convnet):
    backbone = tiny_convnet().train()
    assert layer_shapes(backbone) == {
        "stem": (8, 8, 8), "stage1": (8, 8, 8), "stage2": (16, 4, 4), "embedding": (8,),
    }  # fmt: skip
    assert feature_widths(backbone, {"stage2": "grid", "stem": "flatten"}) == {"stage2": 144, "stem": 512}
    assert backbone.training


def test_pictures_of_another_kind_are_refused(tiny_convnet, faces, face_table):
    coloured = decode_images(faces, size=(20, 20), channels=3)
    with pytest.raises(InputMismatchError, match=r"\(1, 16, 16\), .* with 3 channels\. Decode them with channels=1"):
        extract(tiny_convnet(), coloured, ["embedding"])
    with pytest.raises(InputMismatchError, match=r"takes features items of shape \(4,\)"):
        extract(mlp(width=4, hidden=[3]), face_table, ["hidden1"])


def test_a_wrong_or_missing_layer_is_an_error(tiny_convnet, face_table):
    backbone = tiny_convnet().train()
    with pytest.raises(LayerError, match='Did you mean "stage2"'):
        extract(backbone, face_table, ["stage3"])
    with pytest.raises(LayerError, match="no layer was asked for"):
        extract(backbone, face_table, [])
    assert backbone.training
