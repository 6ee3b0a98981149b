"""The documentation that is the embedded data, in little: of the standard library alone.

All of the installed packages take a minute to read and to cut into tokens, and one test does.
"""

from __future__ import annotations

from pathlib import Path

from llm2vec_pl.data import PythonDocs
from llm2vec_pl.data.files.docstrings import installed_packages, read_docstrings
from llm2vec_pl.files import cached_folder


def fill_cache(every: int = 1) -> None:
    """Lets every process that shares the cache find these docstrings for all that there are.

    Args:
        every: keeps one docstring in so many.
    """
    cached_folder("docstrings", PythonDocs().source(), lambda folder: _write(folder, every))


def _write(folder: Path, every: int) -> None:
    import pyarrow as pa
    import pyarrow.feather as feather

    library = [package for package in installed_packages() if package.name == "python"]
    names, texts = zip(*read_docstrings(library, processes=1)[::every], strict=True)
    table = pa.table({"name": list(names), "text": list(texts)})
    feather.write_feather(table, folder / "docstrings.arrow", compression="zstd")
