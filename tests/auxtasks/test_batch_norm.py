"""Statistics of a batch are refused where the batch is split, and nowhere else."""

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from auxtasks.backbones import build, convnet, facenet
from auxtasks.data.loaders import Shard
from auxtasks.errors import TrainingError
from auxtasks.training.batch_norm import batch_statistics, refuse_batch_norm
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.settings import Phase
from transfer.classifier import Classifier

CPU = torch.device("cpu")
TWO = Shard(processes=2)
FOUR_PARTS = Shard(accumulation=4)


class Network(Objective):
    """Any layers as an objective."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, batch):
        return StepOutput(self.layers(batch).sum(), torch.tensor(1.0), {})

    def save(self, folder, provenance):
        raise NotImplementedError

    def restore(self, folder):
        raise NotImplementedError


ONE_PHASE = (Phase(2),)


def refuse(objective, phases=ONE_PHASE, shard=TWO, device=CPU):
    refuse_batch_norm(objective, phases, shard, device)


def only_trains(*layers):
    return lambda objective: objective.train_layers(layers)


@pytest.fixture(scope="module")
def resnet():
    """A small ResNet of timm, with BatchNorm."""
    return build("timm/test_resnet", size=32, channels=1)


def test_a_batch_that_is_not_split_may_have_statistics():
    refuse(Network(nn.BatchNorm1d(2)), shard=Shard())


def test_two_processes_are_refused_and_told_what_to_do():
    with pytest.raises(
        TrainingError,
        match=r"Network would train layers\.1 on the statistics of a batch, and the batch is split into 2 processes, "
        r"each of which sees its own share: .*train in one process, or freeze .*convnet, which has GroupNorm",
    ):
        refuse(Network(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_micro_batches_are_refused_and_told_what_to_do():
    with pytest.raises(TrainingError, match=r"split into 4 micro-batches: .*use accumulation=1, with a smaller batch"):
        refuse(Network(nn.BatchNorm1d(2)), shard=FOUR_PARTS)


def test_micro_batches_would_indeed_be_another_objective():
    torch.manual_seed(0)
    norm, batch, slope = nn.BatchNorm1d(3), torch.randn(8, 3), torch.randn(8, 3)
    norm(batch).mul(slope).sum().backward()
    whole = norm.weight.grad.clone()
    norm.zero_grad()
    for part in (slice(0, 4), slice(4, 8)):
        norm(batch[part]).mul(slope[part]).sum().backward()
    assert float((norm.weight.grad - whole).norm() / whole.norm()) > 0.01


def test_many_are_counted():
    with pytest.raises(TrainingError, match=r"layers\.0, layers\.1, layers\.2 and 2 more on the statistics"):
        refuse(Network(*[nn.BatchNorm1d(2) for _ in range(5)]))


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), timm.layers.BatchNormAct2d(4),
     nn.BatchNorm2d(4, track_running_stats=False), timm.layers.EvoNorm2dB0(4), nn.SyncBatchNorm(4),
     nn.InstanceNorm2d(4, track_running_stats=True)],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_every_kind_is_known(norm):
    with pytest.raises(TrainingError, match=r"would train layers\.0 on the statistics of a batch"):
        refuse(Network(norm))


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(1, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4), timm.layers.FrozenBatchNormAct2d(4),
     timm.layers.EvoNorm2dS0(4)],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_others_are_let_through(norm):
    # A frozen one of timm is no BatchNorm: it holds statistics that nothing moves, and has no mode that uses a batch.
    refuse(Network(norm))


def test_statistics_of_all_processes_need_gpus_and_whole_batches():
    network, gpu = Network(nn.SyncBatchNorm(4)), torch.device("cuda")
    refuse(network, device=gpu)
    with pytest.raises(TrainingError, match=r"layers\.0 on the statistics"):
        refuse(network, device=gpu, shard=Shard(processes=2, accumulation=2))


def test_one_without_running_statistics_sees_the_batch_in_eval_mode_as_well():
    network = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2)).eval()
    assert batch_statistics(network) == ["0"]


def test_frozen_ones_are_fine_and_unfreezing_them_is_refused_before_anything_is_done(resnet):
    model = Classifier(resnet, "pooled", "mean", 3)
    head = Phase(2, begin=only_trains(), name="stage 1")
    top = Phase(2, begin=only_trains("layer4"), name="stage 2")
    refuse(model, [head, head])
    assert any(isinstance(part, _BatchNorm) for part in model.modules())  # else that would say nothing
    with pytest.raises(TrainingError, match=r'backbone\.module\.layer4\.0.* in phase 2 of 2, "stage 2" on the stat'):
        refuse(model, [head, top])
    refuse(model, [head, Phase(0, begin=only_trains("layer4"))])  # a phase without steps trains nothing


def test_trying_the_phases_changes_nothing(resnet):
    model = Classifier(resnet, "pooled", "mean", 3).eval()
    model.backbone.freeze(["stem"])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: part.training for name, part in model.named_modules()}
    learning = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert len(set(learning.values())) == 2
    with pytest.raises(TrainingError, match="statistics of a batch"):
        refuse(model, [Phase(2, begin=only_trains("layer4"))])
    assert model.backbone.frozen == ("stem",)
    assert modes == {name: part.training for name, part in model.named_modules()}
    assert learning == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    model.backbone.freeze([])


@pytest.mark.parametrize(
    ("make", "refused"),
    [(lambda: convnet(size=16, widths=[8], blocks=[1], embedding=8), False),
     (lambda: facenet(size=80), True),
     (lambda: build("timm/test_vit", size=64), False),
     (lambda: build("torchvision/resnet18", size=32), True)],
    ids=["convnet", "facenet", "vit", "resnet18"],
)  # fmt: skip
def test_which_backbones_can_be_split(make, refused):
    backbone = make()
    model = Classifier(backbone, backbone.layer_names[-1], "mean", 2)
    if not refused:
        refuse(model)
        return
    with pytest.raises(TrainingError, match="statistics of a batch"):
        refuse(model)
