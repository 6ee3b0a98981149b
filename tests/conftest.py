"""What the tests share: small models made from configurations, and where real data may lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_cache import HubCache
from hypothesis import settings
from saved_models import save_model, small_llama
from standard_library_docs import fill_cache

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: one thread each
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

settings.register_profile("shared", deadline=None)  # other work may take the cores meanwhile
settings.load_profile("shared")

TESTS = Path(__file__).parent
SHARED = Path(__file__).parents[2] / "shared" / "data"

LONGEST_FILES = [
    TESTS / name
    for name in (
        "recipes/test_notebooks.py",
        "test_documentation.py",
        "training/test_kills.py",
        "distributed/test_matrix.py",
        "bidirectional/test_architectures.py",
        "training/test_memory.py",
        "benchmarks/test_benchmark_recipe.py",
        "recipes/test_recipes.py",
        "data/test_python_docs.py",
        "objectives/test_waits.py",
        "data/test_streaming.py",
        "training/test_memory_estimate.py",
        "decoder/test_gguf.py",
        "distributed/test_sharding.py",
        "benchmarks/test_stages.py",
        "use/bulk/test_on_ray.py",
        "distributed/test_distributed.py",
        "use/export/test_export.py",
        "encoder/test_pool_of_processes.py",
        "data/test_resume.py",
        "training/test_pipeline.py",
        "data/test_contrastive_data.py",
        "evaluation/test_evaluation_callbacks.py",
    )
]
"""Begin first, so that no process is left alone with one of them at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="also what is marked exhaustive")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("exhaustive"):
        left = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    places = {path: place for place, path in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True)
def _same_randomness_in_each_test() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that the tests of this session share, in all of their processes: none is stale."""
    root = tmp_path_factory.getbasetemp()
    cache = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2VEC_PL_CACHE", str(cache))
        yield cache


@pytest.fixture(scope="session")
def standard_library_docs(session_cache: Path) -> Path:
    """The shared cache, with a small part of the embedded data in the place of all of it."""
    fill_cache()
    return session_cache


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
