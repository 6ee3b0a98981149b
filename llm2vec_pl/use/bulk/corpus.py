"""Opens a corpus: local files or a data set of the hub."""

from __future__ import annotations

from pathlib import Path

from llm2vec_pl.data.files import extension, looks_local
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk.hub_corpus import HubCorpus
from llm2vec_pl.use.bulk.local_corpus import TXT, LocalCorpus
from llm2vec_pl.use.bulk.rows import Corpus as Corpus


def open_corpus(
    corpus: str, subset: str | None = None, split: str = "train", streaming: bool = False
) -> Corpus:
    """Opens a corpus: local files if the path exists, else a data set of the hub.

    Args:
        corpus: a txt file (one text per line), a jsonl, csv, tsv or parquet file, a folder of one
            kind of these, or a name on the hub. All but parquet also with .gz.
        subset: of a data set of the hub.
        split: of a data set of the hub; if it has only one, that is taken.
        streaming: read a data set of the hub while it is downloaded, without keeping it.

    Raises:
        UserError: if there is no such corpus, or nothing in it that can be read.
    """
    local = Path(corpus).expanduser()
    if corpus and local.exists():
        return LocalCorpus(local)
    if not corpus or looks_local(corpus) or extension(local) == TXT:
        raise UserError(f"`corpus={corpus!r}` does not exist (looked for {local.absolute()}).")
    return HubCorpus(corpus, subset, split, streaming)
