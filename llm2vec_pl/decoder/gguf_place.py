"""Finds the GGUF that a user names: a file, one on the hub, or one in an installed package."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from llm2vec_pl.decoder.gguf import refuse_part
from llm2vec_pl.decoder.hub import commit_of, fetch
from llm2vec_pl.decoder.short_names import PACKAGED, how_to_get, packaged_files
from llm2vec_pl.errors import UserError

_ON_THE_HUB = re.compile(
    r"(?P<repo>[\w-][\w.-]*(/[\w.-]+)?)(@(?P<revision>[^:]+))?:(?P<file>[^:]+\.gguf)", re.IGNORECASE
)


class Place(NamedTuple):
    """A GGUF on this machine.

    Args:
        parts: the file, or the files that make one when they are put together.
        name: as a user writes it; a path in full.
        revision: the commit, or else the revision asked for, of one from the hub.
    """

    parts: list[Path]
    name: str
    revision: str | None = None


def gguf_place(name: str, revision: str | None) -> Place | None:
    """Where the named GGUF is, downloaded if it is on the hub; None for any other kind of name.

    Args:
        name: `model.gguf` (any path of a file), `org/name:FILE.gguf` or
            `org/name@revision:FILE.gguf` on the hub, or a short name of `PACKAGED`.
        revision: branch, tag or commit on the hub. A short name with one means the hub's model.

    Raises:
        UserError: if the file is not there or is one of several parts.
    """
    if name in PACKAGED:
        files = packaged_files(name) if revision is None else None
        return Place(files, name) if files else None
    if place := _file(Path(name).expanduser()):
        return place
    match = _ON_THE_HUB.fullmatch(name)
    if match is None:
        if name.lower().endswith(".gguf"):
            raise _no_file(Path(name).expanduser())
        return None
    if Path(match["repo"]).is_dir():
        file = Path(match["repo"], match["file"])
        if place := _file(file):
            return place
        raise _no_file(file)
    return _from_the_hub(match["repo"], match["file"], revision or match["revision"])


def on_the_hub(name: str, revision: str | None) -> str:
    """The hub's name for a decoder with a short name, whose packages are not installed.

    Raises:
        UserError: if the hub cannot be reached, or does not let this user in.
    """
    hub = PACKAGED[name].hub
    reason = "the hub cannot be reached"
    try:
        # One file, before anything else is asked for: without a network, each takes half a minute.
        if fetch(hub, "config.json", revision) is not None:
            return hub
    except OSError as error:
        reason = _first_line(error)
    raise UserError(
        f"`model_name`: {name} is not on this machine. {how_to_get(name)} Or let it be downloaded "
        f"from {hub} on the hub, which failed just now ({reason})."
    )


def _file(path: Path) -> Place | None:
    # The folder is resolved and the file is not: in the hub's cache it is a link to one whose name
    # says nothing.
    return Place([path], str(path.parent.resolve() / path.name)) if path.is_file() else None


def _from_the_hub(repo: str, file: str, revision: str | None) -> Place:
    name = f"{repo}:{file}"
    refuse_part(file, name)
    try:
        path = fetch(repo, file, revision)
    except OSError as error:
        raise UserError(
            f"`model_name`: {name} cannot be opened ({_first_line(error)}). Check the name, and "
            "the network."
        ) from error
    if path is None:
        raise UserError(
            f"`model_name`: {repo} on the hub has no file {file}{' at ' * bool(revision)}"
            f"{revision or ''}, or it cannot be reached. Check the name in the list of its files, "
            "and the network."
        )
    return Place([path], name, commit_of(path) or revision)


def _no_file(path: Path) -> UserError:
    found = sorted(p.name for p in path.parent.glob("*.gguf")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, found, n=1)
    hint = f"Did you mean {path.parent / close[0]}?" if close else "Check the path"
    if not close and found:
        hint += f": that folder has {', '.join(found[:4])}{', …' if len(found) > 4 else '.'}"
    elif not close:
        hint += "; one on the hub is written org/name:FILE.gguf."
    return UserError(f"`model_name`: there is no file {path}. {hint}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
