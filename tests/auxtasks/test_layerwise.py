"""Layer-wise pretraining: one layer after the other, stopped and resumed to the bit, and refused where it cannot be."""

import dataclasses
import functools
import gc
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from auxtasks import checkpoint
from auxtasks.backbones import Backbone, convnet, mlp, timm_backbone
from auxtasks.errors import CheckpointError, DataError, InputMismatchError, LayerError, NonFiniteError
from auxtasks.features.cache import FeatureCache
from auxtasks.features.layer_inputs import LayerInputs
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.noise import Noise
from auxtasks.tasks import DeepAutoencoder, LayerAutoencoder, LayerRBM
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

STEPS = 9
LOOP = LoopSettings(log_every=1, checkpoint_every=4, show_progress=False)
SELDOM = LoopSettings(log_every=0, show_progress=False)
ADAM = OptimizerSettings(learning_rate=0.01)
MOMENTUM = OptimizerSettings(name="sgd", learning_rate=0.01, momentum=0.9)

MAKES = {
    "autoencoder": functools.partial(LayerAutoencoder, noise=None),
    "noise": functools.partial(LayerAutoencoder, noise=Noise("masking", 0.3), contraction=0.1, tied=False),
    "machine": functools.partial(LayerRBM, sparsity_cost=0.1),
    "persistent": functools.partial(LayerRBM, persistent=True, chains=6, gibbs_steps=2),
}


def network(seed=0, hidden=(5, 4, 3)):
    return mlp(width=8, hidden=list(hidden), activation="sigmoid", seed=seed)


def vectors(items=50, width=8, seed=0):
    """Draw values in [0, 1] of which neighbours hang together."""
    rng = np.random.default_rng(seed)
    latent = rng.random((items, 2, 1))
    return (
        0.8 * np.repeat(latent, width // 2, axis=2).reshape(items, width) + 0.2 * rng.random((items, width))
    ).astype(np.float32)


def run(folder=None, *, make="autoencoder", backbone=None, source=None, **options):
    """Pretrain; the folder, if there is one, decides where to begin. Return backbone and result."""
    backbone = backbone or network()
    make = MAKES[make] if isinstance(make, str) else make
    arguments = {"steps": STEPS, "batch_size": 12, "seed": 3, "optimizer": ADAM, "loop": LOOP, **options}
    result = pretrain_layerwise(backbone, vectors() if source is None else source, make, folder=folder, **arguments)
    return backbone, result


def weights(backbone):
    return {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}


def moved(before, after):
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def counted(make, calls, at=None):
    """Make tasks that write down each step of a stage; raise in the middle of one, `at` = (layer, step) from 1."""

    def build(backbone, layer):
        task = make(backbone, layer)
        forward = task.forward

        def step(batch):
            calls.append(layer)
            if at == (layer, calls.count(layer)):
                raise StoppedError("in the middle of a step")
            return forward(batch)

        task.forward = step
        return task

    return build


class StoppedError(Exception):
    pass


def state_of(folder: Path) -> dict[str, str]:
    """Digest all tensors of the last checkpoints of all stages, and what the run ended with."""
    places = [*(folder / "layers").iterdir(), folder]
    found = {}
    for place in places:
        newest = sorted((place / "checkpoints").iterdir())[-1]
        for path in sorted(newest.rglob("*.safetensors")):
            found[str(path.relative_to(folder))] = checkpoint.tensors_digest(checkpoint.read_tensors(path))
    return found


def losses_of(folder: Path, stage: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "layers" / stage / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] != "validation"]


STAGES = ("hidden1", "hidden2", "hidden3")


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """Take what is imported out of the garbage collections with which Accelerate ends each stage: half of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# One layer after the other


@pytest.mark.parametrize("make", MAKES)
def test_each_stage_moves_its_layer_and_no_other(make):
    backbone = network()
    start, snapshots, order = weights(backbone), {}, []

    def watch(backbone, layer):
        task = MAKES[make](backbone, layer)
        prepare, forward = task.prepare, task.forward

        def begin(summary):
            order.append(layer)
            snapshots[layer] = weights(backbone)
            prepare(summary)

        def step(batch):
            assert backbone.frozen == tuple(name for name in STAGES if name != layer)
            return forward(batch)

        task.prepare, task.forward = begin, step
        return task

    _, result = run(make=watch, backbone=backbone)
    assert tuple(order) == STAGES == tuple(result.stages)
    snapshots["end"] = weights(backbone)
    for place, (before, after) in enumerate(itertools.pairwise([*STAGES, "end"])):
        expected = {f"{place}.0.weight", f"{place}.0.bias"}
        assert moved(snapshots[before], snapshots[after]) == expected
    assert moved(start, snapshots["hidden1"]) == set()
    assert backbone.frozen == ()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert result.as_one().steps == 3 * STEPS
    assert {name.split("/")[0] for name in result.as_one().metrics} == set(STAGES)
    assert result.as_one().seconds > 0


@pytest.mark.parametrize("make", ["noise", "persistent"])
def test_kept_inputs_and_inputs_computed_anew_are_the_same_run(tmp_path, make):
    backbones = [run(tmp_path / str(keep), make=make, keep_inputs=keep)[0] for keep in (True, False)]
    for stage in STAGES:
        kept, anew = (losses_of(tmp_path / str(keep), stage) for keep in (True, False))
        assert [step for step, _ in kept] == list(range(1, STEPS + 1))
        assert [loss for _, loss in anew] == pytest.approx([loss for _, loss in kept], abs=1e-5)
    for name, tensor in weights(backbones[0]).items():
        torch.testing.assert_close(weights(backbones[1])[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keep_inputs", [True, False])
def test_pictures_through_a_network_with_dropout_and_decoders_of_its_own(face_table, keep_inputs):
    backbone = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.4)
    make = functools.partial(LayerAutoencoder, tied=False, loss="squared_error")
    before = weights(backbone)
    _, result = run(make=make, backbone=backbone, source=face_table, keep_inputs=keep_inputs, validation=face_table)
    assert tuple(result.stages) == backbone.layer_names
    assert moved(before, weights(backbone)) == set(before)
    assert {f"{layer}/validation/loss" for layer in backbone.layer_names} <= set(result.as_one().metrics)


def test_each_layer_is_measured_on_what_the_layers_below_make_of_held_out_items():
    held_out = vectors(seed=1)
    backbone, result = run(validation=held_out)
    x = torch.from_numpy(held_out)
    for place, layer in enumerate(STAGES):
        # The layers below stand where they stood when this one was trained.
        linear, bias = backbone.module[place][0], result.stack.heads[place].bias
        hidden = backbone.module[place](x)
        shown = torch.sigmoid(hidden @ linear.weight + bias)
        error = (shown - x).square().mean().item()
        assert result.as_one().metrics[f"{layer}/validation/reconstruction_error"] == pytest.approx(error, rel=1e-4)
        x = hidden


def test_logged_metrics_are_of_the_logged_steps():
    make = functools.partial(LayerAutoencoder, noise=None, contraction=0.1)
    often, seldom = (
        run(make=make, layers=["hidden1"], loop=dataclasses.replace(LOOP, log_every=every))[1].as_one().metrics
        for every in (1, STEPS)
    )
    for name in ("hidden1/reconstruction_error", "hidden1/jacobian"):
        assert seldom[name] == pytest.approx(often[name], rel=1e-6), name


def test_constant_inputs_are_noted():
    source = vectors()
    source[:, 3] = 0.5
    notes = run(source=source)[1].notes
    assert notes == ("hidden1: 1 of its 8 inputs never change.",)


def test_layers_are_the_lowest_and_those_above_stay():
    backbone = network()
    before = weights(backbone)
    _, result = run(backbone=backbone, layers=["hidden1", "hidden2"], unrolled_steps=STEPS)
    assert tuple(result.stages) == ("hidden1", "hidden2", "unrolled")
    assert moved(before, weights(backbone)) == {f"{place}.0.{name}" for place in (0, 1) for name in ("weight", "bias")}
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_steps_and_optimizers_by_layer():
    calls = []
    steps = {"hidden1": 2, "hidden2": 5, "hidden3": 3}
    optimizers = dict.fromkeys(STAGES, OptimizerSettings(learning_rate=0.0)) | {"hidden2": ADAM}
    backbone = network()
    before = weights(backbone)
    _, result = run(make=counted(MAKES["autoencoder"], calls), backbone=backbone, steps=steps, optimizer=optimizers)
    assert {layer: calls.count(layer) for layer in STAGES} == steps
    assert {layer: stage.steps for layer, stage in result.stages.items()} == steps
    assert result.as_one().steps == 10
    assert moved(before, weights(backbone)) == {"1.0.weight", "1.0.bias"}


def test_unrolling_trains_all_layers_and_lowers_the_reconstruction_error():
    source = torch.from_numpy(vectors())
    errors, ended = {}, {}
    for unrolled in (0, 150):
        backbone, result = run(backbone=network(hidden=(6, 4)), steps=100, unrolled_steps=unrolled, loop=SELDOM,
                               optimizer=OptimizerSettings(learning_rate=0.1, weight_decay=0.0))  # fmt: skip
        with torch.no_grad():
            errors[unrolled] = (result.stack.decode(result.stack.encode(source)) - source).square().mean().item()
        ended[unrolled] = weights(backbone)
    assert errors[0] < 0.9 * source.var(dim=0).mean().item()
    assert errors[150] < 0.8 * errors[0]
    assert moved(ended[0], ended[150]) == set(ended[0])
    assert result.as_one().steps == 2 * 100 + 150


def test_the_run_ends_with_a_backbone_that_loads(tmp_path):
    backbone, result = run(tmp_path, described_as="random numbers")
    place = tmp_path / "checkpoints" / f"step-{3 * STEPS:08d}"
    assert result.as_one().steps == 3 * STEPS
    loaded = Backbone.from_pretrained(place / "backbone")
    assert moved(weights(backbone), weights(loaded)) == set()
    assert loaded.layer_names == STAGES
    assert loaded.provenance["pretrained_on"] == "layer-wise autoencoders on random numbers"
    assert loaded.provenance["seed"] == 3
    assert loaded.provenance["steps"] == 3 * STEPS
    other = network(seed=9)
    again = DeepAutoencoder([MAKES["autoencoder"](other, layer) for layer in STAGES])
    x = torch.from_numpy(vectors())
    expected = result.stack(x).loss_sum
    assert not torch.equal(again(x).loss_sum, expected)
    again.restore(place)
    assert torch.equal(again(x).loss_sum, expected)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (weights(run(make="noise", seed=seed)[0]) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert moved(first, again) == set()
    assert moved(first, other) == set(first)


# Stopped and resumed


CASES = {
    "noise": ("noise", ADAM),
    "machine": ("machine", ADAM),
    "persistent": ("persistent", ADAM),
    "momentum": ("persistent", MOMENTUM),
}


def run_case(case, folder, make=None, **options):
    """Run two layers and both unrolled."""
    kind, optimizer = CASES[case]
    arguments = {"backbone": network(hidden=(5, 4)), "optimizer": optimizer, "unrolled_steps": STEPS, **options}
    return run(folder, make=make or MAKES[kind], **arguments)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs that were never stopped."""
    folders = {name: tmp_path_factory.mktemp(name) for name in CASES}
    for name, folder in folders.items():
        run_case(name, folder)
    return folders


# Before the first checkpoint, behind it, the last step.
STOPS = [
    *((case, "hidden2", 6) for case in CASES),
    ("noise", "hidden1", 2),
    ("noise", "hidden1", 6),
    ("noise", "hidden2", 2),
    ("noise", "hidden2", STEPS),
    ("persistent", "hidden1", STEPS),
]


@pytest.mark.parametrize(("case", "layer", "step"), STOPS)
def test_stopped_in_a_stage_and_resumed(tmp_path, straight, case, layer, step):
    make = MAKES[CASES[case][0]]
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run_case(case, tmp_path, counted(make, [], at=(layer, step)))
    calls = []
    backbone, _ = run_case(case, tmp_path, counted(make, calls))
    assert state_of(tmp_path) == state_of(straight[case])
    assert losses_of(tmp_path, layer) == losses_of(straight[case], layer)
    left = STEPS - 4 * ((step - 1) // 4)
    assert [calls.count(name) for name in STAGES[:2]] == ([left, STEPS] if layer == "hidden1" else [0, left])
    ended = sorted((straight[case] / "checkpoints").iterdir())[-1]
    assert moved(checkpoint.read_tensors(ended / "backbone/model.safetensors"), weights(backbone)) == set()


def test_the_straight_runs_differ_and_hold_all_stages(straight):
    states = [state_of(folder) for folder in straight.values()]
    assert len({json.dumps(state) for state in states}) == len(CASES)
    # Backbone, head and optimizer of two layers and of the unrolled stage, and what the run ended with.
    assert all(len(state) == 3 * 3 + 2 for state in states)


@pytest.mark.parametrize("stop", [2, 6])
def test_stopped_in_the_unrolled_stage_and_resumed(tmp_path, straight, monkeypatch, stop):
    calls, forward = [], DeepAutoencoder.forward

    def step(self, batch):
        calls.append(1)
        if len(calls) == stop:
            raise StoppedError("in the middle of a step")
        return forward(self, batch)

    monkeypatch.setattr(DeepAutoencoder, "forward", step)
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run_case("persistent", tmp_path)
    monkeypatch.undo()
    run_case("persistent", tmp_path)
    assert state_of(tmp_path) == state_of(straight["persistent"])


def test_stopped_in_a_validation_and_resumed(tmp_path):
    loop = dataclasses.replace(LOOP, validate_every=3)
    options = {"make": "persistent", "loop": loop, "validation": vectors(seed=1)}
    run(tmp_path / "straight", **options)

    def build(backbone, layer):
        task = MAKES["persistent"](backbone, layer)
        evaluate, calls = task.evaluate, []

        def stopping(inputs):
            calls.append(1)
            if layer == "hidden2" and len(calls) == 2:
                raise StoppedError("in a validation")
            return evaluate(inputs)

        task.evaluate = stopping
        return task

    with pytest.raises(StoppedError, match="in a validation"):
        run(tmp_path / "stopped", **{**options, "make": build})
    run(tmp_path / "stopped", **options)
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "straight")


def test_validation_changes_no_bit(tmp_path):
    for name, held_out in (("with", vectors(seed=1)), ("without", None)):
        run(tmp_path / name, make="persistent", validation=held_out, loop=dataclasses.replace(LOOP, validate_every=2))
    assert state_of(tmp_path / "with") == state_of(tmp_path / "without")


def test_a_finished_layer_costs_no_steps_and_no_pass(tmp_path, monkeypatch):
    passes, computation = [], LayerInputs._computation

    def watched(self, layer, below):
        found = computation(self, layer, below)

        def values(block):
            passes.append(below)
            return found.values(block)

        return dataclasses.replace(found, values=values)

    monkeypatch.setattr(LayerInputs, "_computation", watched)
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run(tmp_path, make=counted(MAKES["noise"], [], at=("hidden3", 6)), validation=vectors(seed=1))
    assert passes == ["hidden1", "hidden1", "hidden2", "hidden2"]  # of the source and of the held-out items
    passes.clear()
    calls = []
    run(tmp_path, make=counted(MAKES["noise"], calls), validation=vectors(seed=1))
    assert calls == ["hidden3"] * 5
    assert passes == ["hidden2", "hidden1"] * 2  # through the layers below, whose inputs no cache kept
    passes.clear()
    calls.clear()
    before = state_of(tmp_path)
    backbone, result = run(tmp_path, make=counted(MAKES["noise"], calls), validation=vectors(seed=1))
    assert calls == []
    assert passes == []
    assert state_of(tmp_path) == before
    assert result.as_one().steps == 3 * STEPS
    assert result.as_one().samples_per_second == 0
    assert "hidden1/validation/loss" in result.as_one().metrics
    assert moved(weights(backbone), weights(run(make="noise")[0])) == set()


def test_a_cache_changes_no_bit(tmp_path):
    for name, cache in (
        ("none", None),
        ("written", FeatureCache(tmp_path / "c")),
        ("read", FeatureCache(tmp_path / "c")),
    ):
        run(tmp_path / name, make="noise", cache=cache)
    assert state_of(tmp_path / "none") == state_of(tmp_path / "written") == state_of(tmp_path / "read")
    assert len(list((tmp_path / "c").iterdir())) == 2


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10}, "batch_size: 12 there, 10 asked"),
        ({"seed": 4}, "seed: .* there, .* asked"),
        ({"optimizer": MOMENTUM}, "optimizer: .*'adamw'.* there, .*'sgd'.* asked"),
        ({"source": vectors(seed=2)}, "data: .* there, .* asked"),
        ({"backbone": network(seed=1, hidden=(5, 4))}, "backbone arguments: .*'seed': 0.* there, .*'seed': 1.* asked"),
        ({"make": MAKES["machine"]}, "task: 'LayerAutoencoder' there, 'LayerRBM' asked"),
        (
            {"make": functools.partial(LayerAutoencoder, tied=False, contraction=0.1)},
            "noise: .*0.3.* there, .*0.25.* asked",
        ),
        (
            {"make": functools.partial(MAKES["noise"], seed=1)},
            "decoder seed: 0 there, 1 asked",
        ),
    ],
)
def test_other_settings_are_refused(tmp_path, straight, change, message):
    folder = shutil.copytree(straight["noise"], tmp_path / "copy")
    with pytest.raises(CheckpointError, match=rf"layers/hidden1/.* was written with other settings: .*{message}"):
        run_case("noise", folder, **change)


def test_other_settings_of_one_stage_are_refused_there(tmp_path, straight):
    folder = shutil.copytree(straight["noise"], tmp_path / "copy")
    optimizer = {**dict.fromkeys(STAGES, ADAM), "hidden2": MOMENTUM}
    with pytest.raises(CheckpointError, match=r"layers/hidden2/.* was written with other settings: "):
        run_case("noise", folder, optimizer=optimizer)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 5},
        {"steps": {**dict.fromkeys(STAGES, STEPS), "hidden2": 5}},
        {"layers": ["hidden1"]},
        {"unrolled_steps": 0},
    ],
)
def test_other_stages_are_refused_and_nothing_is_lost(tmp_path, straight, change):
    # Else an older and longer run's backbone would stay the newest checkpoint of the folder.
    folder = shutil.copytree(straight["noise"], tmp_path / "copy")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(CheckpointError, match=r"holds a run of other stages, with their steps: .* there, .* asked"):
        run_case("noise", folder, **change)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_a_layer_on_other_weights_below_is_refused(tmp_path):
    run(tmp_path, make="noise")
    shutil.rmtree(tmp_path / "layers" / "hidden1")
    other = dict.fromkeys(STAGES, ADAM) | {"hidden1": MOMENTUM}
    # Nothing of the second stage's own settings has changed.
    with pytest.raises(
        CheckpointError,
        match=r"layers/hidden2/\S* was written with other settings: weights below: '\w+' there, '\w+' asked\.",
    ):
        run(tmp_path, make="noise", optimizer=other)
    shutil.rmtree(tmp_path / "layers" / "hidden1")
    with pytest.raises(CheckpointError, match=r"layers/hidden2/\S* was written with other settings: .*weights below"):
        run(tmp_path, make="noise", seed=4)


def test_a_run_in_which_layers_were_deleted_ends_with_the_new_weights(tmp_path):
    run(tmp_path, make="noise")
    shutil.rmtree(tmp_path / "layers")
    backbone, result = run(tmp_path, make="noise", seed=4)
    loaded = Backbone.from_pretrained(tmp_path / "checkpoints" / f"step-{result.as_one().steps:08d}" / "backbone")
    assert moved(weights(backbone), weights(loaded)) == set()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["hidden2"], "from the lowest up, without a gap: hidden1, hidden2, hidden3; found hidden2"),
        (["hidden1", "hidden3"], "without a gap.*found hidden1, hidden3"),
        (["hidden2", "hidden1"], "without a gap.*found hidden2, hidden1"),
        ([], "without a gap.*found none"),
        (["hiden1"], 'no layer "hiden1".*Did you mean "hidden1"'),
    ],
)
def test_layers_that_are_not_the_lowest_are_refused(layers, message):
    with pytest.raises(LayerError, match=message):
        run(layers=layers)


@pytest.mark.parametrize(
    "options", [{"steps": {"hidden1": 3, "hidden3": 3}}, {"optimizer": {"hidden1": ADAM, "hidden3": ADAM}}], ids=str
)
def test_a_layer_without_an_entry_is_named(options):
    with pytest.raises(LayerError, match="need an entry for each layer, found none for hidden2"):
        run(**options)


def test_what_one_task_refuses_costs_no_training():
    backbone = mlp(width=8, hidden=[5, 4], activation="relu")
    calls = []

    def make(backbone, layer):
        return counted(MAKES["autoencoder" if layer == "hidden1" else "machine"], calls)(backbone, layer)

    with pytest.raises(LayerError, match='"hidden2" of mlp is no linear map with a sigmoid'):
        run(make=make, backbone=backbone)
    with pytest.raises(LayerError, match="found tasks for hidden1, hidden1, hidden1"):
        run(make=lambda backbone, layer: counted(MAKES["autoencoder"], calls)(backbone, "hidden1"))
    assert calls == []
    vision = timm_backbone("test_vit", size=32)
    with pytest.raises(LayerError, match='layer "pooled" of timm has no parameters: there is nothing to train in it'):
        run(make=functools.partial(LayerAutoencoder, tied=False, loss="squared_error"), backbone=vision,
            source=np.zeros((20, 3, 32, 32), np.float32))  # fmt: skip


def nan(values):
    values[7, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("make", "change", "error", "message"),
    [
        ("autoencoder", lambda x: x + 1, DataError, r"layer hidden1 range from 1\..* to .*squared_error"),
        ("machine", lambda x: x - 1, DataError, r"layer hidden1 range from -.*gaussian"),
        ("autoencoder", lambda x: x * 0, DataError, "all 8 inputs of layer hidden1 are constant over 50 items"),
        ("machine", nan, DataError, "row 7 of the inputs of hidden1 holds a value that is NaN or infinite"),
        ("machine", lambda x: x[:, :5], InputMismatchError, r"items of shape \(8,\), the array holds .* \(5,\)"),
        ("machine", lambda x: x[:0], DataError, "the source holds no items"),
    ],
)
def test_inputs_that_cannot_be_modelled_are_refused(make, change, error, message):
    backbone = network()
    before = weights(backbone)
    with pytest.raises(error, match=message):
        run(make=make, backbone=backbone, source=change(vectors()))
    assert moved(before, weights(backbone)) == set()


def test_a_layer_whose_inputs_died_is_refused():
    backbone = mlp(width=8, hidden=[5, 4], activation="relu")
    backbone.module[0][0].bias.data.fill_(-100.0)
    make = functools.partial(LayerAutoencoder, noise=None, loss="squared_error")
    with pytest.raises(DataError, match=r"all 5 inputs of layer hidden2 are constant.*Is the layer below dead"):
        run(make=make, backbone=backbone, optimizer=OptimizerSettings(learning_rate=0.0))


def test_inputs_of_a_higher_layer_that_are_no_probabilities_are_refused_before_any_training(tmp_path):
    backbone = mlp(width=8, hidden=[5, 4], activation="tanh")
    with pytest.raises(
        DataError, match=r"layer hidden2 would take its inputs for probabilities.*a layer of tanh units"
    ):
        run(tmp_path / "run", backbone=backbone)
    assert not (tmp_path / "run" / "layers").exists()


@pytest.mark.parametrize("make", [LayerAutoencoder, LayerRBM])
def test_held_out_items_are_looked_at_as_well(make):
    beyond = vectors(seed=1) * 3
    with pytest.raises(DataError, match=r"the inputs of layer hidden1 range from .* probabilities are from 0 to 1"):
        run(make=make, validation=beyond)
    beyond[3, 1] = np.nan
    with pytest.raises(DataError, match="row 3 of the inputs of hidden1 holds a value that is NaN"):
        run(make=make, validation=beyond)


def test_an_error_leaves_no_layer_frozen():
    backbone = network()
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run(make=counted(MAKES["noise"], [], at=("hidden2", 3)), backbone=backbone)
    assert backbone.frozen == ()
    with pytest.raises(NonFiniteError, match="not finite at step"):
        run(backbone=backbone, make=functools.partial(LayerAutoencoder, loss="squared_error"),
            optimizer=OptimizerSettings(name="sgd", learning_rate=1e20, clip_norm=None))  # fmt: skip
    assert all(parameter.requires_grad for parameter in backbone.parameters())
