"""Pairs of a better and a worse text as the libraries for preference training write them: strings, or conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

import datasets
import pyarrow as pa

from auxtasks.data.arrow import arrow_column, spell_feature
from auxtasks.errors import ColumnError, DataError

__all__ = ["PreferenceTexts", "preference_texts"]

Message: TypeAlias = Mapping[str, str]
Conversation: TypeAlias = list[Message]


class PreferenceTexts(NamedTuple):
    """N pairs of texts; an empty text where a row has none, and None where it has no prompt.

    Example:
        >>> texts = PreferenceTexts(prompts=[None], chosen=["A good answer."], rejected=["A bad one."])
        >>> texts.chosen
        ['A good answer.']
    """

    prompts: list[str | None]
    chosen: list[str]
    rejected: list[str]


def preference_texts(dataset: datasets.Dataset) -> PreferenceTexts:
    """Return the texts of pairs.

    The columns ``chosen`` and ``rejected`` hold strings, which stay as they are, or conversations: lists of messages
    ``{"role", "content"}``. An optional column ``prompt`` holds strings or conversations.

    Of two conversations, what both begin with is the prompt, except for the last message of the shorter one. Where a
    row has a prompt of its own that both begin with, it is not said twice; where they begin without it, it comes first.

    A conversation becomes the contents of its messages, a line each; where it has several roles, each line begins with
    its role, as in ``user: ...``. No chat template is used: a backbone here scores a text, and continues none.

    Raises:
        ColumnError: a column is missing, or holds something else.
        DataError: a message has no role or no content (names the row).

    Example:
        >>> question = {"role": "user", "content": "2 + 2?"}
        >>> answers = [[question, {"role": "assistant", "content": text}] for text in ("4", "5")]
        >>> preference_texts(datasets.Dataset.from_dict({"chosen": [answers[0]], "rejected": [answers[1]]}))
        PreferenceTexts(prompts=['2 + 2?'], chosen=['4'], rejected=['5'])

    Reference: the formats "standard" and "conversational", with explicit and implicit prompts, are those of TRL.
    """
    talks = {name: _is_conversation(dataset, name) for name in ("chosen", "rejected")}
    if talks["chosen"] != talks["rejected"]:
        raise ColumnError(
            "one of the columns 'chosen' and 'rejected' holds strings and the other conversations; expected the same "
            "of both."
        )
    chosen, rejected = (arrow_column(dataset, name).to_pylist() for name in ("chosen", "rejected"))
    prompts: Sequence[str | Conversation | None] = [None] * len(dataset)
    prompt_talks = False
    if "prompt" in dataset.column_names:
        prompts = arrow_column(dataset, "prompt").to_pylist()
        # A column of nothing but nulls has no type.
        prompt_talks = any(prompt is not None for prompt in prompts) and _is_conversation(dataset, "prompt")
    if prompt_talks:
        _check_messages(cast(list[Conversation | None], prompts), "prompt")
    if not talks["chosen"]:
        plain = [_text(prompt) or None for prompt in prompts]
        return PreferenceTexts(plain, [text or "" for text in chosen], [text or "" for text in rejected])
    _check_messages(chosen, "chosen")
    _check_messages(rejected, "rejected")
    texts = PreferenceTexts([], [], [])
    for row in zip(prompts, chosen, rejected, strict=True):
        prompt, good, bad = _parted(row[0], row[1] or [], row[2] or [])
        texts.prompts.append(prompt)
        texts.chosen.append(good)
        texts.rejected.append(bad)
    return texts


def _parted(
    prompt: str | Conversation | None, chosen: Conversation, rejected: Conversation
) -> tuple[str | None, str, str]:
    """Part two conversations into what both begin with, after a prompt of their own, and what each ends with."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and _same(chosen[shared], rejected[shared]):
        shared += 1
    beginning, after = chosen[:shared], (_text(chosen[shared:]), _text(rejected[shared:]))
    if not prompt or _begins_with(beginning, prompt):
        return _text(beginning) or None, *after
    if isinstance(prompt, str):
        return "\n".join([prompt, *([_text(beginning)] if beginning else [])]), *after
    return _text([*prompt, *beginning]), *after


def _begins_with(beginning: Conversation, prompt: str | Conversation) -> bool:
    if isinstance(prompt, str):
        # The question alone, or the whole beginning written as one text.
        return any(prompt.strip() == text.strip() for text in (_text(beginning), *(m["content"] for m in beginning)))
    return len(prompt) <= len(beginning) and all(map(_same, prompt, beginning))


def _same(one: Message, other: Message) -> bool:
    return one["role"] == other["role"] and one["content"] == other["content"]


def _text(said: str | Conversation | None) -> str:
    """Write a conversation as a text.

    Example:
        >>> _text([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}])
        'user: Hi.\\nassistant: Hello.'
    """
    if said is None or isinstance(said, str):
        return said or ""
    several = len({message["role"] for message in said}) > 1
    return "\n".join(f"{message['role']}: {message['content']}" if several else message["content"] for message in said)


def _is_conversation(dataset: datasets.Dataset, name: str) -> bool:
    """Whether a column holds conversations and not strings; something else is an error."""
    if name not in dataset.column_names:
        raise ColumnError(f"there is no column {name!r}; there are {', '.join(dataset.column_names)}.")
    kind = arrow_column(dataset.select(range(0)), name).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return False
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type):
        fields = {field.name: field.type for field in kind.value_type}
        if all(pa.types.is_string(fields.get(part, pa.null())) for part in ("role", "content")):
            return True
        raise ColumnError(
            f"the column {name!r} holds messages of {', '.join(map(str, kind.value_type))}; expected role and content, "
            "both strings."
        )
    found = spell_feature(dataset.features[name])
    raise ColumnError(
        f"the column {name!r} holds {found}; expected strings, or conversations: lists of messages of role and content."
    )


def _check_messages(conversations: Sequence[Conversation | None], name: str) -> None:
    for row, conversation in enumerate(conversations):
        for place, message in enumerate(conversation or ()):
            for part in ("role", "content"):
                if message is None or message[part] is None:
                    raise DataError(f"row {row}: message {place} (from 0) of the column {name!r} has no {part}.")
