"""Rename rules: every layout against nested loops, and against what the other framework would compute with it."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from auxtasks.errors import TransferError
from transfer.rename import Rule, apply_rules, to_tensor


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def arranged(array, layout, **options):
    return apply_rules({"w": array}, [Rule("w", "weight", layout, **options)]).tensors["weight"].numpy()


def filled(shape, value):
    """Return an array whose entry at each index is `value(index)`."""
    found = np.zeros(shape, np.float32)
    for index in itertools.product(*map(range, shape)):
        found[index] = value(*index)
    return found


def test_as_is_keeps_the_axes():
    array = numbers(2, 3)
    np.testing.assert_array_equal(arranged(array, "as is"), array)


def test_linear():
    w = numbers(2, 3)
    np.testing.assert_array_equal(arranged(w, "linear"), filled((3, 2), lambda o, i: w[i, o]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conv(dims):
    w = numbers(*(2, 3, 4)[:dims], 5, 6)
    expected = filled((6, 5, *(2, 3, 4)[:dims]), lambda o, i, *at: w[(*at, i, o)])
    np.testing.assert_array_equal(arranged(w, "conv"), expected)


def test_depthwise_is_what_channels_last_computes():
    w, x = numbers(3, 2, 4, 2), numbers(6, 5, 4, seed=1)  # (H, W, C, M), a picture channels last
    expected = np.zeros((4, 4, 4, 2), np.float32)  # (H', W', C, M): each channel by itself, its M outputs side by side
    for h, v, c, m in itertools.product(range(4), range(4), range(4), range(2)):
        for dh, dv in itertools.product(range(3), range(2)):
            expected[h, v, c, m] += x[h + dh, v + dv, c] * w[dh, dv, c, m]
    kernel = torch.from_numpy(arranged(w, "depthwise"))
    found = F.conv2d(torch.from_numpy(x).permute(2, 0, 1)[None], kernel, groups=4)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected.reshape(4, 4, 8), atol=1e-5)


def test_heads():
    query, bias, out = numbers(6, 2, 3), numbers(2, 3), numbers(2, 3, 6)  # (D, h, K), (h, K), (h, K, D)
    np.testing.assert_array_equal(
        arranged(query, "heads in"), filled((6, 6), lambda row, d: query[d, row // 3, row % 3])
    )
    np.testing.assert_array_equal(arranged(bias, "heads bias"), filled((6,), lambda row: bias[row // 3, row % 3]))
    np.testing.assert_array_equal(
        arranged(out, "heads out"), filled((6, 6), lambda d, column: out[column // 3, column % 3, d])
    )


def test_flattened_reads_pictures_channels_first_as_channels_last():
    w, x = numbers(2 * 3 * 4, 5), numbers(2, 3, 4, seed=1)  # H*W*C, and a feature map (H, W, C)
    found = F.linear(
        torch.from_numpy(x).permute(2, 0, 1).flatten(), torch.from_numpy(arranged(w, "flattened", grid=(2, 3)))
    )
    np.testing.assert_allclose(found.numpy(), x.reshape(-1) @ w, atol=1e-5)


def test_bgr_takes_red_first():
    w = numbers(2, 3, 1, 1)
    np.testing.assert_array_equal(arranged(w, "bgr"), filled((2, 3, 1, 1), lambda o, i, h, v: w[o, 2 - i, h, v]))


def test_parts_are_joined_by_place_not_by_order():
    source = {name: numbers(2, 3, seed=place) for place, name in enumerate(["v", "q", "k"])}
    rules = [Rule(name, "qkv", "linear", part=(place, 3)) for place, name in enumerate(["q", "k", "v"])]
    renamed = apply_rules(source, rules)
    np.testing.assert_array_equal(
        renamed.tensors["qkv"].numpy(), np.concatenate([source[name].T for name in ["q", "k", "v"]])
    )
    assert renamed.origin == {"qkv": ("q", "k", "v")}


def test_the_first_rule_that_matches_wins_and_the_whole_name_must_match():
    source = {"a/w": numbers(1), "a/w/Adam": numbers(1), "b": numbers(1)}
    rules = [Rule(r"(?P<layer>\w)/w", r"\g<layer>.weight"), Rule(".*Adam", None), Rule(".*/w", "never")]
    renamed = apply_rules(source, rules)
    assert (list(renamed.tensors), renamed.left_out, renamed.unmatched) == (["a.weight"], ("a/w/Adam",), ("b",))
    kept = apply_rules(source, rules, keep_unmatched=True)
    assert (list(kept.tensors), kept.unmatched) == (["a.weight", "b"], ("b",))
    assert kept.origin["b"] == ("b",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "(", "to": "a"}, r"rule '\(': the pattern is no regular expression"),
        ({"pattern": "a", "to": "b", "layout": "linea"}, 'no layout "linea".* Did you mean "linear"'),
        ({"pattern": "a", "to": "b", "layout": "flattened"}, 'grid belongs to the layout "flattened"'),
        ({"pattern": "a", "to": "b", "grid": (2, 2)}, 'grid belongs to .* found layout "as is", grid'),
        ({"pattern": "a", "to": "b", "part": (3, 3)}, r"part is \(place, of\) .* found \(3, 3\)"),
        ({"pattern": "a(.)", "to": "b\1"}, "control character: write groups in a raw string"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_when_it_is_made(options, message):
    with pytest.raises(TransferError, match=message):
        Rule(**options)


@pytest.mark.parametrize(
    ("source", "rules", "message"),
    [
        (["a", "b"], [Rule(".", "w")], "two tensors for one target: 'a' and 'b' both become 'w'"),
        (["a", "b"], [Rule("a", "w"), Rule("b", "w", part=(0, 2))], "two tensors for one target"),
        (["a", "b"], [Rule("a", "w", part=(0, 2)), Rule("b", "w")], "two tensors for one target"),
        (["a", "b"], [Rule(".", "w", part=(0, 2))], "'a' and 'b' both become 'w'"),
        (["a"], [Rule("a", "w", part=(0, 2))], r"'w' is made of 2 parts; found 1: 'a' is part 0 of 2. Missing: 1"),
        (["a", "b"], [Rule("a", "w", part=(0, 2)), Rule("b", "w", part=(1, 3))], "made of 2 parts; found 2"),
        (["a"], [Rule("a", "w", "conv")], r"'a' has the shape \(2, 3\); the layout \"conv\" .* takes 3 to 5 axes"),
        (["a"], [Rule("a", "w", "bgr")], "takes 4 axes"),
        (["a"], [Rule("a", "w", "flattened", grid=(3, 3))], r"H\*W = 3\*3"),
        (["a"], [Rule("a", r"\1")], "names a group that the pattern lacks"),
    ],
)
def test_what_cannot_be_renamed_is_told_by_name(source, rules, message):
    with pytest.raises(TransferError, match=message):
        apply_rules({name: numbers(2, 3) for name in source}, rules)


def test_parts_of_other_widths_do_not_fit():
    rules = [Rule("a", "w", part=(0, 2)), Rule("b", "w", part=(1, 2))]
    with pytest.raises(
        TransferError, match=r"parts of 'w' do not fit together along axis 0: 'a' \(2, 3\), 'b' \(2, 4\)"
    ):
        apply_rules({"a": numbers(2, 3), "b": numbers(2, 4)}, rules)


def test_arrays_become_writable_tensors_of_their_own_dtype():
    read_only = numbers(2)
    read_only.flags.writeable = False
    assert to_tensor(read_only, "a").numpy().flags.writeable
    assert to_tensor(np.asarray(3, dtype=">i4"), "a").tolist() == 3
    assert to_tensor(np.asarray(3.0, dtype=np.float64), "a").shape == ()
    assert to_tensor(np.ones((3, 2), np.float16, order="F"), "a").dtype is torch.float16
    with pytest.raises(TransferError, match="words holds no numbers"):
        to_tensor(np.asarray(["a"]), "words")


def test_a_rule_of_another_name_renames_nothing():
    with pytest.raises(TransferError, match="does not match the name 'b'"):
        Rule("a", "c").renames("b")
