"""Save, reopen, the same embeddings: over stages of any kind, in folders and on the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_cache import HubCache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import save_model, small_llama

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder

TEXTS = ["a text", "another one that is longer", "third"]
STAGES: dict[str, dict[str, Any]] = {
    "lora": {"lora_rank": 2},
    "dora": {"lora_rank": 2, "dora": True, "rslora": True},
    "full": {"lora_rank": 0},
    "nf4": {"lora_rank": 2, "quantization": "nf4"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small_llama(num_hidden_layers=1)
    return save_model(config, tmp_path_factory.mktemp("models") / "base")


def trained(start: str, **arguments: Any) -> Encoder:
    encoder = Encoder(start, **arguments).load()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return encoder.eval()


@pytest.mark.slow
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kinds=st.lists(st.sampled_from(list(STAGES)), min_size=1, max_size=2),
    places=st.lists(st.sampled_from(["folder", "main", "v1"]), min_size=3, max_size=3),
    bidirectional=st.booleans(),
    pooling=st.sampled_from(["mean", "weighted_mean", "last"]),
)
def test_any_stages_come_back_as_they_were_saved(
    hub: HubCache, base, tmp_path_factory, kinds, places, bidirectional, pooling
):
    """Each stage on the one before, wherever that lies, and the one before is gone afterwards."""
    root = tmp_path_factory.mktemp("stages")
    start, revision = put(hub, base, places[0], f"org/base-{root.name}")
    how = {"bidirectional": bidirectional, "pooling": pooling, "max_length": 64}
    for i, kind in enumerate(kinds):
        encoder = trained(start, revision=revision, **STAGES[kind], **how)
        expected = encoder.encode(TEXTS)
        folder = save_encoder(encoder, root / str(i))
        if Path(start).parent == root:
            gone = Path(start)
            # What trained all weights, an adapter stands on; adapters are copied.
            if not (gone / "model.safetensors").exists():
                shutil.rmtree(gone)
        start, revision = put(hub, folder, places[i + 1], f"org/{i}-{root.name}")
        reopened = Encoder.from_pretrained(start, revision=revision, dtype="float32")
        torch.testing.assert_close(reopened.encode(TEXTS), expected, atol=1e-5, rtol=1e-4)
        assert (reopened.bidirectional, reopened.pooling) == (bidirectional, pooling)
        assert reopened.quantization == encoder.quantization


def put(hub: HubCache, folder: Path, place: str, name: str) -> tuple[str, str | None]:
    """Leaves a folder as it is, or publishes it; how to name it then."""
    if place == "folder":
        return str(folder), None
    hub.publish(name, folder, revision=place)
    return name, None if place == "main" else place
