"""A run whose stages are computed again ends with the bits of one that kept them."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from auxtasks import checkpoint
from auxtasks.backbones import Backbone, convnet, mlp, timm_backbone, transformers
from auxtasks.backbones.recomputing import apply_recomputed
from auxtasks.backbones.stages import Stage
from auxtasks.data import load_source, train_tokenizer
from auxtasks.data.loaders import Feed
from auxtasks.errors import TrainingError
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, LayerAutoencoder, ShuffledSentences
from auxtasks.training.engine import train
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase

LOOP = LoopSettings(log_every=1, show_progress=False)
OPTIMIZER = OptimizerSettings(learning_rate=0.01, warmup_steps=0)
TEXTS = [f"the {who} {did} a {whom}." for who in ("dog", "cat", "bird") for did in ("saw", "heard") for whom in "xyz"]


@functools.cache
def people():
    columns = {"image": "image", "label": "label"}
    return load_source("builtin:drawn_faces", columns=columns, options={"people": 6, "photos": 3, "size": 40})


def faces(**options) -> FacePairs:
    settings = {"size": 16, "widths": [8, 8], "blocks": [1, 1], "embedding": 8, "dropout": 0.4}
    return FacePairs(convnet(**{**settings, **options}), photos=2)


def pictures(network: Backbone) -> FacePairs:
    return FacePairs(network, photos=2)


def encoder(**config) -> Backbone:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return transformers({**sizes, "max_position_embeddings": 32, **config}, tokenizer=train_tokenizer(TEXTS, size=90),
                        length=16)  # fmt: skip


def sentences(**config) -> ShuffledSentences:
    config = config or {"model_type": "bert", "hidden_dropout_prob": 0.3}
    return ShuffledSentences(encoder(**config))


def corpus():
    return load_source({"text": TEXTS}, columns={"text": "text"})


class Counted:
    """Counts how often stages are computed, and how often of those without gradients."""

    def __init__(self, backbone: Backbone) -> None:
        self.applied: list[str] = []
        self.without_gradient = 0
        backbone.stages = tuple(self._watched(stage) for stage in backbone.stages)

    def _watched(self, stage: Stage) -> Stage:
        def apply(module, x):
            self.applied.append(stage.name)
            self.without_gradient += not torch.is_grad_enabled()
            return stage.apply(module, x)

        return dataclasses.replace(stage, apply=apply)


def trained(task, data, *, steps=3, folder=None, validation=None, **loop) -> dict[str, torch.Tensor]:
    pretrain(task, data, steps=steps, batch_size=8, optimizer=OPTIMIZER, loop=dataclasses.replace(LOOP, **loop),
             folder=folder, validation=validation, seed=1)  # fmt: skip
    assert not task.backbone.recomputes  # as it came
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


TASKS = {
    "convolutions with dropout": (faces, people),
    "batch statistics": (lambda: pictures(timm_backbone("test_resnet", size=32)), people),
    "a vision transformer": (lambda: pictures(timm_backbone("test_vit", size=160)), people),
    "text": (sentences, corpus),
    "rotary positions": (lambda: sentences(model_type="modernbert", attention_dropout=0.2), corpus),
}


@pytest.mark.parametrize("name", TASKS)
def test_stages_that_are_computed_again_train_the_same_weights(name, record_property):
    make, data = TASKS[name]
    kept = make()
    before = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
    expected = trained(kept, data())
    assert sum(not torch.equal(before[name], tensor) for name, tensor in expected.items()) > 5  # it trained
    again = make()
    counted = Counted(again.backbone)
    assert_same_bits(trained(again, data(), gradient_checkpointing=True), expected)
    # Three steps, twice each; gradients of a mean over positions need nothing that it computed.
    times = {layer: counted.applied.count(layer) for layer in again.backbone.layer_names}
    assert times == {layer: 3 if layer == "pooled" else 6 for layer in times}
    record_property("inputs", len(expected))


@pytest.mark.parametrize(
    ("make", "data", "loop"),
    [
        (faces, people, {"mixed_precision": "bf16"}),
        (sentences, corpus, {"mixed_precision": "bf16", "accumulation": 2}),
        (sentences, corpus, {"accumulation": 4}),
    ],
)
def test_so_do_half_precision_and_accumulation(make, data, loop):
    expected = trained(make(), data(), **loop)
    assert_same_bits(trained(make(), data(), gradient_checkpointing=True, **loop), expected)


def test_frozen_stages_below_are_computed_once():
    found = {}
    for asked in (False, True):
        task = faces()
        table = task.prepare(people())
        counted = Counted(task.backbone)
        feed = Feed(table, task.plan(table, 8, 1), task.transform, task.collate, 1)
        phases = [
            Phase(2, begin=lambda objective: objective.backbone.freeze(["stem", "stage1"])),
            Phase(1, begin=lambda objective: objective.backbone.freeze([])),
        ]
        loop = dataclasses.replace(LOOP, gradient_checkpointing=asked)
        train(task, feed, phases, seed=1, optimizer=OPTIMIZER, loop=loop)
        found[asked] = task.state_dict()
        times = [counted.applied.count(name) for name in ("stem", "stage1", "stage2", "embedding")]
        assert times == ([4, 4, 6, 6] if asked else [3, 3, 3, 3])
    assert_same_bits(found[True], found[False])


def test_nothing_is_computed_again_where_no_gradient_is_wanted():
    task = faces()
    counted = Counted(task.backbone)
    trained(task, people(), steps=2, validation=people(), gradient_checkpointing=True)
    assert counted.without_gradient == 4  # one pass of validation through four stages
    assert len(counted.applied) == 2 * 2 * 4 + 4


def test_running_statistics_are_moved_once():
    network = nn.Sequential(nn.BatchNorm1d(2))
    stage = Stage("norm", ("0",), 2, lambda module, x: module(x))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    buffers = dict(network.named_buffers())
    apply_recomputed(stage, network, x).square().sum().backward()
    assert int(network[0].num_batches_tracked) == 1
    torch.testing.assert_close(network[0].running_mean, 0.1 * x.detach().mean(dim=0))
    assert all(buffers[name] is buffer for name, buffer in network.named_buffers())


def test_a_stopped_run_goes_on_with_and_without_it(tmp_path):
    expected = trained(faces(), people(), steps=4)
    for first in (False, True):
        place = tmp_path / str(first)
        loop = {"checkpoint_every": 2, "keep_checkpoints": 9}
        trained(faces(), people(), steps=4, folder=place, gradient_checkpointing=first, **loop)
        last = place / "checkpoints" / "step-00000004"
        last.rename(tmp_path / f"ended-{first}")  # as if it had been stopped after step 2
        again = trained(faces(), people(), steps=4, folder=place, gradient_checkpointing=not first, **loop)
        assert_same_bits(again, expected)
        states = [checkpoint.read_tensors(at / "training" / "optimizer.safetensors")
                  for at in (last, tmp_path / f"ended-{first}")]  # fmt: skip
        assert_same_bits(*states)


def test_what_could_not_be_computed_again_is_refused():
    with pytest.raises(TrainingError, match="LayerAutoencoder does not run through them one by one: it would save"):
        pretrain_layerwise(
            mlp(width=8, hidden=[4], activation="sigmoid"),
            torch.rand(8, 8).numpy(),
            LayerAutoencoder,
            steps=1,
            batch_size=4,
            loop=dataclasses.replace(LOOP, gradient_checkpointing=True),
        )
    readable = timm_backbone("test_efficientnet", size=64)
    assert not readable.can_be_cut
    with pytest.raises(TrainingError, match=r"timm .*test_efficientnet.* has none that can be computed alone"):
        trained(pictures(readable), people(), gradient_checkpointing=True)
