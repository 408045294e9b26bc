"""What is dealt out computes what the whole computes: here among one process, which holds all shares."""

import copy
import dataclasses

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from auxtasks.backbones import (
    Backbone,
    TokenBatch,
    convnet,
    facenet,
    mlp,
    timm_backbone,
    torchvision_backbone,
    transformers,
)
from auxtasks.data import train_tokenizer
from auxtasks.data.loaders import Feed
from auxtasks.data.plan import EpochPlan
from auxtasks.errors import TrainingError
from auxtasks.training.engine import train
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings, build_optimizer, named_state, restore_state
from auxtasks.training.settings import LoopSettings, Phase, check_settings
from auxtasks.training.sharding import ShardedObjective, as_shard, clip_shards, local, whole

FULL = LoopSettings(sharding="full", show_progress=False)
TOKENIZER = ["the dog saw a cat", "a bird heard the dog"]


@pytest.fixture(scope="module", autouse=True)
def group():
    """Meet nobody: a group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Squares(Objective):
    """Anything with a backbone: its loss is the mean square of the last layer, times a number that learns."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        self.gain = nn.Parameter(torch.tensor(2.0))

    @property
    def network(self):
        return self.backbone

    def forward(self, batch) -> StepOutput:
        output = self.backbone(batch)
        hidden = output if isinstance(output, torch.Tensor) else output.hidden
        loss = (self.gain * hidden).square().mean()
        return StepOutput(loss, loss.new_tensor(1.0), {})

    def save(self, folder, provenance): ...

    def restore(self, folder): ...


def encoder(kind: str) -> Backbone:
    config = {"model_type": kind, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 8, "max_position_embeddings": 40}  # fmt: skip
    if kind == "distilbert":
        config = {"model_type": kind, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8}
    return transformers(config, tokenizer=train_tokenizer(TOKENIZER, size=60), length=16)


NETWORKS = {
    "mlp": lambda: mlp(width=5, hidden=[7, 3]),
    "convnet": lambda: convnet(size=16, widths=[8, 8], blocks=[1, 1], embedding=5),
    "facenet": lambda: facenet(size=80),
    "bert": lambda: encoder("bert"),
    "roberta": lambda: encoder("roberta"),
    "distilbert": lambda: encoder("distilbert"),
    "modernbert": lambda: encoder("modernbert"),
    "hf vit": lambda: transformers({"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 2,
                                    "num_attention_heads": 2, "intermediate_size": 8, "image_size": 16,
                                    "patch_size": 8}),
    "timm ResNet": lambda: timm_backbone("test_resnet", size=32),
    "timm ConvNeXt": lambda: timm_backbone("test_convnext", size=32),
    "timm ViT": lambda: timm_backbone("test_vit", size=160),
    "timm, read only": lambda: timm_backbone("test_efficientnet", size=32),
    "torchvision ResNet": lambda: torchvision_backbone("resnet18", size=32),
    "torchvision ViT": lambda: torchvision_backbone("vit_b_16", size=32),
    "torchvision Swin": lambda: torchvision_backbone("swin_t", size=32),
    "torchvision DenseNet": lambda: torchvision_backbone("densenet121", size=32),
}  # fmt: skip


def batch_for(network: Backbone):
    draw = torch.Generator().manual_seed(0)
    if network.input.kind == "text":
        mask = torch.arange(12) < torch.tensor([[12], [7], [9]])
        return TokenBatch(torch.randint(5, 15, (3, 12), generator=draw), mask)
    shape = (5,) if network.input.kind == "features" else network.input.shape
    return torch.rand(3, *shape, generator=draw)


@pytest.mark.parametrize(
    ("name", "recomputes"),
    [(name, False) for name in NETWORKS]
    + [(name, True) for name in ("mlp", "bert", "modernbert", "hf vit", "timm ResNet", "torchvision DenseNet")],
)
def test_every_family_has_the_gradients_of_the_whole(name, recomputes):
    objective = Squares(NETWORKS[name]())
    objective.network.recomputes = recomputes
    kept = copy.deepcopy(objective)
    sharded = ShardedObjective(objective, Accelerator(cpu=True))
    batch = batch_for(objective.network)
    losses: list[float] = []
    for model in (kept, sharded):
        torch.manual_seed(0)
        model.train()
        loss = model(batch).loss_sum
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1]
    expected = {parameter_name: p.grad for parameter_name, p in kept.named_parameters()}
    found = {parameter_name: p.grad for parameter_name, p in sharded.module.named_parameters()}
    assert found.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values() if gradient is not None)
    assert largest > 0
    for parameter_name, gradient in expected.items():
        if gradient is None:
            assert found[parameter_name] is None, parameter_name
            continue
        assert isinstance(found[parameter_name], DTensor) == (gradient.ndim > 0), parameter_name
        difference = float((whole(found[parameter_name]) - gradient).norm())
        assert difference <= 1e-5 * float(gradient.norm()) + 1e-7 * largest, parameter_name
    dealt_out = [part for part in sharded.module.modules() if isinstance(part, FSDPModule)]
    assert (len(dealt_out) > 1) == objective.network.can_be_cut  # its stages, then all that is left


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_sharded_optimizer_steps_as_the_whole_one_and_hands_its_state_on(name):
    objective = Squares(convnet(size=16, widths=[8, 8], blocks=[1, 1], embedding=5, dropout=0.0))
    batch, settings = batch_for(objective.network), OptimizerSettings(name=name, learning_rate=0.01)
    kept = copy.deepcopy(objective)
    sharded = ShardedObjective(objective, Accelerator(cpu=True))
    states = {}
    for model, bare in ((kept, kept), (sharded, sharded.module)):
        parameters = dict(bare.named_parameters())
        optimizer = build_optimizer(parameters.items(), settings)
        for _ in range(3):
            optimizer.zero_grad()
            model(batch).loss_sum.backward()
            optimizer.step()
        states[model] = named_state(optimizer, parameters.items())
        again = build_optimizer(parameters.items(), settings)
        restore_state(again, parameters.items(), states[model])
        for parameter in parameters.values():
            for key, value in optimizer.state[parameter].items():
                assert isinstance(again.state[parameter][key], DTensor) == isinstance(value, DTensor), key
                assert torch.equal(whole(again.state[parameter][key]), whole(value)), key
    assert states[kept].keys() == states[sharded].keys()
    assert len(states[kept]) == len(list(kept.parameters())) * (3 if name == "adamw" else 1)
    assert not any(isinstance(value, DTensor) for value in states[sharded].values())
    for key, value in states[kept].items():
        torch.testing.assert_close(states[sharded][key], value, rtol=1e-4, atol=1e-6)
    assert not torch.equal(objective.backbone.module.embedding.weight, kept.backbone.module.embedding.weight)
    sharded.gather()
    for (parameter_name, found), expected in zip(objective.named_parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=parameter_name)


def test_gradients_are_clipped_by_the_norm_of_all_of_them():
    draw = torch.Generator().manual_seed(0)
    plain = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), ())]
    for parameter in plain:
        parameter.grad = torch.randn(parameter.shape, generator=draw)
    sharded = ShardedObjective(Squares(mlp(width=2, hidden=[3])), Accelerator(cpu=True))
    like = next(sharded.module.backbone.parameters())
    mesh, placements = like.device_mesh, like.placements
    dealt_out = [p.grad.clone() if p.ndim == 0 else distribute_tensor(p.grad.clone(), mesh, placements)
                 for p in plain]  # fmt: skip
    expected = nn.utils.clip_grad_norm_(plain, 0.5)
    before = [whole(gradient).clone() for gradient in dealt_out]
    torch.testing.assert_close(clip_shards(dealt_out, None), expected)
    assert all(torch.equal(whole(found), kept) for found, kept in zip(dealt_out, before, strict=True))
    torch.testing.assert_close(clip_shards(dealt_out, 0.5), expected)
    assert float(expected) > 1  # they were clipped
    for found, parameter in zip(dealt_out, plain, strict=True):
        torch.testing.assert_close(whole(found), parameter.grad)


def test_what_is_whole_stays_as_it_is():
    tensor, parameter = torch.ones(2), nn.Parameter(torch.ones(2))
    assert local(tensor) is whole(tensor) is as_shard(tensor, parameter) is tensor


class Rows:
    """Vectors, one a record."""

    def __init__(self):
        self.values = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.values)

    def record(self, row):
        return {"x": self.values[row]}


def test_one_process_has_nobody_to_deal_out_to_and_trains_the_same_bits():
    weights = {}
    for sharding in ("none", "full"):
        objective = Squares(mlp(width=5, hidden=[7, 3]))
        feed = Feed(Rows(), EpochPlan(16, 8, seed=1), lambda record, rng: record["x"], torch.stack, seed=0)
        train(objective, feed, [Phase(3)], seed=0, loop=dataclasses.replace(FULL, sharding=sharding))
        weights[sharding] = objective.state_dict()
    assert all(torch.equal(weights["full"][name], weight) for name, weight in weights["none"].items())
    assert float(objective.gain.detach()) != 2.0


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        (dataclasses.replace(FULL, mixed_precision="fp16"), 'sharding="full" takes no mixed_precision="fp16"'),
        (LoopSettings(sharding="ful"), 'sharding is one of none, full, found "ful".*full'),
    ],
)
def test_what_sharding_cannot_do_is_refused(loop, told):
    with pytest.raises(TrainingError, match=told):
        check_settings(Squares(mlp(width=2, hidden=[3])), loop)
