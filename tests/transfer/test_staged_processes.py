"""Fine-tuning in stages under two processes ends with the weights of one: every boundary prepares anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from auxtasks import checkpoint

pytestmark = pytest.mark.processes

SCRIPT = '''
"""Fine-tune in as many processes as there are; keep the weights of each case."""
import os, sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

from auxtasks import checkpoint
from auxtasks.backbones import build, convnet, transformers
from auxtasks.data import ImageTable, encode_texts, load_source, train_tokenizer
from auxtasks.features.cache import FeatureCache
from auxtasks.training.settings import LoopSettings
from transfer.finetune import Classifier, fine_tune
from transfer.freezing import Stage, Tuning, gradual

out = Path(sys.argv[1])
rank = int(os.environ.get("RANK", 0))
rng = np.random.default_rng(0)
labels = np.repeat(np.arange(4), 9)
pixels = rng.integers(0, 60, size=(36, 16, 16, 1), dtype=np.uint8)
for picture, label in zip(pixels, labels):
    picture[8 * (label // 2) :, 8 * (label % 2) :] += 90
pictures = ImageTable(pixels, labels, tuple("abcd"), np.arange(36), skipped=(), fingerprint="quadrants")
words = "the film was long and good bad dull fine".split()
texts = [" ".join(rng.choice(words, size=size)) for size in rng.integers(3, 20, size=30)]
source = load_source({"text": texts, "label": ["good" if "good" in text else "bad" for text in texts]},
                     columns={"text": "text", "label": "label"})
tokenizer = train_tokenizer(texts, size=60)
network = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.0)
sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # dropout sees the local share
encoder = transformers({"model_type": "bert", **sizes}, length=24, tokenizer=tokenizer)
resnet = build("timm/test_resnet", size=32, channels=1).train()

gradually = gradual(3, [2, 3, 2, 3])
again = (Stage(3, top_layers=1), Stage(2, top_layers=0), Stage(3, layers=("stage1", "stage2"), rate=0.5))
cases = {
    "gradual": (network, "stage2", "grid", pictures, gradually, {}),
    "kept": (network, "stage2", "grid", pictures, gradually, {"cache": FeatureCache(out.parent / "cache")}),
    "accumulated": (network, "stage2", "grid", pictures, gradually, {"accumulation": 2}),
    "frozen for a while": (network, "stage2", "mean", pictures, again, {"cache": FeatureCache()}),
    "frozen statistics": (resnet, "layer2", "mean", pictures, (Stage(4, top_layers=0),), {}),
    "texts": (encoder, "block2", "mean", encode_texts(source, tokenizer, length=24), gradual(2, 3),
              {"cache": FeatureCache(out.parent / "cache"), "learning_rate": 1e-4}),
}


def run(name, folder=None, checkpoint_every=0):
    backbone, layer, pool, table, stages, options = cases[name]
    options = dict(options)
    loop = LoopSettings(accumulation=options.pop("accumulation", 1), log_every=1, show_progress=False,
                        checkpoint_every=checkpoint_every)
    tuning = Tuning(stages=stages, learning_rate=options.pop("learning_rate", 1e-3), batch_size=16)
    tuned = fine_tune(backbone, layer, pool, table, table.labels, n_classes=len(table.class_names), tuning=tuning,
                      loop=loop, folder=folder, **options)
    linear, _ = tuned.head.to_state()
    return {**tuned.backbone.module.state_dict(), **{f"head.{key}": value for key, value in linear.items()}}


for name in cases:
    checkpoint.write_tensors(out / f"{name}-{rank}.safetensors", run(name))

forward, calls = Classifier.forward, []


def dies(self, batch):
    calls.append(batch)
    if len(calls) == 7:
        raise KeyboardInterrupt
    return forward(self, batch)


Classifier.forward = dies
try:
    run("kept", out / "stopped", checkpoint_every=1)
    raise AssertionError("it was not stopped")
except KeyboardInterrupt:
    Classifier.forward = forward
checkpoint.write_tensors(out / f"resumed-{rank}.safetensors", run("kept", out / "stopped", checkpoint_every=1))
checkpoint.write_tensors(out / f"start-{rank}.safetensors", resnet.module.state_dict())
if dist.is_initialized():
    dist.barrier()  # without it, tearing down gloo aborts now and then
    dist.destroy_process_group()
'''

CASES = ["gradual", "kept", "accumulated", "frozen for a while", "frozen statistics", "texts"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[int, Path]:
    """Run the script in one process and in two."""
    folder = tmp_path_factory.mktemp("staged")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = {}
    for processes, start in ((1, []), (2, launcher)):
        found[processes] = folder / str(processes) / "out"
        found[processes].mkdir(parents=True)  # each with a cache of its own beside it
        done = subprocess.run(
            [sys.executable, *start, script, found[processes]],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return found


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(folder / f"{name}.safetensors")


def largest_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name].double() - value.double()).abs().max()) for name, value in expected.items())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_with_the_weights_of_one(outputs, case):
    assert largest_difference(tensors(outputs[2], f"{case}-0"), tensors(outputs[1], f"{case}-0")) <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_weights(outputs, case):
    assert largest_difference(tensors(outputs[2], f"{case}-0"), tensors(outputs[2], f"{case}-1")) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_kept_accumulated_and_whole_are_one(outputs, processes):
    whole = tensors(outputs[processes], "gradual-0")
    for case in ("kept", "accumulated"):
        assert largest_difference(tensors(outputs[processes], f"{case}-0"), whole) <= 1e-5


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_stopped_goes_on_to_the_bit(outputs, processes):
    assert largest_difference(tensors(outputs[processes], "resumed-0"), tensors(outputs[processes], "kept-0")) == 0


def test_frozen_statistics_stand_still_in_both_processes(outputs):
    start = tensors(outputs[1], "start-0")
    for rank in (0, 1):
        found = tensors(outputs[2], f"frozen statistics-{rank}")
        assert sum("running_mean" in name for name in start) > 5
        assert all(torch.equal(found[name], value) for name, value in start.items())
