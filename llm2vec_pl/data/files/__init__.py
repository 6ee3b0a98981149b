"""Where rows come from: local files, data sets of the hub, and the docstrings of packages."""

from llm2vec_pl.data.files.columns import load_split, looks_local, read_records
from llm2vec_pl.data.files.docstrings import (
    SENTENCES_FORMAT,
    Docstring,
    Package,
    installed_packages,
    read_docstrings,
    sentences_of,
)
from llm2vec_pl.data.files.records import (
    RECORD_READERS,
    Row,
    column_names,
    extension,
    no_column,
    open_text,
)
from llm2vec_pl.data.files.rows import GoodTexts, OnBadRow, problem_of, read_txt
from llm2vec_pl.data.files.scored_pairs import PairColumns, ScoredPair, scored_pair
from llm2vec_pl.data.files.shards import ChunkFilter, Shard, ShardFilter, spread
from llm2vec_pl.data.files.sources import (
    HubDataset,
    TextSource,
    is_split_word,
    left_out,
    local_path,
    open_source,
    split_of,
)
from llm2vec_pl.data.files.splits import (
    SPLITS,
    Split,
    SplitTexts,
    held_out,
    held_out_rows,
    validation_mask,
)
from llm2vec_pl.data.files.text_ids import text_id

__all__ = [
    "RECORD_READERS",
    "SENTENCES_FORMAT",
    "SPLITS",
    "ChunkFilter",
    "Docstring",
    "GoodTexts",
    "HubDataset",
    "OnBadRow",
    "Package",
    "PairColumns",
    "Row",
    "ScoredPair",
    "Shard",
    "ShardFilter",
    "Split",
    "SplitTexts",
    "TextSource",
    "column_names",
    "extension",
    "held_out",
    "held_out_rows",
    "installed_packages",
    "is_split_word",
    "left_out",
    "load_split",
    "local_path",
    "looks_local",
    "no_column",
    "open_source",
    "open_text",
    "problem_of",
    "read_docstrings",
    "read_records",
    "read_txt",
    "scored_pair",
    "sentences_of",
    "split_of",
    "spread",
    "text_id",
    "validation_mask",
]
