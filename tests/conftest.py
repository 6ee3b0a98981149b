"""What the tests share: small models made from configurations, and where real data may lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hub_cache import HubCache
from saved_models import save_model, small_llama

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: one thread each
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _same_randomness_in_each_test() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small Llama with random weights, saved."""
    return str(save_model(small_llama(), tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """An empty cache that transformers, peft and this package read, offline."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    root.mkdir()
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return HubCache(root)
