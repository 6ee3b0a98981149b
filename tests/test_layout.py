"""The package reads like the paper: rooms with one door each, and imports that go one way."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import llm2vec_pl

PACKAGE = Path(llm2vec_pl.__file__).parent
ROOMS = (
    "errors", "files", "decoder", "distributed", "bidirectional", "lora", "encoder", "objectives",
    "data", "evaluation", "mining", "training", "use",
)  # fmt: skip
"""Each imports from those before it."""

PARTS = {
    "data": ("files", "blocks", "examples", "resuming", "words"),
    "evaluation": ("mteb", "analysis", "word_probe"),
    "training": ("memory", "pipeline"),
    "use": ("bulk", "export", "search", "server"),
}
"""Rooms within rooms."""

INNER = [
    f"llm2vec_pl.{room}" for room in ("decoder", "distributed", "bidirectional", "lora", "encoder")
]
"""Rooms whose doors are for other rooms; those of the others are for users too."""

NOTEBOOK_IMPORT = re.compile(r"from (llm2vec_pl[\w.]*) import ([\w, ]+)")

DEEP = {"llm2vec_pl.distributed.fsdp2"}
"""Lightning's strategy, which the room does not name: encoding needs no Lightning."""

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """The modules of this package that a file imports, as it writes them, each with a name.

    Imports inside functions count, those for type checkers do not.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inside in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            module = node.module or ""
            if module.split(".")[0] == "llm2vec_pl":
                yield from ((module, name.name) for name in node.names)


def room_of(module: str) -> str:
    """The door by which others reach a module: `llm2vec_pl.data.files` of one of its files."""
    _, *parts = module.split(".")
    depth = 2 if len(parts) > 1 and parts[1] in PARTS.get(parts[0], ()) else 1
    return ".".join(["llm2vec_pl", *parts[:depth]])


def test_the_package_has_thirteen_entries() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries - {"__init__", "py", "assets"} == set(ROOMS)


def test_no_file_imports_itself_on_the_way() -> None:
    graph = {
        module: {
            f"{target}.{name}" if f"{target}.{name}" in MODULES else target
            for target, name in imports(path)
        }
        for module, path in MODULES.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(f"A circle of imports: {' <- '.join(circle.args[1])}")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_those_before_it_only(room: str) -> None:
    files = [PACKAGE / f"{room}.py", *(PACKAGE / room).rglob("*.py")]
    known = {"llm2vec_pl", *(f"llm2vec_pl.{name}" for name in ROOMS[: ROOMS.index(room) + 1])}
    upward = {
        (path.name, target)
        for path in files
        if path.is_file()
        for target, _ in imports(path)
        if ".".join(target.split(".")[:2]) not in known
    }
    assert not upward


def test_other_rooms_are_entered_by_their_door() -> None:
    around = {
        (module, target)
        for module, path in MODULES.items()
        if path.name != "__init__.py"
        for target, _ in imports(path)
        if target not in DEEP | {room_of(target)} and room_of(target) != room_of(module)
    }
    assert not around


def test_a_door_names_only_what_others_take() -> None:
    taken = {
        (target, name)
        for module, path in MODULES.items()
        if path.name != "__init__.py"
        for target, name in imports(path)
        if target != room_of(module)
    }
    taken |= {
        item for folder in ("recipes", "benchmarks", "notebooks") for item in _outside(folder)
    }
    idle = {
        f"{module}.{name}"
        for module in INNER
        for name in import_module(module).__all__
        if (module, name) not in taken and name not in llm2vec_pl.__all__
    }
    assert not idle


def _outside(folder: str) -> Iterator[tuple[str, str]]:
    for path in (PACKAGE.parent / folder).rglob("*.py"):
        yield from imports(path)
    for path in (PACKAGE.parent / folder).glob("*.ipynb"):
        for module, names in NOTEBOOK_IMPORT.findall(path.read_text(encoding="utf-8")):
            yield from ((module, name) for name in names.split(", "))


def test_recipes_benchmarks_and_notebooks_find_what_they_import() -> None:
    taken = [item for folder in ("recipes", "benchmarks", "notebooks") for item in _outside(folder)]
    assert {f"{m}.{name}" for m, name in taken if not hasattr(import_module(m), name)} == set()
