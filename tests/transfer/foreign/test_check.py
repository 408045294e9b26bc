"""The numeric check: what it measures, what it hints at, and what it leaves as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.backbones import TokenBatch, convnet, mlp
from auxtasks.errors import LayerError, TransferError
from transfer.foreign import check_file, check_outputs


def linear(scale=1.0):
    network = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.eye(3) * scale)
    return network


X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def test_the_difference_is_the_largest_and_where_it_is():
    expected = X.copy()
    expected[2, 1] += 0.25
    check = check_outputs(linear(), X, expected, tolerance=1)
    largest = max((abs(float(X[i, j]) - float(expected[i, j])), (i, j)) for i in range(4) for j in range(3))
    assert (check.difference, check.where) == (pytest.approx(largest[0]), largest[1])
    assert (check.found, check.expected) == (pytest.approx(X[2, 1]), pytest.approx(expected[2, 1]))
    assert check.correlation == pytest.approx(np.corrcoef(X.ravel(), expected.ravel())[0, 1])
    with pytest.raises(TransferError, match=r"at \(2, 1\) found .* Largest difference 0\.25 .* allowed 1e-05"):
        check_outputs(linear(), X, expected)


def test_large_outputs_are_measured_by_their_scale():
    expected = X * 1000 * (1 + 1e-6)
    check = check_outputs(linear(1000), X, expected)
    assert check.difference > 1e-4
    assert check.scale == pytest.approx(np.abs(expected).max())
    assert check.relative == pytest.approx(check.difference / check.scale)
    with pytest.raises(TransferError, match="not those expected"):
        check_outputs(linear(), X / 1000 + 1e-4, X / 1000)  # small ones by 1, not by themselves


def test_hints_tell_a_detail_from_something_large():
    with pytest.raises(TransferError, match=r"go together all the same \(correlation 1\.0"):
        check_outputs(linear(1.001), X, X)
    with pytest.raises(TransferError, match="hardly go together"):
        check_outputs(linear(), X, X[:, ::-1].copy())


def test_modes_and_gradients_are_left_as_they_were():
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    network[2].eval()
    with torch.no_grad():
        expected = nn.Sequential(network[0], network[2])(torch.from_numpy(X))
    assert not expected.requires_grad
    check_outputs(network, X, expected)
    assert [module.training for module in network] == [True, True, False]
    assert network[0].weight.grad is None


def test_a_layer_of_a_backbone():
    backbone = convnet(size=16, seed=0)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    name = backbone.layer_names[0]
    expected = backbone.forward_layers(x, [name])[name].detach()
    check_outputs(backbone, x, expected, layer=name)
    with pytest.raises(LayerError, match='no layer "nose"'):
        check_outputs(backbone, x, expected, layer="nose")
    with pytest.raises(TransferError, match="only a backbone has named layers, found Linear"):
        check_outputs(linear(), X, X, layer=name)


def test_padding_of_texts_is_not_compared():
    from auxtasks.backbones.transformers import transformers

    config = {
        "model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16,
    }  # fmt: skip
    backbone = transformers(config, length=8, seed=0)
    batch = TokenBatch(torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool())
    with torch.no_grad():
        expected = backbone.eval()(batch).hidden.clone()
    expected[~batch.mask] = 99.0
    assert check_outputs(backbone, batch, expected).difference < 1e-6
    expected[0, 0] += 1
    with pytest.raises(TransferError, match="not those expected"):
        check_outputs(backbone, batch, expected)


def test_outputs_in_a_file(tmp_path):
    path = tmp_path / "outputs.npz"
    np.savez(path, inputs=X, outputs=X)
    assert check_file(linear(), path).difference == 0
    with pytest.raises(TransferError, match="not those expected"):
        check_file(linear(2), path)
    np.savez(path, images=X, outputs=X)
    with pytest.raises(TransferError, match=r"has no inputs: found images, outputs"):
        check_file(linear(), path)


def test_texts_in_a_file(tmp_path):
    from auxtasks.backbones.transformers import transformers

    config = {
        "model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16,
    }  # fmt: skip
    backbone = transformers(config, length=8, seed=0).eval()
    ids, mask = np.asarray([[1, 2, 3], [4, 5, 0]], np.int32), np.asarray([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        batch = TokenBatch(torch.from_numpy(ids).long(), torch.from_numpy(mask).bool())
        masked = backbone(batch).hidden.numpy()
        whole = backbone(TokenBatch(batch.ids, torch.ones_like(batch.mask))).hidden.numpy()
    np.savez(tmp_path / "masked.npz", inputs=ids, mask=mask, outputs=masked)
    np.savez(tmp_path / "whole.npz", inputs=ids, outputs=whole)
    assert check_file(backbone, tmp_path / "masked.npz").difference < 1e-6
    assert check_file(backbone, tmp_path / "whole.npz").difference < 1e-6


def test_bad_input():
    with pytest.raises(TransferError, match=r"shape \(4, 3\), those expected \(3, 4\)"):
        check_outputs(linear(), X, X.T.copy())
    with pytest.raises(TransferError, match="tolerance is at least 0; found -1"):
        check_outputs(linear(), X, X, tolerance=-1)
    with pytest.raises(TransferError, match="the outputs hold 12 numbers that are not finite"):
        check_outputs(linear(float("nan")), X, X)
    with pytest.raises(TransferError, match="the expected outputs hold 12 numbers"):
        check_outputs(linear(), X, X * np.inf)
    with pytest.raises(TransferError, match="gives no tensor, but tuple"):
        check_outputs(nn.LSTM(3, 3), X[None], X[None])
    assert check_outputs(mlp(width=3, hidden=[1], seed=0), X * 0, np.zeros((4, 1))).difference >= 0
