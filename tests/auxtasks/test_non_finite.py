"""A loss or a gradient that is not finite: at which step, of which rows of the data, in which layer."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn

from auxtasks.backbones import convnet, mlp, transformers
from auxtasks.data import load_source, train_tokenizer
from auxtasks.data.loaders import Feed
from auxtasks.data.plan import EpochPlan
from auxtasks.data.row_feed import RowFeed
from auxtasks.data.streams import StreamFeed
from auxtasks.errors import NonFiniteError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, MaxMarginRanking, ShuffledSentences
from auxtasks.training import engine
from auxtasks.training.engine import train
from auxtasks.training.non_finite import Finding, Replay, describe, find_non_finite
from auxtasks.training.objective import Objective, StepOutput
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase
from auxtasks.training.steps import Stepper

PLAIN = OptimizerSettings(learning_rate=0.01, weight_decay=0.0, warmup_steps=0, schedule="constant")
QUIET = LoopSettings(show_progress=False, device="cpu")
PLAN = EpochPlan(items=24, batch_size=8, seed=1)
STEPS = 6
BAD_STEP = 5  # counted from 1; in the second epoch, so that its rows were good once


def rows_of(step: int) -> list[int]:
    return [pick.row for pick in PLAN.batch(step - 1)]


ONE, OTHER = rows_of(BAD_STEP)[3], rows_of(BAD_STEP)[6]


class Points:
    """Three numbers a row; where `bad` has another first one, it comes from `BAD_STEP` on."""

    def __init__(self, bad: Mapping[int, float] | None = None, rows: np.ndarray | None = None) -> None:
        self.x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
        self.bad = bad or {}
        if rows is not None:
            self.rows = rows

    def __len__(self) -> int:
        return len(self.x)

    def record(self, index: int) -> Mapping[str, Any]:
        return {"x": self.x[index]}

    def item(self, record: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        x = np.array(record["x"], np.float32)
        if record["step"] + 1 >= BAD_STEP and record["row"] in self.bad:
            x[0] = self.bad[record["row"]]
        return x


class Batch(NamedTuple):
    x: Tensor
    weights: Tensor


def collate(items) -> Batch:
    return Batch(torch.tensor(np.stack(items)), torch.ones(len(items)))


def points(bad: Mapping[int, float] | None = None, *, workers: int = 0, rows: np.ndarray | None = None) -> Feed:
    records = Points(bad, rows)
    return Feed(records, PLAN, records.item, collate, seed=0, workers=workers)


class Overflows(nn.Module):
    """Infinite for an item whose first input is above 100."""

    def forward(self, x):
        return x / (x[:, :1] <= 100)


class Regression(Objective):
    def __init__(self, *below: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(*below, nn.Linear(3, 1))
        self.scale = scale
        self.calls = 0

    def loss(self, output: Tensor) -> Tensor:
        return output.square().sum() * self.scale

    def forward(self, batch: Batch) -> StepOutput:
        self.calls += 1
        return StepOutput(self.loss(self.net(batch.x)[:, 0]), batch.weights.sum(), {})

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def restore(self, folder: Path) -> None:
        raise NotImplementedError


def failure(
    objective: Objective, feed: Any, *, optimizer: OptimizerSettings = PLAIN, **settings: Any
) -> NonFiniteError:
    loop = LoopSettings(**{"show_progress": False, "device": "cpu", "log_every": 1, **settings})
    with pytest.raises(NonFiniteError, match="the loss or its gradient is not finite at step") as caught:
        train(objective, feed, [Phase(STEPS)], seed=0, optimizer=optimizer, loop=loop)
    return caught.value


def test_an_input_that_is_nan_is_named_with_its_row():
    error = failure(Regression(), points({ONE: np.nan}))
    assert (error.step, error.rows, error.layer) == (BAD_STEP, (ONE,), "net.0")
    assert f"look for broken inputs. The input holds NaN or infinity in its x, in row {ONE}." in str(error)


def test_rows_that_were_left_out_of_the_data_set_do_not_mislead():
    error = failure(Regression(), points({ONE: np.nan}, rows=np.arange(24) + 100))
    assert error.rows == (ONE,)
    assert f"in row {ONE} (row {ONE + 100} of the data set)." in str(error)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.processes)])
def test_the_first_layer_whose_output_is_not_finite_is_named_with_its_rows(workers):
    objective = Regression(nn.Identity(), Overflows(), nn.Linear(3, 3))
    error = failure(objective, points({ONE: 101.0, OTHER: 102.0}, workers=workers))
    assert (error.step, error.rows, error.layer) == (BAD_STEP, (ONE, OTHER), "net.1")
    assert f'whose output is not finite is "net.1" (Overflows), in rows {ONE}, {OTHER}.' in str(error)
    assert objective.calls == BAD_STEP  # it was done again on a copy


def test_what_happens_between_two_layers_is_not_blamed_on_the_second():
    class Between(Regression):
        def forward(self, batch):
            return super().forward(batch._replace(x=batch.x / (batch.x[:, :1] <= 100)))

    error = failure(Between(nn.Linear(3, 3)), points({ONE: 101.0}))
    assert error.layer == "net.0"
    assert f"(Linear), whose input no longer is either: look at what is computed before it, in row {ONE}." in str(error)


def test_a_micro_batch_is_found_among_others():
    place = rows_of(BAD_STEP)[4:6]  # the third of four micro-batches of two
    error = failure(Regression(Overflows()), points({place[1]: 101.0}), accumulation=4)
    assert error.rows == (place[1],)
    assert 'In micro-batch 3 of 4: the first layer whose output is not finite is "net.0"' in str(error)


def test_a_layer_that_mixes_the_items_of_a_batch_is_told_with_all_of_them():
    class Sums(nn.Module):
        def forward(self, x):
            return x.sum() / (x.max() <= 100) + torch.zeros(1, 3)

    error = failure(Regression(Sums()), points({ONE: 101.0}))
    assert error.rows == tuple(rows_of(BAD_STEP))
    assert f"(Sums), in a micro-batch of rows {', '.join(map(str, rows_of(BAD_STEP)))}." in str(error)


def test_no_more_rows_are_listed_than_one_reads():
    plan = EpochPlan(items=30, batch_size=30, seed=0, shuffle=False)
    feed = RowFeed(lambda rows: collate(np.full((len(rows), 3), 101.0, np.float32)), plan)
    error = failure(Regression(Overflows()), feed)
    assert error.rows == tuple(range(30))
    assert ", in rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 10 more." in str(error)


def test_the_step_is_done_again_with_the_chance_that_it_had():
    bad: list[list[bool]] = []

    class Chance(nn.Module):
        def forward(self, x):
            drawn = torch.rand(len(x), 1)
            if self.training:
                bad.append((drawn[:, 0] > 0.9).tolist())
            return x / (drawn <= 0.9)

    error = failure(Regression(Chance()), points())
    assert len(bad) == error.step + 1
    assert bad[-2] == bad[-1]
    assert 0 < sum(bad[-2]) < 8
    assert error.rows == tuple(row for row, is_bad in zip(rows_of(error.step), bad[-2], strict=True) if is_bad)


def test_a_loss_that_is_not_finite_of_finite_outputs_is_told_from_a_layer():
    class Divides(Regression):
        def loss(self, output):
            return output.sum() / (output.abs().max() < 1e3)

    error = failure(Divides(), points({ONE: 1e6}))
    assert (error.rows, error.layer) == (tuple(rows_of(BAD_STEP)), None)
    assert "The outputs of all layers are finite, the loss that Divides makes of them is not, in a micro-" in str(error)


def test_a_gradient_that_is_not_finite_is_named_by_its_parameter():
    class Steep(Regression):
        def loss(self, output):
            # Its value is finite, its slope is not a number of this world.
            return output.sum() + (self.net[0].bias.sum() * 0).sqrt()

    error = failure(Steep(nn.Linear(3, 3)), points())
    assert (error.step, error.layer, error.parameter) == (1, None, "net.0.bias")
    assert (
        'The loss is finite; of the gradients, the first in backward order that is not finite is that of "net.0.bi'
        in (str(error))
    )


def test_gradients_whose_norm_alone_overflows_are_told_so():
    error = failure(Regression(scale=1e22), points())
    assert error.parameter == "net.0.weight"
    assert "it is their sum, or its norm, that is not; the largest gradient is that of" in str(error)


def test_weights_that_were_broken_before_are_not_blamed_on_the_data():
    objective = Regression(nn.Linear(3, 3))
    with torch.no_grad():
        objective.net[0].bias[1] = torch.inf
        objective.net[1].weight[0, 0] = torch.nan
    error = failure(objective, points())
    assert (error.step, error.rows, error.parameter) == (1, (), "net.0.bias")
    assert "Before the step already, parameters net.0.bias, net.1.weight were not finite." in str(error)


def test_a_broken_buffer_is_named():
    norm = nn.BatchNorm1d(3).eval()
    norm.train = lambda mode=True: norm  # frozen
    norm.running_mean[0] = torch.nan
    error = failure(Regression(norm), points())
    assert error.layer == "net.0"
    assert '"net.0" (BatchNorm1d), where buffer running_mean was not finite' in str(error)


def test_a_step_that_cannot_be_done_again_is_still_an_error_of_its_own():
    class Uncopied(Regression):
        def __deepcopy__(self, memo):
            raise TypeError("I am one of a kind")

    error = failure(Uncopied(Overflows()), points({ONE: 101.0}))
    assert error.step == BAD_STEP
    assert "could not be done again to find out more: TypeError: I am one of a kind." in str(error)


def test_mixed_precision_is_looked_at_as_it_was_computed():
    error = failure(Regression(nn.Identity(), Overflows()), points({ONE: 101.0}), mixed_precision="bf16")
    assert (error.step, error.rows, error.layer) == (BAD_STEP, (ONE,), "net.1")


def stream(bad: Mapping[int, float]) -> StreamFeed:
    """Two shards of 12 rows, in the order of the first epoch; all of it in one block."""
    records = Points(bad)
    rows = Dataset.from_dict({"row": range(24)}).to_iterable_dataset(num_shards=2)

    class Block:
        left_out: Mapping[str, int] = {}

        def __init__(self, given):
            self.given, self.rows = given, np.arange(len(given))

        def token_lengths(self):
            return np.ones(len(self.given), np.int64)

        def record(self, index):
            return {"x": records.x[self.given[index]["row"]], "number": self.given[index]["row"]}

    def item(record, rng):
        return records.item({**record, "row": record["number"]}, rng)

    return StreamFeed(rows, lambda given, first: Block(given), item, collate, batch_size=8, seed=0)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_row_of_a_stream_is_named_by_its_shard(deferred, monkeypatch):
    if deferred:
        check_late(monkeypatch)
    # Of 24 rows any batch of 8 holds one of 17; the first that is bad at the step is the one to be named.
    error = failure(Regression(Overflows()), stream(dict.fromkeys(range(17), 101.0)), log_every=STEPS)
    assert error.step == BAD_STEP
    shards = [divmod(row, 1 << 40) for row in error.rows]
    assert 1 <= len(shards) <= 8
    assert all(shard * 12 + place < 17 for shard, place in shards)
    assert f"{shards[0][1]} of shard {shards[0][0]}" in str(error)


# On a GPU, where no step is waited for


def check_late(monkeypatch):
    """Let the loop check as it does on a GPU: when it logs, validates, or writes a checkpoint."""

    class Late(Stepper):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._checks_at_once = False

    monkeypatch.setattr(engine, "Stepper", Late)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_that_is_checked_late_has_moved_no_weight(name, monkeypatch):
    optimizer = OptimizerSettings(name=name, learning_rate=0.01, warmup_steps=0, schedule="constant")
    undisturbed, late = Regression(Overflows()), Regression(Overflows())
    train(undisturbed, points(), [Phase(BAD_STEP - 1)], seed=0, optimizer=optimizer, loop=QUIET)
    check_late(monkeypatch)
    error = failure(late, points({ONE: 101.0}), optimizer=optimizer, log_every=100)
    assert late.calls == STEPS  # the bad one was not the last
    assert (error.step, error.rows, error.layer) == (BAD_STEP, (ONE,), "net.0")
    torch.testing.assert_close(late.state_dict(), undisturbed.state_dict(), rtol=0, atol=1e-6)


def test_a_healthy_run_that_is_checked_late_ends_as_one_that_is_not(monkeypatch):
    ended = []
    for late in (False, True):
        if late:
            check_late(monkeypatch)
        objective = Regression(nn.Dropout(0.5))
        train(objective, points(), [Phase(STEPS)], seed=0, optimizer=PLAIN, loop=QUIET)
        ended.append(objective.state_dict())
    torch.testing.assert_close(*ended, rtol=0, atol=0)


def replay(intact: bool, batches: list[Batch]) -> list[Finding]:
    """Look at a step of a layer that overflows, whose second micro-batch has no finite input."""
    return find_non_finite(
        Replay(Regression(Overflows()), batches, [[3, 5], [4, 6]], str, lambda micro: None, divisor=2.0, intact=intact)
    )


def test_of_weights_that_have_moved_no_layer_is_blamed():
    large, broken = (collate(np.array([[0, 0, 0], [value, 0, 0]], np.float32)) for value in (101.0, np.nan))
    assert [finding.layer for finding in replay(True, [large, large])] == ["net.0", "net.0"]
    (finding,) = replay(False, [large, broken])
    assert (finding.micro, finding.rows, finding.layer) == (1, (6,), None)
    (finding,) = replay(False, [large, large])
    assert "the layer is not known, since weights have moved" in finding.what
    assert (finding.rows, finding.exact, finding.layer) == ((3, 5), False, None)
    (finding,) = replay(True, [])
    assert describe([finding], processes=1, accumulation=2)[0] == "What the step was made of is no longer held."


def test_a_step_that_is_finite_when_it_is_done_again_is_told_so():
    good = collate(np.zeros((2, 3), np.float32))
    findings = replay(True, [good, good])
    assert [finding.what.partition(",")[0] for finding in findings] == [
        "the loss and the gradients of every micro-batch are finite"
    ]
    assert describe([], processes=1, accumulation=1) == ("Done again, the step is finite.", None)


# Of the tasks


class Contrast(nn.Module):
    """Not finite for a picture without contrast."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) / (x.std(dim=(1, 2, 3), keepdim=True) > 0.45)


def test_a_photo_of_face_pairs_is_found(faces):
    pictures = [np.array(Image.open(io.BytesIO(picture["bytes"]))) for picture in faces["image"]]
    pictures[9] = np.full_like(pictures[9], 255)
    source = load_source({"image": pictures, "label": faces["label"]}, columns={"image": "image", "label": "label"})
    backbone = convnet(size=16, channels=1, widths=[8], blocks=[1], embedding=8)
    name, first = next((name, part) for name, part in backbone.named_modules() if isinstance(part, nn.Conv2d))
    backbone.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], Contrast(first))
    task = FacePairs(backbone, photos=2)
    with pytest.raises(NonFiniteError, match=r"\(Contrast\), in row 9\.") as caught:
        pretrain(task, source, steps=20, batch_size=8, loop=QUIET)
    assert caught.value.layer == f"backbone.{name}"


def test_a_sentence_is_found_though_its_corruptions_stand_beside_it():
    texts = [
        "the cat sees a dog today",
        "a dog hears the old cat",
        "the old bird sees the cat",
        "a zebra sees the old dog",
    ]
    tokenizer = train_tokenizer(texts * 3, size=80)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    task = ShuffledSentences(transformers({"model_type": "bert", **sizes}, tokenizer=tokenizer, length=16))
    zebra = tokenizer.convert_tokens_to_ids("zebra")
    assert zebra != tokenizer.unk_token_id
    embedding = next(part for part in task.modules() if isinstance(part, nn.Embedding))
    with torch.no_grad():
        embedding.weight[zebra] = torch.finfo(torch.float32).max * (-1.0) ** torch.arange(8)  # finite: its norm is not
    source = load_source({"text": texts}, columns={"text": "text"})
    with pytest.raises(NonFiniteError, match=r"\(LayerNorm\), in row 3\.") as caught:
        pretrain(task, source, steps=4, batch_size=4, loop=QUIET)
    assert caught.value.rows == (3,)


def test_a_query_is_found_by_one_of_its_items_and_missing_margins_are_no_fault():
    rows = {
        "qid": [0, 0, 1, 1, 2, 2],
        "grade": [1.0, 0.0] * 3,
        "features": np.random.default_rng(0).normal(size=(6, 2)),
    }
    rows["features"][3] = 101.0
    task = MaxMarginRanking(mlp(width=2, hidden=[4]))
    backbone = task.backbone
    name = next(name for name, part in backbone.named_modules() if isinstance(part, nn.Linear))
    holder = backbone.get_submodule(name.rpartition(".")[0])
    holder.register_module(name.rpartition(".")[2], nn.Sequential(Overflows(), backbone.get_submodule(name)))
    with pytest.raises(NonFiniteError, match=r"\(Overflows\), in row 1\."):
        pretrain(task, Dataset.from_dict(rows), steps=2, batch_size=3, loop=QUIET)
