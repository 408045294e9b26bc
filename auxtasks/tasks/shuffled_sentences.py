"""Shuffled sentences: is this sentence in its right order, and if not, where does it break? Any text is its own labels.

Every sentence of a batch stands beside a corruption of itself, so that nothing but the corruption tells them apart.

Legend for shapes: B rows of a batch (sentences and their corruptions), T tokens, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import pool_layer
from auxtasks.backbones.text import TextState, TokenBatch
from auxtasks.data.corruptions import KINDS, Mixture
from auxtasks.data.length_plan import LengthPlan
from auxtasks.data.loaders import Records
from auxtasks.data.sentences import SentenceTable
from auxtasks.data.streams import StreamFeed
from auxtasks.errors import DataError
from auxtasks.seeding import torch_seed
from auxtasks.tasks.base import AuxTask
from auxtasks.tasks.grammaticality import SentenceEvaluator
from auxtasks.tasks.order_head import OrderHead, order_loss
from auxtasks.tasks.sentence_batches import GOOD, SentenceBatch, SentenceItem, collate_sentences
from auxtasks.tasks.sentence_source import SentenceSource
from auxtasks.training.health import TrivialLevel
from auxtasks.training.objective import StepOutput

__all__ = ["Loss", "ShuffledSentences"]

CHANCE = 0.52  # of an accuracy that is a half by chance

Loss = Literal["sentence", "pair", "token", "order"]


class Scores(NamedTuple):
    """What the heads say of B rows; None without that head.

    Attributes:
        sentence: (B,) how good each row is.
        token: (B, T, 2) logits of being out of place, and of being new.
        state: the last layer, for heads that need to know more of the batch.
    """

    sentence: Tensor | None
    token: Tensor | None
    state: TextState


class ShuffledSentences(AuxTask):
    """Learn word order and word choice from sentences beside their corruptions.

    Four losses, each usable alone or summed. On the sentence head, ``sentence`` tells good rows from bad ones, and
    ``pair`` puts a sentence above its own corruption (softplus of the difference of scores). On the token head,
    ``token`` finds the words that stand behind another word than they did, and the words that are new: a dozen answers
    a sentence instead of one. On the order head, ``order`` says of each word of a corruption which word stood before it
    in the sentence: more bits a word, and the quickest teacher of which word follows which.

    Args:
        backbone: takes text and has a tokenizer.
        losses: name to weight; at least one.
        mixture: which corruptions, see `Mixture`.
        keep_initial: keep the first word in its place; None does so where the tokenizer tells capitals apart.
        most_left_out: share of a corpus in which nothing may be shuffled, see `read_sentences`.
        window: batches sorted by length together, see `LengthPlan`.
        batch_tokens: count batches in tokens instead of sentences: at most so many are computed in a step, padding and
            corruptions included, each as long as its sentence; see `LengthPlan`.
        seed: of the heads' random weights.

    Raises:
        BackboneError: the backbone takes no text.
        DataError: losses that are none, or none that can score a sentence.

    Example:
        >>> from auxtasks.backbones import transformers
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> texts = ["The old dog sleeps.", "A cat hears the dog.", "The cat sees a dog."]
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> tokenizer = train_tokenizer(texts, size=60)
        >>> task = ShuffledSentences(transformers({"model_type": "bert", **sizes}, tokenizer=tokenizer, length=16))
        >>> table = task.prepare(Dataset.from_dict({"text": texts}))
        >>> items = [task.view({**table.record(row), "row": row}) for row in range(3)]
        >>> batch = task.collate(items)  # three sentences, each beside a corruption of all seven kinds
        >>> tuple(batch.tokens.ids.shape), float(task(batch).weight)
        ((24, 16), 3.0)

    Reference:
        Jernite, Bowman and Sontag, "Discourse-based objectives for fast unsupervised sentence representation learning",
        2017, learn from the order of sentences; Clark et al., "ELECTRA", ICLR 2020, from replaced tokens; Conneau et
        al., "What you can cram into a single vector", ACL 2018, only evaluate swapped neighbours. Here order is learnt.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        losses: Mapping[str, float] | None = None,
        mixture: Mixture | None = None,
        keep_initial: bool | None = None,
        most_left_out: float = 0.05,
        window: int = 64,
        batch_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.source = SentenceSource(
            backbone,
            mixture or Mixture(),
            keep_initial=keep_initial,
            most_left_out=most_left_out,
            window=window,
            batch_tokens=batch_tokens,
        )
        self.losses = {"sentence": 0.5, "pair": 0.5, "token": 1.0} if losses is None else dict(losses)
        unknown = sorted(set(self.losses) - set(get_args(Loss)))
        if unknown or set(self.losses) <= {"order"} or min(self.losses.values()) <= 0:
            raise DataError(
                f"losses are weights above zero of {', '.join(get_args(Loss))}, at least one of them other than order, "
                f"which cannot score a sentence; found {self.losses}."
            )
        self.seed = seed
        width = backbone.output_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "sentence heads"))
            # An unused parameter makes DDP raise: a head is made only where a loss trains it.
            self.sentence_head = _sentence_head(width) if {"sentence", "pair"} & set(self.losses) else None
            self.token_head = nn.Linear(width, 2) if "token" in self.losses else None
            self.order_head = OrderHead(width) if "order" in self.losses else None

    @property
    def description(self) -> str:
        """What a backbone from here was pretrained on."""
        return f"shuffled sentences ({', '.join(self.losses)} loss; {', '.join(self.source.mixture.kinds)})"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is."""
        return {**super().settings, **self.source.settings, "losses": self.losses, "head seed": self.seed}

    def prepare(self, dataset: Dataset, *, cache: Path | None = None) -> SentenceTable:
        """Read a corpus with a column ``text`` as words, once."""
        return self.source.prepare(dataset, cache)

    def plan(self, records: Records, batch_size: int, seed: int) -> LengthPlan:
        """Return batches of sentences of like length."""
        return self.source.plan(records, batch_size, seed)

    def stream(self, dataset: IterableDataset, batch_size: int, seed: int, *, workers: int = 0) -> StreamFeed:
        """Read a corpus with a column ``text`` block by block; words to put in are drawn from the sentence's block."""
        return self.source.stream(
            dataset, batch_size, seed, transform=self.transform, collate=self.collate, workers=workers
        )

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> SentenceItem:
        """Put a sentence beside a corruption of itself."""
        return self.source.item(record, rng)

    def view(self, record: Mapping[str, Any]) -> SentenceItem:
        """Put a sentence beside a corruption of each kind, always the same."""
        return self.source.view(record)

    @staticmethod
    def collate(items: Sequence[SentenceItem]) -> SentenceBatch:
        """Pad rows to the longest, rounded up to a multiple of 8."""
        return collate_sentences(items)

    def scores(self, tokens: TokenBatch) -> Scores:
        """Return what the heads say of a batch of texts."""
        state = self.backbone(tokens)
        return Scores(
            sentence=None
            if self.sentence_head is None
            else self.sentence_head(pool_layer(state, "mean_max")).squeeze(1),
            token=None if self.token_head is None else self.token_head(state.hidden),
            state=state,
        )

    def forward(self, batch: SentenceBatch) -> StepOutput:
        """Compute the weighted sum of the losses; every sentence of the batch weighs the same.

        Args:
            batch: B rows of (T,) tokens, S of them sentences as they were, the others corruptions of those.

        Returns:
            The scalar loss summed over sentences, S as its weight, and scalar metrics: each loss as a mean over
            sentences, and with a sentence head ``pair_accuracy``, the share of corruptions below their sentence.
        """
        found = self.scores(batch.tokens)
        good = batch.kinds == GOOD
        sentences = good.sum()
        # Each sentence has half of its weight, and its corruptions share the other half.
        corruptions = torch.bincount(batch.sentence[~good], minlength=len(batch.sentence)).clamp(min=1)
        share = torch.where(good, 0.5, 0.5 / corruptions[batch.sentence])
        parts: dict[str, Tensor] = {}
        if found.sentence is not None:
            score = found.sentence.float()
            beside = score[good][batch.sentence] - score  # zero for the sentence itself
            parts["sentence"] = (
                share * F.binary_cross_entropy_with_logits(score, good.float(), reduction="none")
            ).sum()
            parts["pair"] = (2 * share * F.softplus(-beside))[~good].sum()
        if found.token is not None:
            parts["token"] = (share * _token_loss(found.token.float(), batch)).sum()
        if self.order_head is not None:
            logits = self.order_head(found.state.hidden, batch.counted)
            parts["order"] = (2 * share * order_loss(logits, batch.before))[~good].sum()
        loss = torch.stack([weight * parts[name] for name, weight in self.losses.items()]).sum()
        named = {f"{name}_loss": parts[name].detach() / sentences for name in self.losses}
        if found.sentence is not None:
            named["pair_accuracy"] = (beside[~good] > 0).float().sum() / (~good).sum().clamp(min=1)
        return StepOutput(loss, sentences.float(), named)

    @property
    def trivial_levels(self) -> Sequence[TrivialLevel]:
        """Corruptions that score as high as their sentences, and losses that a guess without looking has as well.

        Who says of each row that it is good or bad with equal odds has a loss of log 2, as has one who finds a sentence
        and its corruption equally good.
        """
        found = [TrivialLevel("pair_accuracy", CHANCE, "below", "corruptions are told apart no better than by chance")]
        return found + [
            TrivialLevel(f"{name}_loss", 0.99 * math.log(2), "above", f"the {name} loss is that of a guess")
            for name in ("sentence", "pair")
            if name in self.losses
        ]

    def items_of(self, batch: SentenceBatch) -> Mapping[int, Tensor]:
        """Return which sentence each row of a batch is, or is a corruption of."""
        return {len(batch.sentence): batch.sentence}

    def evaluator(self) -> SentenceEvaluator:
        """Return a fresh evaluator of accuracy by kind of corruption."""
        return SentenceEvaluator(self, tuple(KINDS))

    @torch.no_grad()
    def goodness(self, tokens: TokenBatch) -> Tensor:
        """Return how good each text is, (B,): the sentence head's score, or else minus the expected broken words."""
        found = self.scores(tokens)
        if found.sentence is not None:
            return found.sentence.float()
        assert found.token is not None  # there is one head at least
        broken = found.token.float().sigmoid().sum(dim=2) * tokens.mask
        return -broken.sum(dim=1)


def _sentence_head(width: int) -> nn.Module:
    """Read mean and maximum over the tokens: one broken word is enough to make a sentence bad."""
    return nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))


def _token_loss(logits: Tensor, batch: SentenceBatch) -> Tensor:
    """Return the mean over a row's words of both binary cross-entropies, (B,)."""
    wanted = torch.stack([batch.out_of_place, batch.replaced], dim=2).float()
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=2)
    words = batch.counted.sum(dim=1).clamp(min=1)
    return (each * batch.counted).sum(dim=1) / words
