"""Faults that are planted in the core, one at a time, and the tests of which one at least must find each."""

from __future__ import annotations

import dataclasses

__all__ = ["MUTANTS", "Mutant"]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        what: it is, in words.
        file: that it is planted in.
        right, wrong: a text that stands in the file once, and what takes its place.
        tests: files or names of tests, as pytest takes them.
    """

    what: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "losses: different pairs are pulled together, not apart",
        "auxtasks/losses.py",
        "_weighted_mean(F.softplus(z), different)",
        "_weighted_mean(F.softplus(-z), different)",
        ("tests/auxtasks/test_losses.py",),
    ),
    Mutant(
        "losses: the triplet loss takes the farthest different item, not the nearest",
        "auxtasks/losses.py",
        "masked_fill(~masks.different, torch.inf).amin(dim=1)",
        "masked_fill(~masks.different, -torch.inf).amax(dim=1)",
        ("tests/auxtasks/test_losses.py",),
    ),
    Mutant(
        "losses: a ranking pair need not keep its margin",
        "auxtasks/ranking_losses.py",
        "short = margin - difference",
        "short = -difference",
        ("tests/auxtasks/test_ranking_losses.py",),
    ),
    Mutant(
        "plan: every epoch has the order of the first",
        "auxtasks/data/plan.py",
        "generator(seed, purpose, epoch).permutation(items)",
        "generator(seed, purpose, 0).permutation(items)",
        ("tests/auxtasks/test_plan.py",),
    ),
    Mutant(
        "plan: processes take the same share of a batch",
        "auxtasks/data/loaders.py",
        "(micro * self.processes + self.rank) * size",
        "(micro * self.processes) * size",
        ("tests/auxtasks/test_loaders.py",),
    ),
    Mutant(
        "plan: an item's chance does not know its epoch",
        "auxtasks/data/loaders.py",
        'generator(self._seed, "transform", pick.epoch, pick.number)',
        'generator(self._seed, "transform", 0, pick.number)',
        ("tests/auxtasks/test_loaders.py",),
    ),
    Mutant(
        "freezing: a frozen layer goes on in training mode",
        "auxtasks/backbones/base.py",
        "            if stage.name in self._frozen:\n                for module",
        "            if stage.name not in self.layer_names:\n                for module",
        ("tests/auxtasks/test_backbones.py", "tests/transfer/test_freezing.py"),
    ),
    Mutant(
        "freezing: a frozen layer keeps its gradient",
        "auxtasks/backbones/base.py",
        "parameter.requires_grad_(stage.name not in self._frozen)",
        "parameter.requires_grad_(True)",
        ("tests/auxtasks/test_backbones.py", "tests/transfer/test_freezing.py"),
    ),
    Mutant(
        "gather: gradients of other processes are lost",
        "auxtasks/tasks/face_pairs.py",
        "        dist.all_reduce(summed)\n",
        "",
        ("tests/auxtasks/test_distributed.py",),
    ),
    Mutant(
        "step: each process divides by the weight of its own share",
        "auxtasks/training/steps.py",
        "        totals = self._reduce(totals)\n",
        "        self._reduce(totals)\n        totals = totals * self._shard.processes\n",
        ("tests/auxtasks/test_distributed.py",),
    ),
    Mutant(
        "resume: the optimizer begins afresh",
        "auxtasks/training/optim.py",
        "if parameter in trained and name in by_parameter:",
        "if parameter in trained and name not in by_parameter:",
        ("tests/auxtasks/test_resume.py",),
    ),
    Mutant(
        "resume: the data begins at the first step",
        "auxtasks/training/engine.py",
        ".batches(self.progress.done, phase_start + phase.steps, self.shard)",
        ".batches(phase_start, phase_start + phase.steps, self.shard)",
        ("tests/auxtasks/test_resume.py",),
    ),
    Mutant(
        "resume: chance inside the network does not know the step",
        "auxtasks/training/steps.py",
        'torch_seed(self._seed, "forward", step, micro, self._shard.rank)',
        'torch_seed(self._seed, "forward", micro, self._shard.rank)',
        ("tests/auxtasks/test_engine.py",),
    ),
    Mutant(
        "cache: kept features do not know the weights that made them",
        "auxtasks/features/key.py",
        '"weights": prefix_digest(backbone, layer),',
        '"weights": "",',
        ("tests/auxtasks/test_feature_key.py", "tests/auxtasks/test_feature_cache.py"),
    ),
    Mutant(
        "few-shot: the draws of labels are all the first one",
        "transfer/protocol.py",
        'generator(protocol.seed, "label draw", epoch=number, index=place)',
        'generator(protocol.seed, "label draw", epoch=0, index=place)',
        ("tests/transfer/test_protocol.py",),
    ),
)
