"""Weights files of every framework with bytes changed at random: each is read, or refused, and nothing else.

How many inputs are tried of each format is AUXTASKS_FUZZ_EXAMPLES, 25 if it is not set. What HDF5's own library does
with a damaged file is beyond us: those are read in a process of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from auxtasks.backbones import mlp
from auxtasks.errors import CheckpointError
from transfer.foreign import read_foreign
from transfer.heads import build_head
from transfer.model import TargetModel, load
from transfer.scorer import Scorer

FIXTURES = Path(__file__).parent / "foreign" / "fixtures"
EXAMPLES = int(os.environ.get("AUXTASKS_FUZZ_EXAMPLES", "25"))


@pytest.mark.parametrize(
    "file",
    ["jax/halves.npz", "jax/halves.msgpack", "jax/chunked.msgpack", "onnx/types.onnx", "onnx/external.onnx",
     "caffe/norm.caffemodel", "tensorflow/types.ckpt.index", "tensorflow/types_v1.ckpt", "t.pt", "t.safetensors",
     "pytorch_model.bin.index.json"],
)  # fmt: skip
def test_a_file_of_weights_with_bytes_changed_is_read_or_refused(tmp_path, count_refused, file):
    state = {"a": torch.ones(3, 4), "b": torch.ones(2)}
    torch.save(state, tmp_path / "t.pt")
    safetensors.torch.save_file(state, tmp_path / "t.safetensors")
    index = {"weight_map": dict.fromkeys(state, "t.pt")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for beside in ("onnx/external.data", "tensorflow/types.ckpt.data-00000-of-00001"):
        (tmp_path / Path(beside).name).write_bytes((FIXTURES / beside).read_bytes())
    content = (FIXTURES / file if "/" in file else tmp_path / file).read_bytes()
    place = tmp_path / Path(file).name

    def read(changed):
        place.write_bytes(changed)
        assert read_foreign(place).tensors

    read(content)
    assert count_refused(content, read, CheckpointError) > 0


MANY = """
import sys
from pathlib import Path
import numpy as np
from auxtasks.errors import CheckpointError
from transfer.foreign import read_foreign
source, place, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
whole, rng, refused = source.read_bytes(), np.random.default_rng(0), 0
for _ in range(count):
    content = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        content[rng.integers(len(content))] = rng.integers(256)
    place.write_bytes(content[: rng.integers(len(content))] if rng.random() < 0.2 else content)
    try:
        read_foreign(place)
    except CheckpointError:
        refused += 1
print(refused)
"""


@pytest.mark.processes
@pytest.mark.parametrize("file", ["tiny.h5", "tiny.weights.h5", "tiny.keras"])
def test_a_file_of_hdf5_with_bytes_changed_is_read_or_refused(tmp_path, record_property, file):
    command = [sys.executable, "-c", MANY, str(FIXTURES / "keras" / file), str(tmp_path / file), str(4 * EXAMPLES)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr[-2000:]
    assert int(found.stdout) > 0
    record_property("inputs", 4 * EXAMPLES)


@pytest.mark.parametrize("file", ["target.json", "head.safetensors", "scorer.json", "weights.safetensors"])
def test_a_model_with_bytes_changed_predicts_or_is_refused(tmp_path, count_refused, file):
    backbone = mlp(width=2, hidden=[3], seed=0)
    features = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    head = build_head("prototype").fit(features, np.array([0, 1] * 4), n_classes=2)
    place = TargetModel(backbone, "hidden1", "auto", False, head, ("a", "b")).save(tmp_path / "model")
    scored = Scorer(backbone, "hidden1", "auto", np.ones(3)).save(tmp_path / "scorer")
    of_model = file in ("target.json", "head.safetensors")
    file = (place if of_model else scored) / file

    def read(changed):
        file.write_bytes(changed)
        if of_model:
            assert len(load(place).predict([[1.0, 2.0]])) == 1
        else:
            assert Scorer.load(scored).score([[1.0, 2.0]]).shape == (1,)

    content = file.read_bytes()
    read(content)
    assert count_refused(content, read, CheckpointError) > 0
