"""Which corpus a path stands for."""

from __future__ import annotations

from pathlib import Path

from llm2vec_pl.use.search.document import Corpus
from llm2vec_pl.use.search.embedded_corpus import EmbeddedCorpus, part_files
from llm2vec_pl.use.search.files_corpus import FilesCorpus
from llm2vec_pl.use.search.python_corpus import PythonCorpus


def open_corpus(path: str | None, column: str = "text") -> Corpus | EmbeddedCorpus:
    """The documentation of the installed Python packages, or a file or folder.

    A folder of `recipes/embed.py` is searched by the embeddings that are in it.

    Args:
        path: None for the documentation.
        column: the column with the text, in files of records.

    Raises:
        UserError: if there is no such file or folder.
    """
    if path is None:
        return PythonCorpus()
    place = Path(path).expanduser()
    return EmbeddedCorpus(place, column) if part_files(place) else FilesCorpus(place, column)
