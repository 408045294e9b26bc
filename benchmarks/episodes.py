"""Few-shot episodes on given features: all at once here, one at a time by easyfsl; the same episodes, in turns.

easyfsl is timed in two ways: as its own documentation evaluates (a loader that collates each episode, and `evaluate`),
and bare, its method alone called on features that are already gathered, which leaves the loader's time out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from easyfsl.datasets import FeaturesDataset
from easyfsl.methods import FewShotClassifier, PrototypicalNetworks, SimpleShot
from easyfsl.samplers import TaskSampler
from easyfsl.utils import evaluate, evaluate_on_one_task
from torch.utils.data import DataLoader

from auxtasks.backbones import Backbone, convnet
from auxtasks.data import decode_images, load_source
from auxtasks.features.extract import extract
from transfer.episodes import Episodes, draw_episodes, score_episodes
from transfer.head import Head
from transfer.heads import build_head

Features = np.ndarray


def given_features(backbone_path: Path | None, layer: str | None) -> tuple[str, Features, np.ndarray]:
    """Return what the features are, the features (N, D) and the labels: of real faces, where there are such."""
    folder = os.environ.get("AUXTASKS_DATA")
    if folder:
        what = "LFW"
        rows = load_source(Path(folder) / "faces" / "lfw.parquet", columns={"image": "image", "label": "name"})
        counts = np.unique(np.array(rows["label"]), return_inverse=True, return_counts=True)
        rows = rows.select(np.flatnonzero(counts[2][counts[1]] >= 20))
    else:
        what = "drawn faces"
        rows = load_source(
            "builtin:drawn_faces",
            columns={"image": "image", "label": "label"},
            options={"people": 100, "photos": 20, "size": 60},
        )
    backbone = Backbone.from_pretrained(backbone_path) if backbone_path else convnet(size=48)
    pictures = decode_images(rows, size=(60, 60), channels=backbone.input.shape[0])
    layer = layer or backbone.layer_names[-1]
    values = extract(backbone, pictures, {layer: "mean" if layer != backbone.layer_names[-1] else "auto"})[layer]
    origin = "a pretrained network" if backbone_path else "a network with random weights"
    return f"{what}, {len(values):,} items, layer {layer} of {origin}, {values.shape[1]} wide", values, pictures.labels


class SameEpisodes(TaskSampler):
    """easyfsl's sampler with episodes that were drawn beforehand."""

    def __init__(self, episodes: Episodes) -> None:
        # Not the base class's, which hands torch an argument that its samplers no longer take.
        self.n_way, self.n_shot, self.n_query = episodes.way, episodes.shot, episodes.queries
        self.n_tasks = len(episodes)
        shape = (len(episodes), episodes.way, -1)
        parts = [episodes.support.reshape(shape), episodes.query.reshape(shape)]
        self.rows = np.concatenate(parts, axis=2).reshape(len(episodes), -1)

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.rows:
            yield rows.tolist()


def by_loader(model: FewShotClassifier, data: FeaturesDataset, episodes: Episodes) -> float:
    """Evaluate as easyfsl's documentation does; return the accuracy."""
    sampler = SameEpisodes(episodes)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    return float(evaluate(model, loader, device="cpu", use_tqdm=False))


@torch.inference_mode()
def bare(model: FewShotClassifier, features: torch.Tensor, episodes: Episodes) -> float:
    """Call easyfsl's method on gathered features, with nothing around it; return the accuracy."""
    model.eval()
    support_labels, query_labels = torch.from_numpy(episodes.support_labels), torch.from_numpy(episodes.query_labels)
    right = 0
    for support, query in zip(torch.from_numpy(episodes.support), torch.from_numpy(episodes.query), strict=True):
        found, _ = evaluate_on_one_task(model, features[support], support_labels, features[query], query_labels)
        right += found
    return right / episodes.query.size


def seconds_of(call: Callable[[], float]) -> tuple[float, float]:
    began = time.perf_counter()
    accuracy = call()
    return time.perf_counter() - began, accuracy


PAIRS: dict[str, tuple[Head, Callable[[], FewShotClassifier]]] = {
    "prototypes, euclidean": (
        build_head("prototype", metric="euclidean"),
        lambda: PrototypicalNetworks(feature_normalization=2.0),
    ),
    "prototypes, cosine": (build_head("prototype"), lambda: SimpleShot(feature_normalization=2.0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", type=Path, default=None, help="a saved backbone; random weights otherwise")
    parser.add_argument("--layer", default=None)
    given = parser.parse_args()
    what, features, labels = given_features(given.backbone, given.layer)
    episodes = draw_episodes(
        labels, way=given.way, shot=given.shot, queries=given.queries, episodes=given.episodes, seed=0
    )
    print(f"{what}; {len(episodes):,} episodes, {episodes.way}-way, {episodes.shot}-shot, {episodes.queries} queries")
    tensor = torch.from_numpy(features)
    data = FeaturesDataset(labels.tolist(), tensor, [str(label) for label in labels])
    for name, (head, method) in PAIRS.items():
        ways: dict[str, Callable[[], float]] = {
            "ours": lambda head=head: score_episodes(head, features, episodes).mean,
            "ours, float32": lambda head=head: score_episodes(head, features, episodes, precision="float32").mean,
            "easyfsl": lambda method=method: by_loader(method(), data, episodes),
            "easyfsl, bare": lambda method=method: bare(method(), tensor, episodes),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        accuracy: dict[str, float] = {}
        for _ in range(given.rounds):
            for way, call in ways.items():
                took, accuracy[way] = seconds_of(call)
                seconds[way].append(took)
        for way, took_all in seconds.items():
            ratios = [other / ours for other, ours in zip(took_all, seconds["ours"], strict=True)]
            print(
                f"{name}  {way:<14} {statistics.median(took_all):.4f} s  accuracy {accuracy[way]:.6f}  "
                f"ratio to ours: median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}",
                flush=True,
            )
    for name, options in {"prototype": {"center": True}, "ridge": {}, "logistic": {"C": 10.0}}.items():
        head = build_head(name, **options)  # type: ignore[arg-type]  # values of several types
        together, mean = seconds_of(lambda head=head: score_episodes(head, features, episodes).mean)
        alone, same = seconds_of(lambda head=head: one_at_a_time(head, features, episodes))
        print(
            f"{head}: together {together:.3f} s, one at a time {alone:.3f} s, ratio {alone / together:.1f}; "
            f"accuracy {mean:.6f} and {same:.6f}"
        )


def one_at_a_time(head: Head, features: Features, episodes: Episodes) -> float:
    """Fit the head episode by episode; return the accuracy."""
    right = [
        np.mean(
            head.fit(features[support], episodes.support_labels, episodes.way).predict(features[query])
            == episodes.query_labels
        )
        for support, query in zip(episodes.support, episodes.query, strict=True)
    ]
    return float(np.mean(right))


if __name__ == "__main__":
    main()
