"""Uploads an exported folder to the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from llm2vec_pl.errors import UserError

NAME = re.compile(r"[\w.-]+/[\w.-]+")


def require_repository(name: str | None) -> None:
    """Checks the name of a repository before anything is written.

    Raises:
        UserError: if it is not `ORG/NAME`.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UserError(
            f"`push_to_hub` is a repository on the hub, as in ORG/NAME, but got {name!r}."
        )


def push(folder: Path, name: str) -> str:
    """Uploads a folder in one commit; a repository that is not there yet becomes a private one.

    Weights of an earlier export that this one does not have are deleted in the same commit.

    Args:
        folder: what was exported.
        name: `ORG/NAME`.

    Returns:
        The address of the repository.

    Raises:
        UserError: if the hub does not take it. The folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="model",
            commit_message="Export an encoder",
            delete_patterns=["*.safetensors", "*.safetensors.index.json", "model.onnx*"],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"{folder} was written, but {name} on the hub does not take it: {reason}. Log in with "
            "`hf auth login` and a token that may write there, and check the network."
        ) from error
    return str(address)
