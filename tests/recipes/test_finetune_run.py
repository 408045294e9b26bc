"""`auxtasks finetune`: stages on all labels of a target, choices on validation, one look at the test."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import transfer
from auxtasks import checkpoint
from auxtasks.backbones import Backbone, build
from auxtasks.data import load_source
from auxtasks.errors import CheckpointError, LayerError, RecipeError, TransferError
from auxtasks.features.extract import extract
from recipes.config import load_recipe
from recipes.finetune import finetune_run
from recipes.finetune_table import finetune_lines
from recipes.folder import RunFolder
from recipes.run import pretrain_recipe
from transfer.model import table_of_items

STAGES = ["transfer.tuning.stages=[{steps: 2, top_layers: 0}, {steps: 3, layers: [stage2], rate: 0.5}, {steps: 2}]",
          "transfer.scratch.stages=[{steps: 7}]"]  # fmt: skip
# 5 photos a person: the last two of the source's rows a person are validated and tested on.
PEOPLE = {"people": 3, "photos": 8, "size": 20, "first_person": 100}
PARTS = [f"targets.strangers.options={json.dumps(PEOPLE)}", "targets.strangers.validation_items=6",
         'targets.strangers.test={options: {"people": 3, "photos": 4, "size": 20, "first_person": 100, "seed": 5}}',
         "transfer.augment=null", "transfer.on_leak=report"]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "out"
    rates = ["transfer.tuning.learning_rates=[1e-3, 3e-3]", "transfer.scratch.learning_rates=[1e-3, 3e-3]"]
    return out, finetune_run(finished, [*STAGES, *PARTS, *rates], "strangers", out)


def test_stages_choices_and_test_are_told(tuned):
    out, found = tuned
    assert (found["labels"], found["classes"], found["items"]) == (18, 3, "pictures")
    assert [(stage["steps"], stage["top_layers"], stage["layers"]) for stage in found["stages"]] == [
        (2, 0, None), (3, None, ["stage2"]), (2, None, None)
    ]  # fmt: skip
    tried = {one["learning_rate"]: one["accuracy"] for one in found["validation"]["tried"]}
    assert list(tried) == [0.001, 0.003]
    assert found["validation"]["items"] == 6
    assert tried[found["learning_rate"]] == max(tried.values())
    assert found["test"]["items"] == 12
    low, high = found["test"]["ci95"]
    assert low <= found["test"]["mean"] <= high
    assert json.loads((out / "finetuned" / "strangers.json").read_text()) == json.loads(json.dumps(found))
    text = "\n".join(finetune_lines(found))
    assert "strangers: 18 labelled pictures, 3 classes" in text
    assert "7 steps in 3 stages" in text
    assert f"accuracy on 12 test items: {found['test']['mean']:.3f} [" in text


def test_the_test_set_is_opened_once(tuned, finished):
    out, found = tuned
    openings = [json.loads(line) for line in (out / "test_openings.jsonl").read_text().splitlines()]
    assert [(one["target"], one["chosen"]["learning_rate"]) for one in openings] == [
        ("strangers", found["learning_rate"])
    ]
    recipe = out / "recipe.yaml"
    assert "first_person: 100" in recipe.read_text()
    rates = ["transfer.tuning.learning_rates=[1e-3, 3e-3]", "transfer.scratch.learning_rates=[1e-3, 3e-3]"]
    again = finetune_run(finished, [*STAGES, *PARTS, *rates], "strangers", out)
    assert again == json.loads(json.dumps(found))
    assert len((out / "test_openings.jsonl").read_text().splitlines()) == 1


def test_the_saved_model_is_what_was_tested(tuned):
    out, found = tuned
    model = transfer.load(out)
    source = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"},
                         options={"people": 3, "photos": 4, "size": 20, "first_person": 100, "seed": 5})  # fmt: skip
    predicted = model.predict([row["image"] for row in source])
    names = source.features["label"]
    labels = [names.int2str(row["label"]) if hasattr(names, "int2str") else str(row["label"]) for row in source]
    assert np.mean([a == b for a, b in zip(predicted, labels, strict=True)]) == pytest.approx(found["test"]["mean"])
    assert model.layer == found["layer"]
    assert "3 steps of the head and stage2" in model.facts["fine-tuned"]
    assert "stem, stage1" in model.facts["fine-tuned"]


def test_the_backbone_moved_from_the_run_s(tuned, finished):
    out, found = tuned
    before = Backbone.from_pretrained(RunFolder(finished).backbone())
    model = transfer.load(out)
    after, start = model.backbone.module.state_dict(), before.module.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in start.items())
    pictures = np.random.default_rng(0).integers(0, 255, size=(3, 20, 20), dtype=np.uint8)
    table = table_of_items(model.backbone, [picture[:, :, None] for picture in pictures], (20, 20))
    assert extract(model.backbone, table, {model.layer: model.pool})[model.layer].shape[0] == 3
    assert model.backbone.provenance["pretrained_on"] == before.provenance["pretrained_on"]
    assert found["cost"]["peak_memory_bytes"] > 0


def test_without_a_validation_set_the_first_rate_is_taken_and_kept_views_give_the_same(finished, tmp_path):
    overrides = [*STAGES, "transfer.augment=null", "transfer.tuning.learning_rates=[2e-3, 1]",
                 "transfer.scratch.learning_rates=[2e-3, 1]"]  # fmt: skip
    whole = finetune_run(finished, overrides, "strangers", tmp_path / "whole", layer="stage2")
    kept = finetune_run(
        finished, [*overrides, "transfer.tuning.keep_views=1"], "strangers", tmp_path / "kept", layer="stage2"
    )
    assert (whole["learning_rate"], whole["layer"], whole["validation"], whole["test"]) == (0.002, "stage2", None, None)
    one, other = (transfer.load(tmp_path / name).backbone.module.state_dict() for name in ("whole", "kept"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)
    assert kept["labels"] == whole["labels"] == 15
    assert not (tmp_path / "whole" / "test_openings.jsonl").exists()
    assert "test items" not in "\n".join(finetune_lines(whole))


def test_what_does_not_fit_the_cache_is_computed_anew_and_said(finished, tmp_path, monkeypatch, capsys):
    overrides = [*STAGES, "transfer.augment=null"]
    monkeypatch.setenv("AUXTASKS_CACHE", str(tmp_path / "cache"))
    whole = finetune_run(finished, overrides, "strangers", tmp_path / "whole", layer="stage2")
    assert not any("computed anew" in note for note in whole["notes"])
    assert "strangers: 0.0 MB of what crosses a cut" in capsys.readouterr().err  # 15 x 8 x 8 x 8 x 4 bytes
    monkeypatch.setenv("AUXTASKS_CACHE_GB", "0.00002")
    monkeypatch.setenv("AUXTASKS_CACHE", str(tmp_path / "small"))
    small = finetune_run(finished, overrides, "strangers", tmp_path / "out", layer="stage2")
    assert any("more than the cache may or can hold" in note for note in small["notes"])
    assert small["training_accuracy"] == whole["training_accuracy"]


def test_a_network_that_cannot_be_cut_is_fine_tuned_without_augmentation_too(miniature, tmp_path):
    network = build("timm/test_efficientnet", size=32, channels=1)
    assert not network.can_be_cut
    network.save_pretrained(tmp_path / "network", pretrained_on="a zoo")
    written = yaml.safe_load(miniature.read_text())
    parts = {name: written[name] for name in ("transfer", "targets")}
    recipe = {"name": "uncut", "task": {"name": "ready_made"}, "backbone": {"pretrained": str(tmp_path / "network")}}
    (tmp_path / "uncut.yaml").write_text(yaml.safe_dump({**recipe, **parts}))
    pretrain_recipe(load_recipe(str(tmp_path / "uncut.yaml")), tmp_path / "run")
    overrides = ["transfer.tuning.stages=[{steps: 1, top_layers: 0}, {steps: 1, top_layers: 1}]",
                 "transfer.augment=null"]  # fmt: skip
    found = finetune_run(tmp_path / "run", overrides, "strangers", tmp_path / "out", layer="pooled")
    assert found["layer"] == "pooled"


def test_a_folder_with_the_result_of_another_layer_is_not_passed_off_as_that_of_this_one(tuned, finished):
    out, found = tuned
    rates = ["transfer.tuning.learning_rates=[1e-3, 3e-3]", "transfer.scratch.learning_rates=[1e-3, 3e-3]"]
    again = finetune_run(finished, [*STAGES, *PARTS, *rates], "strangers", out, layer=found["layer"])
    assert again["test"]["mean"] == found["test"]["mean"]
    with pytest.raises(TransferError, match=rf"result of a head on {found['layer']}, not on stem: choose another"):
        finetune_run(finished, [*STAGES, *PARTS, *rates], "strangers", out, layer="stem")


def test_a_run_that_was_stopped_goes_on(finished, tmp_path, monkeypatch):
    from transfer.finetune import Classifier

    straight = finetune_run(finished, STAGES, "strangers", tmp_path / "straight", layer="stage2")
    forward, calls = Classifier.forward, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "forward", dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            finetune_run(finished, STAGES, "strangers", tmp_path / "stopped", layer="stage2")
    assert not (tmp_path / "stopped" / "finetuned" / "strangers.json").exists()
    assert not (tmp_path / "stopped" / "transfer").exists()
    again = finetune_run(finished, STAGES, "strangers", tmp_path / "stopped", layer="stage2")
    assert again["stages"] == straight["stages"]
    heads = [checkpoint.read_tensors(tmp_path / name / "transfer" / "model" / "strangers" / "head.safetensors")
             for name in ("straight", "stopped")]  # fmt: skip
    assert torch.equal(heads[0]["weight"], heads[1]["weight"])
    with pytest.raises(TransferError, match=r"training: the backbone in .* was made with other values"):
        finetune_run(finished, ["training.checkpoint_every=1"], "strangers", tmp_path / "other")


@pytest.mark.processes
def test_two_processes_give_the_model_of_one(finished, tmp_path):
    overrides = [*STAGES, *PARTS, "transfer.tuning.keep_views=1"]
    one = finetune_run(finished, overrides, "strangers", tmp_path / "one")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom recipes.finetune import finetune_run\n"
        "finetune_run(Path(sys.argv[1]), sys.argv[3:], 'strangers', Path(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, finished,
         tmp_path / "two", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "finetuned" / "strangers.json").read_text())
    assert (two["layer"], two["test"], two["validation"]) == (
        one["layer"], json.loads(json.dumps(one["test"])), one["validation"]
    )  # fmt: skip
    assert len((tmp_path / "two" / "test_openings.jsonl").read_text().splitlines()) == 1
    first, second = (transfer.load(tmp_path / name).backbone.module.state_dict() for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)


def test_what_cannot_be_meant_is_refused(finished, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TransferError, match=r'no target "stranger" in the recipe of .* Did you mean "strangers"'):
        finetune_run(finished, [], "stranger", out)
    with pytest.raises(TransferError, match=r"is the run itself: the result needs a folder of its own"):
        finetune_run(finished, [], "strangers", finished)
    with pytest.raises(TransferError, match=r"backbone: the backbone in .* was made with other values"):
        finetune_run(finished, ["backbone.arguments.embedding=4"], "strangers", out)
    with pytest.raises(LayerError, match=r'no layer "stage7"'):
        finetune_run(finished, [], "strangers", out, layer="stage7")
    with pytest.raises(RecipeError, match=r"transfer\.tuning\.stages: must be a list of stages, or such as \{unfreeze"):
        finetune_run(finished, ["transfer.tuning.stages={unfreeze: 2}"], "strangers", out)
    with pytest.raises(RecipeError, match=r"stages\.0\.layers: there is a top_layers already"):
        finetune_run(finished, ["transfer.tuning.stages=[{steps: 2, top_layers: 1, layers: [stem]}]"], "strangers", out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(CheckpointError, match="it is not a run's folder"):
        finetune_run(finished, [], "strangers", tmp_path / "full")
    assert not (out / "transfer").exists()


def test_unfreezing_from_the_top_is_written_out(miniature):
    from recipes.config import load_recipe

    recipe = load_recipe(
        str(miniature), ["transfer.tuning.stages={unfreeze: 1, steps_each: 4}", "transfer.scratch.stages=[{steps: 8}]"]
    )
    assert [(stage.steps, stage.top_layers) for stage in recipe.transfer.tuning.stages] == [(4, 0), (4, 1)]
