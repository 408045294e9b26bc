"""Runs that pretrain layer by layer, through the real entry points: what they leave, resume, reuse and refuse."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import transfer
from auxtasks.backbones import Backbone
from auxtasks.checkpoint import read_tensors
from auxtasks.errors import DataError, InputMismatchError, LayerError, LeakError, RecipeError, TransferError
from auxtasks.tasks import DeepAutoencoder, LayerAutoencoder, LayerRBM
from recipes import layerwise, pictures, run
from recipes.config import load_recipe
from recipes.run import pretrain_recipe, read_pretraining, run_recipe, transfer_run
from recipes.targets import load_target
from transfer import arms

# Labels of two of each digit, read by one head; two stages of hidden layers.
SMALL = {
    "name": "stack",
    "data": {"path": "builtin:digits", "options": {"split": "train"}, "holdout": 0.1},
    "backbone": {"name": "mlp", "arguments": {"size": 8, "hidden": [12, 8], "activation": "sigmoid"}},
    "training": {"steps": 6, "batch_size": 32, "log_every": 2, "validate_every": 3, "checkpoint_every": 2},
    "transfer": {
        "shots": [2],
        "draws": 1,
        "arms": ["scratch", "frozen"],
        "heads": [{"name": "ridge"}],
        "augment": None,
        "tuning": {"stages": [{"steps": 2}], "batch_size": 8},
        "scratch": {"stages": [{"steps": 2}], "batch_size": 8},
    },
    "targets": {
        "digits": {
            "path": "builtin:digits",
            "options": {"split": "train"},
            "test": {"options": {"split": "test"}},
            "at_each_depth": True,
        }
    },
}
MACHINE = {"name": "layer_rbm", "persistent": True, "chains": 5, "unrolled_steps": 4}
AUTOENCODER = {"name": "layer_autoencoder", "contraction": 0.1}
CONVNET = "backbone={name: convnet, arguments: {size: 8, widths: [8], blocks: [1], embedding: 4, dropout: 0.5}}"
OF_CONVNET = "task={name: layer_autoencoder, tied: false, loss: squared_error, noise: null}"
PLAIN = ["targets.digits.at_each_depth=false", "transfer.arms=[frozen]"]
ROOMY = "transfer.augment={shift: 0.1, flip: 0.0}"


def written(folder, task, **changes):
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "task": task, **changes}))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def pretrained(place):
    return json.loads((place / "pretrain.json").read_text())


def report_of(place):
    return json.loads((place / "transfer" / "report.json").read_text())


def last_tensors(place):
    """Return all tensors of the last checkpoints of all stages and of the run, by their file."""
    found = {}
    for part in (*(place / "layers").iterdir(), place):
        newest = max((part / "checkpoints").iterdir())
        for path in newest.rglob("*.safetensors"):
            found |= {f"{path.relative_to(place)} {name}": value for name, value in read_tensors(path).items()}
    return found


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def written_times(place):
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def machine_recipe(tmp_path_factory):
    return written(tmp_path_factory.mktemp("machine"), MACHINE)


@pytest.fixture(scope="module")
def autoencoder_recipe(tmp_path_factory):
    return written(tmp_path_factory.mktemp("autoencoder"), AUTOENCODER)


@pytest.fixture(scope="module")
def machine(command_line, machine_recipe):
    """The folder of a finished run of Boltzmann machines; tests read it and write elsewhere."""
    called = command_line("run", machine_recipe, "--out", machine_recipe.parent / "run")
    assert called.code == 0, called.err
    assert "digits-hidden2" in called.out
    return machine_recipe.parent / "run"


@pytest.fixture(scope="module")
def autoencoder(command_line, autoencoder_recipe):
    """The same of autoencoders, without validation, reused at the backbone's size with augmentation."""
    called = command_line(
        "run", autoencoder_recipe, "data.holdout=0", *PLAIN, ROOMY, "targets.digits.room=false",
        "targets.digits.validation_items=50", "--out", autoencoder_recipe.parent / "run",
    )  # fmt: skip
    assert called.code == 0, called.err
    return autoencoder_recipe.parent / "run"


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_a_run_of_machines_leaves_everything_in_its_folder(machine):
    stages = {path.name: sorted(step.name for step in (path / "checkpoints").iterdir())
              for path in (machine / "layers").iterdir()}  # fmt: skip
    assert stages == {
        "hidden1": ["step-00000004", "step-00000006"],
        "hidden2": ["step-00000004", "step-00000006"],
        "unrolled": ["step-00000002", "step-00000004"],
    }
    assert [path.name for path in (machine / "checkpoints").iterdir()] == ["step-00000016"]
    backbone = Backbone.from_pretrained(machine / "checkpoints" / "step-00000016" / "backbone")
    assert backbone.layer_names == ("hidden1", "hidden2")
    assert backbone.provenance["pretrained_on"].endswith("on 1,167 pictures of builtin:digits, without labels")
    files = {str(path.relative_to(machine)) for path in machine.rglob("*") if path.is_file()}
    assert {
        "recipe.yaml", "environment.json", "pretrain.json", "test_openings.jsonl", "pictures/filters.png",
        "pictures/reconstructions.png", "transfer/filters.png", "transfer/reconstructions.png", "transfer/report.json",
        "transfer/report.md", "transfer/learning_curve.png", "transfer/model/digits-hidden1/target.json",
        "transfer/model/digits-hidden2/target.json", "layers/hidden1/metrics.jsonl",
    } <= files  # fmt: skip
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".bin")) or "writing" in name]


@pytest.mark.parametrize("name", ["machine", "autoencoder"])
def test_the_report_shows_filters_and_reconstructions(request, name):
    place = request.getfixturevalue(name)
    text = (place / "transfer" / "report.md").read_text()
    shown = report_of(place)["pictures"]
    assert list(shown.values()) == ["filters.png", "reconstructions.png"]
    for caption, file in shown.items():
        assert f"![{caption}]({file})\n\n{caption}\n" in text
        assert (place / "transfer" / file).read_bytes() == (place / "pictures" / file).read_bytes()
        with Image.open(place / "transfer" / file) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture))) > 10


def test_metrics_are_told_by_stage(machine):
    metrics = pretrained(machine)["metrics"]
    assert {name.partition("/")[0] for name in metrics} == {"hidden1", "hidden2", "unrolled"}
    for layer in ("hidden1", "hidden2"):
        assert {f"{layer}/reconstruction_error", f"{layer}/loss", f"{layer}/validation/reconstruction_error",
                f"{layer}/validation/pseudo_log_likelihood"} <= set(metrics)  # fmt: skip
    assert 0 < metrics["unrolled/reconstruction_error"] < 1
    assert report_of(machine)["pretrain"] == metrics
    logged = lines(machine / "layers" / "hidden2" / "metrics.jsonl")
    assert [line["step"] for line in logged if line["kind"] != "validation"] == [2, 4, 6]
    assert [line["step"] for line in logged if line["kind"] == "validation"] == [3, 6]


def test_what_was_not_measured_is_no_number(machine):
    cost = report_of(machine)["cost"]
    assert cost["seconds"] > 0
    assert cost["samples_per_second"] > 0
    assert "data_wait_share" not in cost


def test_pixels_that_never_change_are_noted(machine):
    pixels = load_digits().images[:1297]
    recipe = load_recipe(str(machine / "recipe.yaml"))
    trained = read_pretraining(recipe, run.build.make_backbone(recipe)).trained.pixels
    constant = int((trained == trained[0]).all(axis=0).sum())
    assert constant >= int((pixels == pixels[0]).all(axis=0).sum()) > 0
    assert f"hidden1: {constant} of its 64 inputs never change." in report_of(machine)["notes"]


def test_without_holdout_there_is_no_validation(autoencoder):
    found = pretrained(autoencoder)
    assert {name.partition("/")[0] for name in found["metrics"]} == {"hidden1", "hidden2"}
    assert not [name for name in found["metrics"] if "validation" in name]
    assert all(np.isfinite(value) for value in found["metrics"].values())
    backbone = Backbone.from_pretrained(autoencoder / "checkpoints" / "step-00000012" / "backbone")
    assert "masking noise of 0.25 and a contraction of 0.1 on 1,297 pictures" in backbone.provenance["pretrained_on"]


def test_items_held_out_are_others_than_those_trained_on(machine):
    recipe = load_recipe(str(machine / "recipe.yaml"))
    data = read_pretraining(recipe, run.build.make_backbone(recipe))
    assert (len(data.table), len(data.trained), len(data.held_out)) == (1297, 1167, 130)
    rows = np.concatenate([data.trained.pixels, data.held_out.pixels]).reshape(1297, -1)
    expected = data.table.pixels.reshape(1297, -1)
    np.testing.assert_array_equal(np.sort(rows.view("V64"), axis=0), np.sort(expected.view("V64"), axis=0))


# --- stopped and started again ----------------------------------------------------------------------------------------


def test_a_second_call_does_nothing(command_line, machine, machine_recipe, tmp_path, monkeypatch):
    place = shutil.copytree(machine, tmp_path / "copy")
    before = written_times(place)
    monkeypatch.setattr(layerwise, "pretrain_layerwise", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(run, "evaluate_target", lambda *_, **__: pytest.fail("tested again"))
    called = command_line("run", machine_recipe, "--out", place)
    assert called.code == 0, called.err
    assert written_times(place) == before


@pytest.mark.parametrize(("kind", "name"), [(LayerRBM, "machine"), (LayerAutoencoder, "autoencoder")])
def test_a_run_that_was_stopped_in_its_second_layer_ends_with_the_same_weights(
    request, tmp_path, monkeypatch, kind, name
):
    straight = request.getfixturevalue(name)
    recipe = load_recipe(str(straight / "recipe.yaml"), ["targets=null"])
    forward, calls = kind.forward, []

    def dies(self, batch):
        calls.append(self.layer)
        if calls.count("hidden2") == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "forward", dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            run_recipe(recipe, tmp_path)
    assert calls == ["hidden1"] * 6 + ["hidden2"] * 4
    assert sorted(path.name for path in (tmp_path / "layers").iterdir()) == ["hidden1", "hidden2"]
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "pretrain.json").exists()
    assert run_recipe(recipe, tmp_path) is None
    assert same(last_tensors(tmp_path), last_tensors(straight))
    again = pretrained(tmp_path)["metrics"]
    assert again == pytest.approx(pretrained(straight)["metrics"], rel=1e-9)
    for file in ("filters.png", "reconstructions.png"):
        assert (tmp_path / "pictures" / file).read_bytes() == (straight / "pictures" / file).read_bytes()


def test_a_run_that_was_stopped_behind_its_training_has_its_pictures_all_the_same(machine, tmp_path, monkeypatch):
    recipe = load_recipe(str(machine / "recipe.yaml"), ["targets=null"])
    with monkeypatch.context() as patched:
        patched.setattr(layerwise, "_pictures", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            run_recipe(recipe, tmp_path)
    assert not (tmp_path / "pictures").exists()
    steps = []
    for kind in (LayerRBM, DeepAutoencoder):
        monkeypatch.setattr(kind, "forward", lambda *_: steps.append(1))
    run_recipe(recipe, tmp_path)
    assert steps == []
    for file in ("filters.png", "reconstructions.png"):
        assert (tmp_path / "pictures" / file).read_bytes() == (machine / "pictures" / file).read_bytes()


# --- pictures of what was learnt --------------------------------------------------------------------------------------


def test_pictures_are_those_of_the_weights_by_hand(machine, monkeypatch):
    recipe = load_recipe(str(machine / "recipe.yaml"))
    backbone = Backbone.from_pretrained(machine / "checkpoints" / "step-00000016" / "backbone")
    data = read_pretraining(recipe, backbone)
    stack = DeepAutoencoder([run.build.make_layer_task(recipe, backbone, layer) for layer in backbone.layer_names])
    stack.restore(machine / "checkpoints" / "step-00000016")
    given = {}
    monkeypatch.setattr(layerwise, "filter_grid", lambda filters: given.setdefault("filters", filters))
    monkeypatch.setattr(layerwise, "reconstruction_grid", lambda *pair: given.setdefault("pair", pair))
    layerwise._pictures(stack, data.held_out)
    first, second = (backbone.module[place][0] for place in (0, 1))
    np.testing.assert_array_equal(given["filters"], first.weight.detach().numpy().reshape(12, 1, 8, 8))
    shown, again = given["pair"]
    pixels = torch.from_numpy(data.held_out.pixels[:16, :, :, 0]).float() / 255
    np.testing.assert_allclose(shown[:, 0], pixels, rtol=1e-6)
    with torch.no_grad():
        top = torch.sigmoid(second(torch.sigmoid(first(pixels.flatten(1)))))
        down = torch.sigmoid(top @ second.weight + stack.heads[1].bias)
        down = torch.sigmoid(down @ first.weight + stack.heads[0].bias)
    np.testing.assert_allclose(again.reshape(16, 64), down, atol=1e-6)


def test_pictures_are_normalised_once_and_have_no_dropout_in_them(autoencoder_recipe, monkeypatch):
    recipe = load_recipe(str(autoencoder_recipe), [CONVNET, OF_CONVNET])
    backbone = run.build.make_backbone(recipe)
    data = read_pretraining(recipe, backbone)
    stack = DeepAutoencoder([run.build.make_layer_task(recipe, backbone, layer) for layer in backbone.layer_names])
    seen = []
    monkeypatch.setattr(layerwise, "reconstruction_grid", lambda *pair: seen.append(pair))
    for _ in range(2):
        stack.train()  # as the training leaves it
        layerwise._pictures(stack, data.held_out)
    (shown, again), (_, once_more) = seen
    np.testing.assert_array_equal(again, once_more)
    stack.eval()
    pixels = torch.from_numpy(data.held_out.pixels[:16]).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = stack.decode(stack.encode(pixels))
    np.testing.assert_allclose(again, expected.view_as(pixels), atol=1e-6)
    np.testing.assert_allclose(shown, backbone.input.normalize(pixels), atol=1e-6)


# --- reuse ------------------------------------------------------------------------------------------------------------


def test_one_target_at_each_depth_is_a_target_for_each_layer(machine):
    report = report_of(machine)
    assert list(report["targets"]) == ["digits-hidden1", "digits-hidden2"]
    for layer in ("hidden1", "hidden2"):
        found = report["targets"][f"digits-{layer}"]
        assert list(found["depth"]["2"]) == [layer]
        assert found["chosen"]["2"]["layer"] == layer
        assert set(found["arms"]) == {"scratch", "frozen"}
        model = transfer.load(machine, f"digits-{layer}")
        assert (model.layer, model.class_names) == (layer, tuple("0123456789"))
    openings = lines(machine / "test_openings.jsonl")
    assert [line["target"] for line in openings] == ["digits-hidden1", "digits-hidden2"]


def test_from_scratch_the_network_is_trained_up_to_its_depth_and_no_further(machine, tmp_path, monkeypatch):
    tune, moved = arms.fine_tune, []

    def watched(backbone, layer, *rest, **options):
        found = tune(backbone, layer, *rest, **options)
        pairs = zip(backbone.module.state_dict().items(), found.backbone.module.state_dict().values(), strict=True)
        moved.append((layer, {name.split(".")[0] for (name, before), after in pairs if not torch.equal(before, after)}))
        return found

    monkeypatch.setattr(arms, "fine_tune", watched)
    transfer_run(machine, ["transfer.arms=[scratch]", "transfer.claim=scratch"], tmp_path / "out")
    assert moved == [("hidden1", {"0"}), ("hidden2", {"0", "1"})]


def test_a_depth_is_that_of_the_layers_that_are_named(machine, tmp_path):
    overrides = ["targets.digits.layers={hidden2: flatten}", "transfer.arms=[frozen]"]
    assert list(report_of(transfer_run(machine, overrides, tmp_path / "out"))["targets"]) == ["digits-hidden2"]


def test_two_targets_of_one_name_are_refused_before_the_training(machine_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "read_pretraining", lambda *_: pytest.fail("too late"))
    for first, second in (("digits", "digits-hidden1"), ("a-hidden1", "a")):
        deep, plain = "{path: x, at_each_depth: true}", "{path: x}"
        targets = {first: deep if first in ("digits", "a") else plain, second: deep if second == "a" else plain}
        recipe = load_recipe(
            str(machine_recipe), ["targets.digits=null", *(f"targets.{name}={text}" for name, text in targets.items())]
        )
        with pytest.raises(TransferError, match=rf"targets\.{second}: there would be two targets called \w+-hidden1"):
            pretrain_recipe(recipe, tmp_path / first)


def test_transfer_of_a_run_brings_its_pictures_along(command_line, machine, tmp_path):
    before = written_times(machine)
    called = command_line("transfer", machine, *PLAIN, "--out", tmp_path / "out")
    assert called.code == 0, called.err
    assert written_times(machine) == before
    for file in ("filters.png", "reconstructions.png"):
        assert (tmp_path / "out" / "transfer" / file).read_bytes() == (machine / "pictures" / file).read_bytes()
        assert f"]({file})" in (tmp_path / "out" / "transfer" / "report.md").read_text()
    assert list(report_of(tmp_path / "out")["targets"]) == ["digits"]


def test_a_run_without_pictures_has_a_report_without_pictures(machine, tmp_path):
    place = shutil.copytree(machine, tmp_path / "copy")
    shutil.rmtree(place / "pictures")
    out = transfer_run(place, PLAIN, tmp_path / "out")
    assert report_of(out)["pictures"] == {}
    assert "filters.png" not in (out / "transfer" / "report.md").read_text()


@pytest.mark.parametrize("override", ["task.gibbs_steps=2", "data.holdout=0", "backbone.arguments.hidden=[12]"])
def test_what_layers_were_pretrained_with_cannot_be_overridden(command_line, machine, tmp_path, override):
    called = command_line("transfer", machine, override, "--out", tmp_path / "out")
    assert called.code == 1
    assert f"error: {override.partition('.')[0]}: the backbone in" in called.err
    assert not (tmp_path / "out").exists()


def test_predict_reads_a_picture(command_line, machine, autoencoder, tmp_path):
    pixels = (load_digits().images[3] * (255 / 16)).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "three.png")
    for place, target in ((machine, ["--target", "digits-hidden2"]), (autoencoder, [])):
        called = command_line("predict", place, tmp_path / "three.png", *target)
        assert called.code == 0, called.err
        path, label, probability = called.out.strip().split("\t")
        assert path == str(tmp_path / "three.png")
        assert label in "0123456789"
        assert 0.1 <= float(probability) <= 1
    for target in ([], ["--target", "digits"]):
        called = command_line("predict", machine, tmp_path / "three.png", *target)
        assert called.code == 1
        assert "digits-hidden1" in called.err


def test_the_terminal_and_inspect_know_layer_wise_runs(command_line, machine):
    assert "digits-hidden1" in command_line("report", machine).out
    shown = command_line("inspect", machine).out
    assert "layer-wise Boltzmann machines (bernoulli visible units, persistent chains of 1)" in shown


# --- labels and leaks -------------------------------------------------------------------------------------------------


@pytest.fixture
def unlabelled(tmp_path):
    """Digits as files, in a table that has no other column."""
    with (tmp_path / "digits.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["image"])
        for row, picture in enumerate(load_digits().images[:60]):
            Image.fromarray((picture * (255 / 16)).round().astype(np.uint8)).save(tmp_path / f"{row}.png")
            table.writerow([f"{row}.png"])
    return tmp_path / "digits.csv"


def test_pictures_without_labels_are_pretrained_on(machine_recipe, unlabelled, tmp_path):
    overrides = [f"data.path={unlabelled}", "data.options=null", "transfer.discriminants.components=4",
                 "transfer.on_leak=report", *PLAIN]  # fmt: skip
    recipe = load_recipe(str(machine_recipe), overrides)
    run_recipe(recipe, tmp_path / "run")
    data = read_pretraining(recipe, run.build.make_backbone(recipe))
    assert (data.reusable, len(data.table)) == (None, 60)
    assert set(data.table.labels) == {-1}
    report = report_of(tmp_path / "run")
    # Directions that tell identities apart would be further spaces beside the layers.
    assert set(report["targets"]["digits"]["depth"]["2"]) == {"hidden1", "hidden2"}
    assert "digits: pictures in pretraining and test: 0 of 500 test pictures" in report["notes"]


def test_labels_that_are_there_are_not_used(machine):
    recipe = load_recipe(str(machine / "recipe.yaml"))
    assert recipe.transfer.discriminants is not None  # asked for by default
    data = read_pretraining(recipe, run.build.make_backbone(recipe))
    assert (data.reusable, min(data.table.labels)) == (None, 0)
    chosen = [target["chosen"]["2"]["layer"] for target in report_of(machine)["targets"].values()]
    assert chosen == ["hidden1", "hidden2"]


@pytest.fixture
def fruit(tmp_path):
    """Pictures of two classes with names, in a folder for training and one to test on."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("apple", "pear"):
            (tmp_path / part / name).mkdir(parents=True)
            for picture in range(6):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{picture}.png")
    return tmp_path


def of_fruit(recipe, fruit):
    return load_recipe(
        str(recipe), [f"data.path={fruit / 'train'}", "data.options=null", "targets.digits=null",
                      f"targets.fruit={{path: {fruit / 'train'}, test: {{path: {fruit / 'test'}}}}}"]
    )  # fmt: skip


def test_a_class_that_pretraining_saw_unlabelled_is_no_leak_and_a_picture_is(machine_recipe, fruit):
    for same_picture in (False, True):
        if same_picture:
            shutil.copyfile(fruit / "train" / "pear" / "0.png", fruit / "test" / "pear" / "5.png")
        recipe = of_fruit(machine_recipe, fruit)
        backbone, target = run.build.make_backbone(recipe), recipe.targets["fruit"]
        data = read_pretraining(recipe, backbone)
        loaded = load_target(recipe, "fruit", target, backbone)
        assert loaded.table.class_names == ("apple", "pear")
        if same_picture:
            with pytest.raises(LeakError, match="pictures in pretraining and test: 1 of 12 test pictures"):
                data.leaks("fruit", target, loaded)
        else:
            assert "fruit: pictures in pretraining and test: 0 of 12 test pictures" in data.leaks(
                "fruit", target, loaded
            )


def test_an_unreadable_picture_is_told_or_skipped_and_noted(machine_recipe, unlabelled, tmp_path):
    (tmp_path / "7.png").write_bytes(b"torn")
    overrides = [f"data.path={unlabelled}", "data.options=null", "targets=null", "training.steps=1"]
    with pytest.raises(DataError, match=r"7\.png"):
        pretrain_recipe(load_recipe(str(machine_recipe), overrides), tmp_path / "raises")
    pretrain_recipe(load_recipe(str(machine_recipe), [*overrides, "data.on_error=skip"]), tmp_path / "skips")
    assert "1 unreadable pictures were skipped." in pretrained(tmp_path / "skips")["notes"]


@pytest.mark.parametrize("room", ["true", "false"])
@pytest.mark.parametrize("augment", ["transfer.augment=null", ROOMY])
def test_pictures_of_the_test_that_were_pretrained_on_are_found(machine_recipe, tmp_path, room, augment):
    overrides = ["data.options.split=all", f"targets.digits.room={room}", augment, *PLAIN]
    recipe = load_recipe(str(machine_recipe), overrides)
    backbone = run.build.make_backbone(recipe)
    data = read_pretraining(recipe, backbone)
    loaded = load_target(recipe, "digits", recipe.targets["digits"], backbone)
    with pytest.raises(LeakError, match="pictures in pretraining and test: 500 of 500 test pictures"):
        data.leaks("digits", recipe.targets["digits"], loaded)


def test_without_room_pictures_are_decoded_as_the_backbone_takes_them(machine):
    digits = (load_digits().images[:1297] * (255 / 16)).round().astype(np.uint8)
    for overrides, size in (
        ([], 8), ([ROOMY], 10), ([ROOMY, "targets.digits.room=false"], 8), (["targets.digits.room=false"], 8)
    ):  # fmt: skip
        recipe = load_recipe(str(machine / "recipe.yaml"), overrides)
        backbone = run.build.make_backbone(recipe)
        found = pictures.picture_target(recipe, "digits", recipe.targets["digits"], backbone).table.pixels
        assert found.shape == (1297, size, size, 1)
        if size == 8:
            np.testing.assert_array_equal(found[..., 0], digits)


def test_items_set_aside_are_the_validation_labels(autoencoder):
    protocol = report_of(autoencoder)["targets"]["digits"]["protocol"]
    assert (protocol["train_pool"], protocol["validation_labels"], protocol["test_items"]) == (1247, 50, 500)
    assert "a named validation set of 50 labelled items" in protocol["choices"]
    model = transfer.load(autoencoder, "digits")
    assert model.facts["fitted on"].startswith("all 1247 labelled pictures")
    assert model.decoded_size == (8, 8)


# --- other networks, and what is refused ------------------------------------------------------------------------------


def test_a_convolutional_network_is_pretrained_layer_by_layer(autoencoder_recipe, tmp_path):
    overrides = [CONVNET, OF_CONVNET, "task.unrolled_steps=2", "training.steps=3", *PLAIN]
    run_recipe(load_recipe(str(autoencoder_recipe), overrides), tmp_path)
    stages = {"stem", "stage1", "embedding", "unrolled"}
    assert {path.name for path in (tmp_path / "layers").iterdir()} == stages
    metrics = pretrained(tmp_path)["metrics"]
    assert {name.partition("/")[0] for name in metrics} == stages
    assert {"stem/validation/reconstruction_error", "embedding/validation/reconstruction_error"} <= set(metrics)
    assert "reconstructions.png" in (tmp_path / "transfer" / "report.md").read_text()
    assert set(report_of(tmp_path)["targets"]["digits"]["depth"]["2"]) == {"stem", "stage1", "embedding"}


REFUSED = [
    ([CONVNET], LayerError, r'"stem" of convnet is no linear map with a sigmoid.*Use an mlp with activation="sigmoid"'),
    ([CONVNET, "task={name: layer_autoencoder, loss: squared_error}"], LayerError,
     r'"stem" of convnet is more than one.*use tied=False'),
    ([CONVNET, "task={name: layer_autoencoder, tied: false}"], DataError,
     r'layer stem would take its inputs for probabilities.*pictures that are normalised.*or loss="squared_error"'),
    (["task.visible=gaussian"], DataError, r'of 64 inputs of layer hidden1 are constant.*use visible="bernoulli"'),
    (["task.layers=[hidden1, hidden7]"], LayerError, r'no layer "hidden7"\. Layers from the input up: hidden1, hid'),
    (["task.layers=[hidden2]"], LayerError, "trained from the lowest up, without a gap: hidden1, hidden2; found hid"),
    (["backbone.arguments={width: 64, hidden: [12]}"], InputMismatchError,
     "layer_rbm of a recipe is for pictures, and the backbone mlp takes features.*Of an mlp say size"),
    (["data.holdout=0.9999"], DataError, r"data\.holdout is 0\.9999, which leaves none of 1297 pictures to train on"),
    (["data.options.split=trian"], DataError, r'no split \'trian\'.*Did you mean "train"\?'),
    (["targets.digits.layers={hidden9: auto}"], LayerError, 'no layer "hidden9"'),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "error", "message"), REFUSED)
def test_what_cannot_be_trained_is_refused_before_any_training(
    machine_recipe, tmp_path, monkeypatch, overrides, error, message
):
    for kind in (LayerRBM, LayerAutoencoder):
        monkeypatch.setattr(kind, "forward", lambda *_: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        pretrain_recipe(load_recipe(str(machine_recipe), overrides), tmp_path / "run")
    assert not list(tmp_path.rglob("step-*"))


def test_more_items_set_aside_than_there_are_is_told(machine, tmp_path):
    overrides = [*PLAIN, "targets.digits.validation_items=1297"]
    with pytest.raises(TransferError, match=r"digits: validation_items is 1297, but there are 1297 items"):
        transfer_run(machine, overrides, tmp_path / "out")
    assert not (tmp_path / "out" / "test_openings.jsonl").exists()


def test_so_many_set_aside_that_a_class_is_short_of_labels_is_told(machine, tmp_path):
    with pytest.raises(TransferError, match=r"class '\d' has \d, needed are 2"):
        transfer_run(machine, [*PLAIN, "targets.digits.validation_items=1287"], tmp_path / "out")
    assert not (tmp_path / "out" / "test_openings.jsonl").exists()


def test_items_set_aside_and_a_validation_part_are_one_too_many(machine_recipe):
    overrides = ["targets.digits.validation_items=5", "targets.digits.validation.options.split=all"]
    with pytest.raises(RecipeError, match=r"^targets\.digits\.validation_items: there is a validation part already"):
        load_recipe(str(machine_recipe), overrides)


def test_part_of_the_layers_may_be_trained(machine_recipe, tmp_path):
    recipe = load_recipe(str(machine_recipe), ["task.layers=[hidden1]", "task.unrolled_steps=0", "targets=null"])
    pretrain_recipe(recipe, tmp_path)
    assert [path.name for path in (tmp_path / "layers").iterdir()] == ["hidden1"]
    found = read_tensors(tmp_path / "checkpoints" / "step-00000006" / "backbone" / "model.safetensors")
    start = run.build.make_backbone(recipe).module.state_dict()
    assert {name for name in found if not torch.equal(found[name], start[name])} == {"0.0.weight", "0.0.bias"}
