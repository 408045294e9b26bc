"""A whole run on sentences, from the command line on: what it leaves, says, predicts and refuses."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from datasets import Dataset
from PIL import Image

import transfer
from auxtasks.checkpoint import read_tensors
from auxtasks.data.corruptions import KINDS, ORDER_ONLY
from auxtasks.errors import CheckpointError, DataError
from recipes import run, training
from recipes.config import load_recipe
from recipes.predict import predict_files
from recipes.run import run_recipe

ARMS = {"scratch", "untrained", "raw", "frozen", "finetuned"}
SPEED = {"samples_per_second", "data_wait_share"}
ANIMALS, VEHICLES = ("dog", "cat", "bird", "fox", "wolf", "mouse"), ("car", "train", "bus", "ship", "tram", "plane")
WHEN = ("now", "again", "often", "today", "here", "indoors", "outside", "quietly", "early", "late")
LONG = "the old dog sees the small cat and hears the red bird and likes the young fox and chases the big {}."


def sentence(rng, things, when):
    """Draw a sentence such as "The old dog sees the cat now."."""
    first, second = (
        " ".join(["the", *([str(rng.choice(["big", "small", "old", "red"]))] * (rng.random() < 0.7)), str(thing)])
        for thing in rng.choice(things, 2)
    )
    return f"{first.capitalize()} {rng.choice(['sees', 'hears', 'likes', 'follows'])} {second} {when}."


def swapped(text, rng):
    """Swap two neighbours behind the first word, which differ."""
    words = text[:-1].split()
    places = [place for place in range(1, len(words) - 1) if words[place] != words[place + 1]]
    place = int(rng.choice(places))
    words[place : place + 2] = words[place + 1], words[place]
    return f"{' '.join(words)}."


def different(count, seed, things=ANIMALS + VEHICLES):
    """Draw sentences, none of them twice, and none that another seed draws too."""
    rng, found = np.random.default_rng(seed), {}
    while len(found) < count:
        found[sentence(rng, things, WHEN[seed])] = None
    return list(found)


def write_corpus(place):
    # Three sentences in which nothing can be shuffled, and four that are too long.
    lines = [*different(300, seed=0), "Yes.", "No.", "No no no.", *(LONG.format(name) for name in ANIMALS[:4])]
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_order(place):
    """Write a folder of parquet files, train and test: sentences of which every second has two words swapped."""
    place.mkdir()
    rng = np.random.default_rng(1)
    for seed, part, count in ((1, "train", 40), (2, "test", 30)):
        texts = [text if number % 2 else swapped(text, rng) for number, text in enumerate(different(count, seed))]
        rows = {"sentence": [LONG.format(part), *texts[1:]], "label": [number % 2 for number in range(count)]}
        Dataset.from_dict(rows).to_parquet(place / f"{part}.parquet")


def write_topics(place):
    """Write a table whose column ``part`` says what is tested on, with an empty text among the labels."""
    with place.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "part"])
        table.writerow(["", "animal", "train"])
        for seed, part in ((3, "train"), (4, "test")):
            for label, things in (("animal", ANIMALS), ("vehicle", VEHICLES)):
                table.writerows([text, label, part] for text in different(16, seed, things))


def write_pairs(place):
    rng = np.random.default_rng(4)
    good = different(24, seed=5)
    bad = [swapped(text, rng) for text in good[:20]] + [text.replace("The ", "The of ") for text in good[20:]]
    groups = ["order"] * 20 + ["other"] * 4
    Dataset.from_dict({"sentence_good": good, "sentence_bad": bad, "phenomenon": groups}).to_parquet(place)


def recipe_of(folder):
    return {
        "name": "tiny_sentences",
        "data": {"path": str(folder / "corpus.txt"), "holdout": 0.2},
        "tokenizer": {"kind": "wordpiece", "size": 120},
        "backbone": {
            "name": "transformers",
            "arguments": {
                # Absolute positions: by rotary ones a fresh network tells orders apart by rounding errors only.
                "config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                           "intermediate_size": 16, "max_position_embeddings": 16, "hidden_dropout_prob": 0.0,
                           "attention_probs_dropout_prob": 0.0},
                "length": 16,
            },
        },
        "task": {"name": "shuffled_sentences", "losses": {"sentence": 0.5, "pair": 0.5, "token": 1.0, "order": 1.0}},
        "training": {"steps": 4, "batch_size": 8, "workers": 0, "log_every": 2, "checkpoint_every": 2,
                     "learning_rate": 2e-3},
        "minimal_pairs": {"pairs": {"path": str(folder / "pairs.parquet"), "limit": 22}},
        "transfer": {
            "shots": [2, 4],
            "draws": 2,
            "heads": [{"name": "prototype"}, {"name": "ridge"}],
            "discriminants": None,
            "tuning": {"stages": [{"steps": 1, "top_layers": 0}, {"steps": 1}], "batch_size": 8},
            "scratch": {"stages": [{"steps": 2}], "batch_size": 8},
        },
        "targets": {
            "order": {"path": str(folder / "order"), "text": "sentence", "split": "train", "test": {"split": "test"},
                      "metric": "matthews"},
            "topics": {"path": str(folder / "topics.csv"), "where": {"part": "train"},
                       "test": {"where": {"part": "test"}}, "shots": [4], "on_error": "skip"},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, two targets, minimal pairs, and the recipe for all of them."""
    place = tmp_path_factory.mktemp("sentences")
    write_corpus(place / "corpus.txt")
    write_order(place / "order")
    write_topics(place / "topics.csv")
    write_pairs(place / "pairs.parquet")
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(place)))
    return place


@pytest.fixture(scope="module")
def told(command_line, folder):
    """What a whole run said; its folder is ``run`` beside the recipe."""
    called = command_line("run", folder / "recipe.yaml", "--out", folder / "run")
    assert called.code == 0, called.err
    return called


@pytest.fixture(scope="module")
def done(told, folder):
    """The folder of the whole run; tests read it and write elsewhere."""
    return folder / "run"


@pytest.fixture
def refused(command_line, folder, tmp_path):
    """Run the recipe with overrides that it must end on; return the exit code and what was said."""

    def ask(*overrides, command="run"):
        called = command_line(command, folder / "recipe.yaml", *overrides, "--out", tmp_path / "out")
        assert called.out == ""
        return called.code, called.err

    return ask


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def report_of(place):
    return json.loads((place / "transfer" / "report.json").read_text())


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_in_its_folder(done):
    files = {str(path.relative_to(done)) for path in done.rglob("*") if path.is_file()}
    newest = "checkpoints/step-00000004/backbone"
    assert {
        "recipe.yaml", "environment.json", "metrics.jsonl", "test_openings.jsonl", "pretrain.json",
        "minimal_pairs.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
        *(f"{newest}/{name}" for name in ("model.safetensors", "manifest.json", "config.json", "README.md",
                                          "tokenizer.json", "tokenizer_config.json")),
        "transfer/report.json", "transfer/report.md", "transfer/learning_curve.png", "transfer/depth.png",
        *(f"transfer/model/{name}/{part}" for name in ("order", "topics")
          for part in ("target.json", "backbone/model.safetensors", "backbone/tokenizer.json")),
    } <= files  # fmt: skip
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".bin")) or "writing" in name]


def test_the_report_compares_all_five_arms_by_the_metric_of_each_target(done):
    report = report_of(done)
    order, topics = report["targets"]["order"], report["targets"]["topics"]
    assert (order["metric"], topics["metric"]) == ("matthews", "accuracy")
    assert set(order["arms"]) == set(topics["arms"]) == ARMS
    assert all(set(by_shot) == {"2", "4"} for by_shot in order["arms"].values())
    assert all(set(by_shot) == {"4"} for by_shot in topics["arms"].values())  # the target's own shots
    assert {"frozen-scratch", "frozen-raw", "frozen-untrained"} <= set(order["paired"])
    assert (order["protocol"]["test_items"], order["protocol"]["classes"]) == (30, 2)
    assert (topics["protocol"]["test_items"], topics["protocol"]["train_pool"]) == (32, 32)
    for arm in topics["arms"].values():
        assert all(0 <= entry["mean"] <= 1 and len(entry["values"]) == 2 for entry in arm.values())
    assert set(order["depth"]["2"]) == {"embeddings", "block1"}


def test_pretraining_is_judged_by_kind_of_corruption_and_by_a_bag_of_words(done):
    measured = report_of(done)["pretrain"]
    assert {f"validation/pair_accuracy/{kind}" for kind in KINDS} <= set(measured)
    assert all(measured[f"bag_of_words/pair_accuracy/{kind}"] == 0.5 for kind in (*ORDER_ONLY, "order_only"))
    assert measured["bag_of_words/pair_accuracy/replace"] != 0.5
    assert {f"{loss}_loss" for loss in ("sentence", "pair", "token", "order")} <= set(measured)


def test_minimal_pairs_are_scored_once_by_group(done):
    (scores,) = json.loads((done / "minimal_pairs.json").read_text()).values()
    assert set(scores) == {"accuracy", "order_only", "phenomenon/order", "phenomenon/other"}
    measured = report_of(done)["pretrain"]
    assert measured["pairs/accuracy"] == scores["accuracy"]
    assert scores["order_only"] == scores["phenomenon/order"]
    openings = lines(done / "test_openings.jsonl")
    assert [opening["target"] for opening in openings] == ["minimal pairs pairs", "order", "topics"]
    assert openings[0]["pairs"] == 22  # its limit


def test_what_was_cut_or_left_out_is_noted(done):
    notes = report_of(done)["notes"]
    (left_out,) = [note for note in notes if "nothing in them can be shuffled" in note]
    (cut,) = [note for note in notes if "lost their last words" in note]
    assert left_out.startswith("sentences left out")  # which of the three depends on what was held out
    assert cut.endswith("sentences are longer than 16 tokens, and lost their last words.")
    assert "order: 1 of 40 texts were cut to 16 tokens." in notes
    assert "order: 1 of 30 test texts were cut to 16 tokens." in notes
    assert "topics: 1 empty texts were skipped." in notes
    assert "topics: texts in support and test: 0" in notes


def test_the_terminal_names_targets_and_where_the_report_is(told):
    for part in ("pretraining", "order", "topics", "frozen", "scratch", "report.md"):
        assert part in told.out
    assert "order: 40 texts, 2 layers:" in told.err


def test_the_backbone_loads_without_this_package(done):
    from transformers import AutoModel, AutoTokenizer

    place = done / "checkpoints" / "step-00000004" / "backbone"
    model, tokenizer = AutoModel.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    batch = tokenizer(["The old dog sees the cat.", "No."], padding=True, return_tensors="pt")
    assert model(**batch).last_hidden_state.shape == (2, batch["input_ids"].shape[1], 16)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(done / "tokenizer").get_vocab()


def test_a_finished_run_is_not_done_again(command_line, done, folder, tmp_path, monkeypatch):
    place = shutil.copytree(done, tmp_path / "copy")
    for module, name in ((training, "pretrain"), (run, "train_tokenizer"), (run, "evaluate_target")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("done again"))
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    called = command_line("run", folder / "recipe.yaml", "--out", place)
    assert called.code == 0, called.err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_run_that_was_stopped_ends_as_one_that_was_not(done, folder, tmp_path, monkeypatch):
    recipe = load_recipe(str(folder / "recipe.yaml"), ["targets=null"])
    forward, calls = run.ShuffledSentences.forward, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(run.ShuffledSentences, "forward", dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            run_recipe(recipe, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.setattr(run, "train_tokenizer", lambda *_, **__: pytest.fail("the tokenizer is there already"))
    assert run_recipe(recipe, tmp_path) is None
    resumed, straight = (
        read_tensors(place / "checkpoints" / "step-00000004" / "backbone" / "model.safetensors")
        for place in (tmp_path, done)
    )
    assert resumed.keys() == straight.keys()
    assert all(resumed[name].equal(straight[name]) for name in straight)


def test_a_run_is_evaluated_again_by_the_recipe_in_its_folder(command_line, done, tmp_path):
    overrides = ["targets.order=null", "transfer.arms=[raw, frozen]"]
    called = command_line("transfer", done, *overrides, "--out", tmp_path / "out")
    assert called.code == 0, called.err
    again, before = (report_of(place)["targets"]["topics"] for place in (tmp_path / "out", done))
    assert again["protocol"] == before["protocol"]  # tested on the same part
    assert again["arms"] == {arm: before["arms"][arm] for arm in ("raw", "frozen")}


def test_another_tokenizer_is_another_pretraining(command_line, done, tmp_path):
    called = command_line("transfer", done, "tokenizer.size=90", "--out", tmp_path / "out")
    assert called.code == 1
    assert called.err.startswith("error: tokenizer: the backbone in")


@pytest.mark.processes
def test_two_processes_log_what_one_does(done, folder, tmp_path):
    command = [sys.executable, "-m", "recipes", "run", str(folder / "recipe.yaml"), "targets=null",
               "--out", str(tmp_path / "two"), "--processes", "2"]  # fmt: skip
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    one, two = (
        [
            [(name, value) for name, value in line.items() if name not in SPEED]
            for line in lines(place / "metrics.jsonl")
        ]
        for place in (done, tmp_path / "two")
    )
    assert len(two) == len(one) == 3
    for here, there in zip(one, two, strict=True):
        assert [name for name, _ in there] == [name for name, _ in here]
        for (name, value), (_, other) in zip(here, there, strict=True):
            assert other == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4)), name
    assert (tmp_path / "two" / "minimal_pairs.json").is_file()


# --- using a run ------------------------------------------------------------------------------------------------------


def test_predict_prints_each_text_with_class_and_probability(command_line, done, tmp_path):
    texts = ["The old dog sees the cat.", "The  tram\tfollows the bus.", "the red ship hears a plane!"]
    (tmp_path / "texts.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    called = command_line("predict", done, tmp_path / "texts.txt", "--target", "topics")
    assert called.code == 0, called.err
    rows = [line.split("\t") for line in called.out.splitlines()]
    assert [row[0] for row in rows] == [" ".join(text.split()) for text in texts]
    shares = transfer.load(done, "topics").predict_proba(texts)
    assert [row[1] for row in rows] == [("animal", "vehicle")[best] for best in shares.argmax(axis=1)]
    assert [row[2] for row in rows] == [f"{share:.3f}" for share in shares.max(axis=1)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_texts_is_predicted_row_by_row(command_line, done, tmp_path, suffix):
    texts = different(5, seed=9)
    table = Dataset.from_dict({"number": list(range(5)), "said": texts})
    {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet}[suffix](tmp_path / f"table{suffix}")
    called = command_line("predict", done, tmp_path / f"table{suffix}", "--target", "order", "--column", "said")
    assert called.code == 0, called.err
    assert [line.split("\t")[0] for line in called.out.splitlines()] == texts
    assert {line.split("\t")[1] for line in called.out.splitlines()} <= {"0", "1"}


def test_many_texts_are_answered_in_parts(done, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("\n".join(different(7, seed=9)), encoding="utf-8")
    whole = list(predict_files(done, [tmp_path / "texts.txt"], "topics"))
    monkeypatch.setattr("recipes.predict.TEXTS_AT_A_TIME", 3)
    parts = list(predict_files(done, [tmp_path / "texts.txt"], "topics"))
    assert [answer[:2] for answer in parts] == [answer[:2] for answer in whole]
    assert [answer[2] for answer in parts] == pytest.approx([answer[2] for answer in whole])


def test_what_a_model_of_texts_cannot_predict_is_told(done, tmp_path):
    def predict(place, **options):
        return list(predict_files(done, [place], "topics", **options))

    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is a picture, and this model takes texts: name a text file \(a text"):
        predict(tmp_path / "a.png")
    with pytest.raises(DataError, match=r" is a folder, and this model takes texts: .* JSON lines file with a column"):
        predict(tmp_path)
    with pytest.raises(DataError, match=r"absent\.txt is not there"):
        predict(tmp_path / "absent.txt")
    (tmp_path / "gaps.csv").write_text("text,n\nThe cat.,1\n,2\n")
    with pytest.raises(DataError, match=r"gaps\.csv: row 1 holds an empty text \(1 of 2 rows do\)"):
        predict(tmp_path / "gaps.csv")
    with pytest.raises(DataError, match=r"has no column 'said', .* it has 'text' \(\w+\), 'n' \(int64\)"):
        predict(tmp_path / "gaps.csv", column="said")
    (tmp_path / "notes.md").write_text("The cat.")
    with pytest.raises(DataError, match=r"notes\.md' ends in \.md; expected a folder or one of \.csv, .*\.txt"):
        predict(tmp_path / "notes.md")
    with pytest.raises(CheckpointError, match=r"has 2 target models, choose one: order, topics"):
        list(predict_files(done, [tmp_path / "a.png"], None))


def test_inspect_names_layers_tokens_and_origin(command_line, done):
    called = command_line("inspect", done)
    assert called.code == 0
    for part in ("family transformers", "input text (16,)", "embeddings", "block1", "origin", "shuffled sentences",
                 "244 sentences of ", "corpus.txt", "steps: 4"):  # fmt: skip
        assert part in called.out


# --- a corpus that is streamed ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(folder):
    """A corpus in two files, with a third one that is held out."""
    place = folder / "parts"
    for name, part in (("train", 0), ("train", 1), ("validation", 2)):
        (place / name).mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"line": different(300, seed=0)[part::3]}).to_parquet(place / name / f"{part}.parquet")
    return place


def test_a_streamed_run_reports_as_any_other(command_line, folder, parts, tmp_path):
    called = command_line(
        "run", folder / "recipe.yaml", f"data.path={parts}", "data.text=line", "data.streaming=true",
        "data.split=train", "data.validation.split=validation", "data.validation_items=40",
        "transfer.arms=[raw, frozen]", "targets.order=null", "--out", tmp_path / "out",
    )  # fmt: skip
    assert called.code == 0, called.err
    report = report_of(tmp_path / "out")
    assert set(report["targets"]["topics"]["arms"]) == {"raw", "frozen"}
    assert report["pretrain"]["bag_of_words/pair_accuracy/order_only"] == 0.5
    assert "topics: texts in pretraining and test: not compared, since the corpus is streamed" in report["notes"]
    state = json.loads((tmp_path / "out/checkpoints/step-00000004/training/stream.json").read_text())
    assert len(state["processes"]) == 1
    assert "a stream of sentences from" in command_line("inspect", tmp_path / "out").out


def test_a_stream_needs_a_split_to_validate_on(refused, parts):
    code, said = refused(f"data.path={parts}", "data.streaming=true")
    assert code == 2
    assert said == (
        "error: data.validation: required with data.streaming, since no share can be held out of a stream.\n"
    )


def test_what_does_not_stream_is_told(refused, folder):
    table = folder / "topics.csv"
    code, said = refused(f"data.path={table}", "data.streaming=true", f"data.validation.path={folder / 'corpus.txt'}")
    assert code == 1
    assert "holds nothing that streams; expected parquet, JSON lines or text files of one kind." in said


# --- what is refused --------------------------------------------------------------------------------------------------


def write_table(place, rows, header=("text", "label", "part")):
    with place.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return place


@pytest.fixture
def target_refused(command_line, done, tmp_path):
    """Evaluate the run's backbone on another table; return what was said."""

    def ask(rows, *overrides, header=("text", "label", "part")):
        table = write_table(tmp_path / "table.csv", rows, header)
        called = command_line(
            "transfer", done, "targets.order=null", "targets.topics=null", f"targets.mine.path={table}",
            "targets.mine.where.part=train", "targets.mine.test.where.part=test", "transfer.arms=[raw, frozen]",
            "transfer.shots=[2]", *overrides, "--out", tmp_path / "out",
        )  # fmt: skip
        assert called.code == 1
        assert not (tmp_path / "out" / "test_openings.jsonl").exists()
        return called.err

    return ask


def rows_of(labels, test_labels):
    texts = different(8 * (len(labels) + len(test_labels)), seed=6)
    each = [(label, "train") for label in labels] + [(label, "test") for label in test_labels]
    return [[text, *each[number // 8]] for number, text in enumerate(texts)]


def test_matthews_needs_two_classes(target_refused):
    said = target_refused(rows_of("abc", "abc"), "targets.mine.metric=matthews")
    assert said.endswith("error: the Matthews correlation is for two classes, the target has 3: use accuracy.\n")


def test_a_test_of_other_classes_is_refused_with_both(target_refused):
    said = target_refused(rows_of("ab", "bc"))
    assert "error: labels are drawn from the classes a, b; the test set has b, c. Both need the same names.\n" in said


def test_too_few_texts_of_a_class_are_named(target_refused):
    said = target_refused(rows_of("ab", "ab")[7:], "transfer.shots=[4]")
    assert "class 'a' has 1, needed are 4" in said


def test_an_empty_text_is_named_with_its_row(target_refused):
    rows = rows_of("ab", "ab")
    rows[3][0] = "   "
    assert target_refused(rows) == (
        'error: row 3 holds an empty text (1 of 16 rows do). Leave such rows out, or pass on_error="skip".\n'
    )


def test_a_missing_column_is_named_with_those_that_are_there(target_refused, tmp_path):
    said = target_refused(rows_of("ab", "ab"), header=("sentence", "label", "part"))
    said = said.replace("large_string", "string")  # which of the two depends on pandas
    assert said == (
        f"error: {tmp_path / 'table.csv'} has no column 'text', declared for the role 'text'; it has 'sentence' "
        "(string), 'label' (string), 'part' (string).\n"
    )


def test_texts_that_the_labels_share_with_the_test_are_refused_or_reported(target_refused):
    rows = rows_of("ab", "ab")
    rows[16][0] = rows[0][0].upper()
    said = target_refused(rows)
    assert "the test set is not unseen" in said
    assert "texts in support and test: 1 (support row 0 = test row 0)" in said


def validated(rows):
    """Add texts to validate on, two of each class."""
    texts = different(4, seed=8)
    return [*rows, *([text, "ab"[number % 2], "validate"] for number, text in enumerate(texts))]


def test_choices_are_made_on_the_texts_that_the_recipe_names(command_line, done, tmp_path):
    rows = validated(rows_of("ab", "ab"))
    rows[-1][0] = LONG.format("cat")
    rows.append(["", "a", "validate"])
    table = write_table(tmp_path / "table.csv", rows)
    called = command_line(
        "transfer", done, "targets.order=null", "targets.topics=null", f"targets.mine.path={table}",
        "targets.mine.where.part=train", "targets.mine.test.where.part=test",
        "targets.mine.validation.where.part=validate", "targets.mine.on_error=skip", "transfer.arms=[raw, frozen]",
        "transfer.shots=[2]", "--out", tmp_path / "out",
    )  # fmt: skip
    assert called.code == 0, called.err
    report = report_of(tmp_path / "out")
    protocol = report["targets"]["mine"]["protocol"]
    assert (protocol["train_pool"], protocol["validation_labels"], protocol["test_items"]) == (16, 4, 16)
    assert "a named validation set of 4 labelled items" in protocol["choices"]
    assert "mine: 1 empty validation texts were skipped." in report["notes"]
    assert any(note.startswith("mine: 1 of 4 validation texts were cut to") for note in report["notes"])


def test_texts_that_the_validation_set_shares_with_the_test_are_refused(target_refused):
    rows = validated(rows_of("ab", "ab"))
    rows[-1][0] = rows[16][0].upper()
    said = target_refused(rows, "targets.mine.validation.where.part=validate")
    assert "texts in validation and test: 1 (validation row 3 = test row 0)" in said


def test_a_corpus_in_which_nothing_can_be_shuffled_is_refused(refused, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(["Yes.", "No no no."] * 20))
    code, said = refused(f"data.path={tmp_path / 'words.txt'}", "tokenizer.size=40", command="pretrain")
    assert code == 1
    counts = re.fullmatch(
        r"error: nothing can be shuffled in any of 32 sentences \((\d+) one word, (\d+) no other order\): the corpus "
        r"needs one sentence of two or more different words a row\.\n",
        said,
    )
    assert counts, said
    assert int(counts[1]) + int(counts[2]) == 32


def test_a_corpus_with_many_words_alone_is_refused_with_counts_and_what_to_do(refused, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(["Yes."] * 10 + different(90, seed=7)))
    code, said = refused(f"data.path={tmp_path / 'words.txt'}", "data.holdout=0.01", command="pretrain")
    assert code == 1
    assert said == (
        "error: 10 of 99 sentences cannot be shuffled (10 one word), more than the 5% that may be left out. Clean the "
        "corpus, or allow more (most_left_out).\n"
    )


def test_a_corpus_that_is_not_utf_8_is_refused_with_file_and_line(refused, tmp_path):
    place = tmp_path / "latin.txt"
    place.write_bytes("The cat sleeps.\nThe café is here.\n".encode("latin-1"))
    code, said = refused(f"data.path={place}", command="pretrain")
    assert code == 1
    assert said == (
        f"error: {place} is not UTF-8: line 2 holds the byte 0xe9 (byte 23 of the file). Convert it first, for example "
        "by iconv -f latin1 -t utf-8.\n"
    )


def test_a_corpus_without_the_column_is_refused_with_those_that_are_there(refused, folder):
    code, said = refused(f"data.path={folder / 'topics.csv'}", "data.text=txt", command="pretrain")
    assert code == 1
    assert said.startswith(f"error: {folder / 'topics.csv'} has no column 'txt', declared for the role 'text'; it has")
    assert said.endswith('Did you mean "text"?\n')


def test_a_wrong_recipe_is_exit_2_with_all_its_problems(refused, tmp_path):
    code, said = refused(
        "task.corruptions.swp=1", "task.loss=token", "targets.order.test=null", "data.align.size=3", "tokenizer.sise=1"
    )
    assert code == 2
    told = sorted(said.splitlines())
    assert [line.split(":")[1].strip() for line in told] == ["task.corruptions.swp", "task.loss", "tokenizer.sise"]
    assert 'Did you mean "swap"?' in told[0]
    assert 'Did you mean "losses"?' in told[1]
    assert 'Did you mean "size"?' in told[2]
    assert not (tmp_path / "out").exists()


def test_a_network_that_texts_do_not_fit_is_told(refused):
    code, said = refused("backbone.arguments.length=2", command="pretrain")
    assert code == 1
    assert said == "error: length=2 leaves no room for text: the tokenizer adds 2 special tokens.\n"


def test_a_network_with_fewer_positions_than_the_length_is_told(refused):
    code, said = refused("backbone.arguments.length=17", command="pretrain")
    assert code == 1
    assert "17" in said
    assert "16" in said
