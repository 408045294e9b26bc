"""Data: anything turned into checked columns, decoded once, drawn by a plan that is computed and not replayed."""

from auxtasks.data.augment import Augment
from auxtasks.data.corruptions import Mixture
from auxtasks.data.decoding import decode_one
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.length_plan import LengthPlan
from auxtasks.data.pairs import Pairs, balanced_pairs, hold_out, load_pairs
from auxtasks.data.plan import BatchPlan, EpochPlan, IdentityPlan
from auxtasks.data.sentences import SentenceTable, read_sentences
from auxtasks.data.sources import load_source
from auxtasks.data.stream_sources import open_stream
from auxtasks.data.texts import TextTable, encode_texts
from auxtasks.data.tokenizers import load_tokenizer, train_tokenizer

__all__ = [
    "Augment",
    "BatchPlan",
    "EpochPlan",
    "IdentityPlan",
    "ImageTable",
    "LengthPlan",
    "Mixture",
    "Pairs",
    "SentenceTable",
    "TextTable",
    "balanced_pairs",
    "decode_images",
    "decode_one",
    "encode_texts",
    "hold_out",
    "load_pairs",
    "load_source",
    "load_tokenizer",
    "open_stream",
    "read_sentences",
    "train_tokenizer",
]
