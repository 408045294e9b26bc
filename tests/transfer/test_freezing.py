"""Stages: what trains in each, at which rates, what stands still, and that kept outputs train as the whole network."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.backbones import build, mlp
from auxtasks.data.augment import Augment
from auxtasks.data.pair_table import PairTable
from auxtasks.errors import CheckpointError, LayerError, TransferError
from auxtasks.features.cache import FeatureCache
from auxtasks.features.crossings import crossings
from auxtasks.training.settings import LoopSettings
from transfer import classifier
from transfer.finetune import Classifier, fine_tune
from transfer.freezing import Stage, Tuning, gradual, head_then_all, highest_still, layer_rates, trained_layers
from transfer.kept_feed import kept_bytes
from transfer.origins import random_layers


@pytest.fixture
def resnet():
    """A small ResNet of timm, with BatchNorm: layers stem, layer1 to layer4, pooled."""
    return build("timm/test_resnet", size=32, channels=1)


def weights_of(backbone):
    return {name: value.clone() for name, value in backbone.module.state_dict().items()}


def moved_layers(backbone, before):
    """Return the layers of which any parameter or buffer is another than before."""
    after = backbone.module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    owners = {stage.name: tuple(f"{path}." for path in stage.owns) for stage in backbone.stages}
    return {layer for layer, owns in owners.items() if any(name.startswith(owns) for name in moved)}


def tuning(*stages, **settings):
    return Tuning(**{"stages": stages, "learning_rate": 1e-2, "batch_size": 8, **settings})


def tune(backbone, layer, pool, table, asked, n_classes=4, **options):
    return fine_tune(backbone, layer, pool, table, table.labels, n_classes=n_classes, tuning=asked, **options)


# --- what a stage says ------------------------------------------------------------------------------------------------


def test_stages_unfreeze_from_the_top():
    backbone = mlp(width=4, hidden=[5, 5, 5, 5])
    stages = gradual(3, steps_each=[10, 20, 30, 40])
    assert [stage.steps for stage in stages] == [10, 20, 30, 40]
    found = [trained_layers(backbone, "hidden3", stage) for stage in stages]
    assert found == [(), ("hidden3",), ("hidden2", "hidden3"), ("hidden1", "hidden2", "hidden3")]
    first, then = head_then_all(5, 7)
    assert (first.steps, trained_layers(backbone, "hidden3", first)) == (5, ())
    assert (then.steps, trained_layers(backbone, "hidden3", then)) == (7, ("hidden1", "hidden2", "hidden3"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gradual(2, [10, 10]), "to unfreeze 2 layers takes 3 stages, the first for the head alone; found steps "
                                       "for 2"),
        (lambda: gradual(-1, 10), "layers is how many are unfrozen in the end, found -1"),
        (lambda: Stage(1, top_layers=1, layers=("a", "b")), "the highest 1 layers or those of the names a, b: say one"),
        (lambda: Stage(-1), "a number of steps and of top_layers, found -1 and None"),
        (lambda: Stage(1, top_layers=-2), "found 1 and -2"),
        (lambda: Stage(1, rate=0.0), "a share of the learning rate, above 0, found 0.0"),
    ],
)  # fmt: skip
def test_stages_that_say_nothing_sensible_are_refused(make, message):
    with pytest.raises(TransferError, match=message):
        make()


def test_layers_that_do_not_fit_are_refused(backbone, quadrants):
    with pytest.raises(LayerError, match=r'no layer "stage9".*stem, stage1, stage2'):
        tune(backbone, "stage2", "mean", quadrants, tuning(Stage(1, layers=("stage9",))))
    with pytest.raises(LayerError, match=r'"embedding" lies above "stage2".* Below the head are: stem, stage1, stage2'):
        tune(backbone, "stage2", "mean", quadrants, tuning(Stage(1, layers=("stage1", "embedding"))))
    with pytest.raises(LayerError, match=r'"embedding" lies above "stage2"'):
        tune(backbone, "stage2", "mean", quadrants, tuning(Stage(1), rates={"embedding": 0.5}))
    with pytest.raises(TransferError, match=r'the rate of "stem" is a share of the learning rate, above 0, found 0\.0'):
        tune(backbone, "stage2", "mean", quadrants, tuning(Stage(1), rates={"stem": 0.0}))


def test_rates_by_depth_and_by_name():
    backbone = mlp(width=4, hidden=[5, 5, 5, 5])
    assert layer_rates(backbone, "hidden3", tuning(depth_decay=0.1)) == pytest.approx(
        {"hidden1": 0.01, "hidden2": 0.1, "hidden3": 1.0}
    )
    named = layer_rates(backbone, "hidden3", tuning(depth_decay=0.1, rates={"hidden1": 0.7, "hidden3": 0.2}))
    assert named == pytest.approx({"hidden1": 0.7, "hidden2": 0.1, "hidden3": 0.2})


@pytest.mark.parametrize(
    ("trained", "expected"),
    [((), "hidden3"), (("hidden3",), "hidden2"), (("hidden1", "hidden3"), None), (("hidden2",), "hidden1")],
)
def test_what_can_be_kept_ends_below_the_lowest_layer_that_trains(trained, expected):
    assert highest_still(mlp(width=4, hidden=[5, 5, 5, 5]), "hidden3", trained) == expected


# --- what moves -------------------------------------------------------------------------------------------------------


def test_named_layers_train_and_those_around_them_stand_still_with_their_statistics(resnet, portraits):
    before = weights_of(resnet)
    stages = tuning(Stage(2, layers=("layer2",)), Stage(2, layers=("layer4", "layer2")))
    tuned = tune(resnet, "layer4", "mean", portraits, stages)
    assert moved_layers(tuned.backbone, before) == {"layer2", "layer4"}
    statistics = {name: value for name, value in before.items() if "running" in name}
    assert moved_layers(tuned.backbone, statistics) == {"layer2", "layer4"}
    assert len(statistics) > 10


def test_frozen_layers_are_in_eval_mode_through_every_stage(resnet, portraits, monkeypatch):
    modes, forward = [], Classifier.forward

    def watched(self, batch):
        norms = {
            stage.name: {
                module.training
                for path in stage.owns
                for module in self.backbone.module.get_submodule(path).modules()
                if isinstance(module, nn.BatchNorm2d)
            }
            for stage in self.backbone.stages
        }
        modes.append([name for name, found in norms.items() if True in found])
        assert all(len(found) < 2 for found in norms.values())
        return forward(self, batch)

    monkeypatch.setattr(Classifier, "forward", watched)
    stages = tuning(Stage(1, top_layers=0), Stage(1, top_layers=2), Stage(1, top_layers=1), Stage(1))
    loop = LoopSettings(log_every=1, validate_every=1, show_progress=False)  # which goes to eval mode and back
    tune(resnet, "layer4", "mean", portraits, stages, loop=loop, validation=portraits)
    assert modes == [[], ["layer3", "layer4"], ["layer4"], ["stem", "layer1", "layer2", "layer3", "layer4"]]


@pytest.mark.parametrize("stage", [0.5, 1.0])
def test_a_stage_s_rate_scales_all_rates(backbone, quadrants, stage):
    # SGD would move by the rate; AdamW's first step does, however large the gradient is, but for its epsilon.
    before = weights_of(backbone)
    asked = tuning(Stage(1, rate=stage), depth_decay=0.5, rates={"stem": 0.125}, weight_decay=0.0, learning_rate=1e-3)
    tuned = tune(backbone, "stage2", "mean", quadrants, asked)
    after = tuned.backbone.module.state_dict()
    for layer, rate in {"stem": 0.125, "stage1": 0.5, "stage2": 1.0}.items():
        names = [name for name, _ in backbone.parameters_of(layer)]
        largest = max(float((after[name] - before[name]).abs().max()) for name in names)
        assert largest == pytest.approx(1e-3 * rate * stage, rel=0.02), layer


# --- kept outputs -----------------------------------------------------------------------------------------------------


STAGES = (Stage(3, top_layers=0), Stage(3, top_layers=1), Stage(3, layers=("stage1",)), Stage(3))


def assert_same(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found.head.weight, expected.head.weight, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.head.bias, expected.head.bias, rtol=0, atol=tolerance)
    state = expected.backbone.module.state_dict()
    for name, value in found.backbone.module.state_dict().items():
        torch.testing.assert_close(
            value, state[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture
def forwards(monkeypatch):
    """Keep from where each batch was computed: a cut, "features", or None for the whole network."""
    seen, forward = [], Classifier.forward

    def watched(self, batch):
        inputs = batch.inputs
        seen.append((inputs.layer or "features") if isinstance(inputs, classifier.Crossed) else None)
        return forward(self, batch)

    monkeypatch.setattr(Classifier, "forward", watched)
    return seen


@pytest.mark.parametrize("stages", [STAGES, STAGES[::-1]], ids=["upwards", "the other way round"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_kept_outputs_train_as_the_whole_network_does(backbone, quadrants, tmp_path, forwards, stages, on_disk):
    asked = tuning(*stages, learning_rate=1e-3, batch_size=20)  # batches run on across the end of an epoch of 32
    start = weights_of(backbone)
    whole = tune(backbone, "stage2", "grid", quadrants, asked)
    assert forwards == [None] * 12
    kept = tune(backbone, "stage2", "grid", quadrants, asked, cache=FeatureCache(tmp_path if on_disk else None))
    # The part below may have been trained by an earlier stage: what is kept is computed when a stage begins.
    cuts = {0: "features", 1: "stage1", 2: "stem", 3: None}
    assert forwards[12:] == [cuts[STAGES.index(stage)] for stage in stages for _ in range(3)]
    assert_same(kept, whole)
    assert moved_layers(kept.backbone, start) == {"stem", "stage1", "stage2"}


def test_frozen_statistics_are_the_same_however_it_is_computed(resnet, portraits, tmp_path):
    asked = tuning(Stage(2, top_layers=0), Stage(3, layers=("layer3",)), learning_rate=1e-3)
    before = weights_of(resnet)
    whole = tune(resnet, "layer4", "mean", portraits, asked)
    kept = tune(resnet, "layer4", "mean", portraits, asked, cache=FeatureCache(tmp_path))
    assert_same(kept, whole)
    assert moved_layers(kept.backbone, before) == {"layer3"}


def test_kept_texts_train_as_texts_do(encoder, opinions, tmp_path, forwards):
    asked = tuning(Stage(3, top_layers=0), Stage(4, top_layers=1), Stage(2, top_layers=2), learning_rate=1e-4)
    whole = tune(encoder, "block2", "mean", opinions, asked, n_classes=2)
    kept = tune(encoder, "block2", "mean", opinions, asked, n_classes=2, cache=FeatureCache(tmp_path))
    assert forwards[9:] == ["features"] * 3 + ["block1"] * 4 + ["embeddings"] * 2
    assert_same(kept, whole, tolerance=2e-5)


def test_kept_items_of_pairs_train_as_pairs_do(backbone, quadrants, tmp_path, forwards):
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 32, size=(2, 40))
    items = dataclasses.replace(quadrants, labels=np.full(32, -1), class_names=())
    better = (quadrants.labels[left] > quadrants.labels[right]).astype(np.int64)
    pairs = PairTable(items, left, right, better, rows=np.arange(40), skipped=(), fingerprint="40 pairs")
    asked = tuning(Stage(3, top_layers=0), Stage(4, top_layers=1), learning_rate=1e-3)
    whole = tune(backbone, "stage2", "mean", pairs, asked, n_classes=2)
    kept = tune(backbone, "stage2", "mean", pairs, asked, n_classes=2, cache=FeatureCache(tmp_path))
    assert forwards[7:] == ["features"] * 3 + ["stage1"] * 4
    assert_same(kept, whole)


def test_what_will_be_kept_is_known_before(backbone, quadrants):
    stages = [Stage(1, top_layers=0), Stage(1, top_layers=1), Stage(1, layers=("stage1",)), Stage(1)]
    of = {
        name: crossings(backbone, quadrants, name, cache=FeatureCache()).bytes for name in ("stem", "stage1", "stage2")
    }
    assert kept_bytes(backbone, "stage2", quadrants, stages) == max(of["stem"], of["stage1"])
    assert kept_bytes(backbone, "stage2", quadrants, stages[:1]) == 0
    assert kept_bytes(backbone, "stage2", quadrants, stages[:1], augments=True, views=3) == 3 * of["stage2"]


def test_kept_outputs_are_accumulated_as_one_batch(backbone, quadrants):
    asked = tuning(*STAGES, learning_rate=1e-3)
    one, four = (
        tune(backbone, "stage2", "grid", quadrants, asked, cache=FeatureCache(),
             loop=LoopSettings(accumulation=count, show_progress=False))
        for count in (1, 4)
    )  # fmt: skip
    assert_same(one, four)


AUGMENT = Augment(size=(16, 16))


def test_each_epoch_trains_on_the_next_of_the_kept_views(backbone, quadrants, monkeypatch):
    seen, forward = [], Classifier.forward

    def watched(self, batch):
        seen.append(batch.inputs.values.clone())
        return forward(self, batch)

    monkeypatch.setattr(Classifier, "forward", watched)
    asked = tuning(Stage(5, top_layers=1), batch_size=32)
    tune(backbone, "stage2", "grid", quadrants, asked, cache=FeatureCache(), augment=AUGMENT, views=2)
    epochs = [{value.numpy().tobytes() for value in batch} for batch in seen]
    assert all(len(epoch) == 32 for epoch in epochs)
    assert epochs[0] == epochs[2] == epochs[4]
    assert epochs[1] == epochs[3]
    assert epochs[0] & epochs[1] == set()
    assert not torch.equal(seen[0], seen[2])  # in another order


def test_views_that_cannot_be_meant_are_refused(backbone, quadrants):
    options = {"cache": FeatureCache()}
    with pytest.raises(
        TransferError, match=r"augmented anew in every step cannot be kept: say how many views .*views=4"
    ):
        tune(backbone, "stage2", "grid", quadrants, tuning(Stage(1, 0)), augment=AUGMENT, **options)
    with pytest.raises(TransferError, match="views=3 are of augmented pictures, and nothing is augmented"):
        tune(backbone, "stage2", "grid", quadrants, tuning(Stage(1, 0)), views=3, **options)
    with pytest.raises(TransferError, match="at least 1, found 0"):
        tune(backbone, "stage2", "grid", quadrants, tuning(Stage(1, 0)), augment=AUGMENT, views=0, **options)


# --- stopped and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 3, 5, 6, 8, 10])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_stopped_in_any_stage_ends_as_one_that_was_not_to_the_bit(
    backbone, quadrants, tmp_path, monkeypatch, at, precision
):
    loop = LoopSettings(checkpoint_every=1, log_every=1, show_progress=False, mixed_precision=precision, accumulation=2)

    def run(folder):
        return tune(backbone, "stage2", "grid", quadrants, tuning(*STAGES), loop=loop, folder=folder,
                    cache=FeatureCache(tmp_path / "cache"))  # fmt: skip

    straight = run(None)
    forward, calls = Classifier.forward, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 2 * at + 1:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "forward", dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            run(tmp_path / "run")
    resumed = run(tmp_path / "run")
    np.testing.assert_array_equal(resumed.head.weight, straight.head.weight)
    assert moved_layers(resumed.backbone, weights_of(straight.backbone)) == set()


def test_a_folder_of_other_stages_is_refused(backbone, quadrants, tmp_path):
    tune(backbone, "stage2", "grid", quadrants, tuning(Stage(1, 0), Stage(1, 1)), folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"stages: \[\[1\.0\], \['stage2', 1\.0\]\] there, .*'stage1', 'stage2'"):
        tune(backbone, "stage2", "grid", quadrants, tuning(Stage(1, 0), Stage(1, 2)), folder=tmp_path)


def test_stages_without_a_step_are_refused(backbone, quadrants):
    for stages in ((), (Stage(0),)):
        with pytest.raises(TransferError, match="give at least one stage a step"):
            tune(backbone, "stage2", "grid", quadrants, tuning(*stages))


# --- the best validation ----------------------------------------------------------------------------------------------


def test_the_best_validation_is_kept(backbone, quadrants):
    asked = tuning(Stage(4, top_layers=0), Stage(8), learning_rate=3e-2)
    loop = LoopSettings(validate_every=2, keep_best="accuracy", show_progress=False, log_every=1)
    tuned = tune(backbone, "stage2", "grid", quadrants, asked, loop=loop, validation=quadrants)
    assert tuned.best_step in range(2, 13, 2)
    from auxtasks.features.extract import extract

    features = extract(tuned.backbone, quadrants, {"stage2": "grid"})["stage2"]
    accuracy = float(np.mean(tuned.head.predict(features) == quadrants.labels))
    assert tuned.validation_accuracy == accuracy > 0.25
    plain = tune(backbone, "stage2", "grid", quadrants, asked)
    assert (plain.validation_accuracy, plain.best_step) == (None, None)


def test_layers_of_stages_that_no_step_was_done_of_are_not_said_to_be_trained(backbone, quadrants):
    tuned = tune(backbone, "stage2", "grid", quadrants, tuning(Stage(2, top_layers=1), Stage(0)))
    assert random_layers(tuned.backbone) == ("stem", "stage1", "embedding")
    # At a rate of nothing no validation is better than the first, which lies in the stage of the head alone.
    asked = tuning(Stage(4, top_layers=0), Stage(8), learning_rate=1e-12)
    loop = LoopSettings(validate_every=2, keep_best="accuracy", show_progress=False)
    tuned = tune(backbone, "stage2", "grid", quadrants, asked, loop=loop, validation=quadrants)
    assert (tuned.best_step, random_layers(tuned.backbone)) == (2, backbone.layer_names)
