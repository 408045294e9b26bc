"""The commands on a network that is there already: evaluate it, fine-tune it, cut it, import it. As `recipes.cli`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "prints_results"]

app = typer.Typer()

Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value, such as training.steps=100.")]
RunPath = Annotated[Path, typer.Argument(help="A run folder.")]
TargetName = Annotated[str, typer.Option(help="Which target of the recipe.")]
OwnFolder = Annotated[Path, typer.Option(help="Folder for the result; not the run's own.")]


def prints_results() -> bool:
    """Whether this process prints them: the first of several, and none that a command has started to help itself.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {"RANK": "0"}, clear=True):
        ...     prints_results()
        True
        >>> with patch.dict(os.environ, {"RANK": "1"}, clear=True):
        ...     prints_results()
        False
    """
    return os.environ.get("RANK", "0") == "0" and "AUXTASKS_LAUNCHED" not in os.environ


@app.command()
def finetune(
    run_path: RunPath,
    target: TargetName,
    out: OwnFolder,
    overrides: Overrides = None,
    layer: Annotated[str | None, typer.Option(help="The layer that the head reads; chosen by default.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Fine-tune in so many processes of this machine.")] = 1,
) -> None:
    """Fine-tune a run's backbone in stages on all labels of one target; also under `torchrun`."""
    from recipes.finetune import finetune_run
    from recipes.finetune_table import finetune_lines

    found = finetune_run(run_path, overrides or [], target, out, layer=layer, processes=processes)
    if prints_results():
        typer.echo("\n".join(finetune_lines(found)))


@app.command()
def depth(
    run_path: RunPath,
    target: TargetName,
    out: OwnFolder,
    overrides: Overrides = None,
    modes: Annotated[str, typer.Option(help="frozen, finetuned, or both with a comma.")] = "frozen,finetuned",
    shots: Annotated[int | None, typer.Option(min=1, help="Labels a class; the recipe's largest by default.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Take all labels, once.")] = False,
    draws: Annotated[int | None, typer.Option(min=1, help="Draws of labels; as the recipe says by default.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the cross-validation.")] = 1,
) -> None:
    """Find the layer to cut a run's backbone at, frozen or fine-tuned, on labels that the test does not know."""
    from recipes.depth import depth_run, parse_modes
    from recipes.folder import RunFolder
    from transfer.depth_report import depth_markdown

    with RunFolder(out).only_run():
        report = depth_run(
            run_path, overrides or [], target, out, modes=parse_modes(modes), shots=shots, whole=whole, draws=draws,
            folds=folds, repeats=repeats,
        )  # fmt: skip
    typer.echo(depth_markdown(report))


@app.command()
def episodes(
    run_path: RunPath,
    target: TargetName,
    overrides: Overrides = None,
    way: Annotated[int, typer.Option(min=2, help="Classes of an episode.")] = 5,
    shot: Annotated[int, typer.Option(min=1, help="Labelled items of each class.")] = 5,
    queries: Annotated[int, typer.Option(min=1, help="Items of each class that are asked for.")] = 15,
    number: Annotated[int, typer.Option("--episodes", min=1, help="How many episodes.")] = 1000,
    layer: Annotated[str | None, typer.Option(help="A layer, or all; the topmost by default.")] = None,
) -> None:
    """Score the recipe's heads on a run's frozen backbone in few-shot episodes, with intervals."""
    from recipes.episodes import episodes_run

    found = episodes_run(
        run_path, overrides or [], target, way=way, shot=shot, queries=queries, episodes=number, layer=layer
    )
    typer.echo("\n".join(found.lines()))


@app.command()
def zoo(
    search: Annotated[
        list[str] | None, typer.Argument(help="Words that a name must have, such as resnet18; none lists all.")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Count parameters that a library does not tell.")] = False,
) -> None:
    """List what timm, torchvision, transformers and facenet-pytorch offer: input size, parameters, licence."""
    from recipes.zoo import describe_zoo

    typer.echo(describe_zoo(search or [], count=count))


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="A weights file of any framework, a run's folder, or a saved backbone's.")
    ],
    into: Annotated[str, typer.Argument(help="A backbone's name, such as timm/resnet18, or the folder of one.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="key=value of the network, such as size=64.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the network.")] = None,
    rules: Annotated[str | None, typer.Option(help="A shipped set of rename rules, such as vgg16-caffe.")] = None,
    select: Annotated[str | None, typer.Option(help="Pattern over the network's layers and names.")] = None,
    up_to: Annotated[str | None, typer.Option(help="A layer, taken with all below it.")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="A=B: a pattern of names, and what they become.")] = None,
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Copy by the position of layers, not by name.")] = False,
    skip_other_shapes: Annotated[
        bool, typer.Option("--skip-other-shapes", help="Leave out what has another shape; an error else.")
    ] = False,
    least_share: Annotated[float, typer.Option(help="Least share of the selected parameters to be loaded.")] = 0.0,
    check: Annotated[
        Path | None, typer.Option(help="An .npz with inputs, and the outputs that the other framework gave.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference of outputs in that check.")] = 1e-5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be copied, and write nothing.")] = False,
) -> None:
    """Copy weights into a network, print what went where, and save it as a backbone."""
    from recipes.import_weights import import_weights

    plan = import_weights(
        source, into, arguments or [], out=out, rules=rules, select=select, up_to=up_to, renames=rename or [],
        by="layer" if by_layer else "name", skip_other_shapes=skip_other_shapes, least_share=least_share,
        check=check, tolerance=tolerance, dry_run=dry_run, tell=typer.echo,
    )  # fmt: skip
    if plan.problems:
        raise typer.Exit(1)  # of a dry run: the copy itself would be refused


cache_app = typer.Typer(no_args_is_help=True, help="What is kept between runs: features, pictures, sentences.")
app.add_typer(cache_app, name="cache")


@cache_app.command("list")
def cache_list() -> None:
    """List what the cache folder holds, and what it takes."""
    from recipes.cache import describe_cache

    typer.echo(describe_cache())


@cache_app.command("clear")
def cache_clear(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys, or their beginnings; all by default.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="features, pictures, aligned, sentences, near_duplicates or tables.")
    ] = None,
    unused_days: Annotated[float | None, typer.Option(min=0, help="Only what was not used for so many days.")] = None,
) -> None:
    """Remove what is kept, but for what a process uses now."""
    from recipes.cache import clear_cache

    typer.echo(clear_cache(keys=keys or (), kind=kind, unused_days=unused_days))
