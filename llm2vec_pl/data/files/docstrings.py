"""The docstrings of installed Python packages, read from their source without importing them."""

from __future__ import annotations

import ast
import multiprocessing
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# What this package needs, in case it is used without being installed itself.
REQUIREMENTS = ("torch", "transformers", "lightning", "peft", "datasets", "jsonargparse")
_NOT_DOCUMENTED = {
    *("test", "tests", "testing", "idlelib", "lib2to3"),
    *("_vendor", "vendored", "site-packages", "dist-packages"),
}
_CHARACTERS_COMPARED = 100
_FILES_WORTH_A_POOL = 500


class Docstring(NamedTuple):
    """The prose of a docstring and the dotted name of what it documents."""

    name: str
    text: str


@dataclass(frozen=True)
class Package:
    """An installed distribution, or the standard library if `distribution` is None."""

    name: str
    version: str
    distribution: metadata.Distribution | None = None

    def files(self) -> list[tuple[Path, str]]:
        """The Python files with documentation: a folder, and the path in it."""
        if self.distribution is None:
            root = Path(sysconfig.get_paths()["stdlib"])
            files = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
        else:
            root = Path(str(self.distribution.locate_file("")))
            files = (file.as_posix() for file in self.distribution.files or [])
        return [(root, file) for file in sorted(files) if _is_documented(file)]


def _is_documented(file: str) -> bool:
    *folders, name = file.split("/")
    return (
        name.endswith(".py")
        and not name.startswith(("test_", "conftest"))
        and _NOT_DOCUMENTED.isdisjoint(folders)
    )


def installed_packages() -> list[Package]:
    """The standard library, this package's requirements and theirs, by name."""
    from packaging.requirements import Requirement

    found: dict[str, metadata.Distribution] = {}
    wanted = ["llm2vec_pl", *REQUIREMENTS]
    while wanted:
        name = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, found[key].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    found.pop("llm2vec-pl", None)
    installed = [Package(key, found[key].version, found[key]) for key in sorted(found)]
    return [Package("python", sys.version.split()[0]), *installed]


def read_docstrings(packages: Iterable[Package], processes: int | None = None) -> list[Docstring]:
    """The docstrings of the packages, sorted by name; of those that begin alike, only the first.

    Args:
        packages: the packages whose source files are parsed.
        processes: number of processes that parse; by default one per core, at most 8.
    """
    files = [file for package in packages for file in package.files()]
    processes = processes or min(8, os.cpu_count() or 1)
    if processes > 1 and len(files) > _FILES_WORTH_A_POOL:
        with multiprocessing.Pool(processes) as pool:
            per_file = pool.map(_docstrings_of_file, files, chunksize=50)
    else:
        per_file = list(map(_docstrings_of_file, files))
    kept: dict[str, Docstring] = {}
    for docstring in sorted(docstring for found in per_file for docstring in found):
        kept.setdefault(docstring.text[:_CHARACTERS_COMPARED].lower(), docstring)
    return list(kept.values())


def _docstrings_of_file(root_and_file: tuple[Path, str]) -> list[Docstring]:
    root, file = root_and_file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about invalid escapes, which are frequent in old packages
            tree = ast.parse((root / file).read_bytes())
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return list(_docstrings(tree, module))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []  # a template, or written for another version of Python


def _docstrings(node: ast.AST, name: str) -> Iterator[Docstring]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        text = prose(ast.get_docstring(node) or "")
        if text:
            yield Docstring(name, text)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, (ast.stmt, ast.excepthandler)):  # around definitions
            yield from _docstrings(child, name)


_ROLE = re.compile(r":[a-z:]+:`[~!.]?([^`<]+?)(?: <[^`]*>)?`")  # :class:`~torch.Tensor`
_RULE = re.compile(r"\W{3,}")  # the line under a title
_EXAMPLES = re.compile(r"(Doctest )?Examples?:{0,2}", re.IGNORECASE)


def prose(docstring: str) -> str:
    """A docstring without code examples, underlines of titles and reStructuredText roles."""
    lines: list[str] = []
    fenced = doctest = False
    for line in docstring.splitlines():
        content = line.strip()
        doctest = bool(content) and (doctest or content.startswith(">>>"))
        if content.startswith("```"):
            fenced = not fenced
        elif not (fenced or doctest or _RULE.fullmatch(content) or _EXAMPLES.fullmatch(content)):
            lines.append(line.rstrip())
    text = _ROLE.sub(r"`\1`", "\n".join(lines)).replace("``", "`")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


SENTENCES_FORMAT = 1  # raise it when `sentences_of` gives different ones
_BETWEEN = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])")
_SENTENCE = re.compile(r"[A-Z`\"'(].*[.!?][)\"'`]*")
_ARGUMENT = re.compile(r"[\w ]+:|.*\([^)]*optional")  # "Returns: it.", "x (int, optional): ..."
_LEAST_WORDS = 4
_LEAST_LETTERS = 0.85  # share of the characters, with blanks as letters; below, it is code


def sentences_of(text: str) -> list[str]:
    """The sentences of a text that are prose: no lists of arguments, no code, no fragments.

    >>> sentences_of("Adds two numbers, exactly. Args: x: a number. It may be zero. See also")
    ['Adds two numbers, exactly.', 'It may be zero.']
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    found = (sentence for paragraph in paragraphs for sentence in _BETWEEN.split(paragraph))
    return [sentence for sentence in found if _is_prose(sentence)]


def _is_prose(sentence: str) -> bool:
    if not _SENTENCE.fullmatch(sentence) or _ARGUMENT.match(sentence):
        return False
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return sentence.count(" ") + 1 >= _LEAST_WORDS and letters >= _LEAST_LETTERS * len(sentence)
