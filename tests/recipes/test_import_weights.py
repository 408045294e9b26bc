"""``auxtasks import``: any weights into any network, audited; nothing is written where anything is wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from auxtasks.backbones import Backbone, build, mlp
from auxtasks.errors import AuxtasksError, CheckpointError, LayerError, RecipeError, TransferError
from auxtasks.training.file_list import write_file_list
from recipes.import_weights import import_weights
from recipes.predict import describe_backbone
from transfer.linear_heads import FittedLinear
from transfer.model import TargetModel
from transfer.origins import random_layers

MLP = ["width=4", "hidden=[8, 3]"]


@pytest.fixture
def told():
    return []


@pytest.fixture
def trained():
    return mlp(width=4, hidden=[8, 3], seed=7)


@pytest.fixture
def weights(trained, tmp_path):
    """A file of PyTorch tensors, as DistributedDataParallel names them, with one that nobody needs."""
    state = {f"module.{name}": tensor for name, tensor in trained.module.state_dict().items()}
    save_file({**state, "module.fc.weight": torch.ones(2, 3)}, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


RENAMES = [r"module\.(\d.*)=\1"]


def test_a_file_becomes_a_backbone_that_recipes_take(weights, trained, told, tmp_path):
    out = tmp_path / "new/backbone"
    plan = import_weights(weights, "mlp", MLP, renames=RENAMES, least_share=1.0, out=out, tell=told.append)
    assert plan.unexpected == ("module.fc.weight",)
    again = Backbone.from_pretrained(out)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), trained(x))
    assert again.provenance["pretrained_on"].startswith("weights.safetensors (")
    assert again.provenance["random"] == []
    printed = "\n".join(told)
    for words in ("loaded: 4 of 4 tensors", "unexpected in the source, not used (1): module.fc.weight", "none random",
                  f"backbone.pretrained={out}"):  # fmt: skip
        assert words in printed


def test_a_dry_run_prints_what_would_happen_and_writes_nothing(weights, told, tmp_path):
    plan = import_weights(weights, "mlp", MLP, dry_run=True, out=tmp_path / "out", tell=told.append)
    assert not (tmp_path / "out").exists()
    assert plan.problems
    assert "refused: nothing would be loaded" in told[0]
    assert 'begin with "module."' in told[0]


def test_a_part_is_told_to_be_random_and_saved_as_such(weights, told, tmp_path):
    out = tmp_path / "out"
    import_weights(weights, "mlp", MLP, renames=RENAMES, up_to="hidden1", out=out, tell=told.append)
    assert "still random: hidden2" in "\n".join(told)
    assert random_layers(Backbone.from_pretrained(out)) == ("hidden2",)
    shown = describe_backbone(out)
    assert "random: ['hidden2']" in shown
    assert "copied: ['2 of 4 tensors, 40 of 67 parameters (59.7%) from weights.safetensors (safetensors)']" in shown
    # The rest into what is there, and in its place.
    import_weights(weights, str(out), renames=RENAMES, select="hidden2/", out=out, tell=told.append)
    assert random_layers(Backbone.from_pretrained(out)) == ()
    assert len(Backbone.from_pretrained(out).provenance["copied"]) == 2


@pytest.mark.parametrize("source", ["saved", "run"])
def test_saved_backbones_and_runs_are_sources(trained, told, tmp_path, source):
    trained.save_pretrained(tmp_path / "saved", pretrained_on="numbers")
    trained.save_pretrained(tmp_path / "run/checkpoints/step-00000005/backbone", pretrained_on="numbers")
    write_file_list(tmp_path / "run/checkpoints/step-00000005")
    (tmp_path / "run/recipe.yaml").write_text("name: x\n", encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["width=4", "hidden=[8, 3, 2]"]
    plan = import_weights(tmp_path / source, "mlp", arguments, by="layer", out=out, tell=told.append)
    assert plan.loaded == ("0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias")
    assert Backbone.from_pretrained(out).provenance["pretrained_on"] == "numbers"


def test_a_shipped_set_of_rules_after_renames_of_ones_own(told, tmp_path):
    # Names of big_vision's ViT, under another scope: a rename takes it off, and the set does the rest.
    network = build("timm/test_vit", seed=1)
    np.savez(tmp_path / "vit.npz", **{"scope/cls": np.ones((1, 1, 64), np.float32), "opt/step": np.asarray(3)})
    with pytest.raises(TransferError, match='no rules "vit-bigvison"'):
        import_weights(tmp_path / "vit.npz", "timm/test_vit", rules="vit-bigvison", dry_run=True, tell=told.append)
    plan = import_weights(
        tmp_path / "vit.npz", "timm/test_vit", rules="vit-big-vision", renames=["opt/.*=", "scope/cls=cls_token"],
        dry_run=True, tell=told.append,
    )  # fmt: skip
    assert plan.loaded == ("cls_token",)
    assert plan.left_out == ("opt/step",)
    assert "trained on: " in told[-1]
    assert network.module.cls_token.shape == (1, 1, 64)


def test_arguments_are_read_from_json_too(tmp_path, told):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    (tmp_path / "bert_config.json").write_text(json.dumps({**sizes, "vocab_size": 20}), encoding="utf-8")
    arguments = [f"config=@{tmp_path}/bert_config.json", "config.model_type=bert", "length=16"]
    config = {"model_type": "bert", "vocab_size": 20, **sizes}
    state = build("transformers", config=config, length=16, seed=3).module.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "bert.safetensors")
    plan = import_weights(tmp_path / "bert.safetensors", "transformers", arguments, dry_run=True, tell=told.append)
    assert plan.share == 1
    assert plan.problems == ()


def test_other_shapes_are_an_error_unless_they_are_skipped(weights, told, tmp_path):
    arguments = ["width=4", "hidden=[8, 5]"]
    with pytest.raises(TransferError, match=r"2 tensors from weights.safetensors .* do not fit"):
        import_weights(weights, "mlp", arguments, renames=RENAMES, out=tmp_path / "out", tell=told.append)
    assert not (tmp_path / "out").exists()
    import_weights(
        weights, "mlp", arguments, renames=RENAMES, skip_other_shapes=True, out=tmp_path / "out", tell=told.append
    )
    assert random_layers(Backbone.from_pretrained(tmp_path / "out")) == ("hidden2",)


def test_an_unwanted_folder_is_never_replaced(weights, told, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    import_weights(weights, "mlp", MLP, renames=RENAMES, out=mine, tell=told.append)  # empty: it may be filled
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(RecipeError, match="thesis is there and is no saved backbone's folder: it is not replaced"):
        import_weights(weights, "mlp", MLP, renames=RENAMES, out=tmp_path / "thesis", tell=told.append)
    assert (tmp_path / "thesis/chapter1.txt").read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": None}, RecipeError, "--out: name the folder"),
        ({"renames": ["abc"]}, RecipeError, "--rename abc: expected A=B"),
        ({"renames": ["(=b"]}, TransferError, "is no regular expression"),
        ({"select": "hiden"}, TransferError, "matches none of 4 names"),
        ({"up_to": "hidden9"}, LayerError, 'no layer "hidden9"'),
        ({"arguments": ["width"]}, RecipeError, "width: an argument of the network is key=value"),
        ({"arguments": ["width=4", "width.sub=3"]}, RecipeError, "width.sub: width is a value, not a group"),
        ({"arguments": ["width=[4"]}, RecipeError, "width: not valid YAML"),
        ({"arguments": ["wdth=4"]}, AuxtasksError, 'no argument "wdth"'),
        ({"into": "mpl"}, AuxtasksError, 'there is no backbone "mpl"'),
        ({"rules": "nobodys"}, TransferError, 'no rules "nobodys"'),
        ({"least_share": 2.0}, TransferError, "from 0 to 1"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(weights, told, tmp_path, options, error, message):
    given = {"into": "mlp", "arguments": MLP, "renames": RENAMES, "out": tmp_path / "out", **options}
    with pytest.raises(error, match=message):
        import_weights(weights, tell=told.append, **given)
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be_read_are_told(weights, trained, told, tmp_path):
    options = {"renames": RENAMES, "out": tmp_path / "out", "tell": told.append}
    with pytest.raises(CheckpointError, match=r"absent.pt is not there: expected a weights file"):
        import_weights(tmp_path / "absent.pt", "mlp", MLP, **options)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(AuxtasksError, match=r"damaged|cut short|no kind"):
        import_weights(weights, "mlp", MLP, **options)
    saved = trained.save_pretrained(tmp_path / "saved")
    with pytest.raises(RecipeError, match=r"--rules: .*saved is a folder of this project"):
        import_weights(saved, "mlp", MLP, rules="vgg16-caffe", **options)
    with pytest.raises(RecipeError, match=r"width: .*saved is a saved network, which has its arguments"):
        import_weights(saved, str(saved), ["width=4"], **options)
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_wants_to_run_code_is_refused(told, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"0.0.weight": Attack()}, tmp_path / "evil.pt")
    with pytest.raises(AuxtasksError, match="would run code"):
        import_weights(tmp_path / "evil.pt", "mlp", MLP, out=tmp_path / "out", tell=told.append)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": "vgg16-caffe", "by": "layer"}, "--by-layer: copies by the position of layers, and --rules by name"),
        ({"check": "outputs.npz", "dry_run": True}, "--check: compares what the network computes"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(weights, told, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        import_weights(weights, "mlp", MLP, out=tmp_path / "out", tell=told.append, **options)
    assert not (tmp_path / "out").exists()


def test_a_target_models_backbone_is_a_source_and_a_network_to_copy_into(weights, trained, told, tmp_path):
    head = FittedLinear(np.zeros((2, 3)), np.zeros(2), unit_rows=False)
    model = TargetModel(mlp(width=4, hidden=[8, 3], seed=1), "hidden2", "mean", False, head, ("a", "b"), None)
    model.save(tmp_path / "model")
    import_weights(weights, str(tmp_path / "model"), renames=RENAMES, out=tmp_path / "out", tell=told.append)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Backbone.from_pretrained(tmp_path / "out")(x), trained(x))
    plan = import_weights(tmp_path / "model", "mlp", MLP, dry_run=True, tell=told.append)
    assert plan.share == 1
