"""The audited copy: every name of both sides is accounted for, and it is all or nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.backbones import Backbone, build, convnet, mlp
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import BackboneError, LayerError, TransferError
from transfer.layers import Select
from transfer.origins import mark_trained, random_layers, random_tensors
from transfer.rename import Rule
from transfer.reuse import plan_copy, reuse


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(ours, theirs):
    return [name for name in ours if torch.equal(ours[name], theirs[name])]


class Renamed(nn.Module):
    """A network of another class whose lower part is that of a small residual network."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.second = nn.Linear(8, 4)


def test_a_plan_takes_a_module_for_its_tensors():
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    plan = plan_copy(source, target)
    assert plan.loaded == ("weight", "bias")
    plan.apply()
    assert torch.equal(target.weight, source.weight)
    network = mlp(width=2, hidden=[3], seed=1)
    assert plan_copy(network, mlp(width=2, hidden=[3], seed=2)).share == 1.0


@pytest.mark.parametrize("source", [None, 3, "weights.pt", [("weight", torch.ones(3, 2))], nn.Linear])
def test_a_source_that_holds_no_tensors_by_name_is_refused(source):
    with pytest.raises(TransferError, match=r"from a module or from tensors by name, .*; found \w+\."):
        plan_copy(source, nn.Linear(2, 3))


def test_the_audit_against_sets_by_hand():
    target = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 4), "c": nn.Linear(4, 5)})
    source = {
        "a.weight": torch.ones(3, 2),
        "a.bias": torch.ones(3),
        "b.weight": torch.ones(9, 3),
        "c.weight": torch.ones(5, 4),
        "c.bias": torch.ones(5),
        "step": torch.tensor(7),
        "slot/Adam": torch.ones(1),
    }
    plan = plan_copy(source, target, select="[ab]", rules=[Rule(".*/Adam", None)])
    assert plan.loaded == ("a.weight", "a.bias")
    assert plan.missing == ("b.bias",)
    assert plan.unexpected == ("step",)
    assert plan.left_out == ("slot/Adam",)
    assert [str(misfit) for misfit in plan.other_shape] == ["b.weight is (9, 3) in the source, (4, 3) here"]
    assert plan.not_selected == ("c.weight", "c.bias")
    assert plan.parameters_loaded == 6 + 3
    assert plan.share == 9 / (9 + 16 + 25)
    assert plan.share_of_selected == 9 / (9 + 16)
    described = plan.describe()
    for words in (
        "selected: pattern '[ab]'",
        "loaded: 2 of 6 tensors, 9 of 50 parameters (18.0%); of the selected parameters 36.0%",
        "missing in the source, left as they are (1): b.bias",
        "unexpected in the source, not used (1): step",
        "of other shape (1): b.weight is (9, 3)",
        "left out by a rule (1): slot/Adam",
        "not selected (2): c.weight, c.bias",
        "refused: 1 tensors from a state dict do not fit",
    ):
        assert words in described


def test_a_plan_changes_nothing_and_applying_it_copies_what_it_says(tiny_convnet):
    source, target = tiny_convnet(seed=1), tiny_convnet(seed=2)
    before = state_of(target.module)
    plan = reuse(source, target, select=Select(up_to="stage1"), dry_run=True)
    assert len(same(before, state_of(target.module))) == len(before)
    assert target.provenance == {}
    plan.apply()
    after, theirs = state_of(target.module), state_of(source.module)
    layers = ("stem.", "stages.0.")
    assert all(torch.equal(after[name], theirs[name]) for name in after if name.startswith(layers))
    assert all(torch.equal(after[name], before[name]) for name in after if not name.startswith(layers))
    # Not an empty test: the two differ above.
    assert not torch.equal(after["embedding.weight"], theirs["embedding.weight"])


def test_all_or_nothing_where_one_tensor_does_not_fit():
    source, target = (
        convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8),
        convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=6),
    )
    before = state_of(target.module)
    with pytest.raises(TransferError, match=r"2 tensors from convnet do not fit:\n  embedding.weight is \(8, 144\)"):
        reuse(source, target)
    with pytest.raises(TransferError, match=r"All fits up to stage2: select that \(up_to='stage2'\)"):
        reuse(source, target)
    assert len(same(before, state_of(target.module))) == len(before)
    assert target.provenance == {}
    plan = reuse(source, target, other_shapes="skip")
    assert [misfit.name for misfit in plan.other_shape] == ["embedding.weight", "embedding.bias"]
    assert random_layers(target) == ("embedding",)


def test_nothing_loaded_is_an_error_that_guesses_the_prefix():
    network = nn.Linear(2, 3)
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    with pytest.raises(TransferError, match=r'nothing would be loaded.* begin with "module."') as caught:
        reuse(wrapped, nn.Linear(2, 3))
    assert r'Rule(r"module\.(.*)", r"\1")' in str(caught.value)
    assert r"--rename 'module\.(.*)=\1'" in str(caught.value)
    target = nn.Linear(2, 3)
    reuse(wrapped, target, rules=[Rule(r"module\.(.*)", r"\1")])
    assert torch.equal(target.weight, network.weight)
    with pytest.raises(TransferError, match=r'The names here begin with "encoder.inner."') as caught:
        reuse(network, nn.ModuleDict({"encoder": nn.ModuleDict({"inner": nn.Linear(2, 3)})}))
    assert r'Rule("(.*)", r"encoder.inner.\1")' in str(caught.value)
    assert r"--rename '(.*)=encoder.inner.\1'" in str(caught.value)


def test_a_counter_alone_is_nothing():
    with pytest.raises(TransferError, match="nothing would be loaded"):
        reuse({"num_batches_tracked": torch.tensor(3)}, nn.BatchNorm1d(2))


def test_a_counter_is_not_missed_but_statistics_are():
    norm = nn.BatchNorm1d(2)
    source = {name: tensor for name, tensor in norm.state_dict().items() if name not in ("num_batches_tracked",)}
    assert plan_copy(source, nn.BatchNorm1d(2), least_share=1).missing == ()
    del source["running_var"]
    assert plan_copy(source, nn.BatchNorm1d(2)).missing == ("running_var",)


def test_the_threshold_is_on_what_was_selected():
    source, target = mlp(width=2, hidden=[2, 2], seed=1), mlp(width=2, hidden=[2, 2, 2], seed=2)
    reuse(source, target, select=Select(up_to="hidden2"), least_share=1.0)
    with pytest.raises(TransferError, match=r"66.7% of the selected .* at least 70.0% are asked for .* 2.0.weight"):
        reuse(source, target, least_share=0.7)
    reuse(source, target, least_share=0.6)
    with pytest.raises(TransferError, match="from 0 to 1; found 70"):
        reuse(source, target, least_share=70)
    with pytest.raises(TransferError, match='other_shapes is "error" or "skip"; found \'ignore\''):
        plan_copy({}, nn.Linear(1, 1), other_shapes="ignore")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_refused(value):
    source = state_of(nn.Linear(2, 3))
    source["bias"][1] = value
    with pytest.raises(TransferError, match="NaN or infinite values in bias"):
        reuse(source, nn.Linear(2, 3))


def test_numbers_of_another_kind_do_not_fit():
    target = nn.BatchNorm1d(2)
    source = {**state_of(target), "num_batches_tracked": torch.tensor(0.5)}
    with pytest.raises(TransferError, match=r"num_batches_tracked is torch.float32 in the source, torch.int64 here"):
        reuse(source, target)
    # Whole numbers of a quantised network are no weights without their scale.
    quantised = {**state_of(target), "weight": torch.tensor([3, -7], dtype=torch.int8)}
    with pytest.raises(TransferError, match=r"weight is torch.int8 in the source, torch.float32 here"):
        reuse(quantised, target)
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state_of(target).items()
    }
    reuse(halves, target)
    assert target.weight.dtype is torch.float32


def test_numpy_arrays_and_rules_go_into_a_network_of_another_class():
    rng = np.random.default_rng(0)
    kernel, offset = rng.normal(size=(3, 3, 3, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    target = Renamed()
    plan = reuse(
        {"conv/kernel": kernel, "conv/bias": offset, "global_step": np.asarray(3)},
        target,
        rules=[Rule("conv/kernel", "first.0.weight", "conv"), Rule("conv/bias", "first.0.bias")],
        select="first.0",
    )
    assert plan.unexpected == ("global_step",)
    np.testing.assert_array_equal(target.first[0].weight.detach().numpy(), kernel.transpose(3, 2, 0, 1))
    assert plan.origin["first.0.weight"] == ("conv/kernel",)


def test_by_the_position_of_layers_the_names_do_not_matter(tiny_convnet):
    source = mlp(width=4, hidden=[8, 8, 3], seed=1)
    target = mlp(width=4, hidden=[8, 8, 5, 5], seed=2)
    reuse(source, target, by="layer", select=Select(up_to="hidden2"))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target.lower("hidden2")(x), source.lower("hidden2")(x))
    with pytest.raises(TransferError, match="All fits up to hidden2"):
        reuse(source, target, by="layer")
    with pytest.raises(TransferError, match="nothing would be loaded"):
        reuse(source, tiny_convnet(), by="layer")


def test_by_the_position_of_layers_under_other_names():
    from transfer.layers import tensor_layers

    source, target = build("timm/test_resnet", seed=1), build("timm/test_resnet", seed=2)
    flat = copy.deepcopy(target)
    renamed = nn.Module()
    renamed.inner = flat.module  # every name of the module gets another beginning
    flat.module = renamed
    flat.stages = tuple(
        type(stage)(f"x_{stage.name}", tuple(f"inner.{path}" for path in stage.owns), stage.dim, stage.apply)
        for stage in flat.stages
    )
    assert set(tensor_layers(flat).values()) & set(source.layer_names) == set()
    plan = reuse(source, flat, by="layer")
    assert plan.share == 1
    assert plan.missing == ()
    ours, theirs = state_of(flat.module), state_of(source.module)
    assert all(torch.equal(ours[f"inner.{name}"], theirs[name]) for name in theirs)


def test_by_the_position_of_layers_between_two_libraries():
    source, target = build("torchvision/resnet18", seed=1), build("timm/resnet18", seed=2)
    plan = reuse(source, target, by="layer", least_share=1.0)
    assert plan.unexpected == ()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(x), source.eval()(x), atol=1e-5, rtol=1e-5)


def test_by_layer_takes_a_layer_whole_or_not_at_all():
    source, target = mlp(width=4, hidden=[8, 8], seed=1), mlp(width=4, hidden=[8, 6], seed=2)
    plan = reuse(source, target, by="layer", other_shapes="skip")
    assert plan.loaded == ("0.0.weight", "0.0.bias")
    assert random_layers(target) == ("hidden2",)
    with pytest.raises(TransferError, match='by="layer" does not look at names'):
        reuse(source, target, by="layer", rules=[Rule("a", "b")])
    with pytest.raises(TransferError, match='by="layer" needs two backbones'):
        reuse(source, nn.Linear(1, 1), by="layer")


def test_tied_weights_are_given_by_one_of_their_names():
    target = nn.ModuleDict({"read": nn.Embedding(5, 3), "write": nn.Linear(3, 5, bias=False)})
    target["write"].weight = target["read"].weight
    plan = reuse({"write.weight": torch.ones(5, 3)}, target)
    assert plan.missing == ()
    assert plan.share == 1
    assert torch.equal(target["read"].weight, torch.ones(5, 3))
    with pytest.raises(TransferError, match=r"read.weight and write.weight are one tensor here"):
        reuse({"write.weight": torch.ones(5, 3), "read.weight": torch.zeros(5, 3)}, target)


def test_a_network_without_memory_is_refused():
    with pytest.raises(TransferError, match="weight has no memory here"):
        reuse(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))


def test_what_was_copied_and_what_is_random_is_saved(tiny_convnet, tmp_path):
    source, target = tiny_convnet(seed=1), tiny_convnet(seed=2)
    source.provenance["pretrained_on"] = "faces"
    reuse(source, target, select="stem|stages.0.0.conv1")
    again = Backbone.from_pretrained(target.save_pretrained(tmp_path / "saved"))
    assert again.provenance["pretrained_on"] == "faces"
    assert again.provenance["copied"][0].endswith("from convnet pretrained on faces")
    assert again.provenance["random"][-2:] == ["stage2", "embedding"]
    assert "stage1/stages.0.0.norm1.weight" in again.provenance["random"]
    assert random_layers(again) == ("stage1", "stage2", "embedding")
    reuse(source, again, select=Select(layers=["stage1"]))
    assert random_layers(again) == ("stage2", "embedding")
    assert len(again.provenance["copied"]) == 2
    mark_trained(again, ["stage2", "embedding"])
    assert again.provenance["random"] == []
    with pytest.raises(LayerError, match='no layer "stage3"'):
        mark_trained(again, ["stage3"])


def test_what_is_random_in_the_source_stays_random(tiny_convnet):
    first, second, third = tiny_convnet(seed=1), tiny_convnet(seed=2), tiny_convnet(seed=3)
    first.provenance["pretrained_on"] = "faces"
    reuse(first, second, select=Select(up_to="stem"))
    plan = reuse(second, third)
    assert plan.share == 1
    assert random_layers(third) == ("stage1", "stage2", "embedding")
    assert any("random in the source as well" in note for note in plan.notes)


def test_a_backbone_that_says_nothing_is_random_until_it_was_pretrained():
    network = build("timm/test_resnet")
    assert len(random_tensors(network)) == sum("num_batches" not in name for name in network.module.state_dict())
    network.provenance["pretrained_on"] = "pictures"
    assert random_tensors(network) == frozenset()


def test_networks_that_read_other_input_are_noted():
    source = build("timm/test_resnet", size=64)
    source.provenance["pretrained_on"] = "pictures"
    plan = reuse(source, build("timm/test_resnet", size=96), dry_run=True)
    assert len(plan.notes) == 1
    assert "the source was trained on" in plan.notes[0]
    assert "note: the source was trained on" in plan.describe()


def test_tokenizers_with_other_words_are_noted():
    words = [[f"{start}{place}" for place in range(200)] for start in "ab"]  # two corpora without a word in common

    def reader(corpus):
        tokenizer = train_tokenizer([" ".join(corpus)] * 3, size=150)
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        return build("transformers", config={"model_type": "bert", **sizes}, tokenizer=tokenizer, length=8)

    source, target = reader(words[0]), reader(words[1])
    plan = reuse(source, target, select=Select(layers=["block1"]), dry_run=True)
    assert any("words of the source's tokenizer have another row here, or none" in note for note in plan.notes)
    assert not any("tokenizer" in note for note in reuse(source, copy.deepcopy(source), dry_run=True).notes)


def test_files_and_folders_are_sources(tiny_convnet, tmp_path):
    source = tiny_convnet(seed=1)
    torch.save(source.module.state_dict(), tmp_path / "weights.pt")
    source.save_pretrained(tmp_path / "saved")
    source.save_pretrained(tmp_path / "run/checkpoints/step-00000100/backbone")
    tiny_convnet(seed=5).save_pretrained(tmp_path / "run/checkpoints/step-00000020/backbone")
    source.save_pretrained(tmp_path / "model/backbone")
    for path in ("weights.pt", "saved", "run", "model"):
        target = tiny_convnet(seed=2)
        plan = reuse(tmp_path / path, target)
        assert torch.equal(target.module.embedding.weight, source.module.embedding.weight)
        assert path in plan.source
    (tmp_path / "empty").mkdir()
    with pytest.raises(TransferError, match=r"empty holds no backbone: expected manifest.json"):
        reuse(tmp_path / "empty", target)
    with pytest.raises(BackboneError, match=r"there is no file .*absent.pt"):
        reuse(tmp_path / "absent.pt", target)
    (tmp_path / "short.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:200])
    with pytest.raises(BackboneError, match="damaged"):
        reuse(tmp_path / "short.pt", target)


def test_a_whole_classifier_of_timm_gives_a_backbone_its_own_outputs():
    import timm

    whole = timm.create_model("test_resnet", num_classes=10).eval()
    target = build("timm/test_resnet", seed=4)
    plan = reuse(whole, target, least_share=1.0)
    assert plan.unexpected == ("fc.bias", "fc.weight")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(x), pre_logits=True)
        assert torch.equal(target.eval()(x), expected)


def test_a_source_that_says_nothing_of_its_training_is_noted():
    source = mlp(width=2, hidden=[2], seed=1)
    told = "does not say what it was trained on"
    assert told in reuse(source, mlp(width=2, hidden=[2]), dry_run=True).describe()
    source.provenance["pretrained_on"] = "numbers"
    assert told not in reuse(source, mlp(width=2, hidden=[2]), dry_run=True).describe()
