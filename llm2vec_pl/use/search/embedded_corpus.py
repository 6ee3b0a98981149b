"""A folder that `recipes/embed.py` has filled: its rows are passages that are embedded already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2vec_pl.data.files import no_column
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk import PART_KEY, PART_NAME, encoder_settings
from llm2vec_pl.use.search.passages import Passage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2vec_pl.encoder import Encoder

_ROWS_AT_ONCE = 8192
_NO_DIFFERENCE = ("dtype", "quantization")  # rounds differently, and no more


class EmbeddedCorpus:
    """The rows of `part-*.parquet`, each with its id in place of a file and line.

    Args:
        path: the folder.
        column: a column that `--keep` has copied, to be shown; `text` may be missing.

    Raises:
        UserError: if a file is missing or cannot be read, or there is no such column.
    """

    def __init__(self, path: Path, column: str = "text") -> None:
        self.path, self.column = path, column
        self.name = str(path.resolve())
        self.notes: list[str] = []
        self._files = part_files(path)
        first = self._open(self._files[0]).schema_arrow
        self.settings: dict[str, Any] = json.loads(first.metadata[PART_KEY])
        self.size = first.field("embedding").type.list_size
        self._has_text = column in first.names
        if not self._has_text and column != "text":
            raise no_column(str(path), column, first.names)
        for number, file in enumerate(self._files):
            if file.name != f"part-{number:06}.parquet":
                raise UserError(
                    f"{path} lacks part-{number:06}.parquet: its embedding is not finished. "
                    "Give the command again that began it (recipes/embed.py)."
                )

    def state(self) -> dict[str, Any]:
        """File -> size and time of the last change."""
        seen = {file.name: file.stat() for file in self._files}
        return {name: [each.st_size, each.st_mtime_ns] for name, each in seen.items()}

    def require_same(self, encoder: Encoder) -> None:
        """Checks that queries are embedded as the rows were.

        Raises:
            UserError: if the encoder is another one, or reads texts differently.
        """
        now = encoder_settings(encoder)
        differing = [
            f"{key} {self.settings.get(key)!r} instead of {value!r}"
            for key, value in now.items()
            if key not in _NO_DIFFERENCE and self.settings.get(key) != value
        ]
        if differing:
            raise UserError(
                f"The embeddings in {self.path} are not from the encoder {encoder.source.name}: "
                f"{'; '.join(differing)}. Name the encoder that made them with `model_name`."
            )

    def passages(self) -> Iterator[Passage]:
        """One for each row."""
        columns = ["id", self.column] if self._has_text else ["id"]
        for batch in self._batches(columns):
            ids = batch.column("id").to_pylist()
            texts = batch.column(self.column).to_pylist() if self._has_text else [""] * len(ids)
            for place, text in zip(ids, texts, strict=True):
                yield Passage(str(text or ""), str(place), None, "")

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """Their embeddings, (K, D) at a time."""
        for batch in self._batches(["embedding"]):
            flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(-1, self.size).astype(np.float32)

    def shown(self, place: str) -> str:
        """The row's id."""
        return place

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        for file in self._files:
            with self._open(file) as opened:
                yield from opened.iter_batches(_ROWS_AT_ONCE, columns=columns)

    def _open(self, file: Path) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{file} cannot be read as Parquet: {error}") from error


def part_files(path: Path) -> list[Path]:
    """The files that `recipes/embed.py` wrote into a folder, in their order; none if it did not."""
    if not path.is_dir():
        return []
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(file for file in path.iterdir() if PART_NAME.fullmatch(file.name))
    try:
        written = files and PART_KEY in (pq.read_schema(files[0]).metadata or {})
    except (OSError, pa.ArrowInvalid):
        written = True  # half a file: the error comes when it is opened
    return files if written else []
