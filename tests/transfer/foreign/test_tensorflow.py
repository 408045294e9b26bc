"""Checkpoints that TensorFlow wrote, read without it: the same numbers, the same logits, and damage that is noticed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.errors import CheckpointError
from transfer.foreign.tensorflow_bundle import bundle_prefix, read_tensorflow_bundle
from transfer.foreign.tensorflow_v1 import is_tensorflow_v1, read_tensorflow_v1
from transfer.rename import Rule, apply_rules

FIXTURES = Path(__file__).parent / "fixtures" / "tensorflow"
KERAS = Path(__file__).parent / "fixtures" / "keras"

OURS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
CONVNET = [
    Rule(".*/(Adam|Adam_1)|beta[12]_power|global_step", None),
    Rule("net/stem/weights", "0.weight", "conv"),
    Rule("net/top/weights", "4.weight", "conv"),
    *(Rule(f"net/stem/BatchNorm/{theirs}", f"1.{ours}") for theirs, ours in OURS.items()),
    *(Rule(f"net/top/BatchNorm/{theirs}", f"5.{ours}") for theirs, ours in OURS.items()),
    Rule("net/logits/weights", "8.weight", "flattened", grid=(2, 2)),
    Rule("net/logits/biases", "8.bias"),
]


def convnet():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=0.001), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5, eps=0.001), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip
    return network.eval()


def outputs():
    with np.load(FIXTURES / "outputs.npz") as file:
        return dict(file)


def load(network, tensors, rules):
    """Load what rules make of tensors; all but a normalisation's own scale must be there."""
    renamed = apply_rules(tensors, rules)
    assert renamed.unmatched == ()
    missing, unexpected = network.load_state_dict(renamed.tensors, strict=False)
    assert unexpected == []
    return [name for name in missing if not name.endswith("num_batches_tracked")]


@pytest.mark.parametrize(
    ("read", "file"), [(read_tensorflow_bundle, "convnet.ckpt"), (read_tensorflow_v1, "convnet_v1.ckpt")]
)
def test_a_network_of_tensorflow_gives_the_same_logits(read, file):
    network, given = convnet(), outputs()
    missing = load(network, read(FIXTURES / file), CONVNET)
    assert missing == ["1.weight", "5.weight"]  # TF-slim keeps no scale where it is 1, as it is in a new network
    with torch.no_grad():
        logits = network(torch.from_numpy(given["convnet_images"]).permute(0, 3, 1, 2)).numpy()
    assert np.abs(given["convnet_logits"]).max() > 0.1
    np.testing.assert_allclose(logits, given["convnet_logits"], rtol=0, atol=1e-5)


def test_numbers_of_all_kinds_and_a_variable_in_parts_are_as_tensorflow_reads_them():
    read = read_tensorflow_bundle(FIXTURES / "types.ckpt")
    with np.load(FIXTURES / "types.npz") as expected:
        assert read.keys() == set(expected.files)
        assert len(read) == 12
        for name in expected.files:
            assert read[name].dtype == expected[name].dtype, name
            np.testing.assert_array_equal(read[name], expected[name])
        np.testing.assert_array_equal(read["types/parts"], np.arange(200).reshape(100, 2))
        first = read_tensorflow_v1(FIXTURES / "types_v1.ckpt")
        assert first.keys() == read.keys() - {"types/bfloat16", "types/float16"}
        for name in first:
            assert first[name].dtype == expected[name].dtype, name
            np.testing.assert_array_equal(first[name], expected[name])


def test_the_variables_of_a_saved_model_have_the_names_of_keras():
    read = read_tensorflow_bundle(KERAS / "tiny_saved")
    assert {"stem/kernel", "norm/moving_mean", "mix/a/bias", "logits/bias"} <= read.keys()
    assert read["depthwise/kernel"].shape == (3, 3, 4, 2)


@pytest.mark.parametrize("name", ["convnet.ckpt", "convnet.ckpt.index", "convnet.ckpt.data-00000-of-00001"])
def test_a_checkpoint_is_found_by_any_of_its_files(name):
    assert bundle_prefix(FIXTURES / name) == FIXTURES / "convnet.ckpt"


def test_a_folder_names_its_latest_checkpoint(tmp_path):
    copy_of("convnet.ckpt", tmp_path)
    copy_of("types.ckpt", tmp_path)
    assert bundle_prefix(tmp_path) is None  # two of them, and no word on which
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/types.ckpt"\n')
    assert bundle_prefix(tmp_path) == tmp_path / "types.ckpt"


def test_of_two_arrays_of_one_name_each_keeps_its_path(tmp_path):
    from transfer.foreign.protobuf import Message
    from transfer.foreign.tensorflow_bundle import _own_names

    entries = {b"a/k": Message(b"\x28\x04\x35\x01\0\0\0", "a"), b"b/k": Message(b"\x28\x04\x35\x02\0\0\0", "b")}
    graph = {"a/k": "dense/kernel", "b/k": "dense/kernel"}
    assert _own_names(entries, graph, tmp_path) == {b"a/k": "a/k", b"b/k": "b/k"}
    same = {b"a/k": entries[b"a/k"], b"b/k": entries[b"a/k"]}
    assert _own_names(same, graph, tmp_path) == {b"a/k": "dense/kernel"}


def copy_of(name, folder):
    """Copy a checkpoint of version 2 and return its data file."""
    for file in FIXTURES.glob(f"{name}.*"):
        shutil.copy(file, folder)
    return folder / f"{name}.data-00000-of-00001"


def test_a_data_file_cut_short_names_file_and_tensor(tmp_path):
    data = copy_of("convnet.ckpt", tmp_path)
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is damaged or cut short: .*needs \d+ bytes"):
        read_tensorflow_bundle(tmp_path / "convnet.ckpt")


def test_a_turned_bit_in_the_data_is_noticed(tmp_path):
    data = copy_of("convnet.ckpt", tmp_path)
    content = bytearray(data.read_bytes())
    content[-5] ^= 1
    data.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: the checksum of .* does not fit"):
        read_tensorflow_bundle(tmp_path / "convnet.ckpt")


def test_every_byte_of_the_index_is_guarded(tmp_path):
    copy_of("convnet.ckpt", tmp_path)
    index = tmp_path / "convnet.ckpt.index"
    content = index.read_bytes()
    expected = read_tensorflow_bundle(index)
    noticed = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        index.write_bytes(damaged)
        try:
            found = read_tensorflow_bundle(index)
        except CheckpointError:
            noticed += 1
        else:  # the footer's padding, and what is never read
            assert all(np.array_equal(found[name], array) for name, array in expected.items())
    assert noticed > len(content) / 7 * 0.8


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_an_index_cut_short_is_an_error(tmp_path, share):
    copy_of("convnet.ckpt", tmp_path)
    index = tmp_path / "convnet.ckpt.index"
    index.write_bytes(index.read_bytes()[: int(share * index.stat().st_size)])
    with pytest.raises(CheckpointError, match="cut short, or something else"):
        read_tensorflow_bundle(index)


def test_a_missing_data_file_is_named(tmp_path):
    copy_of("convnet.ckpt", tmp_path).unlink()
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is missing.*its index and all its data files"):
        read_tensorflow_bundle(tmp_path / "convnet.ckpt")


def test_what_is_no_checkpoint_is_told_what_one_looks_like(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint of TensorFlow's version 2: expected NAME\.index"):
        read_tensorflow_bundle(tmp_path)
    with pytest.raises(CheckpointError, match="is no checkpoint of TensorFlow's version 1"):
        read_tensorflow_v1(FIXTURES / "convnet.ckpt.index")
    shutil.copy(FIXTURES / "convnet_v1.ckpt", tmp_path / "old.index")
    with pytest.raises(
        CheckpointError, match="no index of a checkpoint of version 2, but seems to be one of version 1"
    ):
        read_tensorflow_bundle(tmp_path / "old.index")


def test_a_checkpoint_of_version_1_is_known_by_its_end(tmp_path):
    assert is_tensorflow_v1(FIXTURES / "convnet_v1.ckpt")
    assert not is_tensorflow_v1(FIXTURES / "convnet.ckpt.index")
    assert not is_tensorflow_v1(FIXTURES / "make_tensorflow.py")


def test_damage_in_a_checkpoint_of_version_1_is_noticed(tmp_path):
    content = (FIXTURES / "convnet_v1.ckpt").read_bytes()
    file = tmp_path / "model.ckpt"
    file.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="cut short, or something else"):
        read_tensorflow_v1(file)
    file.write_bytes(content[:900] + bytes([content[900] ^ 4]) + content[901:])
    with pytest.raises(CheckpointError, match=r"model\.ckpt: damaged: the checksum of the block at byte \d+"):
        read_tensorflow_v1(file)


def test_a_missing_file_of_a_checkpoint_of_version_1_is_named(tmp_path):
    file = tmp_path / "model-00000-of-00002"
    shutil.copy(FIXTURES / "convnet_v1.ckpt", file)
    with pytest.raises(CheckpointError, match=r"lacks model-00001-of-00002 of a checkpoint of 2 files"):
        read_tensorflow_v1(file)
