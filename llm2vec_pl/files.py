"""Files and folders that appear whole or not at all; JSON; and the cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm2vec_pl.errors import UserError

_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER = 3 * 24 * 3600  # seconds; no build is known to take longer


def cache_root() -> Path:
    """The folder of all caches: `LLM2VEC_PL_CACHE`, or `llm2vec_pl` in the user's cache folder."""
    if chosen := os.environ.get("LLM2VEC_PL_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llm2vec_pl"


def fingerprint(recipe: dict[str, Any]) -> str:
    """16 hexadecimal digits that change when anything in the recipe does."""
    return hashlib.blake2b(
        json.dumps(recipe, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()


def cached_folder(name: str, recipe: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """The folder made from a recipe, taken from the cache if it is there.

    It is written under another name and renamed when complete, so a killed run leaves nothing
    behind that would be read. If several processes want the same folder at once, as the ranks of a
    node do, one builds it while the others wait.

    Args:
        name: says what is kept; the first part of the folder's name.
        recipe: everything that the content depends on, as JSON.
        write: fills the empty folder that it is given.

    Raises:
        UserError: the cache cannot be written, or the disk is full.
    """
    folder = cache_root() / f"{name}-{fingerprint(recipe)}"
    if folder.is_dir():
        return folder
    with alone(folder):
        if not folder.is_dir():
            _build(folder, recipe, write)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time work on a folder; a process that is killed gives up its lock.

    Raises:
        UserError: if nothing can be written beside the folder.
    """
    from filelock import FileLock

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except NotImplementedError:  # a file system without locks: then the first to finish wins
        pass
    except OSError as error:
        raise _not_writable(folder.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _build(folder: Path, recipe: dict[str, Any], write: Callable[[Path], None]) -> None:
    unfinished = _new_unfinished(folder.parent)
    try:
        with explained_if_full(folder.parent):
            write(unfinished)
            (unfinished / "recipe.json").write_text(json.dumps(recipe, indent=1, default=str))
            unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained_if_full(root: Path) -> Iterator[None]:
    """Turns a full disk into an error that says what to do about the cache in this folder."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise UserError(
            f"No space left for the cache in {root}. Free some space, "
            "or set the environment variable LLM2VEC_PL_CACHE to a folder on another disk."
        ) from error


def _new_unfinished(root: Path) -> Path:
    try:
        for left in root.glob(_UNFINISHED + "*"):  # what killed runs left behind
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(left, ignore_errors=True)
        folder = root / f"{_UNFINISHED}{uuid.uuid4().hex}"
        folder.mkdir()  # not `tempfile.mkdtemp`, whose folders only their owner can read
        return folder
    except OSError as error:
        raise _not_writable(root, error) from error


def _not_writable(root: Path, error: OSError) -> UserError:
    return UserError(
        f"Cannot write the cache in {root}: {error.strerror}. "
        "Set the environment variable LLM2VEC_PL_CACHE to a writable folder."
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file.

    Raises:
        UserError: if it is not valid JSON.
    """
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(
            f"{file} is not a JSON object ({error}). It may be incomplete: copy or create it again."
        ) from error


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes an object as indented JSON."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_writable(path: Path) -> None:
    """Creates the folder of a future file, before the work that would otherwise be lost.

    Raises:
        UserError: if no file can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder of {path} cannot be created: {error}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written. Name a file in a folder that is writable.")


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Yields a path to write to; when the block ends, what was written there replaces `path`.

    If the block raises, `path` stays as it was, and what was written is deleted.
    """
    new = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    remove(new)
    try:
        yield new
        put_in_place(new, path)
    finally:
        remove(new)


def put_in_place(new: Path, path: Path) -> None:
    """Replaces a file or folder with a finished one.

    A folder cannot be replaced in one step: the old one is set aside (`before`) until the new one
    is in place.
    """
    if not path.is_dir() and not new.is_dir():
        os.replace(new, path)
        return
    old = before(path)
    remove(old)
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    remove(old)


def remove(path: Path) -> None:
    """Deletes a file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def before(path: Path) -> Path:
    """Where a file or folder is set aside while another replaces it."""
    return path.with_name(f".{path.name}.before")
