"""Encoders of transformers, new or pretrained: BERT, RoBERTa, DistilBERT, ModernBERT for text, ViT for images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from auxtasks.backbones.base import Backbone, check_positive, register
from auxtasks.backbones.description import Family
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.published_files import checkpoints_folder
from auxtasks.backbones.tokenizer import has_tokenizer, read_tokenizer
from auxtasks.backbones.transformers_config import check_encoder, check_tokenizer, network_keys, resolve_config
from auxtasks.backbones.transformers_stages import ENCODERS
from auxtasks.errors import BackboneError, library_words

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["transformers"]


@register("transformers")
def transformers(
    config: Mapping[str, object] | None = None,
    *,
    name: str | None = None,
    length: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> Backbone:
    """Build an encoder of transformers, without pooler or head; the last layer is its ``last_hidden_state``.

    Layers are ``embeddings`` and ``block1`` ... ``blockN``. A text encoder takes a `TokenBatch`, and each of its layers
    is a `TextState`; what it computes for the tokens does not depend on the side or the amount of padding. On a GPU, a
    batch without any padding may differ from the library's own forward by rounding: see `transformers_stages`.

    Args:
        config: for new weights: ``model_type`` and any keys of that type's configuration, as in a ``config.json``.
        name: for pretrained weights instead: a folder that transformers wrote, or a name on the Hugging Face Hub.
            Weights are safetensors, and code that came with them is never run. What a name stands for is looked for in
            ``hub/checkpoints/hf/NAME`` in the folder of PyTorch's files first, where it can be put by hand.
        length: most tokens of a text, special ones included; None takes as many as there are positions.
        tokenizer: settles ``vocab_size`` and the special ids of ``config``, and is saved with the backbone. With
            ``name``, None reads the one that came with the weights, if there is one.
        seed: of the random weights; PyTorch's global generator is left as it was.

    Raises:
        BackboneError: both or none of config and name; a model type without a table of stages; unknown keys or values
            that make no network; a tokenizer or a length that does not fit; weights that cannot be read or leave a
            layer random.

    Example:
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        >>> transformers({"model_type": "bert", "vocab_size": 100, **sizes}, length=128).layer_dims
        {'embeddings': 32, 'block1': 32, 'block2': 32}
        >>> transformers({"model_type": "bert", "hiden_size": 32})
        Traceback (most recent call last):
        auxtasks.errors.BackboneError: config: bert has no key "hiden_size". Did you mean "hidden_size"?
        ...
    """
    if (config is None) == (name is None):
        raise BackboneError("give exactly one of config=MAPPING (new weights) and name=FOLDER_OR_NAME (pretrained).")
    if length is not None:
        check_positive(length=length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config is not None:
            module = _create(resolve_config(config, tokenizer))
        else:
            assert name is not None  # checked above; narrows the type
            module = _load(name)
            tokenizer = tokenizer or _own_tokenizer(name, module)
    found: Any = module.config  # every module of transformers has one
    if tokenizer is not None:
        check_tokenizer(found, tokenizer)
    spec = _input_spec(found, length)
    encoder = ENCODERS[found.model_type]
    arguments = {
        # Not the name: a saved folder has the weights and must be read without a network.
        "config": network_keys(found), "length": spec.length, "seed": seed,
    }  # fmt: skip
    backbone = Backbone(
        module.train(),
        encoder.stages(found.hidden_size, found.num_hidden_layers),
        spec,
        Family("transformers", arguments),
        prefix_tokens=1 if encoder.kind == "image" else 0,
        tokenizer=tokenizer,
        # By these keys transformers knows the folder as its own.
        library_config={**network_keys(found), "architectures": [type(module).__name__], "dtype": "float32"},
    )
    if name is not None:
        backbone.provenance["pretrained_on"] = f"transformers/{name}"
    return backbone


def _options(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what every way of building a module is told."""
    # A pooler that no layer uses has no gradient, which DistributedDataParallel raises at.
    pooler = {"add_pooling_layer": False} if ENCODERS[config.model_type].has_pooler else {}
    return {"attn_implementation": "sdpa", "dtype": torch.float32, "trust_remote_code": False, **pooler}


def _create(config: PreTrainedConfig) -> nn.Module:
    """Build a module with random weights; the library's complaint about sizes becomes ours."""
    from transformers import AutoModel

    try:
        module: nn.Module = AutoModel.from_config(config, **_options(config))
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise BackboneError(f"config: these sizes make no {config.model_type}: {error}") from error
    return module


def _load(name: str) -> nn.Module:
    """Read a folder, or fetch what is under a name, and see to it that no layer stays random."""
    from transformers import AutoConfig, AutoModel

    place = _place(name)
    is_folder = place.is_dir()
    if is_folder:
        _check_folder(place)
    source: Any = {"pretrained_model_name_or_path": str(place) if is_folder else name, "local_files_only": is_folder}
    try:
        config = AutoConfig.from_pretrained(**source, trust_remote_code=False)
    except Exception as error:  # the Hub's client raises errors of half a dozen libraries when there is no network
        raise _unreadable(name, is_folder, error) from error
    config.dtype = torch.float32  # half precision on disk is read as float32
    check_encoder(config)
    try:
        module, report = AutoModel.from_pretrained(
            **source, config=config, use_safetensors=True, output_loading_info=True, **_options(config)
        )
    except Exception as error:
        raise _unreadable(name, is_folder, error) from error
    if random := sorted(str(key) for key in report["missing_keys"]):
        raise BackboneError(f'the weights of "{name}" leave part of the backbone random: {", ".join(random)}.')
    # Heads and poolers are left out on purpose; a block's weights without a place are of another network.
    if unused := sorted(
        str(key) for key in report["unexpected_keys"] if f"{ENCODERS[config.model_type].blocks}." in key
    ):
        raise BackboneError(f'"{name}" has weights that its config.json has no place for: {", ".join(unused)}.')
    loaded: nn.Module = module
    return loaded


def _place(name: str) -> Path:
    """Return the folder that a name stands for, which need not exist: its own path, or where it was put by hand."""
    place = Path(name).expanduser()
    by_hand = checkpoints_folder() / "hf" / name
    return by_hand if by_hand.is_dir() and not place.is_dir() else place


def _check_folder(place: Path) -> None:
    """Refuse a folder whose weights are a pickle, before anything looks at them."""
    if (place / "config.json").is_file() and not list(place.glob("*.safetensors")):
        raise BackboneError(
            f"{place} has no weights in safetensors. Pickles (pytorch_model.bin) can run code and are never read here; "
            "if you trust where the folder comes from, load it with transformers and save it again."
        )


def _unreadable(name: str, is_folder: bool, error: Exception) -> BackboneError:
    """Say why weights cannot be read, and what to do."""
    if is_folder:
        return BackboneError(f'could not read "{name}": {library_words(error)}')
    return BackboneError(
        f'"{name}" is no folder here, and could not be fetched from the Hugging Face Hub: {library_words(error)}\n'
        "Without a network: fetch it on a machine that has one, for example with\n"
        f"    hf download {name} --local-dir FOLDER\n"
        f"(from https://huggingface.co/{name}/tree/main: config.json, model.safetensors, and the tokenizer's files)\n"
        f"and copy the folder to {checkpoints_folder() / 'hf' / name}, or pass its path as name=FOLDER."
    )


def _own_tokenizer(name: str, module: nn.Module) -> PreTrainedTokenizerBase | None:
    """Read the tokenizer that came with the weights; a folder may have none."""
    config: Any = module.config
    if ENCODERS[config.model_type].kind != "text":
        return None
    place = _place(name)
    if not place.is_dir():
        return read_tokenizer(name)
    return read_tokenizer(place) if has_tokenizer(place) else None


def _input_spec(config: Any, length: int | None) -> InputSpec:
    """Describe what the encoder takes.

    Raises:
        BackboneError: more tokens than there are positions, or a length for images.
    """
    encoder = ENCODERS[config.model_type]
    if encoder.kind == "image":
        if length is not None:
            raise BackboneError(f"length is {length}, but a {config.model_type} takes images.")
        size = config.image_size if isinstance(config.image_size, int) else tuple(config.image_size)
        # The normalisation of ViT's own image processor.
        half = (0.5,) * config.num_channels
        return InputSpec.image(size, config.num_channels, mean=half, std=half)
    most = encoder.length(config)
    if most < 1 or (length or most) > most:
        raise BackboneError(f"length is {length or 1}, but this {config.model_type} has positions for {most} tokens.")
    return InputSpec.text(config.vocab_size, length or most, pad_id=config.pad_token_id or 0)
