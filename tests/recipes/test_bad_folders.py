"""Run folders with files that are damaged, half there or of another kind: a message and an exit code, nothing believed.

Exit code 2 says that the recipe is wrong, 1 that what was asked for could not be done. What a command does not read may
be damaged.
"""

import json
import shutil

import pytest
import yaml
from PIL import Image

from auxtasks.checkpoint import write_json
from recipes.config import load_recipe

READS_RECIPE = [
    "run {recipe} --out {run}", "transfer {run}", "score {run} a.png", "finetune {run} --target strangers --out out",
    "depth {run} --target strangers --out out", "episodes {run} --target strangers",
]  # fmt: skip
READS_NO_RECIPE = ["report {run}", "predict {run} a.png", "inspect {run}"]


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A finished run to damage, in a folder to be in."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def call(run, miniature, command_line):
    def called(line, code, expected):
        found = command_line(*line.format(run=run, recipe=miniature).split())
        assert found.code == code, found.err
        assert "Traceback" not in found.err
        assert not code or found.err.startswith("error: ")
        assert expected in " ".join(found.err.split())

    return called


def damage(file, content):
    """Put bytes in a file's place: None a folder, and text "gone" nothing."""
    assert file.is_file()
    file.unlink()
    if content is None:
        file.mkdir()
    elif content != "gone":
        file.write_bytes(content)


# --- recipe.yaml ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "expected"),
    [
        (b"", 2, "recipe.yaml: a recipe is a mapping of keys, found NoneType"),
        (b"[1, 2]", 2, "a recipe is a mapping of keys, found list"),
        (b"7\n", 2, "a recipe is a mapping of keys, found int"),
        (bytes(range(256)), 2, "recipe.yaml: not UTF-8 text"),
        (b"name: a\0b\n", 2, "recipe.yaml: not valid YAML"),
        (b"[" * 5000, 2, "more than 50 levels of nesting"),
        (b"name: !!python/object/apply:os.system [touch ran]\n", 2, "could not determine a constructor"),
        (b"flavour: 3\nname: x\n", 2, "flavour: unknown key. Allowed here: backbone"),
        (None, 1, "holds no recipe.yaml"),
        ("gone", 1, "holds no recipe.yaml"),
    ],
)
def test_a_damaged_recipe_is_told_by_all_that_read_it(run, call, content, code, expected):
    damage(run / "recipe.yaml", content)
    is_first = content == b""  # of which all commands are called; they read it in one way
    for line in READS_RECIPE if is_first else READS_RECIPE[:2]:
        call(line, code, expected)
    for line in READS_NO_RECIPE if is_first else ():
        call(line, 0, "")
    assert not (run.parent / "ran").exists()


def test_a_recipe_that_was_cut_short_is_not_taken_for_a_shorter_one(run, call):
    content = (run / "recipe.yaml").read_bytes()
    cut = content[: content.index(b"draws: 2") + len(b"draws: 2")]
    assert not yaml.safe_load(cut).get("targets")
    damage(run / "recipe.yaml", cut)
    assert load_recipe(str(run / "recipe.yaml")).transfer.draws == 2  # by itself it is whole
    for line in READS_RECIPE:
        call(line, 1, "recipe.yaml ends in the middle of a line, as a file that was cut short")


# --- results ----------------------------------------------------------------------------------------------------------

NO_JSON = [(b"", "is damaged: Expecting value"), (b"\x80", "is damaged: 'utf-8' codec"), (b"{", "is damaged"),
           (b"[" * 100_000, "is damaged")]  # fmt: skip
OTHER_JSON = [(b"[1, 2]", "found list"), (b'"text"', "found str"), (b"7", "found int"), (b"null", "found NoneType")]
AGAIN = "transfer {run} transfer.draws=1 transfer.arms=[raw,frozen] --out out"


@pytest.mark.parametrize(("content", "expected"), [*NO_JSON, *OTHER_JSON, (b"{}", "metrics: Field required"),
    (b'{"metrics": {}, "cost": {}}', "notes: Field required"),
    (b'{"metrics": [], "cost": {}, "notes": []}', "metrics: Input should be an object"),
    (b'{"metrics": {"loss": NaN}, "cost": {}, "notes": []}', "metrics.loss: Input should be a finite number"),
    (b'{"metrics": {}, "cost": {"seconds": "1"}, "notes": []}', "cost.seconds: Input should be a valid number"),
    (b'{"metrics": {}, "cost": {}, "notes": "none"}', "notes: Input should be a valid array")])  # fmt: skip
def test_a_damaged_result_of_the_pretraining_is_told_before_a_test_is_opened(run, call, content, expected):
    damage(run / "pretrain.json", content)
    for line in ("run {recipe} --out {run}", AGAIN):
        call(line, 1, expected)
        call(line, 1, "pretrain.json")
    assert not (run.parent / "out" / "test_openings.jsonl").exists()


@pytest.mark.parametrize(("content", "expected"), [*NO_JSON, (b"[1, 2]", "report.json is not a report of schema 1"),
    (b"{}", "is not a report of schema 1"), (b'{"schema": 2}', "is not a report of schema 1"),
    (None, "report.json is missing|cannot be read"), ("gone", "report.json is missing")])  # fmt: skip
def test_a_damaged_report_is_told(run, call, content, expected):
    damage(run / "transfer" / "report.json", content)
    call("report {run}", 1, expected.partition("|")[2] or expected)


ENTRY = {"mean": 0.75, "ci95": [0.7, 0.8]}
RANKED = {"queries": 5, "noun": "queries", "rankers": {"ranker": {"map": ENTRY}}, "paired": {"a-b": {"map": ENTRY}}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [*((content, expected) for content, expected in (*NO_JSON, *OTHER_JSON)),
     ({"rankers": None}, "rankers: Input should be an object"), ({"rankers": {"a": []}}, "rankers.a: Input should be"),
     ({"rankers": {"a": {"map": 3}}}, "rankers.a.map: Input should be"),
     ({"rankers": {"a": {"map": {"mean": "x", "ci95": None}}}}, "rankers.a.map.mean: Input should be a valid number"),
     ({"rankers": {"a": {"map": {"mean": 1, "ci95": [1]}}}}, "rankers.a.map.ci95.1: Field required"),
     ({"paired": []}, "paired: Input should be an object"), ({"queries": "5"}, "queries: Input should be a valid int"),
     ({"queries": -5}, "queries: Input should be greater than"), ({"noun": 3}, "noun: Input should be a valid string")],
    ids=str,
)  # fmt: skip
def test_a_damaged_test_of_a_ranking_is_told(run, call, changes, expected):
    write_json(run / "ranking.json", RANKED)
    call("report {run}", 0, "")
    content = json.dumps(RANKED | changes).encode() if isinstance(changes, dict) else changes
    damage(run / "ranking.json", content)
    call("report {run}", 1, expected)
    call("report {run}", 1, "ranking.json")


@pytest.fixture(scope="module")
def of_the_rest(finished, command_line, tmp_path_factory):
    """What fine-tuning and a depth search left, and the commands that made them, but for their folder."""
    made = {}
    search = "--modes frozen --draws 1 --shots 2 --folds 2"
    lines = {
        "finetuned/strangers.json": f"finetune {finished} --target strangers",
        "depth.json": f"depth {finished} --target strangers {search}",
    }
    for file, line in lines.items():
        place = tmp_path_factory.mktemp("rest") / "out"
        called = command_line(*line.split(), "--out", place)
        assert called.code == 0, called.err
        made[file] = (place, line)
    return made


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        *(("finetuned/strangers.json", *case) for case in (*NO_JSON, *OTHER_JSON, (b"{}", "labels: Field required"))),
        *(("depth.json", *case) for case in (*NO_JSON, (b"{}", "target: Field required"))),
        *(("depth.json", content, "is not the report of a depth search") for content in (b"[1]", b"null")),
    ],
)
def test_a_damaged_result_of_a_search_is_told(of_the_rest, tmp_path, call, file, content, expected):
    place, line = of_the_rest[file]
    shutil.copytree(place, tmp_path / "out")
    damage(tmp_path / "out" / file, content)
    call(f"{line} --out out", 1, expected)
    call(f"{line} --out out", 1, file)


def test_values_of_another_kind_in_a_result_of_fine_tuning_are_told(of_the_rest, tmp_path, call):
    place, line = of_the_rest["finetuned/strangers.json"]
    shutil.copytree(place, tmp_path / "out")
    file = tmp_path / "out" / "finetuned" / "strangers.json"
    whole = json.loads(file.read_text())
    call(f"{line} --out out", 0, "")
    for key in ("labels", "classes", "learning_rate", "stages", "cost", "training_accuracy", "notes", "layer"):
        file.write_text(json.dumps(whole | {key: {"a": "b"} if key not in ("stages", "notes") else 3}))
        call(f"{line} --out out", 1, f" {key}")


# --- target models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [("target.json", "target.json"), ("head.safetensors", "head.safetensors is missing"),
     ("backbone/config.json", "config.json is missing"), ("backbone/manifest.json", "manifest.json"),
     ("backbone/model.safetensors", "model.safetensors is missing")],
)  # fmt: skip
def test_a_target_model_that_is_half_there_is_told(run, call, file, expected):
    damage(run / "transfer" / "model" / "strangers" / file, "gone")
    call("predict {run} a.png", 1, expected)


@pytest.mark.parametrize("file", ["target.json", "head.safetensors", "backbone/config.json", "backbone/manifest.json"])
@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"{}", bytes(range(256)), b"[" * 5000, None])
def test_a_damaged_target_model_is_told(run, call, file, content):
    damage(run / "transfer" / "model" / "strangers" / file, content)
    call("predict {run} a.png", 1, "transfer/model/strangers")
