"""Data: anything turned into checked columns, decoded once, drawn by a plan that is computed and not replayed."""

from auxtasks.data.augment import Augment
from auxtasks.data.corruptions import Mixture
from auxtasks.data.decoding import decode_one
from auxtasks.data.feature_columns import encode_features
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.length_plan import LengthPlan
from auxtasks.data.pair_table import PairTable, pair_table
from auxtasks.data.pairs import Pairs, balanced_pairs, hold_out, load_pairs
from auxtasks.data.plan import BatchPlan, EpochPlan, IdentityPlan
from auxtasks.data.ranking_sources import read_item_pairs, read_lists, read_text_pairs
from auxtasks.data.rankings import RankingTable
from auxtasks.data.sentences import SentenceTable, read_sentences
from auxtasks.data.sources import load_source
from auxtasks.data.stream_sources import open_stream
from auxtasks.data.texts import TextTable, encode_texts
from auxtasks.data.tokenizers import load_tokenizer, train_tokenizer

__all__ = [
    "Augment",
    "BatchPlan",
    "EpochPlan",
    "FeatureTable",
    "IdentityPlan",
    "ImageTable",
    "LengthPlan",
    "Mixture",
    "PairTable",
    "Pairs",
    "RankingTable",
    "SentenceTable",
    "TextTable",
    "balanced_pairs",
    "decode_images",
    "decode_one",
    "encode_features",
    "encode_texts",
    "hold_out",
    "load_pairs",
    "load_source",
    "load_tokenizer",
    "open_stream",
    "pair_table",
    "read_item_pairs",
    "read_lists",
    "read_sentences",
    "read_text_pairs",
    "train_tokenizer",
]
