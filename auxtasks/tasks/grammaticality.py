"""Whether a model puts good sentences above bad ones: by kind of corruption, on minimal pairs, on labelled texts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from torch import Tensor

from auxtasks import metrics
from auxtasks.backbones.text import TokenBatch, pad_tokens
from auxtasks.data.arrow import spell_feature
from auxtasks.data.corruptions import ORDER_ONLY
from auxtasks.data.ragged import Ragged
from auxtasks.data.texts import TextTable, tokenise
from auxtasks.errors import ColumnError, DataError
from auxtasks.tasks.sentence_batches import SentenceBatch, SentenceItem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MinimalPairs", "SentenceEvaluator", "acceptability", "bag_of_words_control", "load_minimal_pairs", "score"]

logger = logging.getLogger("auxtasks")

SCORED_TOKENS = 16_384  # a batch, padding included


class Scorer(Protocol):
    """Anything that says how good texts are: higher is better."""

    def goodness(self, tokens: TokenBatch) -> Tensor:
        """Return how good each text is, (B,)."""
        ...


class SentenceEvaluator:
    """Held-out accuracy by kind of corruption.

    Args:
        scorer: scores sentences.
        kinds: names of the corruptions by their number.

    Example:
        >>> from datasets import Dataset
        >>> from auxtasks.backbones import transformers
        >>> from auxtasks.data.corruptions import KINDS
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> from auxtasks.tasks import ShuffledSentences
        >>> texts = ["The old dog sleeps.", "A cat hears the dog.", "The cat sees a dog."]
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> tokenizer = train_tokenizer(texts, size=60)
        >>> task = ShuffledSentences(transformers({"model_type": "bert", **sizes}, tokenizer=tokenizer, length=16))
        >>> table = task.prepare(Dataset.from_dict({"text": texts}))
        >>> items = [task.view({**table.record(row), "row": row}) for row in range(3)]
        >>> evaluator = SentenceEvaluator(task, KINDS)
        >>> evaluator.update(task.collate(items))
        >>> 0 <= evaluator.compute()["pair_accuracy"] <= 1
        True
        >>> control = bag_of_words_control(items, items, tokenizer.vocab_size, KINDS)
        >>> 0 <= control["pair_accuracy"] <= 1
        True
    """

    def __init__(self, scorer: Scorer, kinds: Sequence[str]) -> None:
        self._scorer = scorer
        self._kinds = kinds
        self._kept: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]] = []

    def update(self, batch: SentenceBatch) -> None:
        """Score one batch of this process's share."""
        score = self._scorer.goodness(batch.tokens).double().cpu().numpy()
        kinds, sentence = batch.kinds.cpu().numpy(), batch.sentence.cpu().numpy()
        good = kinds < 0
        self._kept.append((kinds, _wins(score[good][sentence], score), (score > 0) == good))

    def compute(self) -> dict[str, float]:
        """Return accuracies, the same on every process.

        Returns:
            ``accuracy`` of good or bad at a score of zero, where good and bad ones weigh the same (meaningless without
            a sentence head, whose scores alone know zero); ``pair_accuracy`` over all kinds and by kind. Without any
            corruption there is none of them.
        """
        shares = gather_object(self._kept) if dist.is_initialized() else self._kept
        kinds, won, right = (np.concatenate([share[part] for share in shares]) for part in range(3))
        if not (kinds >= 0).any():
            return {}
        accuracy = (right[kinds < 0].mean() + right[kinds >= 0].mean()) / 2
        return {"accuracy": float(accuracy), **by_kind(kinds, won, self._kinds)}


def by_kind(kinds: NDArray[np.int64], won: NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    """Return the share of pairs that were won: over all kinds, over those that only change order, and by kind."""
    found = {"pair_accuracy": float(won[kinds >= 0].mean())} if (kinds >= 0).any() else {}
    of = {name: won[kinds == number] for number, name in enumerate(names)}
    order = [of[name] for name in ORDER_ONLY if len(of.get(name, ()))]
    if order:
        found["pair_accuracy/order_only"] = float(np.concatenate(order).mean())
    return found | {f"pair_accuracy/{name}": float(values.mean()) for name, values in of.items() if len(values)}


def _wins(good: NDArray[np.float64], bad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 where the good one scores higher, a half for a tie, else 0."""
    won: NDArray[np.float64] = (good > bad) + 0.5 * (good == bad)
    return won


def bag_of_words_control(
    trained: Iterable[SentenceItem], held_out: Iterable[SentenceItem], vocabulary: int, names: Sequence[str]
) -> dict[str, float]:
    """Fit a bag of words to the same task, and return its accuracies: what can be had without order.

    On corruptions that only change order it must be at chance; where it is not, something else gives them away.

    Args:
        trained: sentences beside corruptions, as the task trains on them.
        held_out: others, as the task is evaluated on them.
        vocabulary: number of token ids.
        names: of the corruptions by their number.

    Reference:
        Logistic regression on counts of tokens, the baseline of Wang and Manning, "Baselines and bigrams", ACL 2012.
    """
    counts, kinds, _ = _bags(trained, vocabulary)
    model = LogisticRegression(C=0.1, max_iter=200).fit(counts, kinds < 0)
    counts, kinds, sentence = _bags(held_out, vocabulary)
    score = np.round(model.decision_function(counts), 9)  # the same bag gives the same score whatever the order of sums
    good = kinds < 0
    return by_kind(kinds, np.where(good, 0.0, _wins(score[good][sentence], score)), names)


def _bags(items: Iterable[SentenceItem], vocabulary: int) -> tuple[object, NDArray[np.int64], NDArray[np.int64]]:
    """Return counts (rows, vocabulary), kinds and sentence of each row."""
    from scipy.sparse import csr_matrix

    rows = [(row, number) for number, item in enumerate(items) for row in item.rows]
    tokens = Ragged.of([row.tokens for row, _ in rows])
    counts = csr_matrix(
        (np.ones(len(tokens.values)), tokens.values, tokens.offsets), shape=(len(tokens), vocabulary), dtype=np.float64
    )
    counts.sum_duplicates()
    return counts, np.array([row.kind for row, _ in rows]), np.array([number for _, number in rows])


@torch.no_grad()
def score(scorer: Scorer, tokens: Ragged, *, pad_id: int) -> NDArray[np.float64]:
    """Return how good each text is, (N,), in batches of like length on the scorer's device, without dropout.

    Example:
        >>> from auxtasks.backbones import transformers
        >>> from auxtasks.data.texts import tokenise
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> from auxtasks.tasks import ShuffledSentences
        >>> texts = ["The old dog sleeps.", "A cat hears the dog."]
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> tokenizer = train_tokenizer(texts, size=60)
        >>> task = ShuffledSentences(transformers({"model_type": "bert", **sizes}, tokenizer=tokenizer, length=16))
        >>> tokens, _ = tokenise(texts, tokenizer, 16)
        >>> score(task, tokens, pad_id=tokenizer.pad_token_id).shape
        (2,)
    """
    scores = np.zeros(len(tokens))
    with _evaluating(scorer) as device:
        for rows in _batches(tokens.lengths):
            batch = pad_tokens([tokens[int(row)] for row in rows], pad_id=pad_id)
            batch = TokenBatch(batch.ids.to(device), batch.mask.to(device))
            scores[rows] = scorer.goodness(batch).double().cpu().numpy()
    return scores


@contextlib.contextmanager
def _evaluating(scorer: Scorer) -> Iterator[torch.device]:
    """Put a scorer that is a module in eval mode, and back; yield its device."""
    if not isinstance(scorer, torch.nn.Module):
        yield torch.device("cpu")
        return
    was_training = scorer.training
    scorer.eval()
    try:
        yield next((parameter.device for parameter in scorer.parameters()), torch.device("cpu"))
    finally:
        scorer.train(was_training)


def _batches(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # Sorted, so the last of a batch is its longest: grow it while it fits.
        lengths_ahead = lengths[order[start : start + SCORED_TOKENS]]
        ahead = lengths_ahead * np.arange(1, len(lengths_ahead) + 1)
        size = max(1, int(np.searchsorted(ahead, SCORED_TOKENS, side="right")))
        yield order[start : start + size]
        start += size


@dataclasses.dataclass(frozen=True, eq=False)
class MinimalPairs:
    """N pairs of a good and a bad sentence that differ in one point.

    Attributes:
        good, bad: the sentences.
        groups: name of a grouping, such as ``"phenomenon"``, to each pair's group.
        order_only: (N,) bool, whether the two sentences are the same words in another order.
    """

    good: tuple[str, ...]
    bad: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    order_only: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.good)

    def accuracy(self, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, float]:
        """Return the share of pairs whose good sentence scores higher; a tie counts half.

        Args:
            scorer: scores sentences.
            tokenizer: the backbone's.
            length: most tokens of a sentence.

        Returns:
            ``accuracy``, ``order_only``, and ``GROUPING/GROUP`` for every group. Sentences that were cut are warned
            of: two that differ behind the cut are a tie.

        Example:
            >>> from auxtasks.data.tokenizers import train_tokenizer
            >>> class Short:
            ...     def goodness(self, tokens):
            ...         return -tokens.mask.sum(dim=1).float()
            >>> pairs = MinimalPairs(("a cat", "a cat"), ("a cat cat", "cat a"), {}, np.array([False, True]))
            >>> pairs.accuracy(Short(), train_tokenizer(["a cat"] * 2, size=20), length=16)
            {'accuracy': 0.75, 'order_only': 0.5}

        Reference:
            Warstadt et al., "BLiMP: the benchmark of linguistic minimal pairs for English", TACL 2020.
        """
        assert tokenizer.pad_token_id is not None  # held where the backbone was built
        tokens, cut = tokenise([*self.good, *self.bad], tokenizer, length)
        if cut:
            logger.warning(
                "%d of %d sentences of minimal pairs have more than %d tokens and were cut: pairs that differ behind "
                "the cut are ties.",
                cut,
                len(tokens),
                length,
            )
        scores = score(scorer, tokens, pad_id=int(tokenizer.pad_token_id))
        won = _wins(scores[: len(self)], scores[len(self) :])
        found = {"accuracy": float(won.mean())}
        if self.order_only.any():
            found["order_only"] = float(won[self.order_only].mean())
        for grouping, names in self.groups.items():
            of = np.array(names)
            found |= {f"{grouping}/{name}": float(won[of == name].mean()) for name in sorted(set(names))}
        return found


GROUPINGS = ("field", "phenomenon", "uid")


def load_minimal_pairs(dataset: Dataset) -> MinimalPairs:
    """Take pairs from a data set with the columns ``sentence_good`` and ``sentence_bad``, and any of `GROUPINGS`.

    Raises:
        ColumnError: a column is missing, or holds no strings.
        DataError: no pairs, or an empty sentence; names its row. Two equal sentences are a tie, with a warning.

    Example:
        >>> pairs = load_minimal_pairs(Dataset.from_dict({"sentence_good": ["It is."], "sentence_bad": ["Is it."]}))
        >>> len(pairs), pairs.order_only.tolist()
        (1, [True])
    """
    missing = [name for name in ("sentence_good", "sentence_bad") if name not in dataset.column_names]
    if missing:
        raise ColumnError(
            f"minimal pairs have the columns sentence_good and sentence_bad; missing is {', '.join(missing)}, found "
            f"are {', '.join(dataset.column_names)}."
        )
    good, bad = (_strings(dataset, name) for name in ("sentence_good", "sentence_bad"))
    if not good:
        raise DataError("there are no minimal pairs: the data set is empty.")
    for row, (one, other) in enumerate(zip(good, bad, strict=True)):
        if not one.strip() or not other.strip():
            raise DataError(f"row {row}: a minimal pair is two sentences, found {one!r} and {other!r}.")
    same = sum(one == other for one, other in zip(good, bad, strict=True))
    if same:
        logger.warning("%d of %d minimal pairs hold the same sentence twice: they count as ties.", same, len(good))
    groups = {name: tuple(map(str, dataset[name])) for name in GROUPINGS if name in dataset.column_names}
    words = [(_words(one), _words(other)) for one, other in zip(good, bad, strict=True)]
    order_only = np.array([one != other and sorted(one) == sorted(other) for one, other in words])
    return MinimalPairs(good, bad, groups, order_only)


def _strings(dataset: Dataset, name: str) -> tuple[str, ...]:
    feature = dataset.features[name]
    if len(dataset) and getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise ColumnError(f"the column {name!r} holds {spell_feature(feature)}; expected strings.")
    return tuple(text or "" for text in dataset[name])


def _words(sentence: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in sentence.casefold()).split()


def acceptability(scorer: Scorer, table: TextTable, *, threshold: float = 0.0) -> dict[str, float]:
    """Return how well scores tell acceptable sentences (label 1) from others, without training on any label.

    Args:
        scorer: scores sentences.
        table: N labelled texts.
        threshold: a score above it says that a sentence is acceptable.

    Returns:
        ``roc_auc``, ``matthews`` (correlation at the threshold) and ``accuracy``.

    Raises:
        DataError: other than two classes, one without any text, or a text without a label.

    Example:
        >>> from auxtasks.data import encode_texts, load_source, train_tokenizer
        >>> class Short:
        ...     def goodness(self, tokens):
        ...         return 5.0 - tokens.mask.sum(dim=1)
        >>> rows = {"text": ["a cat", "a cat cat a", "cat a a a", "cat"], "label": ["1", "0", "0", "1"]}
        >>> source = load_source(rows, columns={"text": "text", "label": "label"})
        >>> acceptability(Short(), encode_texts(source, train_tokenizer(["a cat"] * 2, size=20), length=16))
        {'roc_auc': 1.0, 'matthews': 1.0, 'accuracy': 1.0}
    """
    if len(table.class_names) != 2:
        raise DataError(f"acceptability has two classes, bad and good; found {', '.join(table.class_names) or 'none'}.")
    counts = [int(np.sum(table.labels == label)) for label in (0, 1, -1)]
    if not (counts[0] and counts[1]) or counts[2]:
        raise DataError(
            f"acceptability needs texts of both classes, each with a label; found {counts[0]} of "
            f"{table.class_names[0]!r}, {counts[1]} of {table.class_names[1]!r} and {counts[2]} without."
        )
    scores = score(scorer, table.tokens, pad_id=table.pad_id)
    good = table.labels == 1
    return {
        "roc_auc": metrics.roc_auc(scores, good),
        "matthews": float(matthews_corrcoef(good, scores > threshold)),
        "accuracy": float(np.mean((scores > threshold) == good)),
    }
