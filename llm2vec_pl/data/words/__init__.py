"""Sentences with a tag for each word: CoNLL's columns, CoNLL-U, JSON lines, Parquet, the hub."""

from llm2vec_pl.data.words.sentence import Layout, Sentence, WordTaskName
from llm2vec_pl.data.words.splits import WordSplit, read_splits
from llm2vec_pl.data.words.tagged import TaggedSentence, TaggedSentences, word_batch
from llm2vec_pl.data.words.tags import label_order

__all__ = [
    "Layout",
    "Sentence",
    "TaggedSentence",
    "TaggedSentences",
    "WordSplit",
    "WordTaskName",
    "label_order",
    "read_splits",
    "word_batch",
]
