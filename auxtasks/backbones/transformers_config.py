"""Configurations of transformers' encoders, checked as strictly as recipes: the library takes any key in silence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from auxtasks.backbones.tokenizer import token_ids
from auxtasks.backbones.transformers_stages import ENCODERS
from auxtasks.errors import BackboneError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["check_encoder", "check_tokenizer", "network_keys", "resolve_config"]

# Older names that the library still turns into today's keys.
OLDER_KEYS = {"modernbert": ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")}
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def resolve_config(config: Mapping[str, object], tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedConfig:
    """Turn a plain mapping into the library's configuration, with vocabulary and special ids from the tokenizer.

    Raises:
        BackboneError: an unknown model type, or unknown keys, wrong values, or values that contradict the tokenizer;
            names all keys that are wrong.

    Example:
        >>> sizes = {"vocab_size": 40, "hidden_size": 8, "num_attention_heads": 2}
        >>> config = resolve_config({"model_type": "bert", **sizes}, None)
        >>> check_encoder(config)
        >>> config.hidden_size, network_keys(config)["model_type"]
        (8, 'bert')
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = dict(config)
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise BackboneError(f"config: model_type is missing. Allowed: {', '.join(ENCODERS)}.")
    _check_model_type(model_type)
    cls = CONFIG_MAPPING[model_type]
    fields = {field.name for field in dataclasses.fields(cls)}
    allowed = sorted({*fields, *cls.attribute_map, *OLDER_KEYS.get(str(model_type), ())})
    problems = [
        f'config: {model_type} has no key "{key}".{did_you_mean(str(key), allowed)}'
        for key in values
        if key not in allowed
    ]
    if problems:
        raise BackboneError("\n".join([*problems, f"Allowed: model_type, {', '.join(allowed)}."]))
    if tokenizer is not None:
        values |= _from_tokenizer(tokenizer, values, fields)
    try:
        resolved: PreTrainedConfig = AutoConfig.for_model(model_type, **values)
    except Exception as error:  # the library's checks raise errors of its own, which derive from Exception alone
        raise BackboneError(f"config: {model_type} does not take these values: {error}") from error
    check_encoder(resolved)
    return resolved


def _from_tokenizer(
    tokenizer: PreTrainedTokenizerBase, given: Mapping[str, object], fields: set[str]
) -> dict[str, object]:
    """Return the keys that a tokenizer settles.

    Raises:
        BackboneError: a value that was given contradicts them, or there is no vocabulary at all.
    """
    if "vocab_size" not in fields:
        raise BackboneError("a tokenizer was given, but the model takes images.")
    needed = token_ids(tokenizer)
    size = given.get("vocab_size", needed)
    problems = []
    if isinstance(size, int) and size < needed:
        problems.append(f"config: vocab_size is {size}, but the tokenizer has {needed} token ids.")
    settled: dict[str, object] = {"vocab_size": size}
    for key in SPECIAL:
        if key not in fields:
            continue
        # An id that the tokenizer lacks becomes nothing: the library's default may lie beyond a small vocabulary.
        settled[key] = getattr(tokenizer, key)
        if given.get(key) is not None and given[key] != settled[key]:
            problems.append(f"config: {key} is {given[key]}, but the tokenizer's is {settled[key]}.")
    if problems:
        raise BackboneError("\n".join(problems))
    return settled


def _check_model_type(model_type: object) -> None:
    """Refuse a model type without a table of stages; lists those that have one."""
    if model_type not in ENCODERS:
        raise BackboneError(
            f'the model type "{model_type}" has no table of stages. Allowed: {", ".join(ENCODERS)}.'
            f"{did_you_mean(str(model_type), ENCODERS)}"
        )


def check_encoder(config: PreTrainedConfig) -> None:
    """Refuse what is no encoder of a supported type, or cannot be computed stage by stage.

    Raises:
        BackboneError: names the key and its value.
    """
    _check_model_type(config.model_type)
    problems = list(_encoder_problems(config))
    if problems:
        raise BackboneError("\n".join(f"config: {problem}" for problem in problems))


def _encoder_problems(config: PreTrainedConfig) -> Iterator[str]:
    for key in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        if getattr(config, key, False):
            yield f"{key} is {getattr(config, key)}, but a backbone is an encoder."
    counts = ["num_hidden_layers", "num_attention_heads", "hidden_size"]
    if ENCODERS[config.model_type].kind == "text":
        counts += ["vocab_size", "max_position_embeddings"]
    for key in counts:
        if getattr(config, key) < 1:
            yield f"{key} must be at least 1, found {getattr(config, key)}."
    if ENCODERS[config.model_type].offset is not None and config.pad_token_id is None:
        yield f"pad_token_id is missing, but positions of {config.model_type} count from it."
    if str(config.dtype or "float32").removeprefix("torch.") != "float32":
        yield f"dtype is {config.dtype}, but weights are float32; the precision of computing is a setting of training."


def check_tokenizer(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that pretrained weights were not made with, as far as numbers tell.

    Raises:
        BackboneError: shows both numbers.

    Example:
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c", "c d"], size=20)
        >>> check_tokenizer(resolve_config({"model_type": "bert"}, tokenizer), tokenizer)
    """
    if ENCODERS[config.model_type].kind != "text":
        raise BackboneError("a tokenizer was given, but the model takes images.")
    if token_ids(tokenizer) > config.vocab_size:
        raise BackboneError(
            f"the tokenizer has {token_ids(tokenizer)} token ids, but the weights are for {config.vocab_size}: they "
            "were made with another tokenizer."
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != config.pad_token_id:
        raise BackboneError(
            f"the tokenizer's padding has id {tokenizer.pad_token_id}, but that of the weights {config.pad_token_id}: "
            "they were made with another tokenizer."
        )


def network_keys(config: PreTrainedConfig) -> dict[str, Any]:
    """Return all keys that describe the network, as JSON values that `resolve_config` takes."""
    from transformers import PreTrainedConfig

    everything = config.to_dict()
    # What every configuration has says nothing about the network: labels of a head, versions, the form of outputs.
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    names = [field.name for field in dataclasses.fields(config) if field.name not in common]
    described = {"model_type": config.model_type, **{name: everything[name] for name in names}}
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain
