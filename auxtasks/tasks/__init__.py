"""Auxiliary tasks: what a backbone is pretrained on."""

from auxtasks.tasks.autoencoder import LayerAutoencoder
from auxtasks.tasks.base import AuxTask, Evaluator
from auxtasks.tasks.deep_autoencoder import DeepAutoencoder
from auxtasks.tasks.face_pairs import FacePairs
from auxtasks.tasks.layer_task import LayerTask
from auxtasks.tasks.max_margin_ranking import MaxMarginRanking
from auxtasks.tasks.ranking_corruptions import CorruptedItems, CorruptedSentences
from auxtasks.tasks.ranking_queries import LabelledQueries
from auxtasks.tasks.rbm import LayerRBM
from auxtasks.tasks.shuffled_sentences import ShuffledSentences

__all__ = [
    "AuxTask",
    "CorruptedItems",
    "CorruptedSentences",
    "DeepAutoencoder",
    "Evaluator",
    "FacePairs",
    "LabelledQueries",
    "LayerAutoencoder",
    "LayerRBM",
    "LayerTask",
    "MaxMarginRanking",
    "ShuffledSentences",
]
