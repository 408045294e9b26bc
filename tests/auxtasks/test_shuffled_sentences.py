"""Shuffled sentences: it learns an order where there is one, from the sentences alone, whatever pads them."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tokenizers import normalizers

from auxtasks import checkpoint
from auxtasks.backbones import Backbone, TokenBatch, mlp, transformers
from auxtasks.backbones.text import pad_tokens
from auxtasks.data import Mixture, train_tokenizer
from auxtasks.data.corruptions import KINDS, ORDER_ONLY
from auxtasks.data.loaders import Shard, read
from auxtasks.errors import BackboneError, ColumnError, DataError
from auxtasks.pretrain import pretrain
from auxtasks.seeding import generator
from auxtasks.tasks import ShuffledSentences
from auxtasks.tasks.grammaticality import bag_of_words_control
from auxtasks.tasks.sentence_batches import GOOD, SentenceBatch
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

QUIET = LoopSettings(show_progress=False, log_every=50)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LOSSES = ("sentence", "pair", "token", "order")
WORDS = {
    "noun": ["dog", "cat", "bird", "fox", "wolf", "mouse"],
    "verb": ["sees", "hears", "likes", "chases"],
    "adjective": ["big", "small", "old", "young", "red"],
}


def grammar(count: int, seed: int) -> list[str]:
    """Draw sentences such as "the old dog sees the cat and hears the bird."."""
    rng = np.random.default_rng(seed)

    def pick(kind: str) -> str:
        return WORDS[kind][rng.integers(len(WORDS[kind]))]

    def thing() -> str:
        return f"the {pick('adjective')} {pick('noun')}" if rng.random() < 0.6 else f"the {pick('noun')}"

    def deed() -> str:
        return f"{pick('verb')} {thing()}"

    return [f"{thing()} {deed()}{f' and {deed()}' if rng.random() < 0.5 else ''}." for _ in range(count)]


def disordered(texts: list[str]) -> list[str]:
    """Put the words of each sentence in a random order: then no order is the right one."""
    rng = np.random.default_rng(7)
    return [" ".join(rng.permutation(text[:-1].split())) + "." for text in texts]


TOKENIZER = train_tokenizer(grammar(200, seed=0), size=200)


def small(family: str = "bert", *, dropout: float = 0.0, seed: int = 0) -> Backbone:
    rates = {
        "bert": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
        "modernbert": ["attention_dropout", "mlp_dropout", "embedding_dropout"],
    }
    config = {"model_type": family, **SIZES, "max_position_embeddings": 40, **dict.fromkeys(rates[family], dropout)}
    return transformers(config, tokenizer=TOKENIZER, length=32, seed=seed)


def dataset(texts: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts})


def make_task(losses: tuple[str, ...] = ("sentence", "pair", "token"), **options) -> ShuffledSentences:
    return ShuffledSentences(small(), losses=dict.fromkeys(losses, 1.0), **options)


def batch_of(task: ShuffledSentences, texts: list[str], view: bool = False) -> SentenceBatch:
    table = task.prepare(dataset(texts))
    items = [
        task.view(read(table, row)) if view else task.transform(read(table, row), generator(0, "test", index=row))
        for row in range(len(table))
    ]
    return task.collate(items)


# Learning


def learn(texts: list[str], held_out: list[str], steps: int, losses=("sentence", "pair", "token"), **options):
    task = make_task(losses, **options)
    optimizer = OptimizerSettings(learning_rate=4e-3)
    pretrain(task, dataset(texts), steps=steps, batch_size=16, optimizer=optimizer, loop=QUIET)
    return task.evaluate(task.prepare(dataset(held_out)))


def test_order_is_learnt_and_held_out_sentences_are_told_from_their_corruptions():
    found = learn(grammar(300, seed=0), grammar(50, seed=1), steps=180)
    assert found["pair_accuracy"] > 0.85
    assert found["pair_accuracy/order_only"] > 0.9
    assert found["accuracy"] > 0.7
    assert {f"pair_accuracy/{kind}" for kind in KINDS} < found.keys()


def test_words_without_an_order_teach_none():
    # Many held-out ones: an even chance is to show as one.
    found = learn(disordered(grammar(300, seed=0)), disordered(grammar(250, seed=1)), steps=100)
    assert found["pair_accuracy/order_only"] == pytest.approx(0.5, abs=0.09)
    assert found["accuracy"] == pytest.approx(0.5, abs=0.09)


def test_the_token_head_alone_tells_good_sentences_too():
    mixture = Mixture({"shuffle": 1.0, "swap": 1.0})
    found = learn(grammar(300, seed=0), grammar(50, seed=1), steps=180, losses=("token",), mixture=mixture)
    assert found["pair_accuracy/order_only"] > 0.75


def test_a_bag_of_words_sees_no_order():
    task = make_task()
    table = task.prepare(dataset(grammar(120, seed=0)))
    trained = [task.transform(read(table, row), generator(0, "test", index=row)) for row in range(90)]
    held_out = [task.view(read(table, row)) for row in range(90, 120)]
    found = bag_of_words_control(trained, held_out, task.backbone.input.vocabulary, tuple(KINDS))
    assert {found[f"pair_accuracy/{kind}"] for kind in (*ORDER_ONLY, "order_only")} == {0.5}
    assert found["pair_accuracy/drop"] != 0.5


# What a batch is


def test_each_sentence_stands_beside_a_corruption():
    task = make_task()
    texts = grammar(6, seed=2)
    batch = batch_of(task, texts)
    assert batch.sentence.tolist() == [row // 2 for row in range(12)]
    assert batch.kinds[::2].tolist() == [GOOD] * 6
    assert (batch.kinds[1::2] >= 0).all()
    for place, text in enumerate(texts):
        good, bad = (batch.tokens.ids[2 * place + part][batch.tokens.mask[2 * place + part]] for part in (0, 1))
        assert good.tolist() == TOKENIZER(text)["input_ids"]
        assert bad.tolist() != good.tolist()
        assert bad[[0, -2, -1]].tolist() == good[[0, -2, -1]].tolist()  # [CLS], the full stop, [SEP]


def test_a_view_holds_each_kind_and_is_always_the_same():
    task = make_task(mixture=Mixture({"swap": 1.0}))
    one, two = (batch_of(task, grammar(3, seed=2), view=True) for _ in range(2))
    assert one.kinds.tolist() == [GOOD, *range(len(KINDS))] * 3
    assert torch.equal(one.tokens.ids, two.tokens.ids)


def test_labels_stand_at_the_first_token_of_each_word():
    # A word of several tokens, and a swap of neighbours.
    task = make_task(mixture=Mixture({"swap": 1.0}))
    batch = batch_of(task, ["the dogcatdog sees a fox."])
    pieces = [TOKENIZER.convert_ids_to_tokens(row.tolist()) for row in batch.tokens.ids]
    for row, counted in zip(pieces, batch.counted.tolist(), strict=True):
        special = ("[CLS]", "[SEP]", "[PAD]")
        assert counted == [not token.startswith("##") and token not in special for token in row]
        assert any(token.startswith("##") for token in row)
    assert batch.out_of_place.sum(dim=1).tolist() == [0, 3]
    assert not (batch.out_of_place & ~batch.counted).any()
    assert not batch.replaced.any()


def test_rows_are_cut_at_the_length_of_the_backbone():
    backbone = transformers(
        {"model_type": "bert", **SIZES, "max_position_embeddings": 40}, tokenizer=TOKENIZER, length=10
    )
    task = ShuffledSentences(backbone, mixture=Mixture({"duplicate": 1.0, "swap": 1.0}))
    table = task.prepare(dataset(["the old dog sees the small cat and hears the young bird."] * 20))
    assert table.truncated == 20
    items = [task.transform(read(table, row), generator(0, "test", index=row)) for row in range(20)]
    assert {len(row.tokens) for item in items for row in item.rows} == {10}
    for item in items:
        for row in item.rows:
            assert row.begins_word.sum() == len(row.out_of_place) == len(row.replaced) == 8
            assert row.tokens[-1] == TOKENIZER.sep_token_id
    assert torch.isfinite(task(task.collate(items)).loss_sum)


def test_a_corruption_that_the_cut_makes_the_sentence_again_is_left_out():
    backbone = transformers(
        {"model_type": "bert", **SIZES, "max_position_embeddings": 40}, tokenizer=TOKENIZER, length=6
    )
    task = ShuffledSentences(backbone, losses=dict.fromkeys(LOSSES, 1.0), mixture=Mixture({"duplicate": 1.0}))
    table = task.prepare(dataset(["the old dog sees the small cat."]))
    items = [task.transform(read(table, 0), generator(0, "test", index=index)) for index in range(60)]
    assert {len(item.rows) for item in items} == {1, 2}  # the last word twice is cut to the sentence
    for item in items:
        good, *bad = (row.tokens.tolist() for row in item.rows)
        assert good not in bad
    output = task(task.collate(items))
    assert torch.isfinite(output.loss_sum)
    assert output.weight == 60
    assert torch.isfinite(task(task.collate([item for item in items if len(item.rows) == 1])).loss_sum)


def test_a_sentence_is_corrupted_by_its_own_random_numbers():
    task = make_task()
    table = task.prepare(dataset(grammar(4, seed=2)))
    one, two, other = (task.transform(read(table, 1), generator(0, "test", index=index)) for index in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one.rows[1], two.rows[1], strict=True))
    assert one.rows[1].tokens.tolist() != other.rows[1].tokens.tolist()


def test_a_curriculum_follows_the_step():
    task = make_task(mixture=Mixture({"swap": 1.0}, easy={"drop": 1.0}, curriculum_steps=10))
    table = task.prepare(dataset(grammar(40, seed=2)))
    shares = []
    for step in (0, 5, 10):
        items = [task.transform(read(table, row, step), generator(0, "test", index=row)) for row in range(40)]
        shares.append(np.mean([item.rows[1].kind == list(KINDS).index("swap") for item in items]))
    assert shares[0] == 0
    assert 0.2 < shares[1] < 0.8
    assert shares[2] == 1


def test_batches_are_of_like_length():
    task = make_task(window=8)
    table = task.prepare(dataset(grammar(64, seed=2)))
    lengths = table.token_lengths()
    spreads = [np.ptp(lengths[[pick.row for pick in task.plan(table, 8, seed=0).batch(step)]]) for step in range(8)]
    assert np.mean(spreads) < 0.3 * np.ptp(lengths)


def test_a_budget_of_tokens_is_that_of_what_is_computed():
    budget = 16 * 16
    task = make_task(batch_tokens=budget, mixture=Mixture({"swap": 1.0}))
    short = [text for text in grammar(400, seed=3) if len(text.split()) == 5][:32]
    texts = grammar(64, seed=2) + short
    table = task.prepare(dataset(texts))
    plan = task.plan(table, 2, seed=0)
    stream = task.stream(dataset(texts).to_iterable_dataset(), 2, seed=0)
    planned = []
    for step in range(12):
        picks = plan.batch(step)
        planned.append(task.collate([task.transform(read(table, pick.row), generator(0, "t")) for pick in picks]))
    for batches in (planned, list(stream.batches(0, 12, Shard()))):
        computed = [batch.tokens.ids.numel() for batch in batches]
        assert budget / 2 < max(computed) <= budget
        assert len({int((batch.kinds == GOOD).sum()) for batch in batches}) > 1


# Losses


@pytest.mark.parametrize("losses", [("sentence",), ("pair",), ("token",), ("token", "order"), LOSSES])
def test_the_weight_is_the_number_of_sentences_and_every_parameter_gets_a_gradient(losses):
    task = make_task(losses)
    output = task(batch_of(task, grammar(6, seed=2)))
    assert output.weight == 6
    assert output.metrics.keys() == {f"{name}_loss" for name in losses} | (
        {"pair_accuracy"} if {"sentence", "pair"} & set(losses) else set()
    )
    assert float(output.loss_sum.detach()) == pytest.approx(
        6 * sum(float(output.metrics[f"{name}_loss"]) for name in losses), rel=1e-5
    )
    output.loss_sum.backward()
    assert [name for name, parameter in task.named_parameters() if parameter.grad is None] == []
    assert not any(value.requires_grad for value in output.metrics.values())


@pytest.mark.parametrize("view", [False, True])
def test_losses_are_what_loops_say(view):
    task = make_task(LOSSES).eval()
    batch = batch_of(task, grammar(5, seed=2), view=view)
    output = task(batch)
    with torch.no_grad():
        scores = task.scores(batch.tokens)
        logits = task.order_head(scores.state.hidden, batch.counted)
    expected = dict.fromkeys(LOSSES, 0.0)
    rows = range(len(batch.kinds))
    for sentence in range(5):
        (good,) = [row for row in rows if batch.sentence[row] == sentence and batch.kinds[row] == GOOD]
        bad = [row for row in rows if batch.sentence[row] == sentence and batch.kinds[row] != GOOD]
        assert len(bad) == (len(KINDS) if view else 1)
        for row in (good, *bad):
            share = 0.5 if row == good else 0.5 / len(bad)
            score = scores.sentence[row] if row == good else -scores.sentence[row]
            expected["sentence"] += share * -F.logsigmoid(score).item()
            words = []
            for place in range(batch.counted.shape[1]):
                if batch.counted[row, place]:
                    wanted = torch.stack([batch.out_of_place[row, place], batch.replaced[row, place]]).float()
                    each = F.binary_cross_entropy_with_logits(scores.token[row, place], wanted, reduction="sum")
                    words.append(each.item())
            expected["token"] += share * np.mean(words)
        for row in bad:
            expected["pair"] += F.softplus(scores.sentence[row] - scores.sentence[good]).item() / len(bad)
            known = [place for place, before in enumerate(batch.before[row].tolist()) if before >= 0]
            each = [-logits[row, place].log_softmax(0)[batch.before[row, place]].item() for place in known]
            expected["order"] += np.mean(each) / len(bad)
    for name, value in expected.items():
        assert float(output.metrics[f"{name}_loss"]) == pytest.approx(value / 5, rel=1e-4), name


def test_weights_scale_their_losses():
    batch = batch_of(make_task(), grammar(5, seed=2))
    plain, heavy = (
        ShuffledSentences(small(), losses={"token": token, "pair": pair})(batch)
        for token, pair in ((1.0, 1.0), (3.0, 0.5))
    )
    parts = {name: float(value) for name, value in plain.metrics.items()}
    assert float(heavy.loss_sum.detach()) == pytest.approx(
        5 * (3 * parts["token_loss"] + 0.5 * parts["pair_loss"]), rel=1e-5
    )


def test_a_sentence_that_could_not_be_corrupted_stands_alone():
    # The corpus holds no word that could replace one.
    task = make_task(mixture=Mixture({"replace": 1.0}), keep_initial=True)
    table = task.prepare(dataset(["dog cat fox.", "dog bird fox."]))
    record = {**read(table, 0), "corpus": table.words[0][-1:]}  # a full stop
    other = task.transform(read(table, 1), generator(0, "test"))
    alone = task.transform(record, generator(0, "test"))
    assert [len(item.rows) for item in (alone, other)] == [1, 2]
    output = task(task.collate([alone, other]))
    assert output.weight == 2
    assert all(torch.isfinite(value) for value in (output.loss_sum, *output.metrics.values()))
    assert torch.isfinite(task(task.collate([alone])).metrics["pair_accuracy"])


def widened(batch: SentenceBatch, by: int) -> SentenceBatch:
    """Pad a batch further than it needs."""
    width = batch.counted.shape[1]

    def pad(tensor: torch.Tensor, value: int) -> torch.Tensor:
        return F.pad(tensor, (0, by), value=value)

    return batch._replace(
        tokens=TokenBatch(pad(batch.tokens.ids, TOKENIZER.pad_token_id), pad(batch.tokens.mask, False)),
        counted=pad(batch.counted, False),
        out_of_place=pad(batch.out_of_place, False),
        replaced=pad(batch.replaced, False),
        before=pad(torch.where(batch.before == width, width + by, batch.before), -100),
    )


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_more_padding_changes_no_loss(family):
    task = ShuffledSentences(small(family), losses=dict.fromkeys(LOSSES, 1.0))
    batch = batch_of(task, grammar(5, seed=2))
    one, two = task(batch), task(widened(batch, by=8))
    assert two.weight == one.weight
    for name, value in one.metrics.items():
        torch.testing.assert_close(two.metrics[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("losses", [("pair",), ("token",)])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_side_of_the_padding_changes_no_score(family, losses):
    task = ShuffledSentences(small(family), losses=dict.fromkeys(losses, 1.0)).eval()
    table = task.prepare(dataset(grammar(8, seed=2)))
    rows = [task.view(read(table, row)).rows[0].tokens for row in range(8)]
    assert len({len(row) for row in rows}) > 2
    right, left = (
        task.goodness(pad_tokens(rows, pad_id=TOKENIZER.pad_token_id, side=side)) for side in ("right", "left")
    )
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    alone = torch.cat([task.goodness(pad_tokens([row], pad_id=TOKENIZER.pad_token_id)) for row in rows])
    torch.testing.assert_close(alone, right, atol=1e-5, rtol=1e-5)
    assert right.std() > 1e-4


def test_evaluation_is_the_same_for_any_batch_size_and_leaves_the_mode_alone():
    task = ShuffledSentences(small(dropout=0.5))
    table = task.prepare(dataset(grammar(12, seed=2)))
    assert task.evaluate(table, batch_size=5) == pytest.approx(task.evaluate(table, batch_size=12), abs=1e-6)
    assert task.training


# Folders and settings


def test_the_backbone_is_saved_alone_and_restored_with_its_heads(tmp_path):
    task = make_task(LOSSES)
    task.save(tmp_path, {"pretrained_on": task.description})
    assert "shuffled sentences (sentence, pair, token, order loss; shuffle, window" in task.description
    weights = checkpoint.read_tensors(tmp_path / "backbone" / "model.safetensors")
    assert weights.keys() == task.backbone.module.state_dict().keys()
    other = ShuffledSentences(small(seed=1), losses=dict.fromkeys(LOSSES, 1.0), seed=1)
    assert checkpoint.tensors_digest(other.state_dict()) != checkpoint.tensors_digest(task.state_dict())
    other.restore(tmp_path)
    assert checkpoint.tensors_digest(other.state_dict()) == checkpoint.tensors_digest(task.state_dict())
    exported = Backbone.from_pretrained(tmp_path / "backbone")
    assert exported.tokenizer("the dog")["input_ids"] == TOKENIZER("the dog")["input_ids"]
    with pytest.raises(checkpoint.CheckpointError, match=r"do not fit this module: [\s\S]*sentence_head"):
        make_task(("token",)).restore(tmp_path)


def test_the_seed_decides_the_heads_and_nothing_global():
    before = torch.random.get_rng_state()
    one, same, other = (make_task(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert checkpoint.tensors_digest(one.state_dict()) == checkpoint.tensors_digest(same.state_dict())
    assert not torch.equal(one.token_head.weight, other.token_head.weight)


def test_the_settings_tell_two_tasks_apart():
    options = [{}, {"losses": {"token": 1.0}}, {"losses": {"token": 2.0}}, {"mixture": Mixture({"swap": 1.0})},
               {"mixture": Mixture(easy={"swap": 1.0}, curriculum_steps=9)}, {"keep_initial": True}, {"window": 9},
               {"batch_tokens": 999}]  # fmt: skip
    settings = [json.dumps(ShuffledSentences(small(), **chosen).settings, default=str) for chosen in options]
    assert len(set(settings)) == len(options)


def test_the_tokenizer_is_part_of_the_settings():
    # A stream says nothing of it, and the configuration of a network only the size of its vocabulary.
    other = copy.deepcopy(TOKENIZER)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    config = {"model_type": "bert", **SIZES, "max_position_embeddings": 40}
    found = [
        ShuffledSentences(transformers(config, tokenizer=tokenizer, length=32)).settings
        for tokenizer in (TOKENIZER, copy.deepcopy(TOKENIZER), other)
    ]
    assert found[0] == found[1]
    assert {name for name in found[0] if found[0][name] != found[2][name]} == {"tokenizer"}
    bare = ShuffledSentences(transformers({**config, "vocab_size": 50}, length=20))
    assert bare.settings["tokenizer"] is None


def test_a_task_and_its_batches_survive_pickling():
    task = make_task()
    batch = batch_of(task, grammar(2, seed=2))
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.tokens.ids, batch.tokens.ids)
    assert pickle.loads(pickle.dumps(task.collate)) is ShuffledSentences.collate
    assert copy.deepcopy(task).settings == task.settings


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"tokens": 1.0}, "weights above zero of sentence, pair, token, order, at least one .* found {'tokens': 1.0}"),
        ({}, "at least one of them other than order, which cannot score a sentence; found {}"),
        ({"order": 1.0}, "which cannot score a sentence; found {'order': 1.0}"),
        ({"token": 0.0}, "losses are weights above zero"),
        ({"token": 1.0, "pair": -1.0}, "losses are weights above zero"),
    ],
)
def test_losses_that_cannot_be_are_refused(losses, message):
    with pytest.raises(DataError, match=message):
        ShuffledSentences(small(), losses=losses)


def test_what_makes_no_task_is_refused():
    with pytest.raises(BackboneError, match="need a backbone that takes text; this one takes features"):
        ShuffledSentences(mlp(width=3))
    task = make_task()
    with pytest.raises(ColumnError, match="there is no column 'text'; there are sentence"):
        task.prepare(Dataset.from_dict({"sentence": ["a b"]}))
    with pytest.raises(DataError, match=r"read a SentenceTable, found list: make one by task\.prepare\(\)"):
        task.plan([1, 2], 4, seed=0)
    bare = transformers({"model_type": "bert", **SIZES, "vocab_size": 50}, length=20)
    with pytest.raises(BackboneError, match=r"has no tokenizer: build it with tokenizer=, see `train_tokenizer`"):
        ShuffledSentences(bare).prepare(dataset(grammar(4, seed=0)))
