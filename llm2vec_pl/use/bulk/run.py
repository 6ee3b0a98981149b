"""A corpus -> a folder of embeddings, whole or continued, with everything checked first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_only

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk.documents import Documents
from llm2vec_pl.use.bulk.embedding import Embedding
from llm2vec_pl.use.bulk.engine import predict, trainer_on
from llm2vec_pl.use.bulk.parts import PartFolder
from llm2vec_pl.use.bulk.settings import settings_of


class Embedded(NamedTuple):
    """What a run has done.

    Args:
        rows: in the files of the folder.
        left_out: rows of the corpus that had no text or id.
        files: in the folder.
        rate: rows per second of this run.
    """

    rows: int
    left_out: int
    files: int
    rate: float


def embed_corpus(
    encoder: Encoder,
    documents: Documents,
    out: str | Path,
    how: Embedding | None = None,
    accelerator: str = "auto",
    devices: str | int = "auto",
    num_nodes: int = 1,
    report: Callable[[str], object] = print,
) -> Embedded:
    """Embeds a corpus into `out/part-000000.parquet` and so on, of `documents.size` rows each.

    After a kill, the same call goes on with the files that are missing, on any number of devices.
    In memory are the texts of two files and the embeddings of one.

    Args:
        encoder: a loaded one.
        documents: the corpus.
        out: a new folder, or one that an earlier run began.
        how: what becomes of the embeddings.
        accelerator: Lightning's `Trainer(accelerator=...)`.
        devices: Lightning's `Trainer(devices=...)`.
        num_nodes: machines; all see the same corpus and write to the same folder.
        report: called with lines to print.

    Raises:
        StoppedError: after SIGINT or SIGTERM.
        UserError: if the folder holds embeddings of another encoder, prompt or corpus, a row cannot
            be used, or a file cannot be written.
    """
    how = (how or Embedding()).by(encoder)
    folder = PartFolder(Path(out).expanduser(), settings_of(encoder, how, documents))
    # First, since only a trainer knows which rank this process has.
    trainer = trainer_on(accelerator, devices, num_nodes)
    with begun(folder, documents, report):
        rate = predict(trainer, encoder, documents, folder, how)
        return result(folder, documents, rate)


@contextmanager
def begun(
    folder: PartFolder, documents: Documents, report: Callable[[str], object]
) -> Iterator[None]:
    """Makes or checks the folder, says what is there, and lets no second run into it.

    Raises:
        UserError: if it cannot be used.
    """
    _require_apart(folder.folder, documents.corpus.name)
    there = folder.whole()
    with _alone(folder):
        say = rank_zero_only(report)
        for line in documents.corpus.notes:
            say(line)
        if there:
            say(f"{len(there):,} files with {sum(there.values()):,} rows are there already")
        yield


def result(folder: PartFolder, documents: Documents, rate: float) -> Embedded:
    """Counts what is in the folder after the last row.

    Raises:
        UserError: if files are missing, or there are more than the corpus has rows for.
    """
    assert documents.rows is not None
    there = folder.whole()
    files = -(-documents.rows // documents.size)
    missing = [folder.path(number).name for number in range(files) if number not in there]
    if missing:
        raise UserError(
            f"{folder.folder} lacks {len(missing):,} of {files:,} files, such as {missing[0]}. "
            "All machines have to write to the same folder; give the same command again to add "
            "what is missing."
        )
    if surplus := [folder.path(number).name for number in there if number >= files]:
        raise UserError(
            f"{folder.folder} holds {surplus[0]}, but the corpus ends before it, after "
            f"{documents.rows:,} rows: it has become shorter. Embed it into a new folder."
        )
    rows = sum(there.values())
    return Embedded(rows, documents.rows - rows, files, rate)


def _require_apart(out: Path, corpus: str) -> None:
    """Refuses to write into the folder that is read."""
    inside = Path(corpus).expanduser().resolve()
    if inside.is_dir() and (out.resolve() == inside or inside in out.resolve().parents):
        raise UserError(
            f"`out={str(out)!r}` is in the folder {corpus}, which is read. Name one outside."
        )


@contextmanager
def _alone(folder: PartFolder) -> Iterator[None]:
    """Keeps other runs out of the folder until this one ends, however it ends."""
    from filelock import FileLock, Timeout

    if getattr(rank_zero_only, "rank", 0):  # of a run whose first process holds the lock
        yield
        return
    folder.prepare()
    lock = FileLock(folder.folder / ".embedding.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"Another run is writing to {folder.folder}. Wait for its end, or name another `out`."
        ) from error
    except NotImplementedError:  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()
