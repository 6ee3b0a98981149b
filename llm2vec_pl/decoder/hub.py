"""Single files of a model or an adapter: in a folder, on the hub, or in the hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from llm2vec_pl.decoder.short_names import bundled_name

_SNAPSHOT = re.compile(r"models--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(?=/|$)")


def fetch(name: str, file: str, revision: str | None = None, subfolder: str = "") -> Path | None:
    """The path of a file, downloaded if the cache lacks it; None if it does not exist.

    Args:
        name: folder or hub name.
        file: name of the file.
        revision: branch, tag or commit of a hub name.
        subfolder: where in the folder or repository the file lies.

    Raises:
        OSError: if the repository or revision does not exist.
    """
    from transformers.utils import cached_file

    path = cached_file(
        name,
        file,
        revision=revision,
        subfolder=subfolder,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(path) if path else None


def known_to_be_absent(name: str, file: str, revision: str | None) -> bool:
    """Whether a file that `fetch` did not find does not exist, rather than being out of reach."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode

    if Path(name).is_dir() or not is_offline_mode():
        return True
    return try_to_load_from_cache(name, file, revision=revision) is _CACHED_NO_EXIST


def commit_of(file: Path | None) -> str | None:
    """The commit that a file in the hub's cache belongs to; None for any other file."""
    match = _SNAPSHOT.search(file.as_posix()) if file else None
    return match["commit"] if match else None


def display_name(folder: str) -> str:
    """A folder as a user would name it: one in the hub's cache as `org/name@commit`.

    One that this package brings along has its short name.

    >>> display_name("/cache/models--org--name/snapshots/" + 40 * "a")[:12]
    'org/name@aaa'
    """
    match = _SNAPSHOT.search(Path(folder).as_posix())
    if not match:
        return bundled_name(folder) or folder
    rest = Path(folder).as_posix()[match.end() :]
    return f"{match['name'].replace('--', '/')}@{match['commit']}{rest}"


def split_revision(name: str) -> tuple[str, str | None]:
    """The hub name and the revision of `org/name@revision`; a folder has none.

    >>> split_revision("org/name@v1"), split_revision("org/name")
    (('org/name', 'v1'), ('org/name', None))
    """
    if Path(name).expanduser().is_dir():
        return name, None
    hub_name, _, revision = name.partition("@")
    return hub_name, revision or None
