"""Words and pairs of neighbouring words, weighed by TF-IDF: what the baselines on texts read."""

from __future__ import annotations

from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["word_weights"]


def word_weights() -> TfidfVectorizer:
    """Return the weighing, not yet fitted.

    Every character that is no blank counts as a word or is part of one, so that no text is left without any:
    scikit-learn's own pattern leaves out "I", "a" and all punctuation, and refuses texts of nothing else.

    Example:
        >>> word_weights().fit(["I am.", "?"]).get_feature_names_out().tolist()
        ['.', '?', 'am', 'am .', 'i', 'i am']

    Reference:
        Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988.
    """
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1, token_pattern=r"(?u)\w+|[^\w\s]")
