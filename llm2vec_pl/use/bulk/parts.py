"""The files of a folder of embeddings: each appears whole or not at all, and says what is in it."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_pl.errors import UserError
from llm2vec_pl.files import remove, unfinished
from llm2vec_pl.use.bulk.documents import Chunk

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PART_KEY = b"llm2vec_pl"
"""Of the entry of a file's metadata: the settings, as JSON."""

PART_NAME = re.compile(r"part-(\d{6,})\.parquet")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartFolder:
    """`part-000000.parquet` and so on, one for each chunk of the corpus.

    Args:
        folder: the folder; it need not exist.
        settings: what decides the embeddings, as JSON; each file records it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings

    def path(self, number: int) -> Path:
        """Where the embeddings of a chunk are."""
        return self.folder / f"part-{number:06}.parquet"

    def has(self, number: int) -> bool:
        """Whether the file of a chunk is there, and whole."""
        return _footer(self.path(number)) is not None

    def prepare(self) -> None:
        """Makes the folder, and deletes what killed runs left half written.

        Raises:
            UserError: if the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".part-*.parquet.unfinished-*"):
                remove(left)
        except OSError as error:
            raise UserError(
                f"`out={str(self.folder)!r}` cannot be written to: {error.strerror}. Name another "
                "folder."
            ) from error

    def whole(self) -> dict[int, int]:
        """The chunks whose file is whole -> its number of rows; a damaged file does not count.

        Raises:
            UserError: if the folder holds embeddings that were made with other settings, or
                Parquet files of another kind.
        """
        found = {}
        for file in sorted(self.folder.glob("*.parquet")):
            footer = _footer(file)
            if footer is None:  # damaged: to be written again
                continue
            match = PART_NAME.fullmatch(file.name)
            recorded = (footer.metadata or {}).get(PART_KEY)
            if match is None or recorded is None:
                raise UserError(
                    f"`out={str(self.folder)!r}` holds {file.name}, which is no file of "
                    "embeddings. Name an empty folder."
                )
            require_same(json.loads(recorded), self.settings, file)
            found[int(match[1])] = footer.num_rows
        return found

    def write(self, chunk: Chunk, embeddings: np.ndarray, keep: Sequence[str]) -> None:
        """Writes the file of a chunk; a kill or a power cut leaves no half of it.

        Args:
            chunk: N documents.
            embeddings: (N, D), float32 or float16.
            keep: the names of the columns that the documents bring along.

        Raises:
            UserError: if there is no space left; the other files stay as they are.
        """
        import pyarrow.parquet as pq

        rows = table(chunk, embeddings, keep, self.settings)
        path = self.path(chunk.number)
        try:
            with unfinished(path) as new, new.open("wb") as file:
                # Numbers of embeddings hardly repeat: a dictionary of them would be wasted.
                pq.write_table(rows, file, compression="zstd", use_dictionary=False)
                file.flush()
                os.fsync(file.fileno())
            _keep_name(self.folder)
        except OSError as error:
            reason = "no space is left" if error.errno in FULL else str(error)
            raise UserError(
                f"{path} could not be written: {reason}. The files that are there are whole: put "
                "it right, and give the same command again to go on."
            ) from error


def table(
    chunk: Chunk, embeddings: np.ndarray, keep: Sequence[str], settings: dict[str, Any]
) -> pa.Table:
    """The rows of a file: `row`, `id`, `embedding` and what is kept of the corpus."""
    import pyarrow as pa

    number = pa.from_numpy_dtype(embeddings.dtype)
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(number, embeddings.shape[1]), nullable=False),
            *(pa.field(name, pa.string()) for name in keep),
        ],
        metadata={PART_KEY: json.dumps(settings)},
    )
    documents = chunk.documents
    columns = [
        pa.array([document.row for document in documents], pa.int64()),
        pa.array([document.id for document in documents], pa.string()),
        pa.FixedSizeListArray.from_arrays(
            pa.array(embeddings.reshape(-1)), type=schema.field("embedding").type
        ),
        *(pa.array([d.kept[i] for d in documents], pa.string()) for i in range(len(keep))),
    ]
    return pa.table(columns, schema=schema)


def require_same(recorded: dict[str, Any], now: dict[str, Any], file: Path) -> None:
    """Checks that a file was made as the others will be.

    Raises:
        UserError: with each setting that differs.
    """
    names = [name for name in now if recorded.get(name) != now[name]]
    if names:
        shown = "; ".join(
            f"{name} was {_short(recorded.get(name))} and is now {_short(now[name])}"
            for name in names
        )
        raise UserError(
            f"{file} holds embeddings that were made otherwise: {shown}. Give the former settings "
            "to go on there, or name another `out`."
        )


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 120 else f"{shown[:119]}…"


def _footer(file: Path) -> Any:
    """The metadata of a Parquet file; None if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError):
        return None


def _keep_name(folder: Path) -> None:
    """Has a folder's names survive a power cut, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
