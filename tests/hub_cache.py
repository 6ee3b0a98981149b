"""A hub without a network: repositories in the layout of the hub's cache."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path


class HubCache:
    """What `hf download` would leave, filled from local folders.

    Args:
        root: the cache's folder, empty.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, name: str, folder: str | Path, revision: str = "main") -> str:
        """Makes a folder a commit of a repository, to which a branch or tag then points.

        Returns:
            The commit.
        """
        repository = self.root / f"models--{name.replace('/', '--')}"
        commit = hashlib.sha1(f"{name} {folder} {revision}".encode()).hexdigest()
        shutil.copytree(folder, repository / "snapshots" / commit, dirs_exist_ok=True)
        refs = repository / "refs"
        refs.mkdir(exist_ok=True)
        (refs / revision).write_text(commit)
        return commit
