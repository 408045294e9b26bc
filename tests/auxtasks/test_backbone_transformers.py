"""transformers: five encoders, cut at every layer, equal to the library's own forward to the bit."""

import copy
import json
import subprocess
import sys

import huggingface_hub.constants
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from auxtasks import checkpoint
from auxtasks.backbones import Backbone, InputSpec, TextState, TokenBatch, build, pool_layer, transformers
from auxtasks.backbones.text import positions_of
from auxtasks.errors import BackboneError, CheckpointError, InputMismatchError, LayerError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "with", "dog", "ran"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**SIZES, "vocab_size": 40, "pad_token_id": 0}
CONFIGS = {
    "bert": {"model_type": "bert", **TEXT, "max_position_embeddings": 24},
    "roberta": {"model_type": "roberta", **TEXT, "pad_token_id": 1, "max_position_embeddings": 26},
    "distilbert": {
        "model_type": "distilbert", "vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48,
        "max_position_embeddings": 24,
    },
    # Both kinds of attention, and a window that is narrower than the texts.
    "modernbert": {
        "model_type": "modernbert", **TEXT, "max_position_embeddings": 24, "local_attention": 4,
        "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3,
    },
    "vit": {"model_type": "vit", **SIZES, "image_size": 16, "patch_size": 8, "num_channels": 3},
}  # fmt: skip
DROPOUT = {
    "bert": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
    "roberta": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
    "distilbert": ["dropout", "attention_dropout"],
    "modernbert": ["attention_dropout", "mlp_dropout", "embedding_dropout"],
    "vit": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
}
TEXTS = [key for key in CONFIGS if key != "vit"]
every = pytest.mark.parametrize("family", CONFIGS)
textual = pytest.mark.parametrize("family", TEXTS)


def stir(module):
    """Move every weight: new biases are zero and new norms the identity, which would hide one left out."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.add_(0.1 * (torch.rand(tensor.shape, generator=generator) - 0.5))
    return module


def small(family: str, seed: int = 0, **config: object) -> Backbone:
    return stir(transformers({**CONFIGS[family], **config}, seed=seed))


def texts(backbone: Backbone, lengths=(5, 11, 8), width: int = 16, side: str = "right") -> TokenBatch:
    """Draw texts of given lengths, the same ids whatever the padding."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.full((len(lengths), width), backbone.input.pad_id)
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, where] = torch.randint(5, backbone.input.vocabulary, (length,), generator=generator)
        mask[row, where] = True
    return TokenBatch(ids, mask)


def batch(backbone: Backbone):
    if backbone.input.kind == "text":
        return texts(backbone)
    return torch.rand(3, *backbone.input.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def library(module, x) -> torch.Tensor:
    """Run the library's own forward."""
    if isinstance(x, TokenBatch):
        return module(input_ids=x.ids, attention_mask=x.mask.long()).last_hidden_state
    return module(pixel_values=x).last_hidden_state


def hidden(output) -> torch.Tensor:
    return output.hidden if isinstance(output, TextState) else output


@pytest.fixture(scope="module")
def tokenizer():
    """Make a WordPiece of 14 words."""
    words = Tokenizer(models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


# Layers and cuts


@every
def test_layers_are_the_embeddings_and_the_blocks(family):
    backbone = small(family)
    assert backbone.layer_dims == {"embeddings": 32, "block1": 32, "block2": 32}
    assert backbone.module.config._attn_implementation == "sdpa"
    assert backbone.prefix_tokens == (1 if family == "vit" else 0)
    assert all(module.training for module in backbone.modules())


@every
def test_cuts_make_the_library_s_own_forward_to_the_bit(family):
    backbone = small(family).eval()
    x = batch(backbone)
    with torch.no_grad():
        expected = library(backbone.module, x)
        assert expected.std() > 0.1
        assert torch.equal(hidden(backbone(x)), expected)
        for name in backbone.layer_names:
            crossing = backbone.lower(name)(x)
            assert torch.equal(hidden(backbone.upper(name)(crossing)), expected), name
            if family != "vit":
                assert isinstance(crossing, TextState)
                assert crossing.mask is x.mask


@every
def test_layers_are_the_library_s_own_hidden_states(family):
    backbone = small(family).eval()
    x = batch(backbone)
    inputs = {"pixel_values": x} if family == "vit" else {"input_ids": x.ids, "attention_mask": x.mask.long()}
    with torch.no_grad():
        expected = backbone.module(**inputs, output_hidden_states=True).hidden_states
        found = backbone.forward_layers(x, backbone.layer_names)
    assert len(expected) == len(found)
    for name, wanted in zip(list(found)[:-1], expected[:-1], strict=True):
        assert torch.equal(hidden(found[name]), wanted), name


@textual
def test_a_batch_without_padding_is_the_library_s_own_to_the_bit(family):
    backbone = small(family).eval()
    x = texts(backbone, lengths=(16, 16))
    with torch.no_grad():
        assert torch.equal(backbone(x).hidden, library(backbone.module, x))


@every
def test_dropout_draws_the_same_numbers_as_in_the_library(family):
    backbone = small(family, **dict.fromkeys(DROPOUT[family], 0.3)).train()
    x = batch(backbone)
    torch.manual_seed(3)
    expected = library(backbone.module, x)
    torch.manual_seed(3)
    assert torch.equal(hidden(backbone(x)), expected)
    assert not torch.equal(hidden(backbone(x)), expected)  # dropout was on


@every
def test_every_parameter_has_one_stage_and_learns(family):
    backbone = small(family)
    owned = [key for layer in backbone.layer_names for key, _ in backbone.parameters_of(layer)]
    assert sorted(owned) == sorted(key for key, _ in backbone.module.named_parameters())
    output = hidden(backbone(batch(backbone)))
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("family", "norm"), [("modernbert", "final_norm"), ("vit", "layernorm")])
def test_the_final_norm_belongs_to_the_last_block(family, norm):
    backbone = small(family)
    owners = {key: layer for layer in backbone.layer_names for key, _ in backbone.parameters_of(layer)}
    assert owners[f"{norm}.weight"] == "block2"


@every
def test_a_deep_copy_computes_with_its_own_weights(family):
    backbone = small(family).eval()
    x = batch(backbone)
    with torch.no_grad():
        before = hidden(backbone(x))
        twin = copy.deepcopy(backbone)
        stir(twin.module)
        assert not torch.equal(hidden(twin(x)), before)
        assert torch.equal(hidden(twin(x)), library(twin.module, x))
        assert torch.equal(hidden(backbone(x)), before)


@every
def test_frozen_layers_stop_learning_and_dropping_out(family):
    backbone = small(family).freeze(["embeddings", "block1"]).train()
    assert {
        layer for layer in backbone.layer_names if any(p.requires_grad for _, p in backbone.parameters_of(layer))
    } == {"block2"}
    assert not any(module.training for module in backbone.module.embeddings.modules())


@every
def test_seeds_give_weights_and_leave_the_global_generator_alone(family):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    built = [transformers(CONFIGS[family], seed=seed) for seed in (1, 1, 2)]
    untrained = small(family, seed=7).untrained(2)
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other, bare = (checkpoint.tensors_digest(b.module.state_dict()) for b in (*built, untrained))
    assert first == again != other == bare


# Padding


@textual
def test_the_side_of_the_padding_changes_nothing(family):
    backbone = small(family).eval()
    right, left = texts(backbone), texts(backbone, side="left")
    with torch.no_grad():
        one, other = (backbone.forward_layers(x, backbone.layer_names) for x in (right, left))
    for name in backbone.layer_names:
        assert torch.allclose(one[name].hidden[right.mask], other[name].hidden[left.mask], atol=1e-5), name


def test_a_library_s_own_forward_depends_on_the_side_of_the_padding():
    # Else the test above would hold for any positions.
    module = small("bert").eval().module
    right, left = (texts(small("bert"), side=side) for side in ("right", "left"))
    with torch.no_grad():
        assert not torch.allclose(library(module, right)[right.mask], library(module, left)[left.mask], atol=1e-2)


@pytest.mark.parametrize("pool", ["auto", "mean", "max", "token"])
@textual
def test_pooled_texts_do_not_depend_on_the_amount_of_padding(family, pool):
    backbone = small(family).eval()
    batches = [texts(backbone), texts(backbone, width=24), texts(backbone, width=24, side="left")]
    with torch.no_grad():
        first, *others = (backbone.forward_layers(x, backbone.layer_names, pool=pool) for x in batches)
        state = backbone.forward_layers(batches[0], ["block2"])["block2"]
    assert torch.equal(first["block2"], pool_layer(state, pool))
    assert first["block2"].std() > 0.1
    for other in others:
        for name in backbone.layer_names:
            assert first[name].shape == (3, 32)
            assert torch.allclose(first[name], other[name], atol=1e-5), name


@textual
def test_padding_beyond_the_last_position_is_only_padding(family):
    backbone = small(family).eval()
    full, wider = (texts(backbone, lengths=(24, 3), width=width) for width in (24, 32))
    with torch.no_grad():
        assert torch.allclose(backbone(full).hidden[full.mask], backbone(wider).hidden[wider.mask], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_text_beyond_the_last_position_is_refused(family):
    backbone = small(family)
    with pytest.raises(InputMismatchError, match=r"has positions for 24 tokens, the batch holds a text of 25"):
        backbone(texts(backbone, lengths=(25, 3), width=32))


def test_what_padding_holds_is_of_no_account():
    backbone = small("roberta").eval()
    x = texts(backbone)
    other = TokenBatch(torch.where(x.mask, x.ids, 9), x.mask)
    with torch.no_grad():
        assert torch.allclose(backbone(x).hidden[x.mask], backbone(other).hidden[x.mask], atol=1e-6)


def test_positions_count_on_behind_the_text():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert positions_of(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_texts_have_no_grid():
    backbone = small("bert")
    with pytest.raises(LayerError, match=r'pool="grid" needs items of one size'):
        backbone.forward_layers(texts(backbone), ["block1"], pool="grid")


# Input


@pytest.mark.parametrize(("family", "pad"), [("bert", 0), ("roberta", 1), ("distilbert", 0), ("modernbert", 0)])
def test_the_input_is_as_many_tokens_as_there_are_positions(family, pad):
    assert transformers(CONFIGS[family]).input == InputSpec.text(40, 24, pad_id=pad)
    shorter = transformers(CONFIGS[family], length=10)
    assert shorter.input.length == 10
    assert shorter.module.config.max_position_embeddings == CONFIGS[family]["max_position_embeddings"]
    with pytest.raises(BackboneError, match=rf"length is 25, but this {family} has positions for 24 tokens"):
        transformers(CONFIGS[family], length=25)


def test_the_input_of_a_vit_is_that_of_its_processor():
    backbone = transformers(CONFIGS["vit"])
    assert backbone.input == InputSpec.image(16, 3, mean=[0.5] * 3, std=[0.5] * 3)
    with torch.no_grad():
        assert backbone(batch(backbone)).shape == (3, 1 + 4, 32)
    oblong = transformers({**CONFIGS["vit"], "image_size": [16, 24], "num_channels": 1})
    assert oblong.input.shape == (1, 16, 24)


@textual
def test_a_token_id_beyond_the_vocabulary_is_refused(family):
    backbone = small(family)
    x = texts(backbone)
    backbone.input.check(x)
    x.ids[1, 3] = 40
    with pytest.raises(InputMismatchError, match="the backbone knows 40 token ids, the batch holds id 40"):
        backbone.input.check(x)


# Configurations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"exactly one of config=MAPPING .* and name="),
        ({"config": CONFIGS["bert"], "name": "x"}, r"exactly one of config=MAPPING .* and name="),
        ({"config": {"hidden_size": 8}}, "model_type is missing. Allowed: bert, roberta, distilbert, modernbert, vit"),
        ({"config": {"model_type": "gpt2"}}, r'"gpt2" has no table of stages\. Allowed: bert, roberta, '),
        ({"config": {"model_type": "brt"}}, r'Did you mean "bert"\?'),
        (
            {"config": {"model_type": "bert", "hiden_size": 8, "n_layer": 2}},
            r'bert has no key "hiden_size"\. Did you mean "hidden_size"\?[\s\S]*"n_layer"[\s\S]*Allowed: model_type,',
        ),
        ({"config": {**CONFIGS["bert"], "hidden_size": "32"}}, r"bert does not take these values: [\s\S]*hidden_size"),
        ({"config": {**CONFIGS["bert"], "hidden_size": 33}}, r"these sizes make no bert: [\s\S]*33"),
        ({"config": {**CONFIGS["bert"], "hidden_act": "gelo"}}, r"these sizes make no bert: [\s\S]*gelo"),
        ({"config": {**CONFIGS["bert"], "num_hidden_layers": 0}}, "num_hidden_layers must be at least 1, found 0"),
        ({"config": {**CONFIGS["bert"], "is_decoder": True}}, "is_decoder is True, but a backbone is an encoder"),
        ({"config": {**CONFIGS["bert"], "dtype": "bfloat16"}}, r"dtype is torch\.bfloat16, but weights are float32"),
        ({"config": {**CONFIGS["roberta"], "pad_token_id": None}}, "pad_token_id is missing, but positions of roberta"),
        ({"config": CONFIGS["bert"], "length": 0}, "length must be at least 1, found 0"),
        ({"config": CONFIGS["vit"], "length": 4}, "length is 4, but a vit takes images"),
    ],
)
def test_what_makes_no_encoder_is_refused(arguments, message):
    with pytest.raises(BackboneError, match=message):
        transformers(**arguments)


def test_the_tokenizer_settles_vocabulary_and_special_ids(tokenizer):
    sizes = {**SIZES, "model_type": "modernbert", "max_position_embeddings": 24}
    backbone = transformers(sizes, tokenizer=tokenizer)
    assert backbone.tokenizer is tokenizer
    config = backbone.module.config
    assert (config.vocab_size, config.pad_token_id, config.cls_token_id, config.sep_token_id) == (14, 0, 2, 3)
    assert (config.bos_token_id, config.eos_token_id) == (None, None)  # the tokenizer has none
    assert backbone.input == InputSpec.text(14, 24, pad_id=0)
    rounded = transformers({**sizes, "vocab_size": 64}, tokenizer=tokenizer)
    assert rounded.input.vocabulary == 64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIGS["bert"], "vocab_size": 10}, "vocab_size is 10, but the tokenizer has 14 token ids"),
        ({**CONFIGS["bert"], "pad_token_id": 3}, "pad_token_id is 3, but the tokenizer's is 0"),
        (CONFIGS["vit"], "a tokenizer was given, but the model takes images"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(config, message, tokenizer):
    with pytest.raises(BackboneError, match=message):
        transformers(config, tokenizer=tokenizer)


def test_the_zoo_passes_mappings_and_tokenizers_through(tokenizer):
    backbone = build("transformers", config=CONFIGS["bert"], tokenizer=tokenizer, seed=3)
    assert backbone.tokenizer is tokenizer
    assert backbone.family == transformers(CONFIGS["bert"], tokenizer=tokenizer, seed=3).family
    with pytest.raises(BackboneError, match=r"config must be a mapping or nothing, found 'bert'"):
        build("transformers", config="bert")
    with pytest.raises(BackboneError, match=r"tokenizer must be PreTrainedTokenizerBase or nothing, found 'words'"):
        build("transformers", config=CONFIGS["bert"], tokenizer="words")
    with pytest.raises(
        BackboneError,
        match="Allowed: convnet, facenet, mlp, timm, torchvision, transformers, timm/NAME, torchvision/NAME, hf/NAME, ",
    ):
        build("transformer", config=CONFIGS["bert"])


def test_importing_the_backbones_does_not_import_transformers():
    code = "import sys, auxtasks.backbones; print('transformers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


# Folders


@every
def test_a_saved_backbone_is_read_back_and_by_the_library_too(family, tmp_path, tokenizer):
    words = {} if family == "vit" else {"tokenizer": tokenizer}
    config = {**CONFIGS[family], **({} if family == "vit" else {"pad_token_id": 0, "bos_token_id": None})}
    config = {key: value for key, value in config.items() if key not in ("eos_token_id", "bos_token_id")}
    backbone = stir(transformers(config, seed=4, **words)).eval()
    place = backbone.save_pretrained(tmp_path / "backbone", pretrained_on="noise", seed=9)
    again = Backbone.from_pretrained(place).eval()
    module, report = AutoModel.from_pretrained(
        place,
        output_loading_info=True,
        **({} if family in ("distilbert", "modernbert") else {"add_pooling_layer": False}),
    )
    assert not any(report.values())
    x = batch(backbone)
    with torch.no_grad():
        expected = hidden(backbone(x))
        assert torch.equal(hidden(again(x)), expected)
        assert torch.equal(library(module.eval(), x), expected)
    assert (again.family, again.input, again.layer_dims) == (backbone.family, backbone.input, backbone.layer_dims)
    assert again.provenance == {"pretrained_on": "noise", "seed": 9}
    card = (place / "README.md").read_text()
    assert 'AutoModel.from_pretrained("path/to/this/folder"' in card
    if family == "vit":
        assert again.tokenizer is None
        assert "AutoTokenizer" not in card
        return
    assert "AutoTokenizer.from_pretrained(" in card
    for found in (again.tokenizer, AutoTokenizer.from_pretrained(place), again.untrained(0).tokenizer):
        assert found("the dog ran").input_ids == tokenizer("the dog ran").input_ids == [2, 5, 12, 13, 3]
        assert found.pad_token_id == 0


def test_a_saved_backbone_is_a_name_too(tmp_path, tokenizer):
    backbone = stir(transformers(CONFIGS["bert"], length=20, tokenizer=tokenizer)).eval()
    place = backbone.save_pretrained(tmp_path / "backbone")
    again = transformers(name=str(place)).eval()
    x = batch(backbone)
    with torch.no_grad():
        assert torch.equal(again(x).hidden, backbone(x).hidden)
    assert again.tokenizer.pad_token_id == 0


def test_folders_of_other_families_are_as_they_were(tmp_path):
    place = build("mlp", width=3, hidden=[2]).save_pretrained(tmp_path / "mlp")
    assert json.loads((place / "config.json").read_text()).keys() == {"family", "arguments"}
    assert "AutoModel" not in (place / "README.md").read_text()


def test_a_damaged_tokenizer_is_named(tmp_path, tokenizer):
    place = transformers(CONFIGS["bert"], tokenizer=tokenizer).save_pretrained(tmp_path / "backbone")
    (place / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(CheckpointError, match="is damaged: could not read the tokenizer"):
        Backbone.from_pretrained(place)


# Pretrained weights


@pytest.fixture
def published(tmp_path):
    """Write a model as transformers does, with a pooler."""

    def write(family: str, **options: object):
        values = dict(CONFIGS[family])
        module = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        stir(module).save_pretrained(tmp_path / family, **options)
        return tmp_path / family, module.eval()

    return write


@every
def test_a_folder_of_the_library_s_own_is_loaded_exactly(family, published):
    folder, module = published(family)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    backbone = transformers(name=str(folder))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in backbone.modules())
    assert backbone.eval().tokenizer is None
    assert backbone.provenance == {"pretrained_on": f"transformers/{folder}"}
    assert not any("pooler" in key for key in backbone.module.state_dict())
    assert backbone.layer_names == small(family).layer_names
    x = batch(backbone)
    with torch.no_grad():
        expected = library(module, x)
        assert torch.equal(hidden(backbone(x)), expected)
        again = Backbone.from_pretrained(backbone.save_pretrained(folder.parent / "again"))
        assert torch.equal(hidden(again.eval()(x)), expected)
        assert not torch.equal(hidden(backbone.untrained(0).eval()(x)), expected)


def test_the_tokenizer_comes_with_the_weights(published, tokenizer):
    folder, _ = published("bert")
    tokenizer.save_pretrained(folder)
    assert transformers(name=str(folder)).tokenizer("the dog").input_ids == [2, 5, 12, 3]
    assert transformers(name=str(folder), tokenizer=tokenizer).tokenizer is tokenizer


def test_a_tokenizer_of_other_weights_is_refused(published, tokenizer):
    folder, _ = published("roberta")
    with pytest.raises(BackboneError, match=r"padding has id 0, but that of the weights 1"):
        transformers(name=str(folder), tokenizer=tokenizer)
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([f"w{place}" for place in range(50)])
    folder, _ = published("bert")
    with pytest.raises(BackboneError, match=r"has 64 token ids, but the weights are for 40"):
        transformers(name=str(folder), tokenizer=larger)


def test_half_precision_is_read_as_float32(published):
    folder, module = published("bert")
    module.half().save_pretrained(folder)
    backbone = transformers(name=str(folder))
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert Backbone.from_pretrained(backbone.save_pretrained(folder.parent / "again")).family == backbone.family


def test_weights_that_leave_a_layer_random_are_refused(published):
    folder, _ = published("bert")
    state = checkpoint.read_tensors(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    checkpoint.write_tensors(folder / "model.safetensors", state, metadata={"format": "pt"})
    with pytest.raises(
        BackboneError, match=r"leave part of the backbone random: encoder\.layer\.1\.output\.dense\.bias"
    ):
        transformers(name=str(folder))


@every
def test_weights_of_more_layers_than_configured_are_refused(family, published):
    folder, _ = published(family)
    config = json.loads((folder / "config.json").read_text())
    changed = {key: 1 for key in ("num_hidden_layers", "n_layers") if key in config}
    changed |= {"layer_types": config["layer_types"][:1]} if "layer_types" in config else {}
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(BackboneError, match=r"has weights that its config\.json has no place for: .*\.1\."):
        transformers(name=str(folder))


def test_a_folder_of_pickles_is_refused(published):
    folder, module = published("bert")
    (folder / "model.safetensors").unlink()
    torch.save(module.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"has no weights in safetensors\. Pickles .* are never read here"):
        transformers(name=str(folder))


def test_a_folder_of_another_model_type_is_refused(published):
    folder, _ = published("bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(BackboneError, match=r'"gpt2" has no table of stages\. Allowed: bert'):
        transformers(name=str(folder))


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(BackboneError, match=r'"nobody/nothing" is no folder here') as raised:
        transformers(name="nobody/nothing")
    assert "hf download nobody/nothing --local-dir FOLDER" in str(raised.value)
    assert "name=FOLDER" in str(raised.value)
