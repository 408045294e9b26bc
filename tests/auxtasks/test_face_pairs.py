"""Face pairs: it learns who is who, only from true identities, and says so when it collapses."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset

from auxtasks import checkpoint
from auxtasks.backbones import Backbone, convnet, facenet, mlp
from auxtasks.data import Augment, EpochPlan, decode_images, load_source
from auxtasks.errors import BackboneError, DataError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs
from auxtasks.tasks.face_pairs import FaceBatch, monitor_collapse
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

QUIET = LoopSettings(show_progress=False, log_every=25)


def draw(people: int, photos: int, first_person: int = 0, size: int = 30) -> Dataset:
    return load_source(
        "builtin:drawn_faces",
        columns={"image": "image", "label": "label"},
        options={"people": people, "photos": photos, "size": size, "first_person": first_person},
    )


def unlabelled(dataset: Dataset) -> Dataset:
    return load_source(dataset.remove_columns("label"), columns={"image": "image"})


# Learning


@pytest.fixture(scope="module")
def learned():
    """ROC-AUC among 40 strangers: untrained, trained, and trained on shuffled identities."""
    task = FacePairs(convnet(size=24, widths=[16, 32], blocks=[1, 1], embedding=32, dropout=0.0))
    table, strangers = task.prepare(draw(60, 8)), task.prepare(draw(40, 5, first_person=1000))
    shuffled = dataclasses.replace(table, labels=np.random.default_rng(0).permutation(table.labels))
    found = {"untrained": task.evaluate(strangers)}
    for name, data in (("trained", table), ("shuffled", shuffled)):
        task = FacePairs(convnet(size=24, widths=[16, 32], blocks=[1, 1], embedding=32, dropout=0.0))
        optimizer = OptimizerSettings(learning_rate=5e-3)
        pretrain(task, data, steps=100, batch_size=64, optimizer=optimizer, loop=QUIET)
        found[name] = task.evaluate(strangers)
    return found


def test_strangers_are_told_apart_after_training(learned):
    assert learned["untrained"]["roc_auc"] < 0.65
    assert learned["trained"]["roc_auc"] > 0.77
    assert learned["trained"]["equal_error_rate"] < learned["untrained"]["equal_error_rate"] - 0.08


def test_shuffled_identities_do_not_teach_that(learned):
    # They do teach to spread the faces, whoever they show, which is worth a little among strangers too.
    assert learned["shuffled"]["roc_auc"] < 0.72
    assert learned["trained"]["roc_auc"] > learned["shuffled"]["roc_auc"] + 0.07


def test_unlabelled_photos_are_enough_to_train():
    task = FacePairs(convnet(size=16, widths=[8], blocks=[1], embedding=8), photos=2)
    before = checkpoint.tensors_digest(task.backbone.state_dict())
    result = pretrain(task, unlabelled(draw(6, 2)), steps=4, batch_size=8, loop=QUIET)
    assert checkpoint.tensors_digest(task.backbone.state_dict()) != before
    assert {"loss", "roc_auc", "pair_accuracy"} <= result.metrics.keys()


# What a batch is


@pytest.fixture
def task(tiny_convnet):
    return FacePairs(tiny_convnet(), photos=2)


def test_unlabelled_rows_are_people_of_their_own(task, faces):
    table = task.prepare(faces)
    table = dataclasses.replace(table, labels=np.where(np.arange(32) < 4, -1, table.labels))
    rng = np.random.default_rng(0)
    items = [task.transform({**table.record(row), "row": row}, rng) for row in (0, 1, 2, 8, 9)]
    assert len({item.identity for item in items[:3]}) == 3
    assert items[3].identity == items[4].identity == table.labels[8] >= 0
    assert all(item.identity < 0 for item in items[:3])
    batch = task.collate(items)
    assert batch.images.shape == (5, 1, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.identities.tolist() == [item.identity for item in items]


def test_the_plan_gives_p_people_with_k_photos(task, faces):
    table = task.prepare(faces)
    picks = task.plan(table, 8, seed=0).batch(0)
    labels = [int(table.labels[pick.row]) for pick in picks]
    assert labels[::2] == labels[1::2]
    assert len(set(labels)) == 4
    with pytest.raises(DataError, match="a batch of 7 photos cannot hold 2 photos of each person"):
        task.plan(table, 7, seed=0)


def test_pictures_are_kept_a_quarter_larger_and_shown_at_the_network_s_size(task, faces):
    table = task.prepare(faces)
    assert table.pixels.shape == (32, 20, 20, 1)
    assert task.view({**table.record(0), "row": 0}).image.shape == (16, 16, 1)


@pytest.mark.parametrize("loss", ["logistic", "contrastive", "triplet"])
def test_the_loss_is_a_mean_over_the_batch_and_every_parameter_gets_a_gradient(tiny_convnet, faces, loss):
    task = FacePairs(tiny_convnet(), photos=2, loss=loss)
    table = task.prepare(faces)
    batch = task.collate([task.view({**table.record(row), "row": row}) for row in range(12)])
    output = task(batch)
    assert output.weight == 12
    output.loss_sum.backward()
    unused = [name for name, parameter in task.named_parameters() if parameter.grad is None]
    assert unused == []  # else DistributedDataParallel raises at the second step
    heads = [name for name, _ in task.named_parameters() if not name.startswith("backbone.")]
    assert heads == (["log_scale", "threshold"] if loss == "logistic" else [])
    task.log_metrics = False
    assert task(batch).metrics == {}
    assert {"spread", "effective_rank", "roc_auc"} <= output.metrics.keys()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": "logistics"}, DataError, r'loss="logistics" is not one of logistic, .*Did you mean "logistic"\?'),
        ({"backbone": mlp(width=3)}, BackboneError, "need a backbone that takes images; this one takes features"),
    ],
)
def test_what_makes_no_task_is_refused(tiny_convnet, arguments, error, message):
    with pytest.raises(error, match=message):
        FacePairs(**{"backbone": tiny_convnet(), **arguments})


def test_records_of_another_kind_are_refused(task):
    with pytest.raises(DataError, match=r"read an ImageTable, found list; make one with task\.prepare\(\)"):
        task.plan([1, 2], 4, seed=0)


def test_the_settings_tell_two_tasks_apart(tiny_convnet):
    options = [{}, {"loss": "triplet"}, {"photos": 3}, {"hardness": 1.0}, {"margin": 0.5}, {"single_share": 0.5},
               {"augment": Augment(size=(16, 16), flip=0.0)}]  # fmt: skip
    settings = [str(FacePairs(tiny_convnet(), **chosen).settings) for chosen in options]
    settings.append(str(FacePairs(tiny_convnet(seed=1)).settings))
    assert len(set(settings)) == len(options) + 1


# Evaluation


def test_evaluation_is_the_same_for_any_batch_size_and_leaves_the_mode_alone(tiny_convnet, strangers):
    task = FacePairs(tiny_convnet(dropout=0.5))
    table = task.prepare(strangers)
    a, b = (task.evaluate(table, batch_size=size) for size in (5, 24))
    assert a == pytest.approx(b, abs=1e-5)
    assert task.training
    assert not any(parameter.grad is not None for parameter in task.parameters())
    assert set(a) == {"roc_auc", "accuracy", "threshold", "equal_error_rate", "spread", "effective_rank"}


def test_people_without_a_second_photo_cannot_be_verified(task, strangers):
    with pytest.raises(DataError, match=r"verification needs two people, .* Hold out more people"):
        task.evaluate(task.prepare(strangers).subset([0, 4, 8]))


# Collapse


def collapsed(task):
    """Make a network that gives nearly one embedding for any photo."""
    with torch.no_grad():
        task.backbone.module.embedding.weight.mul_(1e-4)
        task.backbone.module.embedding.bias.fill_(1.0)
    return task


def test_a_collapse_shows_in_the_spread_and_is_warned_of(task, strangers, caplog):
    table = task.prepare(strangers)
    with caplog.at_level(logging.WARNING, logger="auxtasks"):
        healthy = task.evaluate(table)
        assert caplog.records == []
        found = collapsed(task).evaluate(table)
    assert healthy["spread"] > 0.3
    assert healthy["effective_rank"] > 3
    assert found["spread"] < 0.01
    assert found["effective_rank"] < 1.1
    (record,) = caplog.records
    assert record.name == "auxtasks"
    assert record.levelno == logging.WARNING
    assert "the embeddings have collapsed: spread 0.000" in record.getMessage()
    assert "effective rank 1.00 of 8" in record.getMessage()


def test_a_collapse_in_training_is_warned_of(task, faces, caplog):
    loop = LoopSettings(show_progress=False, log_every=2)
    settings = OptimizerSettings(learning_rate=1e-6)
    with caplog.at_level(logging.WARNING, logger="auxtasks"):
        pretrain(task, faces, steps=4, batch_size=8, optimizer=settings, loop=loop)
        assert caplog.records == []
        result = pretrain(collapsed(task), faces, steps=4, batch_size=8, optimizer=settings, loop=loop)
    assert len(caplog.records) == 2  # of the spread and of the rank, once each
    assert result.metrics["spread"] < 0.01


@pytest.mark.parametrize(
    ("embeddings", "warns"),
    [
        (torch.eye(6), False),
        (torch.ones(6, 4) + 0.001 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), True),
        (torch.tensor([1.0, -1, 2, -2, 3, -3])[:, None] * torch.ones(6, 4), True),  # spread, but along a line
        (torch.ones(6, 2), False),  # two dimensions have rank 2 at most
        (torch.ones(2, 4), False),  # and so have two photos
    ],
)
def test_what_counts_as_a_collapse(embeddings, warns, caplog):
    with caplog.at_level(logging.WARNING, logger="auxtasks"):
        found = monitor_collapse(embeddings)
    assert bool(caplog.records) == warns
    assert found.keys() == {"spread", "effective_rank"}


# Folders


def test_the_backbone_is_saved_alone_and_restored_with_its_head(tmp_path, tiny_convnet):
    task = FacePairs(tiny_convnet(seed=1), scale=5.0)
    with torch.no_grad():
        task.threshold.fill_(0.7)
    task.save(tmp_path, {"pretrained_on": "nothing"})
    weights = checkpoint.read_tensors(tmp_path / "backbone" / "model.safetensors")
    assert weights.keys() == task.backbone.module.state_dict().keys()
    assert checkpoint.read_tensors(tmp_path / "task" / "model.safetensors").keys() == {"log_scale", "threshold"}

    other = FacePairs(tiny_convnet(seed=2))
    other.restore(tmp_path)
    assert checkpoint.tensors_digest(other.state_dict()) == checkpoint.tensors_digest(task.state_dict())
    exported = Backbone.from_pretrained(tmp_path / "backbone").eval()
    images = torch.arange(512, dtype=torch.uint8).view(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(exported(exported.input.normalize(images)), task.eval().embed(images))
    assert exported.provenance == {"pretrained_on": "nothing"}


def test_a_facenet_folder_loads_into_the_library_s_own_class(tmp_path):
    from facenet_pytorch import InceptionResnetV1

    task = FacePairs(facenet(size=80))
    task.save(tmp_path, {})
    exported = Backbone.from_pretrained(tmp_path / "backbone").eval()
    library = InceptionResnetV1(pretrained=None).eval()
    library.load_state_dict(checkpoint.read_tensors(tmp_path / "backbone" / "model.safetensors"))
    images = exported.input.normalize(torch.arange(3 * 80 * 80).remainder(251).to(torch.uint8).view(1, 3, 80, 80))
    with torch.no_grad():
        assert torch.equal(library(images), exported(images))


def test_a_head_that_does_not_fit_is_refused(tmp_path, tiny_convnet):
    FacePairs(tiny_convnet()).save(tmp_path, {})
    with pytest.raises(checkpoint.CheckpointError, match=r"do not fit this module: [\s\S]*log_scale"):
        FacePairs(tiny_convnet(), loss="triplet").restore(tmp_path)


def test_a_batch_survives_pickling(task):
    import pickle

    batch = FaceBatch(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), torch.tensor([0, 1]))
    assert task.collate is FacePairs.collate
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.images, batch.images)
    assert pickle.loads(pickle.dumps(task.collate)) is FacePairs.collate


def test_other_plans_may_feed_it(task, faces):
    # The loss takes any batch: also one in which nobody has a second photo.
    table = task.prepare(faces)
    rows = [pick.row for pick in EpochPlan(len(table), 4, seed=0, shuffle=False).batch(0)]
    output = task(task.collate([task.view({**table.record(4 * row), "row": row}) for row in rows]))
    assert torch.isfinite(output.loss_sum)
    assert "roc_auc" not in output.metrics
    assert decode_images(faces, size=(20, 20), channels=1).fingerprint == table.fingerprint
