"""Few-shot episodes on a target of a run: how well heads on its frozen backbone tell a few new classes apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from auxtasks.backbones.pooling import Pool
from auxtasks.data.pair_table import PairTable
from auxtasks.errors import LayerError, TransferError, did_you_mean
from auxtasks.features.batches import item_noun
from recipes import build
from recipes.cache import feature_cache
from recipes.folder import RunFolder
from recipes.reused_run import named_target, reused_backbone, reused_recipe
from recipes.run import read_pretraining
from recipes.targets import load_target
from transfer.batched_heads import BATCHED_HEADS
from transfer.episodes import EpisodeScores, draw_episodes, score_episodes
from transfer.fewshot import HeadOptions
from transfer.heads import HEADS, build_head
from transfer.spaces import default_pools

__all__ = ["EpisodeRun", "episodes_run"]

EVERY_LAYER = "all"


@dataclasses.dataclass(frozen=True)
class EpisodeRun:
    """What heads on some layers scored, on the same episodes.

    Attributes:
        asked: the episodes, in words.
        scores: layer to head, in words, to its scores.
        notes: for the reader: leaks that were looked for, heads that were left out.

    Example:
        >>> import numpy as np
        >>> scores = EpisodeScores(np.array([0.8, 0.9, 1.0]), mean=0.9, ci95=(0.8, 1.0), way=5)
        >>> for line in EpisodeRun("animals: 3 episodes", {"hidden1": {"prototype": scores}}, ()).lines()[:2]:
        ...     print(line)
        animals: 3 episodes
          hidden1          prototype  90.0 % [80.0, 100.0]
    """

    asked: str
    scores: Mapping[str, Mapping[str, EpisodeScores]]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return a table for a terminal, and what to know of it."""
        width = max(len(head) for heads in self.scores.values() for head in heads)
        table = [
            f"  {layer:<16} {head:<{width}}  {_percent(scores)}"
            for layer, heads in self.scores.items()
            for head, scores in heads.items()
        ]
        several = sum(map(len, self.scores.values())) > 1
        doubt = (
            ["The best of several layers or heads, picked here, was picked on what it is tested on."] if several else []
        )
        interval = "In brackets: 95 % intervals over episodes of these very items; they say nothing of other classes."
        return [self.asked, *table, interval, *doubt, *self.notes]


def episodes_run(
    run: Path,
    overrides: Sequence[str],
    name: str,
    *,
    way: int = 5,
    shot: int = 5,
    queries: int = 15,
    episodes: int = 1000,
    layer: str | None = None,
) -> EpisodeRun:
    """Draw episodes from the items of a target, and score the recipe's heads on a run's frozen backbone.

    Nothing is trained but the heads, and nothing chosen. All labelled items of the target are learned from or asked for
    by some episode; its fixed test or validation set is not used. The opening is logged in the run's folder.

    Args:
        run: a run folder.
        overrides: ``key.sub=value``, of transfer and targets.
        name: of the target.
        way: classes of an episode.
        shot: labelled items of each class.
        queries: items of each class that are asked for.
        episodes: how many; the recipe's seed draws them.
        layer: whose features are taken, or "all"; None takes the topmost of the recipe's.

    Raises:
        RecipeError: overrides that do not fit.
        TransferError: no such target, one of pairs, what the backbone was made with, no head that is fitted in
            batches, or classes with too few items.
        LayerError: no such layer.
        CheckpointError: nothing pretrained.

    Example:
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from recipes.config import load_recipe
        >>> from recipes.run import pretrain_recipe
        >>> network = "backbone={name: mlp, arguments: {width: 4, hidden: [8, 8]}}"
        >>> recipe = load_recipe("ready_made", [network, "targets.mine.path=builtin:features"])
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", AUXTASKS_CACHE=f"{folder}/cache"):
        ...     run = Path(folder) / "run"
        ...     pretrain_recipe(recipe, run)
        ...     found = episodes_run(run, [], "mine", way=3, shot=5, queries=10, episodes=20)
        >>> found.asked
        'mine: 20 episodes, 3-way, 5-shot, 10 queries a class, from 150 vectors of 3 classes; chance 33.3 %'
        >>> {layer: len(heads) for layer, heads in found.scores.items()}  # one score of each head, on the topmost layer
        {'hidden2': 4}
    """
    recipe = reused_recipe(run, overrides)
    target = named_target(recipe, name, run)
    backbone = reused_backbone(recipe, run)
    settings = build.make_few_shot(recipe, backbone, target)
    pools = _layers(dict(settings.layers or default_pools(backbone)), layer)
    heads, left_out = _batched(settings.heads)
    loaded = load_target(recipe, name, target, backbone)
    table = loaded.table
    if isinstance(table, PairTable):
        raise TransferError(f'target "{name}" holds pairs, of which one is the better: episodes need classes of items.')
    drawn = draw_episodes(table.labels, way=way, shot=shot, queries=queries, episodes=episodes, seed=recipe.seed)
    notes = [*loaded.notes, *read_pretraining(recipe, backbone).leaks(name, target, loaded), *left_out]
    features = feature_cache().features(backbone, table, pools, mirror=settings.mirror)
    sizes = {"way": way, "shot": shot, "queries": queries, "episodes": episodes}
    RunFolder(run).log_opening(
        {"target": name, "episodes": sizes, "layers": list(pools), "heads": [words for words, _ in heads]}
    )
    scores = {
        place: {
            words: score_episodes(build_head(head, **options), features[place], drawn)
            for words, (head, options) in heads
        }
        for place in pools
    }
    asked = (
        f"{name}: {episodes:,} episodes, {way}-way, {shot}-shot, {queries} queries a class, from {len(table):,} "
        f"{item_noun(table)} of {len(table.class_names)} classes; chance {100 / way:.1f} %"
    )
    return EpisodeRun(asked, scores, tuple(notes))


def _layers(pools: dict[str, Pool], layer: str | None) -> dict[str, Pool]:
    """Return the layer asked for with its pooling, the topmost for None.

    Raises:
        LayerError: there is none of that name.
    """
    if layer == EVERY_LAYER:
        return pools
    wanted = list(pools)[-1] if layer is None else layer
    if wanted not in pools:
        raise LayerError(
            f'no layer "{wanted}".{did_you_mean(wanted, pools)} There are {", ".join(pools)}, and "all" for all.'
        )
    return {wanted: pools[wanted]}


def _batched(
    heads: Sequence[tuple[str, HeadOptions]],
) -> tuple[list[tuple[str, tuple[str, HeadOptions]]], list[str]]:
    """Return the heads that are fitted in batches, each with its words, and notes on the others.

    Raises:
        TransferError: none is.
    """
    found = [(_words(name, options), (name, options)) for name, options in heads if HEADS[name] in BATCHED_HEADS]
    others = [_words(name, options) for name, options in heads if HEADS[name] not in BATCHED_HEADS]
    if not found:
        allowed = ", ".join(name for name, head in HEADS.items() if head in BATCHED_HEADS)
        raise TransferError(f"transfer.heads has only {', '.join(others)}; episodes are for {allowed}.")
    return found, [f"Left out, since it is not fitted in batches: {words}." for words in others]


def _words(name: str, options: HeadOptions) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def _percent(scores: EpisodeScores) -> str:
    """Return "93.1 % [92.8, 93.4]", and how many episodes failed if any did."""
    bounds = "[not known]" if scores.ci95 is None else f"[{scores.ci95[0] * 100:.1f}, {scores.ci95[1] * 100:.1f}]"
    failed = f", {scores.failed * 100:.1f} % of the episodes not above chance" if scores.failed else ""
    return f"{scores.mean * 100:.1f} % {bounds}{failed}"
