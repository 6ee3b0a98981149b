"""What the pages show: the commands in their fences and tables, their Python, their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GENERATED = {"ARCHITECTURES.md", "CHANGELOG.md"}
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "recipes/*.md", "llm2vec_pl/assets/*/*.md")
    for page in ROOT.glob(pattern)
    if page.name not in GENERATED
)
SHELLS = ("bash", "sh", "shell", "console")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python3? recipes/|pytest |make |pip install )[^`\n]*)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Shown(NamedTuple):
    """A command: where it stands, and its words without comments."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def recipe(self) -> str:
        """The file of `python recipes/…`, however it is started; "" if this is none."""
        names = [Path(word).name for word in self.words if is_recipe(word)]
        return names[0] if names else ""

    @property
    def flags(self) -> list[str]:
        """What follows the recipe."""
        place = next(i for i, word in enumerate(self.words) if is_recipe(word))
        return list(self.words[place + 1 :])


def is_recipe(word: str) -> bool:
    return re.fullmatch(r"recipes/\w+\.py", word) is not None


def fences(page: Path, *languages: str) -> Iterator[str]:
    """The contents of the page's fenced blocks in these languages."""
    for language, block in FENCE.findall(page.read_text()):
        if language in languages:
            yield block


def commands() -> list[Shown]:
    """Each command once, in the order of the pages."""
    found: dict[tuple[str, ...], Shown] = {}
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        lines = [line for block in fences(page, *SHELLS) for line in joined(block)]
        lines += INLINE.findall(FENCE.sub("", page.read_text()))
        for line in lines:
            if words := words_of(line):
                found.setdefault(words, Shown(name, words))
    return list(found.values())


def joined(block: str) -> list[str]:
    """The lines of a block, those that a backslash continues in one."""
    return re.sub(r"\\\n", " ", block).splitlines()


def words_of(line: str) -> tuple[str, ...]:
    """Without comments and prompts; of what a scheduler is to run, that."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    while words and re.fullmatch(r"[A-Z0-9_]+=\S*", words[0]):  # variables in front
        words = words[1:]
    for word in words:
        if word.startswith("srun "):
            return tuple(shlex.split(word.removeprefix("srun ")))
    return tuple(words)


def anchors(page: Path) -> set[str]:
    """What `#…` may name on a page, as GitHub makes it of the headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of the page's links to files and headings of this repository."""
    text = FENCE.sub("", page.read_text())
    return [target for target in LINK.findall(text) if "://" not in target]
