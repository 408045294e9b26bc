"""Preferences: strings and conversations, with a prompt of their own or one that both begin with."""

from __future__ import annotations

import datasets
import pytest

from auxtasks.data.preferences import preference_texts
from auxtasks.errors import ColumnError, DataError

Message = dict[str, str | None]


def user(text: str | None) -> Message:
    return {"role": "user", "content": text}


def bot(text: str | None) -> Message:
    return {"role": "assistant", "content": text}


def texts(**columns: list[object]) -> list[tuple[str | None, str, str]]:
    return list(zip(*preference_texts(datasets.Dataset.from_dict(columns)), strict=True))


def test_strings_stay_as_they_are() -> None:
    found = texts(chosen=["a\nb", "same start, x"], rejected=["c", "same start, y"])
    assert found == [(None, "a\nb", "c"), (None, "same start, x", "same start, y")]


def test_strings_with_prompts_and_without_a_text() -> None:
    found = texts(prompt=["p", None, ""], chosen=["a", None, "b"], rejected=["b", "c", "d"])
    assert found == [("p", "a", "b"), (None, "", "c"), (None, "b", "d")]


def test_a_prompt_of_strings_may_be_a_conversation() -> None:
    assert texts(prompt=[[user("q"), bot("r")]], chosen=["a"], rejected=["b"]) == [("user: q\nassistant: r", "a", "b")]


def test_what_both_begin_with_is_the_prompt() -> None:
    rows = [
        ([user("q"), bot("a")], [user("q"), bot("b")]),  # one question
        ([user("q"), bot("r"), user("s"), bot("a")], [user("q"), bot("r"), user("s"), bot("b")]),  # several turns
        ([user("q"), bot("a"), user("s"), bot("t")], [user("q"), bot("b"), user("s"), bot("t")]),  # parted early
        ([bot("a")], [bot("b")]),  # nothing shared
        ([user("q"), bot("a")], [user("q"), bot("a"), user("s"), bot("t")]),  # one goes on
        ([user("q"), bot("a")], [user("q"), bot("a")]),  # the same
    ]
    assert texts(chosen=[row[0] for row in rows], rejected=[row[1] for row in rows]) == [
        ("q", "a", "b"),
        ("user: q\nassistant: r\nuser: s", "a", "b"),
        ("q", "assistant: a\nuser: s\nassistant: t", "assistant: b\nuser: s\nassistant: t"),
        (None, "a", "b"),
        ("q", "a", "assistant: a\nuser: s\nassistant: t"),
        ("q", "a", "a"),
    ]


def test_the_same_words_of_another_role_are_not_shared() -> None:
    assert texts(chosen=[[user("q"), bot("a")]], rejected=[[bot("q"), bot("b")]]) == [
        (None, "user: q\nassistant: a", "q\nb")
    ]


@pytest.mark.parametrize(
    ("prompt", "beginning", "expected"),
    [
        ("q", [user("q")], "q"),  # UltraFeedback's form: the prompt is there, and in both conversations as well
        (" q ", [user("q")], "q"),
        ("p", [user("q")], "p\nq"),
        ("q", [{"role": "system", "content": "s"}, user("q")], "system: s\nuser: q"),
        ("p", [], "p"),
        (None, [user("q")], "q"),
        ("", [], None),
    ],
)
def test_prompts_of_strings_before_conversations(
    prompt: str | None, beginning: list[Message], expected: str | None
) -> None:
    # A second row, so that a column of one null is a column of strings.
    found = texts(
        prompt=[prompt, "p"], chosen=[[*beginning, bot("a")], [bot("a")]], rejected=[[*beginning, bot("b")], [bot("b")]]
    )
    assert found[0] == (expected, "a", "b")


@pytest.mark.parametrize(
    ("prompt", "beginning", "expected"),
    [
        ([user("q")], [], "q"),
        ([user("q")], [user("q")], "q"),
        ([user("q")], [user("q"), bot("r"), user("s")], "user: q\nassistant: r\nuser: s"),
        ([{"role": "system", "content": "s"}], [user("q")], "system: s\nuser: q"),
        ([], [user("q")], "q"),
    ],
)
def test_prompts_of_messages(prompt: list[Message], beginning: list[Message], expected: str) -> None:
    found = texts(
        prompt=[prompt, [user("q")]],
        chosen=[[*beginning, bot("a")], [bot("a")]],
        rejected=[[*beginning, bot("b")], [bot("b")]],
    )
    assert found[0] == (expected, "a", "b")


def test_a_missing_or_empty_conversation_is_an_empty_text() -> None:
    good = [user("q"), bot("a")]
    found = texts(chosen=[good, None, good], rejected=[good, good, []])
    assert [pair[1:] for pair in found[1:]] == [("", "user: q\nassistant: a"), ("user: q\nassistant: a", "")]


def test_fields_beside_role_and_content_are_not_read() -> None:
    row = [{"content": "q", "role": "user", "weight": 1.0}]
    assert texts(chosen=[row], rejected=[[{"content": "r", "role": "user", "weight": 2.0}]]) == [(None, "q", "r")]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"chosen": ["a"]}, ColumnError, r"there is no column 'rejected'; there are chosen"),
        ({"chosen": [1], "rejected": ["b"]}, ColumnError, r"'chosen' holds int64; expected strings, or conversations"),
        ({"chosen": [["a"]], "rejected": ["b"]}, ColumnError, r"'chosen' holds List; expected strings, or conv"),
        ({"chosen": ["a"], "rejected": [[bot("b")]]}, ColumnError, r"one of .* holds strings and the other conver"),
        (
            {"chosen": [[{"from": "user", "value": "a"}]], "rejected": ["b"]},
            ColumnError,
            r"'chosen' holds messages of .*from.*value.*; expected role and content, both strings",
        ),
        ({"chosen": ["a"], "rejected": ["b"], "prompt": [3]}, ColumnError, r"'prompt' holds int64"),
        (
            {"chosen": [[bot("a")], [bot("a")]], "rejected": [[bot("b")], [bot("c"), bot(None)]]},
            DataError,
            r"row 1: message 1 \(from 0\) of the column 'rejected' has no content",
        ),
        (
            {"chosen": [[{"role": None, "content": "a"}, bot("b")]], "rejected": [[bot("b")]]},
            DataError,
            r"row 0: message 0 \(from 0\) of the column 'chosen' has no role",
        ),
        (
            {"chosen": ["a"], "rejected": ["b"], "prompt": [[user("q"), user(None)]]},
            DataError,
            r"row 0: message 1 \(from 0\) of the column 'prompt' has no content",
        ),
    ],
)
def test_columns_that_will_not_do(columns: dict[str, list[object]], error: type[DataError], message: str) -> None:
    with pytest.raises(error, match=message):
        texts(**columns)
