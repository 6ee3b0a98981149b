"""An export is uploaded in one commit, or an error says that the folder is there and what failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from llm2vec_pl.errors import UserError
from llm2vec_pl.use.export.export import export_encoder
from llm2vec_pl.use.export.upload import push, require_repository


class Hub:
    """In the place of `HfApi`: takes down the calls, and checks that the folder is whole."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: set[str] = set()

    def __call__(self) -> Hub:
        return self

    def create_repo(self, repo_id: str, **how: Any) -> str:
        self.calls.append(("create_repo", {"repo_id": repo_id, **how}))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **how: Any) -> None:
        self.calls.append(("upload_folder", how))
        self.files = {path.name for path in how["folder_path"].iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", stand_in)
    return stand_in


@pytest.mark.slow
def test_a_finished_export_is_uploaded_to_a_private_repository(run, tmp_path, hub):
    lines: list[str] = []
    export_encoder(run, tmp_path / "out", push_to_hub="org/name", report=lines.append)
    (_, created), (_, uploaded) = hub.calls
    assert created == {
        "repo_id": "org/name",
        "repo_type": "model",
        "private": True,
        "exist_ok": True,
    }
    assert uploaded["repo_id"] == "org/name"
    assert {"README.md", "modules.json", "model.safetensors", "tokenizer.json"} <= hub.files
    assert lines[-1] == "Uploaded to https://huggingface.co/org/name"


def test_only_weights_of_an_earlier_export_are_deleted(tmp_path, hub):
    push(tmp_path, "org/name")
    patterns = hub.calls[1][1]["delete_patterns"]
    assert patterns == ["*.safetensors", "*.safetensors.index.json", "model.onnx*"]


def test_what_the_hub_refuses_is_said_with_what_to_do(tmp_path, hub, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise HfHubHTTPError("403 Forbidden: no right to create it.\nmore", response=response)

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(
        UserError, match=r"was written, but org/name .*403 Forbidden.*hf auth login"
    ):
        push(tmp_path, "org/name")


@pytest.mark.parametrize("name", ["mine", "org/name/more", "https://huggingface.co/a/b", ""])
def test_a_repository_has_an_owner_and_a_name(name):
    with pytest.raises(UserError, match="as in ORG/NAME"):
        require_repository(name)
