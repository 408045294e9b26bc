"""One call from a data set to a backbone that can be reused."""

import dataclasses
import json

import pytest
import torch

from auxtasks import checkpoint
from auxtasks.backbones import Backbone
from auxtasks.data import load_source
from auxtasks.errors import ColumnError, DataError, NonFiniteError, TrainingError
from auxtasks.pretrain import _fingerprint, pretrain
from auxtasks.tasks import FacePairs
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

QUIET = LoopSettings(show_progress=False, log_every=2)


@pytest.fixture
def make_task(tiny_convnet):
    return lambda **options: FacePairs(tiny_convnet(**options), photos=2)


def digest(task) -> str:
    return checkpoint.tensors_digest(task.state_dict())


def test_a_run_folder_holds_what_the_run_found(tmp_path, make_task, faces, strangers):
    task = make_task()
    result = pretrain(
        task, faces, steps=5, batch_size=8, validation=strangers, seed=7, loop=QUIET, folder=tmp_path,
        described_as="drawn people",
    )  # fmt: skip
    assert result.steps == 5
    assert result.seconds > 0
    assert result.samples_per_second > 0
    assert {"loss", "roc_auc", "validation/roc_auc", "validation/spread"} <= result.metrics.keys()

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"]) for line in lines] == [
        (2, "train"), (4, "train"), (5, "train"), (5, "validation"),
    ]  # fmt: skip
    assert lines[-1]["roc_auc"] == result.metrics["validation/roc_auc"]

    (place,) = (tmp_path / "checkpoints").iterdir()
    exported = Backbone.from_pretrained(place / "backbone")
    assert checkpoint.tensors_digest(exported.state_dict()) == checkpoint.tensors_digest(task.backbone.state_dict())
    assert exported.provenance == {
        "pretrained_on": "face pairs (logistic loss) on drawn people", "steps": 5, "seed": 7,
    }  # fmt: skip
    assert "face pairs (logistic loss) on drawn people" in (place / "backbone" / "README.md").read_text()


def test_what_a_network_was_before_stays_known(tmp_path, make_task, faces):
    earlier = {"pretrained_on": "a zoo", "copied": ["stem from a.pt"], "random": ["stage1"]}
    said = {
        "pretrained_on": "face pairs (logistic loss) on unnamed data", "began_with": "a zoo",
        "copied": ["stem from a.pt"], "seed": 0,
    }  # fmt: skip
    task, again = make_task(), make_task()
    task.backbone.provenance, again.backbone.provenance = dict(earlier), dict(earlier)
    pretrain(task, faces, steps=2, batch_size=8, loop=QUIET, folder=tmp_path)
    assert task.backbone.provenance == {**said, "steps": 2}  # nothing is random any more
    pretrain(again, faces, steps=2, batch_size=8, loop=QUIET, folder=tmp_path)  # finds it finished
    pretrain(task, faces, steps=3, batch_size=8, loop=QUIET, folder=tmp_path / "further")
    assert task.backbone.provenance == {**said, "steps": 3}


def test_the_seed_decides_the_run(make_task, faces):
    found = []
    for seed in (0, 0, 1):
        task = make_task(dropout=0.3)
        pretrain(task, faces, steps=3, batch_size=8, seed=seed, loop=QUIET)
        found.append(digest(task))
    assert found[0] == found[1] != found[2]


def test_a_prepared_table_is_the_data_set_it_was_made_of(tmp_path, make_task, faces):
    first, second = make_task(), make_task()
    pretrain(first, faces, steps=3, batch_size=8, loop=QUIET, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # decoded once, and kept
    pretrain(second, second.prepare(faces), steps=3, batch_size=8, loop=QUIET)
    assert digest(first) == digest(second)


def test_any_records_with_a_fingerprint_are_told_apart_by_it(make_task, faces):
    class Numbers:
        def __len__(self):
            return 3

        def record(self, index):
            return {"value": index}

    class Known(Numbers):
        fingerprint = "of numbers"

    table = make_task().prepare(faces)
    found = [_fingerprint(records) for records in (Numbers(), Known(), table)]
    assert found == ["3 records", "of numbers", table.fingerprint]


def test_a_short_run_does_not_end_in_its_warm_up(make_task, faces):
    short, none = make_task(), make_task()
    for task, warmup in ((short, 100), (none, 0)):
        optimizer = OptimizerSettings(warmup_steps=warmup)
        pretrain(task, faces, steps=9, batch_size=8, optimizer=optimizer, loop=QUIET)
    assert digest(short) == digest(none)  # a tenth of 9 steps is no step


def test_validation_on_a_schedule_changes_no_weight(make_task, faces, strangers):
    with_validation, without = make_task(dropout=0.3), make_task(dropout=0.3)
    often = dataclasses.replace(QUIET, validate_every=1)
    pretrain(with_validation, faces, steps=4, batch_size=8, validation=strangers, loop=often)
    pretrain(without, faces, steps=4, batch_size=8, loop=QUIET)
    assert digest(with_validation) == digest(without)


@pytest.mark.parametrize("loss", ["logistic", "contrastive", "triplet"])
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_every_loss_runs_in_every_precision(tiny_convnet, faces, loss, mixed_precision):
    task = FacePairs(tiny_convnet(), photos=2, loss=loss)
    loop = dataclasses.replace(QUIET, mixed_precision=mixed_precision)
    result = pretrain(task, faces, steps=2, batch_size=8, loop=loop)
    assert 0 < result.metrics["loss"] < 10
    assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}
    assert "forward" not in vars(task) or task.forward.__func__ is FacePairs.forward  # no wrapper is left


def test_a_run_that_diverges_says_so(make_task, faces):
    optimizer = OptimizerSettings(name="sgd", learning_rate=1e30, clip_norm=None, warmup_steps=0)
    with pytest.raises(NonFiniteError, match=r"not finite at step \d+\. Lower the learning rate \(now 1e\+30\)"):
        pretrain(make_task(), faces, steps=20, batch_size=8, optimizer=optimizer, loop=QUIET)


def test_accumulation_is_refused(make_task, faces):
    with pytest.raises(TrainingError, match="FacePairs compares the items of a batch"):
        pretrain(make_task(), faces, steps=2, batch_size=8, loop=LoopSettings(accumulation=2))


def test_data_that_does_not_fit_is_refused(make_task, faces):
    task = make_task()
    with pytest.raises(DataError, match="the data set is empty"):
        pretrain(task, task.prepare(faces).subset([]), steps=1, batch_size=4, loop=QUIET)
    with pytest.raises(DataError, match="found 1 person in 4 photos"):
        pretrain(task, task.prepare(faces).subset(range(4)), steps=1, batch_size=4, loop=QUIET)
    text = load_source({"text": ["a", "b"]}, columns={"text": "text"})
    with pytest.raises(ColumnError, match="expected a column 'image' of pictures, found text"):
        pretrain(task, text, steps=1, batch_size=4, loop=QUIET)
