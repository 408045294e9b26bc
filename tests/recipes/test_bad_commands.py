"""What is wrong only once data and network are there, and commands that cannot be done: a message and an exit code.

Exit code 2 says that the recipe or the command line is wrong, 1 that what was asked for could not be done.
"""

import pytest

# --- recipes whose parts do not fit -----------------------------------------------------------------------------------

UNFIT = [
    ("backbone.name=convnett", 'there is no backbone "convnett". Allowed: convnet'),
    ("backbone.name=convnett", 'Did you mean "convnet"?'),
    ("backbone={name: timm/../../x}", "timm has no model"),
    ("backbone={name: os.system}", 'there is no backbone "os.system"'),
    ("backbone.arguments.sise=3", 'convnet: no argument "sise". Allowed: size'),
    ("backbone.arguments.size=big", "convnet: size must be int, found 'big'"),
    ("backbone.arguments.size=-1", "size must be at least 1, found -1"),
    ("backbone.arguments.size={a: 1}", "convnet: size must be int"),
    ("backbone.arguments.widths=[]", "at least 1, found 0"),
    ("backbone.arguments.widths=3", "widths must be a list of int, found 3"),
    ("backbone.arguments.dropout=7", "dropout is a share from 0 to below 1, found 7"),
    ("backbone.arguments.dropout=null", "dropout must be float, found None"),
    ("backbone.arguments.embedding=1000000000000", "convnet cannot be built"),
    ("transfer.layers={stage9: auto}", 'no layer "stage9". Layers from the input up: stem'),
    ("targets.strangers.layers={stage9: auto}", 'no layer "stage9"'),
    ("transfer.tuning.rates={stage9: 1.0}", 'no layer "stage9"'),
    ("transfer.tuning.stages=[{steps: 2, layers: [stage9]}]", 'no layer "stage9"'),
    ("transfer.heads=[{name: ridge, options: {alpho: 1}}]", 'no option alpho. Did you mean "alpha"?'),
    ("transfer.heads=[{name: ridge, options: {alpha: -1}}]", "alpha is -1: it must be a number above 0"),
    ("transfer.heads=[{name: ridge, options: {alpha: x}}]", "alpha is 'x': it must be a number above 0"),
    ("transfer.heads=[{name: logistic, options: {C: true}}]", "C is True: it must be a number above 0"),
    ("transfer.beside={other: nowhere}", "nowhere is not there: expected a run's folder"),
    ("training.batch_size=7", "make the batch size a multiple of 2"),
    ("training.batch_size=1000000", "there are 6 people with 24 photos. Set the batch size to at most 2,400"),
    ("backbone.arguments.size=1000000000", "pixels, more than the 89,478,485 of PIL.Image.MAX_IMAGE_PIXELS"),
    ("data.options.size=1000000000", "at most 10,000,000 photos of 1024 x 1024 pixels are drawn"),
    ("transfer.shots=[100]", "3 of 3 classes have too few items for 100 shots and a test"),
    ("targets.strangers.shots=[5]", "class 'person00100' has 5, needed are 6"),
    ("training.batch_size=2", "pairs need at least 2 people with 2 photos a batch"),
    ("task.photos=1000", "a batch of 8 photos cannot hold 1000 photos of each person"),
    ("training.accumulation=4", "FacePairs compares the items of a batch"),
    ("training.mixed_precision=fp16", 'mixed_precision="fp16" needs a GPU'),
    ("training.patience=3", "patience=3 waits for a new best validation: set keep_best"),
    ("training.keep_best=loss", "chooses among validations, but with validate_every=0"),
    ("training.trackers=[tensorbored]", 'trackers: "tensorbored" is not among those that are installed here: all'),
    ("data.path=absent", "'absent' is not there: no such file or folder"),
    ("data.path=builtin:nothing", "there is no built-in data set 'nothing'"),
    ("data={path: /etc/passwd}", "'/etc/passwd' has no suffix"),
    ("data={path: empty}", "empty"),
    ("data.options.peple=3", 'Did you mean "people"?'),
    ("data.options.people=-1", "people must be at least 1, found -1"),
    ("data.options.people=many", "people must be int, found 'many'"),
    ("data.options.people=1", "without a second person there is no pair"),
    ("data.options.size=0", "size must be at least 16, found 0"),
    ("data.split=train", "has no splits (split='train')"),
    ("data.where={label: nobody}", "no row has label = 'nobody'"),
    ("data.where={nothing: 3}", "where names the column 'nothing', but there are only image, label"),
    ("data.label=who", "has no column 'who', declared for the role 'label'"),
    ("targets.other.path=absent", "'absent' is not there"),
    ("targets.strangers.test.path=absent", "'absent' is not there"),
    ("backbone={pretrained: nowhere}", "nowhere is not there: expected a run's folder"),
    ("backbone={pretrained: empty}", "empty has no checkpoint: pretrain first"),
    ("task={name: layer_rbm}", 'layer "stem" of convnet is no linear map with a sigmoid'),
    ("verification={pairs: absent}", "verification.pairs: absent is not there."),
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with a file, an empty folder, and a folder that is somebody's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("my only copy")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("my only copy")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(("override", "expected"), UNFIT)
def test_parts_that_do_not_fit_are_refused_before_anything_is_trained(
    override, expected, command_line, miniature, here
):
    called = command_line("pretrain", miniature, override, "--out", "out")
    assert called.code == 1
    assert called.err.startswith("error: ")
    assert expected in called.err
    assert "Traceback" not in called.err
    assert {path.name for path in (here / "out").rglob("*")} <= {"recipe.yaml", "environment.json", ".lock"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.holdout=1.0", "data.holdout: input should be less than 1, found 1.0."),
        ("data.validation_items=3", "data.validation_items: for texts"),
        ("tokenizer={}", "tokenizer: not for the task face_pairs; leave it out."),
        ("minimal_pairs.a.path=x", "minimal_pairs: not for the task face_pairs; leave it out."),
        ("transfer.length=3", "transfer.length: for texts, in tokens; leave it out."),
        ("data.holds=pairs", "data.holds: pairs are for the task max_margin_ranking, found face_pairs."),
        ("backbone.standardize=true", "backbone.standardize: for vectors"),
        ("backbone.pretrained=empty", "backbone.pretrained: a network that is there has its arguments"),
        ("task={name: shuffled_sentences}", "tokenizer: required for a network from a config"),
        ("task={name: ready_made}", "training: not for the task ready_made; leave it out."),
        ("targets.../x.path=y", "targets.../x.path=y: an override is key.sub=value"),
        ("targets.a/b.path=y", "targets.a/b: must be letters, digits, _ and -"),
        ("name=../x", "name: must be letters, digits, dots, _ and -"),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused_before_anything_is_written(
    override, expected, command_line, miniature, here
):
    before = contents(here)
    for command in ("validate", "pretrain", "run"):
        called = command_line(command, miniature, override)
        assert called.code == 2
        assert f"error: {expected}" in called.err
    assert contents(here) == before
    assert {path.name for path in here.iterdir()} == {"file", "empty", "mine"}


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("file", "could not write file/.lock"),
        ("file/x", "could not write file/x/.lock: Not a directory"),
        ("mine", "mine is not empty and holds no recipe.yaml"),
        (".", "is not empty and holds no recipe.yaml"),
        ("/proc/x", "could not write /proc/x/.lock"),
        ("x" * 300, "File name too long"),
        ("{run}", "holds another run:\n  seed: 0 there, 3 asked"),
    ],
)
def test_an_output_folder_that_cannot_be_is_refused_and_left_alone(
    out, expected, command_line, miniature, finished, here
):
    place = out.format(run=finished)
    before, kept = contents(here), contents(finished)
    for arguments in (["pretrain", miniature, "seed=3"], ["run", miniature, "seed=3"]):
        called = command_line(*arguments, "--out", place)
        assert called.code == 1
        assert called.err.startswith("error: ")
        assert expected in called.err
    assert contents(here) == before
    assert contents(finished) == kept


# --- commands ---------------------------------------------------------------------------------------------------------

OF_TARGET = "--target strangers --out out"
COMMANDS = [
    ("", 2, ""), ("nonsense", 2, "No such command"), ("--nonsense", 2, "No such option"), ("list x", 2, "unexpected"),
    ("show", 2, "Missing argument"), ("validate", 2, "Missing argument"), ("run", 2, "Missing argument"),
    ("run {recipe} --processes 0", 2, "--processes"), ("run {recipe} --processes -1", 2, "--processes"),
    ("run {recipe} --processes many", 2, "--processes"), ("run {recipe} --processes 1.5", 2, "--processes"),
    ("run {recipe} --out", 2, "requires an argument"), ("run {recipe} --nonsense", 2, "No such option"),
    ("pretrain {recipe} --processes 2", 2, "No such option"), ("run {recipe} x", 2, "an override is key.sub=value"),
    ("transfer", 2, "Missing argument"), ("transfer absent", 1, "absent holds no recipe.yaml"),
    ("transfer file", 1, "file/.lock"), ("transfer empty", 1, "empty holds no recipe.yaml"),
    ("transfer {run} seed=3 --out out", 1, "seed: the backbone in"),
    ("transfer {run} transfer.shotz=[1] --out out", 2, 'Did you mean "shots"?'),
    ("transfer {run} nonsense --out out", 2, "an override is key.sub=value"),
    ("transfer {run} targets.strangers.path=absent --out out", 1, "'absent' is not there"),
    ("transfer {run} targets.strangers=null --out out", 1, "the recipe names no target"),
    ("transfer {run} transfer.draws=3", 1, "needs a folder of its own: add --out"),
    ("transfer {run} name=y --out file", 1, "file/.lock"), ("transfer {run} name=y --out mine", 1, "mine is not empty"),
    ("transfer {run} transfer.layers={{x:auto}} --out out", 2, "transfer.layers"),
    ("transfer {run} transfer.shots=[100] --out out", 1, "too few items for 100 shots"),
    ("predict", 2, "Missing argument"), ("predict {run}", 2, "Missing argument"),
    ("predict absent file", 1, "no target model at absent"), ("predict {run} absent", 1, "absent is not there"),
    ("predict {run} empty", 1, "holds no pictures"), ("predict {run} file", 1, "file"),
    ("predict {run} /dev/null", 1, "/dev/null"), ("predict {run} file --target ../x", 1, 'no target "../x"'),
    ("score", 2, "Missing argument"), ("score {run} file", 1, "is not of a ranking task"),
    ("score absent file", 1, "absent holds no recipe.yaml"), ("score {run} file --kind x", 1, "kind is one of auto"),
    ("score {run} file --target ../x", 1, 'no scorer of a target "../x"'),
    ("inspect", 2, "Missing argument"), ("inspect absent", 1, "absent is not there"),
    ("inspect file", 1, "file is not there: expected a run's folder"), ("inspect empty", 1, "empty has no checkpoint"),
    ("report", 2, "Missing argument"), ("report absent", 1, "report.json is missing"),
    ("report file", 1, "report.json cannot be read: Not a directory"), ("report mine", 1, "report.json is missing"),
    ("finetune {run}", 2, "Missing option"), ("finetune {run} --target x --out out", 1, 'no target "x"'),
    ("finetune {run} --target ../x --out out", 1, 'no target "../x"'),
    ("finetune {run} --target strangers --out file", 1, "file/.lock"),
    ("finetune {run} --target strangers --out mine", 1, "mine is not empty"),
    (f"finetune {{run}} {OF_TARGET} --layer x", 1, 'no layer "x"'),
    (f"finetune {{run}} {OF_TARGET} --processes 0", 2, "--processes"),
    (f"finetune {{run}} {OF_TARGET} seed=3", 1, "seed: the backbone in"),
    (f"finetune {{run}} {OF_TARGET} transfer.tuning.batch_size=0", 2, "error: transfer.tuning.batch_size: "),
    (f"finetune absent {OF_TARGET}", 1, "absent holds no recipe.yaml"),
    ("depth {run}", 2, "Missing option"), ("depth {run} --target x --out out", 1, 'no target "x"'),
    (f"depth {{run}} {OF_TARGET} --modes x", 1, 'no such mode: "x"'),
    (f"depth {{run}} {OF_TARGET} --shots 0", 2, "--shots"), (f"depth {{run}} {OF_TARGET} --folds 1", 2, "--folds"),
    (f"depth {{run}} {OF_TARGET} --repeats 0", 2, "--repeats"),
    (f"depth {{run}} {OF_TARGET} --shots 100", 1, "too few items for 100 shots"),
    (f"depth {{run}} {OF_TARGET} --whole --shots 1", 1, "all labels are asked for as well"),
    ("depth {run} --target strangers --out file", 1, "file/.lock"), (f"depth absent {OF_TARGET}", 1, "absent holds no"),
    ("episodes {run}", 2, "Missing option"), ("episodes {run} --target x", 1, 'no target "x"'),
    ("episodes {run} --target strangers --way 1", 2, "--way"),
    ("episodes {run} --target strangers --shot 0", 2, "--shot"),
    ("episodes {run} --target strangers --episodes 0", 2, "--episodes"),
    ("episodes {run} --target strangers --way 99", 1, "99-way episodes"),
    ("episodes {run} --target strangers --way 2 --shot 1 --queries 1 --layer x", 1, 'no layer "x"'),
    ("episodes absent --target strangers", 1, "absent holds no recipe.yaml"),
    ("zoo nosuchmodelatall", 1, "no model of timm"), ("zoo --nonsense", 2, "No such option"),
    ("import", 2, "Missing argument"), ("import {run} convnet size=16", 2, "--out: name the folder"),
    ("import {run} convnet --out file", 2, "file is there and is no saved backbone's folder: it is not replaced"),
    ("import {run} convnet --out mine", 2, "mine is there and is no saved backbone's folder: it is not replaced"),
    ("import absent convnet --dry-run", 1, "absent is not there"), ("import file convnet --dry-run", 1, "file"),
    ("import empty convnet --dry-run", 1, "empty holds no weights that are known"),
    ("import {run} convnett --dry-run", 1, 'Did you mean "convnet"?'),
    ("import {run} timm/../x --dry-run", 1, 'timm has no model "../x"'),
    ("import {run} ../x --dry-run", 1, 'there is no backbone "../x"'),
    ("import {run} convnet sise=3 --dry-run", 1, 'Did you mean "size"?'),
    ("import {run} convnet size --dry-run", 2, "an argument of the network is key=value"),
    ("import {run} convnet size=[1 --dry-run", 2, "error: size: not valid YAML"),
    ("import {run} convnet size=!!python/name:os.system --dry-run", 2, "could not determine a constructor"),
    ("import {run} convnet size=2020-13-45 --dry-run", 1, "size must be int, found '2020-13-45'"),
    ("import {run} convnet size=@absent --dry-run", 1, "absent is missing"),
    ("import {run} convnet size=@file --dry-run", 1, "file is damaged"),
    ("import {run} convnet size=@empty --dry-run", 1, "empty cannot be read: Is a directory"),
    ("import {run} convnet --select [ --dry-run", 1, "'[' is no regular expression"),
    ("import {run} convnet --rename [=x --dry-run", 1, "the pattern is no regular expression"),
    ("import {run} convnet --up-to x --dry-run", 1, 'no layer "x"'),
    ("import {run} convnet --least-share 7 --dry-run", 1, "least_share is a share of parameters from 0 to 1; found 7"),
    ("import {run} convnet --tolerance -1 --dry-run", 2, "--tolerance"),
    ("cache", 2, ""), ("cache nonsense", 2, "No such command"), ("cache list x", 2, "unexpected"),
    ("cache clear --kind x", 1, 'no kind "x". Kinds: features'), ("cache clear --unused-days -1", 2, "--unused-days"),
    ("cache clear --unused-days many", 2, "--unused-days"), ("cache clear ../x", 1, 'nothing with the key "../x"'),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "expected"), COMMANDS, ids=[line or "nothing" for line, _, _ in COMMANDS])
def test_a_command_that_cannot_be_done_says_why(line, code, expected, command_line, miniature, finished, here):
    before, kept = contents(here), contents(finished)
    called = command_line(*line.format(run=finished, recipe=miniature).split())
    assert called.code == code
    assert expected in " ".join(called.err.replace("│", " ").split())
    assert called.err.startswith("error: ") or code == 2 or "\nerror: " in called.err
    assert "Traceback" not in called.err
    assert {path.name for path in (here / "out").rglob("*")} <= {"recipe.yaml", "environment.json", ".lock"}
    assert {path: found for path, found in contents(here).items() if path.parent.name != "out"} == before
    assert contents(finished) == kept
