"""The command line. Nothing heavy is imported before a command needs it: --help answers at once."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from auxtasks.errors import AuxtasksError, RecipeError, TrainingStoppedError
from auxtasks.signals import die_with_parent
from recipes.cache_place import keep_libraries_inside
from recipes.interruptions import Interruption, interruptions
from recipes.reuse_commands import Overrides, RunPath, prints_results
from recipes.reuse_commands import app as reuse_app

__all__ = ["app", "main"]

# What an operating system says of a disk or a folder, whoever writes: no fault of ours, and no traceback.
_OF_THE_DISK: Final = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG,
    errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip

SECONDS_TO_TELL: Final = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pretrain on labels that cost nothing, reuse the lower layers where labels are few, measure what it brings.",
)

app.add_typer(reuse_app)

RecipeName = Annotated[str, typer.Argument(help="Name of a recipe (see `auxtasks list`) or path of a YAML file.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")]
Processes = Annotated[int, typer.Option(min=1, help="Pretrain in so many processes of this machine.")]


@app.command("list")
def list_recipes() -> None:
    """List the recipes that come with the package."""
    from recipes.config import recipe_names, recipe_summary

    for name in recipe_names():
        typer.echo(f"{name}  {recipe_summary(name)}")


@app.command()
def show(name: RecipeName) -> None:
    """Print a recipe, with its comments."""
    from recipes.config import recipe_text

    typer.echo(recipe_text(name))


@app.command()
def validate(name: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe and print it with every default written out."""
    from recipes.config import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(name, overrides or [])))


@app.command()
def run(name: RecipeName, overrides: Overrides = None, out: Out = None, processes: Processes = 1) -> None:
    """Pretrain, reuse, evaluate and report; goes on where an earlier run on the same folder stopped."""
    from recipes.config import load_recipe

    recipe = load_recipe(name, overrides or [])
    from auxtasks.training.processes import join_processes
    from recipes.folder import RunFolder
    from recipes.run import run_recipe

    place = out or Path("runs") / recipe.name
    join_processes(recipe.training.device)
    with RunFolder(place).only_run(together=True):
        report = run_recipe(recipe, place, processes)
    _print_ranking(place)
    if report is not None:
        _print_report(place)


@app.command()
def pretrain(name: RecipeName, overrides: Overrides = None, out: Out = None) -> None:
    """Pretrain the backbone only; also under `torchrun`."""
    from recipes.config import load_recipe

    recipe = load_recipe(name, overrides or [])
    from auxtasks.training.processes import join_processes
    from recipes.folder import RunFolder
    from recipes.run import pretrain_recipe

    place = out or Path("runs") / recipe.name
    join_processes(recipe.training.device)
    with RunFolder(place).only_run(together=True):
        pretrain_recipe(recipe, place)
    _print_ranking(place)


@app.command()
def transfer(run_path: RunPath, overrides: Overrides = None, out: Out = None) -> None:
    """Evaluate a run's backbone on its targets, or on others given as overrides, into a folder of their own."""
    from recipes.folder import RunFolder
    from recipes.run import transfer_run

    with RunFolder(out or run_path).only_run():
        place = transfer_run(run_path, overrides or [], out)
    _print_report(place)


@app.command()
def predict(
    run_path: RunPath,
    inputs: Annotated[
        list[Path], typer.Argument(help="Pictures, or folders of them; or files of texts: a text a line, or a table.")
    ],
    target: Annotated[str | None, typer.Option(help="Which target model, where the run has several.")] = None,
    column: Annotated[str, typer.Option(help="Column of the texts in a table.")] = "text",
) -> None:
    """Print each picture's path, or each text, with its likeliest class and that one's probability, parted by tabs."""
    from recipes.predict import predict_files

    for item, label, probability in predict_files(run_path, inputs, target, column=column):
        typer.echo(f"{item}\t{label}\t{probability:.3f}")


@app.command()
def score(
    run_path: RunPath,
    files: Annotated[
        list[Path],
        typer.Argument(help="Files of texts (a text a line, or a table) or of vectors; pictures, or folders of them."),
    ],
    target: Annotated[str | None, typer.Option(help="Which target's scorer, where the run has such.")] = None,
    column: Annotated[str | None, typer.Option(help="Column in a table; text, or features, by default.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Column of what the texts answer.")] = None,
    kind: Annotated[str, typer.Option(help="What the files are, such as svmlight; auto looks.")] = "auto",
) -> None:
    """Print the score of each item, higher for the better, and the item, parted by a tab: a text, a path, a row."""
    from recipes.score import score_files

    for value, item in score_files(run_path, files, target, column=column, prompt=prompt, kind=kind):
        typer.echo(f"{value:.6g}\t{item}")


@app.command()
def inspect(path: Annotated[Path, typer.Argument(help="A run folder, or a saved backbone's.")]) -> None:
    """Print a saved backbone's layers, input and origin."""
    from recipes.predict import describe_backbone

    typer.echo(describe_backbone(path))


@app.command()
def report(run_path: RunPath) -> None:
    """Print a run's report, and the test of what it ranks."""
    from recipes.folder import RunFolder

    folder = RunFolder(run_path)
    _print_ranking(run_path)
    # A run that ranks has its own test, and needs no targets.
    if folder.report.is_file() or not folder.ranking.is_file():
        _print_report(run_path)


def _print_ranking(place: Path) -> None:
    """Print the test of a ranking run, if this is one, on the first of several processes."""
    from recipes.folder import RunFolder

    found = RunFolder(place).ranking
    if prints_results() and found.is_file():
        from recipes.ranking_table import ranking_lines
        from recipes.result_files import Ranked, read_result

        remedy = "To have it written anew, remove pretrain.json beside it and run the same again."
        typer.echo("\n".join(ranking_lines(read_result(found, Ranked, remedy))))


def _print_report(place: Path) -> None:
    from recipes.folder import RunFolder
    from transfer.report import read_report
    from transfer.report_terminal import print_report

    found = RunFolder(place).report
    print_report(read_report(found))
    typer.echo(f"\nReport with plots: {found.with_suffix('.md')}")


def main() -> None:
    """Run the command line; an error of ours is a message and an exit code, never a traceback.

    Exit codes: 0 done; 1 it could not be done; 2 the recipe or the command line is wrong; 130 and 143 stopped by SIGINT
    (Ctrl-C) and SIGTERM, after the step that was being trained and a checkpoint of it.

    Example:
        >>> import contextlib
        >>> from unittest.mock import patch
        >>> with patch("sys.argv", ["auxtasks", "cache", "list"]), patch.dict(os.environ, AUXTASKS_CACHE="not there"):
        ...     with contextlib.suppress(SystemExit):
        ...         main()
        not there: nothing is kept.
        >>> with patch("sys.argv", ["auxtasks", "inspect", "no_such_run"]), patch.dict(os.environ):
        ...     try:
        ...         main()
        ...     except SystemExit as done:
        ...         print(done.code)
        1
    """
    keep_libraries_inside()
    if launcher := os.environ.get("AUXTASKS_LAUNCHED"):
        die_with_parent(int(launcher))
    try:
        with interruptions():
            app()
    except TrainingStoppedError as stop:
        _say_once(str(stop))
        from recipes.launch import leave_group

        leave_group()
        sys.exit(128 + stop.signal)
    except Interruption as stop:
        _say_once(str(stop))
        sys.exit(128 + stop.signal)
    except AuxtasksError as error:
        _tell(error)
        sys.exit(2 if isinstance(error, RecipeError) else 1)
    except RuntimeError as error:
        # What gloo says to those that wait for a process that has ended, which has said why; or for too long.
        if "RANK" not in os.environ or "gloo/transport" not in str(error):
            raise
        why = "did not come for a day" if "Timed out" in str(error) else "has ended"
        typer.echo(f"error: process {os.environ['RANK']} ends, since another one of the run {why}.", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        typer.echo(f"error: could not read or write {error.filename or 'a file'}: {error.strerror}.", err=True)
        sys.exit(1)


def _tell(error: AuxtasksError) -> None:
    """Print an error, unless another process does: that one gets its time, for a launcher ends all when one has."""
    if error.told:
        time.sleep(SECONDS_TO_TELL)
        return
    problems = error.problems if isinstance(error, RecipeError) else [error]
    typer.echo("\n".join(f"error: {problem}" for problem in problems), err=True)


def _say_once(message: str) -> None:
    """Print a message to stderr, in the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(message, err=True)
