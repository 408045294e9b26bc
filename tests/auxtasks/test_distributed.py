"""Two processes with half a batch each compute what one does with all of it: losses, gradients, weights, metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from auxtasks import checkpoint
from auxtasks.errors import TrainingError
from auxtasks.training.processes import join_processes

pytestmark = pytest.mark.processes

SCRIPT = '''
"""Train in as many processes as there are; keep every gradient that an optimizer gets, and every printed metric."""
import json, os, sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_pre_hook

from auxtasks import checkpoint
from auxtasks.backbones import convnet, mlp, transformers
from auxtasks.data import load_source, train_tokenizer
from auxtasks.pretrain import pretrain
from auxtasks.tasks import CorruptedItems, FacePairs, LabelledQueries, MaxMarginRanking, ShuffledSentences
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

out = Path(sys.argv[1])
rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
columns = {"image": "image", "label": "label"}
faces, strangers = (
    load_source("builtin:drawn_faces", columns=columns,
                options={"people": people, "photos": 4, "size": 20, "first_person": first})
    for people, first in ((8, 0), (7, 1000))
)
gradients, seen = {}, []


class Watched(FacePairs):
    def forward(self, batch):
        seen.append(len(batch.identities))
        return super().forward(batch)


def run(name, task, data, held_out, steps, optimizer, accumulation=1):
    names = {parameter: parameter_name for parameter_name, parameter in task.named_parameters()}
    step = [0]

    def keep(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradients[f"{name}/{step[0]}/{names[parameter]}"] = parameter.grad.clone()
        step[0] += 1

    hook = register_optimizer_step_pre_hook(keep)
    try:
        return pretrain(task, data, steps=steps, batch_size=16, seed=1, validation=held_out, optimizer=optimizer,
                        folder=out / name,
                        loop=LoopSettings(log_every=1, show_progress=False, accumulation=accumulation))
    finally:
        hook.remove()


def face_task(loss, hardness=0.0):
    network = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.0)
    return Watched(network, photos=2, loss=loss, hardness=hardness)


words = "the a old young dog cat bird saw heard chased and , quickly".split()
draw = np.random.default_rng(0)
texts = [" ".join(draw.choice(words, size=size)) + "." for size in draw.integers(4, 14, size=70)]


def sentence_task(**options):
    config = {"model_type": "modernbert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 24, "max_position_embeddings": 32,
              # Large weights: with the usual ones the order of words changes a score by less than float32 rounds off.
              "initializer_range": 0.3}
    network = transformers(config, tokenizer=train_tokenizer(texts, size=90), length=32)
    return ShuffledSentences(network, losses=dict.fromkeys(("sentence", "pair", "token", "order"), 1.0), **options)


def sentences(rows):
    return load_source({"text": rows}, columns={"text": "text"})


# Small steps: large ones blow up what float32 rounds off, until two runs differ by more than the gradients of either.
plain = OptimizerSettings(name="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.01, schedule="constant",
                          warmup_steps=0, clip_norm=None)
for name, loss, hardness in (("logistic", "logistic", 0.0), ("hard", "logistic", 1.0),
                             ("contrastive", "contrastive", 0.0), ("triplet", "triplet", 0.0)):
    run(name, face_task(loss, hardness), faces, strangers, 4, plain)
assert seen == [16 // processes] * 16, seen

for name, accumulation, options in (("sentences", 1, {}), ("sentences_accumulated", 4, {}),
                                    ("sentences_by_tokens", 1, {"batch_tokens": 16 * 48})):
    run(name, sentence_task(**options), sentences(texts[:60]), sentences(texts[60:]), 4, plain, accumulation)


def lists(queries):
    """Queries of 1 to 9 items, a few of which say nothing."""
    sizes = draw.integers(1, 10, size=queries)
    columns = {"qid": np.arange(queries).repeat(sizes), "grade": draw.integers(4, size=sizes.sum()),
               "features": draw.normal(size=(sizes.sum(), 5))}
    return load_source({name: values.tolist() for name, values in columns.items()}, columns=dict(zip(columns, columns)))


queries = lists(41), lists(17)  # one process evaluates more of them than the other
for name, accumulation, options in (
    ("ranking_query", 1, {}), ("ranking_pair", 1, {"average": "pair"}), ("ranking_accumulated", 4, {"average": "pair"}),
    ("ranking_ndcg", 1, {"weighting": "ndcg", "loss": "logistic"}),
    ("ranking_drawn", 1, {"weighting": "ndcg", "average": "pair", "queries": LabelledQueries(list_size=4)}),
):
    run(name, MaxMarginRanking(mlp(width=5, hidden=[6]), l2=0.1, **options), *queries, 4, plain, accumulation)

rows = [load_source({"features": draw.normal(size=(count, 5)).tolist()}, columns={"features": "features"})
        for count in (40, 13)]
run("ranking_corrupted", MaxMarginRanking(mlp(width=5, hidden=[6]), CorruptedItems()), *rows, 4, plain)

task = face_task("logistic")
result = run("whole", task, faces, strangers, 12, OptimizerSettings(learning_rate=3e-3))
task.eval()
again = task.evaluate(task.prepare(strangers))
scores = {**{f"again/{name}": value for name, value in again.items()}, **result.metrics}
(out / f"scores-{rank}.json").write_text(json.dumps(scores))
checkpoint.write_tensors(out / f"gradients-{rank}.safetensors", gradients)
checkpoint.write_tensors(out / f"weights-{rank}.safetensors", task.state_dict())

if dist.is_initialized():
    dist.barrier()  # without it, tearing down gloo aborts now and then
    dist.destroy_process_group()
assert processes == 1 or not dist.is_initialized()
'''


def launch(folder: Path, code: str) -> dict[int, Path]:
    """Run a script in one process and in two."""
    script = folder / "script.py"
    script.write_text(code)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = {}
    for processes, start in ((1, []), (2, launcher)):
        found[processes] = folder / str(processes)
        found[processes].mkdir()
        done = subprocess.run(
            [sys.executable, *start, script, found[processes]],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[int, Path]:
    """Pretrain tasks on records in one process and in two."""
    return launch(tmp_path_factory.mktemp("distributed"), SCRIPT)


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(folder / f"{name}.safetensors")


def lines(folder: Path, run: str, kind: str) -> list[dict[str, float]]:
    text = (folder / run / "metrics.jsonl").read_text()
    found = [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]
    timed = {"samples_per_second", "data_wait_share", "kind"}
    return [{name: value for name, value in line.items() if name not in timed} for line in found]


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> set[str]:
    """Hold the gradients of all steps against each other; return the names of all parameters."""
    parameters = {name.split("/", 2)[2] for name in expected}
    assert len(expected) == 4 * len(parameters)
    moved = set()
    for name, gradient in expected.items():
        difference = float((found[name] - gradient).norm())
        assert difference <= 1e-5 * float(gradient.norm()) + 1e-9, name
        if gradient.norm() > 1e-6:
            moved.add(name.split("/", 2)[2])
    assert moved == parameters  # no gradient is zero in all steps
    return parameters


def gradients_of(folder: Path, run: str, named: str | None = None) -> dict[str, torch.Tensor]:
    """Return the gradients of a run, under its own name or that of another one."""
    found = tensors(folder, "gradients-0").items()
    return {name.replace(run, named or run, 1): g for name, g in found if name.startswith(f"{run}/")}


@pytest.mark.parametrize("run", ["logistic", "hard", "contrastive", "triplet"])
def test_losses_and_gradients_of_two_processes_are_those_of_one(outputs, run):
    one, two = lines(outputs[1], run, "train"), lines(outputs[2], run, "train")
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert len(one) == 4
    parameters = assert_same_gradients(gradients_of(outputs[2], run), gradients_of(outputs[1], run))
    assert {"backbone.module.stem.0.weight", "backbone.module.embedding.weight"} <= parameters
    assert ("threshold" in parameters) == ("log_scale" in parameters) == (run in ("logistic", "hard"))


SENTENCES = ["sentences", "sentences_accumulated", "sentences_by_tokens"]


@pytest.mark.parametrize("run", SENTENCES)
def test_two_processes_learn_from_sentences_as_one_does(outputs, run):
    for kind, count in (("train", 4), ("validation", 1)):
        one, two = lines(outputs[1], run, kind), lines(outputs[2], run, kind)
        assert len(one) == count
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, rel=1e-5, abs=1e-6)
    parameters = assert_same_gradients(gradients_of(outputs[2], run), gradients_of(outputs[1], run))
    assert {"token_head.weight", "sentence_head.0.weight", "order_head.start"} <= parameters
    assert any(name.startswith("backbone.module.embeddings") for name in parameters)


def test_accumulated_sentences_are_one_batch(outputs):
    # No sentence is compared with another one, so that micro-batches change nothing, in one process or two.
    expected = gradients_of(outputs[1], "sentences")
    for processes in (1, 2):
        assert_same_gradients(gradients_of(outputs[processes], "sentences_accumulated", "sentences"), expected)


RANKINGS = ["query", "pair", "accumulated", "ndcg", "drawn", "corrupted"]


@pytest.mark.parametrize("run", [f"ranking_{name}" for name in RANKINGS])
def test_two_processes_learn_to_rank_as_one_does(outputs, run):
    for kind, count in (("train", 4), ("validation", 1)):
        one, two = lines(outputs[1], run, kind), lines(outputs[2], run, kind)
        assert len(one) == count
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, rel=1e-5, abs=1e-6)
    names = {"pair_accuracy/strength 0.25"} if run == "ranking_corrupted" else {"ndcg@10", "queries_without_pairs"}
    assert names < lines(outputs[2], run, "validation")[0].keys()
    parameters = assert_same_gradients(gradients_of(outputs[2], run), gradients_of(outputs[1], run))
    assert "scorer.weight" in parameters
    assert len(parameters) == 3


def test_accumulated_queries_are_one_batch(outputs):
    # Micro-batches have other numbers of pairs; each pair weighs the same all the same.
    expected = gradients_of(outputs[1], "ranking_pair")
    for processes in (1, 2):
        assert_same_gradients(gradients_of(outputs[processes], "ranking_accumulated", "ranking_pair"), expected)


def test_rankings_of_two_processes_are_evaluated_as_one_set(outputs):
    one = lines(outputs[1], "ranking_query", "validation")[0]
    assert one["queries"] == 17 > one["queries_without_pairs"] > 0
    assert lines(outputs[2], "ranking_query", "validation")[0]["queries"] == 17


def test_both_processes_hold_the_same_gradients_and_weights(outputs):
    for name in ("gradients", "weights"):
        first, second = (tensors(outputs[2], f"{name}-{rank}") for rank in (0, 1))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_whole_run_of_two_processes_ends_with_the_weights_of_one(outputs):
    one, two = tensors(outputs[1], "weights-0"), tensors(outputs[2], "weights-0")
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(
            two[name], weight, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_both_print_the_same_metrics(outputs):
    for kind, count in (("train", 12), ("validation", 1)):
        one, two = lines(outputs[1], "whole", kind), lines(outputs[2], "whole", kind)
        assert len(one) == count
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, abs=2e-4)


def test_every_process_knows_the_metrics(outputs):
    first, second = (json.loads((outputs[2] / f"scores-{rank}.json").read_text()) for rank in (0, 1))
    timed = {"samples_per_second", "data_wait_share"}
    assert {"again/roc_auc", "spread", "loss", "validation/roc_auc"} <= first.keys() == second.keys()
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}
    assert first["again/roc_auc"] == first["validation/roc_auc"]


def test_two_processes_write_one_log_and_one_set_of_checkpoints(outputs):
    for name in ("logistic", "whole"):
        steps = [line["step"] for line in lines(outputs[2], name, "train")]
        assert steps == sorted(set(steps))
        assert len(list((outputs[2] / name / "checkpoints").iterdir())) == 1
    state = checkpoint.read_json(outputs[2] / "whole" / "checkpoints" / "step-00000012" / "training" / "state.json")
    assert state["processes"] == 2


def test_processes_that_did_not_meet_are_an_error(monkeypatch):
    assert join_processes().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="2 processes were started, but each of them takes itself for the only one"):
        join_processes()


# Layer by layer


LAYERS_SCRIPT = '''
"""Pretrain layer by layer in as many processes as there are; keep the weights of layers and heads."""
import functools, json, os, sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

from auxtasks import checkpoint
from auxtasks.backbones import mlp
from auxtasks.features.cache import FeatureCache
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.tasks import LayerAutoencoder, LayerRBM
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

out = Path(sys.argv[1])
rank = int(os.environ.get("RANK", 0))
draw = np.random.default_rng(0)
values, held_out = (draw.random((items, 8), dtype=np.float32) for items in (60, 30))
makes = {
    "autoencoder": functools.partial(LayerAutoencoder, noise=None, contraction=0.1),
    "machine": functools.partial(LayerRBM, persistent=True, chains=5, gibbs_steps=2),
    "sparse": functools.partial(LayerRBM, persistent=True, chains=5, sparsity_cost=0.5),
}
for name, make in makes.items():
    backbone = mlp(width=8, hidden=[6, 4], activation="sigmoid")
    result = pretrain_layerwise(
        backbone, values, make, steps=8, batch_size=12, validation=held_out, unrolled_steps=8, folder=out / name,
        optimizer=OptimizerSettings(name="sgd", learning_rate=0.05), cache=FeatureCache(out / "cache" / name),
        loop=LoopSettings(log_every=1, checkpoint_every=5, show_progress=False),
    )
    checkpoint.write_tensors(out / f"{name}-{rank}.safetensors", result.stack.state_dict())
    (out / f"{name}-{rank}.json").write_text(json.dumps(dict(result.as_one().metrics)))

if dist.is_initialized():
    dist.barrier()  # without it, tearing down gloo aborts now and then
    dist.destroy_process_group()
'''


@pytest.fixture(scope="module")
def layerwise(tmp_path_factory) -> dict[int, Path]:
    """Pretrain layer by layer in one process and in two."""
    return launch(tmp_path_factory.mktemp("layerwise"), LAYERS_SCRIPT)


LAYER_TASKS = pytest.mark.parametrize("run", ["autoencoder", "machine", "sparse"])


@LAYER_TASKS
def test_two_processes_pretrain_layers_as_one_does(layerwise, run):
    for stage in ("hidden1", "hidden2", "unrolled"):
        one, two = (lines(layerwise[processes] / run / "layers", stage, stage) for processes in (1, 2))
        assert [line["step"] for line in one] == list(range(1, 9))
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, rel=1e-5, abs=1e-5), stage
    one, two = (tensors(layerwise[processes], f"{run}-0") for processes in (1, 2))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(
            two[name], weight, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@LAYER_TASKS
def test_both_processes_hold_the_same_layers_and_measures(layerwise, run):
    first, second = (tensors(layerwise[2], f"{run}-{rank}") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    measured = []
    for rank in (0, 1):
        found = json.loads((layerwise[2] / f"{run}-{rank}.json").read_text())
        measured.append({name: value for name, value in found.items() if "samples" not in name and "wait" not in name})
    assert measured[0] == measured[1]
    assert "hidden2/validation/reconstruction_error" in measured[0]


@LAYER_TASKS
def test_two_processes_write_one_cache_and_one_set_of_checkpoints_a_layer(layerwise, run):
    places = [layerwise[2] / run / "layers" / stage for stage in ("hidden1", "hidden2", "unrolled")]
    for place in places:
        assert sorted(path.name for path in (place / "checkpoints").iterdir()) == ["step-00000005", "step-00000008"]
    assert [path.name for path in (layerwise[2] / run / "checkpoints").iterdir()] == ["step-00000024"]
    # Inputs of the second layer, of both sources.
    assert len(list((layerwise[2] / "cache" / run).iterdir())) == 2
