"""PyTorch's and safetensors' files, whole and in shards; pickles that want to run code are refused."""

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from auxtasks.errors import CheckpointError
from transfer.foreign import read_foreign
from transfer.foreign.load import load_foreign
from transfer.foreign.torch_files import read_sharded, read_torch


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def write_shards(folder, form="safetensors"):
    """Write the network in two files with an index, as transformers names them."""
    state = network().state_dict()
    stem, suffix = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for place, names in enumerate([("0.weight", "0.bias"), ("1.weight", "1.bias")], 1):
        file = f"{stem}-{place:05}-of-00002.{suffix}"
        part = {name: state[name] for name in names}
        if form == "safetensors":
            safetensors.torch.save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_shards_make_the_whole(tmp_path, form, by_folder):
    index = write_shards(tmp_path, form)
    found = read_foreign(tmp_path if by_folder else index)
    assert (found.kind, found.path) == ("sharded", index)
    target = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert load_foreign(index, target).missing == ()
    assert all(torch.equal(tensor, network().state_dict()[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("old", [True, False])
def test_both_formats_of_torch_and_safetensors_by_any_suffix(tmp_path, old):
    state = network().state_dict()
    torch.save({"state_dict": state}, tmp_path / "weights.dat", _use_new_zipfile_serialization=not old)
    safetensors.torch.save_file(state, tmp_path / "weights")
    for file, kind in (("weights.dat", "torch"), ("weights", "safetensors")):
        found = read_foreign(tmp_path / file)
        assert found.kind == kind
        assert found.tensors.keys() == state.keys()


class Bomb:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("suffix", ["pt", "npz", "h5", "onnx", "anything"])
def test_a_pickle_that_wants_to_run_code_is_refused_whatever_it_is_called(tmp_path, suffix):
    path = tmp_path / f"bomb.{suffix}"
    path.write_bytes(pickle.dumps({"w": Bomb(tmp_path / "ran")}))
    with pytest.raises(CheckpointError, match="a pickle that would run code"):
        read_foreign(path)
    torch.save({"w": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match="a pickle that would run code"):
        read_foreign(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["whole.pt", "whole.safetensors"])
def test_files_cut_short_are_refused(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save(network().state_dict(), path)
    else:
        safetensors.torch.save_file(network().state_dict(), path)
    whole = path.read_bytes()
    for length in (1, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name):
            read_foreign(path)


def test_an_index_that_does_not_agree_with_its_shards_is_refused(tmp_path):
    index = write_shards(tmp_path)
    good = json.loads(index.read_text())["weight_map"]
    first = good["0.bias"]
    for weight_map, message in [
        ({**good, "0.bias": good["1.bias"]}, r"Missing: none; not in the index: 0\.bias"),
        ({**good, "2.bias": first}, r"Missing: 2\.bias"),
        ({**good, "0.bias": "../" + first}, "a shard is a file beside the index"),
        ({**good, "0.bias": 7}, "a shard is a file beside the index"),
        ({**good, "0.bias": "none.safetensors"}, "there is no file|not in the index"),
        ({}, 'no "weight_map"'),
    ]:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=message):
            read_sharded(index)
    index.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_sharded(index)
    index.write_text(json.dumps({"weight_map": good}))
    (tmp_path / first).unlink()
    with pytest.raises(CheckpointError, match="there is no file"):
        read_sharded(index)


def test_what_holds_no_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "counts.pt")
    with pytest.raises(CheckpointError, match="under 'epoch' it holds no tensor"):
        read_torch(tmp_path / "counts.pt")
