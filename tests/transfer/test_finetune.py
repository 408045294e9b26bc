"""Fine-tuning: what trains and what does not, at which rates, from where, and to what end."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss

from auxtasks.backbones import build, mlp, pool_layer
from auxtasks.data.augment import Augment, center
from auxtasks.errors import InputMismatchError, LayerError, TransferError
from auxtasks.features.batches import picture_batch
from auxtasks.features.extract import extract
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.tasks import LayerRBM
from auxtasks.training import preparing
from auxtasks.training.settings import LoopSettings
from transfer import finetune
from transfer.finetune import Classifier, Stage, Tuning, collate_labelled, fine_tune
from transfer.heads import build_head

STILL = Augment(size=(16, 16), shift=0, scale=0, rotate=0, flip=0, gamma=0, gradient=0, blur=0, erase=0)


@pytest.fixture
def resnet():
    """A small ResNet of timm, with BatchNorm: layers stem, layer1 to layer4, pooled."""
    return build("timm/test_resnet", size=32, channels=1)


def weights_of(backbone):
    """Copy all parameters and buffers."""
    return {name: value.clone() for name, value in backbone.module.state_dict().items()}


def moved_layers(backbone, before):
    """Return the layers of which any parameter or buffer is another than before."""
    after = backbone.module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    owners = {stage.name: tuple(f"{path}." for path in stage.owns) for stage in backbone.stages}
    return {layer for layer, owns in owners.items() if any(name.startswith(owns) for name in moved)}


def tuning(*stages, **settings):
    return Tuning(**{"stages": stages, "learning_rate": 1e-2, "batch_size": 8, **settings})


def start_of(backbone, layer, pool, table):
    """Fit a logistic head on frozen features, as the arms do."""
    features = extract(backbone, table, {layer: pool})[layer]
    head = build_head("logistic", C=1.0, scaling="rms").fit(features, table.labels, 4)
    return head, features


def batch_of(table):
    return collate_labelled([finetune.LabelledItem(table.pixels[row][2:18, 2:18], int(table.labels[row]))
                             for row in range(len(table))])  # fmt: skip


@pytest.fixture
def classifiers(monkeypatch):
    """Keep every classifier that fine-tuning makes."""
    made = []

    class Kept(Classifier):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(finetune, "Classifier", Kept)
    return made


# --- what moves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top_layers", "expected"),
    [
        (0, set()),
        (1, {"layer3"}),
        (2, {"layer2", "layer3"}),
        (None, {"stem", "layer1", "layer2", "layer3"}),
        (99, {"stem", "layer1", "layer2", "layer3"}),
    ],
)
def test_only_the_unfrozen_layers_move_with_their_statistics(resnet, portraits, top_layers, expected):
    before = weights_of(resnet)
    tuned = fine_tune(
        resnet,
        "layer3",
        "mean",
        portraits,
        portraits.labels,
        n_classes=4,
        tuning=tuning(Stage(3, top_layers=top_layers)),
    )
    assert moved_layers(tuned.backbone, before) == expected
    statistics = {name: value for name, value in before.items() if name.endswith(("running_mean", "running_var"))}
    assert len(statistics) > 10  # or BatchNorm would not have been tested
    assert moved_layers(tuned.backbone, statistics) == expected


def test_a_later_stage_unfreezes_more(resnet, portraits):
    before = weights_of(resnet)
    stages = tuning(Stage(1, top_layers=0), Stage(2, top_layers=1), Stage(1, top_layers=2))
    tuned = fine_tune(resnet, "layer4", "mean", portraits, portraits.labels, n_classes=4, tuning=stages)
    assert moved_layers(tuned.backbone, before) == {"layer3", "layer4"}


def test_the_head_alone_moves_in_its_stage(backbone, quadrants):
    before = weights_of(backbone)
    head, _ = start_of(backbone, "stage1", "grid", quadrants)
    tuned = fine_tune(
        backbone, "stage1", "grid", quadrants, quadrants.labels, n_classes=4, tuning=tuning(Stage(2, top_layers=0)),
        start=head.as_linear(),
    )  # fmt: skip
    assert moved_layers(tuned.backbone, before) == set()
    assert not np.allclose(tuned.head.weight, head.weight)
    assert not np.allclose(tuned.head.bias, head.bias)


def test_the_source_stays_as_it_is(resnet, portraits):
    resnet.train()
    resnet.freeze(["stem"])
    before = weights_of(resnet)
    tuned = fine_tune(resnet, "layer4", "mean", portraits, portraits.labels, n_classes=4, tuning=tuning(Stage(2)))
    assert moved_layers(resnet, before) == set()
    assert resnet.training
    assert resnet.frozen == ("stem",)
    assert tuned.backbone is not resnet
    assert tuned.backbone.frozen == ()
    assert all(parameter.requires_grad for parameter in tuned.backbone.parameters())
    assert moved_layers(tuned.backbone, before) != set()


def test_rates_fall_with_depth(backbone, quadrants, monkeypatch):
    seen = []

    def recording(parameters, settings, rate_scale):
        named = list(parameters)
        optimizer = build_optimizer(named, settings, rate_scale)
        names = {parameter: name for name, parameter in named}
        seen.append({names[p]: group["rate_scale"] for group in optimizer.param_groups for p in group["params"]})
        return optimizer

    build_optimizer = preparing.build_optimizer
    monkeypatch.setattr(preparing, "build_optimizer", recording)
    stages = tuning(Stage(1, top_layers=0), Stage(1, top_layers=1), Stage(1), depth_decay=0.5)
    fine_tune(backbone, "stage2", "grid", quadrants, quadrants.labels, n_classes=4, tuning=stages)

    def scales(*layers):
        expected = {"linear.weight": 1.0, "linear.bias": 1.0}
        for name in layers:
            scale = {"stage2": 1.0, "stage1": 0.5, "stem": 0.25}[name]
            expected |= {f"backbone.module.{parameter}": scale for parameter, _ in backbone.parameters_of(name)}
        return expected

    assert seen == [scales(), scales("stage2"), scales("stage2", "stage1", "stem")]
    assert len(seen[2]) > len(seen[1]) > 2


# --- where it starts, and what it computes ----------------------------------------------------------------------------


def test_a_start_head_predicts_as_the_logistic_head_before_any_step(backbone, quadrants):
    head, features = start_of(backbone, "stage1", "grid", quadrants)
    model = Classifier(backbone, "stage1", "grid", 4, start=head.as_linear()).eval()
    images = picture_batch(quadrants, range(32), (16, 16))
    with torch.no_grad():
        output = model(finetune.LabelledBatch(images, torch.tensor(quadrants.labels)))
    expected = log_loss(quadrants.labels, head.predict_proba(features), normalize=False)
    assert float(output.loss_sum) == pytest.approx(expected, rel=1e-4)
    assert float(output.weight) == 32
    assert float(output.metrics["accuracy"]) == np.mean(head.predict(features) == quadrants.labels)


def test_at_a_rate_of_nearly_nothing_the_head_stays_where_it_started(backbone, quadrants):
    head, features = start_of(backbone, "stage1", "grid", quadrants)
    tuned = fine_tune(
        backbone, "stage1", "grid", quadrants, quadrants.labels, n_classes=4, start=head.as_linear(),
        tuning=tuning(Stage(1), learning_rate=1e-12),
    )  # fmt: skip
    np.testing.assert_allclose(tuned.head.scores(features), head.scores(features), rtol=1e-5, atol=1e-5)


def test_the_loss_by_hand(backbone, quadrants):
    model = Classifier(backbone, "stage2", "mean", 4, seed=3)
    batch = batch_of(quadrants)
    layer = backbone.forward_layers(backbone.input.normalize(batch.inputs), ["stage2"])["stage2"]
    logits = model.linear(layer.flatten(2).mean(dim=2))
    by_item = [F.cross_entropy(logits[[row]], batch.labels[[row]]) for row in range(32)]
    output = model(batch)
    assert output.loss_sum.item() == pytest.approx(sum(by_item).item(), rel=1e-5)
    output.loss_sum.backward()
    assert model.linear.weight.grad.abs().sum() > 0
    stem = next(parameter for _, parameter in backbone.parameters_of("stem"))
    assert stem.grad.abs().sum() > 0


def test_the_random_head_follows_from_the_seed_alone(backbone):
    torch.manual_seed(1)
    first = Classifier(backbone, "stage1", "mean", 4, seed=0).linear.weight
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert torch.equal(Classifier(backbone, "stage1", "mean", 4, seed=0).linear.weight, first)
    assert not torch.equal(Classifier(backbone, "stage1", "mean", 4, seed=1).linear.weight, first)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("layer", "pool"), [("stage1", "grid"), ("embedding", "auto")])
def test_tuned_parts_predict_as_the_classifier_does(backbone, quadrants, classifiers, layer, pool):
    tuned = fine_tune(
        backbone, layer, pool, quadrants, quadrants.labels, n_classes=4, tuning=tuning(Stage(3, 1), Stage(3))
    )
    (model,) = classifiers
    images = model.backbone.input.normalize(picture_batch(quadrants, range(32), (16, 16)))
    with torch.no_grad():
        output = model.backbone.forward_layers(images, [layer])[layer]
        logits = model.linear(pool_layer(output, pool))
    features = extract(tuned.backbone, quadrants, {layer: pool})[layer]
    np.testing.assert_allclose(tuned.head.scores(features), logits.numpy(), rtol=1e-4, atol=1e-5)
    assert not tuned.backbone.training


def test_enough_steps_fit_the_labels_and_too_few_do_not(backbone, quadrants):
    labels = np.random.default_rng(0).permutation(quadrants.labels)  # nothing to understand: it must be memorised
    fits = tuning(Stage(80), batch_size=32, weight_decay=0.0, depth_decay=1.0)
    tuned = fine_tune(backbone, "stage2", "grid", quadrants, labels, n_classes=4, tuning=fits, augment=STILL)
    features = extract(tuned.backbone, quadrants, {"stage2": "grid"})["stage2"]
    assert np.mean(tuned.head.predict(features) == labels) > 0.95
    assert tuned.training_accuracy > 0.95
    short = fine_tune(backbone, "stage2", "grid", quadrants, labels, n_classes=4, augment=STILL,
                      tuning=tuning(Stage(1), learning_rate=1e-6, batch_size=32))  # fmt: skip
    assert short.training_accuracy < 0.7


@pytest.mark.parametrize("augment", [None, Augment(size=(16, 16))])
def test_the_same_seed_gives_the_same_to_the_bit_and_leaves_the_global_generators_alone(backbone, quadrants, augment):
    def run(seed):
        return fine_tune(backbone, "stage2", "grid", quadrants, quadrants.labels, n_classes=4, seed=seed,
                         tuning=tuning(Stage(2, 1), Stage(2)), augment=augment)  # fmt: skip

    first = run(0)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global generators are what must not matter
    state, numpys = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = run(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002
    np.testing.assert_array_equal(again.head.weight, first.head.weight)
    assert moved_layers(again.backbone, weights_of(first.backbone)) == set()
    assert not np.array_equal(run(1).head.weight, first.head.weight)


@pytest.mark.parametrize("augment", [None, Augment(size=(16, 16))])
def test_a_run_that_was_kept_goes_on_where_it_stopped(backbone, quadrants, tmp_path, monkeypatch, augment):
    asked = tuning(Stage(2, 1), Stage(3))
    loop = LoopSettings(checkpoint_every=1, log_every=1, show_progress=False)

    def run(folder):
        return fine_tune(backbone, "stage2", "grid", quadrants, quadrants.labels, n_classes=4, tuning=asked, loop=loop,
                         augment=augment, folder=folder)  # fmt: skip

    straight = run(None)
    forward, calls = Classifier.forward, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "forward", dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            run(tmp_path)
    resumed = run(tmp_path)
    np.testing.assert_array_equal(resumed.head.weight, straight.head.weight)
    assert moved_layers(resumed.backbone, weights_of(straight.backbone)) == set()
    assert resumed.training_accuracy == straight.training_accuracy


# --- what it reads ----------------------------------------------------------------------------------------------------


class As:
    """Stands for an augmentation that changes nothing: pictures go item by item, as they are evaluated."""

    def __call__(self, picture, rng):
        return center(picture, (16, 16))


@pytest.fixture
def batches(monkeypatch):
    """Keep every batch that a classifier trains on."""
    seen = []
    forward = Classifier.forward

    def keeping(self, batch):
        seen.append((batch.inputs.clone(), batch.labels.clone()))
        return forward(self, batch)

    monkeypatch.setattr(Classifier, "forward", keeping)
    return seen


@pytest.mark.parametrize("side", [16, 20])  # the size of the backbone, and one that is resized
@pytest.mark.parametrize("size", [8, 20])  # batches that run on across the end of an epoch of 12
def test_pictures_without_augmentation_come_in_the_batches_of_a_change_of_nothing(
    backbone, quadrants, batches, side, size
):
    pixels = np.ascontiguousarray(quadrants.pixels[::3][:, :side, :side])
    pixels.flags.writeable = False  # as mapped pictures are
    table = dataclasses.replace(quadrants.subset(np.arange(0, 32, 3)), pixels=pixels)
    tuned = [
        fine_tune(backbone, "stage2", "grid", table, table.labels, n_classes=4, augment=augment,
                  tuning=tuning(Stage(2, 1), Stage(2), batch_size=size))
        for augment in (None, As())
    ]  # fmt: skip
    rows, items = batches[:4], batches[4:]
    assert len(items) == 4
    for (inputs, labels), (expected, expected_labels) in zip(rows, items, strict=True):
        assert (inputs.dtype, tuple(inputs.shape)) == (torch.uint8, (size, 1, 16, 16))
        assert torch.equal(inputs, expected)
        assert torch.equal(labels, expected_labels)
    assert moved_layers(tuned[0].backbone, weights_of(tuned[1].backbone)) == set()
    np.testing.assert_array_equal(tuned[0].head.weight, tuned[1].head.weight)


def test_pictures_of_the_backbone_s_size_are_trained_on_to_the_bit(backbone, quadrants, batches):
    table = dataclasses.replace(quadrants, pixels=quadrants.pixels[:, :16, :16])
    fine_tune(backbone, "stage1", "mean", table, table.labels, n_classes=4, tuning=tuning(Stage(1), batch_size=32))
    ((inputs, labels),) = batches
    known = {picture.tobytes(): label for picture, label in zip(table.pixels, table.labels, strict=True)}
    assert len(known) == 32
    seen = [picture.permute(1, 2, 0).numpy().tobytes() for picture in inputs]
    assert sorted(seen) == sorted(known)  # each once
    assert [known[picture] for picture in seen] == labels.tolist()


# --- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "epochs", "items", "size", "expected"),
    [
        ((40, 60), None, 3, 8, [40, 60]),
        ((40, 60), 10, 100, 10, [40, 60]),  # as many steps as there are
        ((40, 60), 10, 50, 10, [20, 30]),
        ((40, 60), 10, 51, 20, [10, 16]),  # 25.5 steps are 26
        ((40, 60), 1, 3, 64, [1, 1]),  # a step a stage at least
        ((100,), 1, 3, 64, [1]),
        ((1, 98, 1), 2, 50, 20, [1, 3, 1]),
    ],
)
def test_a_small_support_ends_training_after_so_many_passes(steps, epochs, items, size, expected):
    asked = Tuning(stages=tuple(Stage(count, place) for place, count in enumerate(steps)), batch_size=size,
                   most_epochs=epochs)  # fmt: skip
    found = asked.on(items)
    assert [stage.steps for stage in found.stages] == expected
    assert [stage.top_layers for stage in found.stages] == list(range(len(steps)))
    assert asked.steps == sum(steps)


def test_the_passes_are_counted_on_what_is_trained_on(backbone, quadrants, batches):
    asked = tuning(Stage(10, 1), Stage(10), batch_size=8, most_epochs=2)
    for items, expected in ((8, 2), (32, 8)):
        batches.clear()
        table = quadrants.subset(np.arange(0, 32, 32 // items))
        tuned = fine_tune(backbone, "stage1", "mean", table, table.labels, n_classes=4, tuning=asked)
        assert len(batches) == expected
        assert tuned.backbone is not backbone
    exact = tuning(Stage(4, 1), Stage(4), batch_size=8)
    same = fine_tune(backbone, "stage1", "mean", quadrants, quadrants.labels, n_classes=4, tuning=exact)
    np.testing.assert_array_equal(same.head.weight, tuned.head.weight)  # warm-up and decay are of the steps that run


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0, 1, 2], r"32 pictures need 32 labels from 0 to 3, at least one, found 3 labels from 0 to 2"),
        ([4] * 32, "found 32 labels from 4 to 4"),
        ([-1] * 32, "found 32 labels from -1 to -1"),
        ([], "found 0 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(backbone, quadrants, labels, found):
    with pytest.raises(TransferError, match=found):
        fine_tune(backbone, "stage1", "mean", quadrants, labels, n_classes=4)


def test_no_pictures_are_refused(backbone, quadrants):
    with pytest.raises(TransferError, match="0 pictures need 0 labels"):
        fine_tune(backbone, "stage1", "mean", quadrants.subset([]), [], n_classes=4)


def test_other_pictures_and_layers_are_refused(backbone, quadrants):
    colour = build("convnet", size=16, channels=3, widths=[8], blocks=[1])
    with pytest.raises(InputMismatchError, match="pictures with 1 channels"):
        fine_tune(colour, "stage1", "mean", quadrants, quadrants.labels, n_classes=4)
    with pytest.raises(LayerError, match=r'no layer "stage7".*stem, stage1, stage2, embedding'):
        fine_tune(backbone, "stage7", "mean", quadrants, quadrants.labels, n_classes=4)


def test_of_a_stack_that_was_pretrained_layer_by_layer_the_upper_layers_alone_can_be_fine_tuned(quadrants):
    stack = mlp(size=16, hidden=[12, 8, 6], activation="sigmoid")
    pretrain_layerwise(stack, quadrants, LayerRBM, steps=4, batch_size=8, loop=LoopSettings(show_progress=False))
    before = weights_of(stack)
    tuning = Tuning(stages=(Stage(5, top_layers=2),))
    tuned = fine_tune(stack, "hidden3", "auto", quadrants, quadrants.labels, n_classes=4, tuning=tuning)
    assert moved_layers(tuned.backbone, before) == {"hidden2", "hidden3"}
