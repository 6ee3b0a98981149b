"""One server for all tests that only ask it something, and the encoder that it serves."""

import json
from collections.abc import Iterator

import pytest
from servers import Served, serving

from llm2vec_pl import Encoder

KEY = "a-secret"
PROMPTS = {"query": "Find the page: ", "document": ""}
FLAGS = (
    "tiny", "--dtype", "float32", "--prompts", json.dumps(PROMPTS), "--max_body", "1",
    "--max_texts", "100", "--max_waiting", "150", "--max_characters", "50000",
)  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server"), *FLAGS, key=KEY) as running:
        yield running


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder.from_pretrained("tiny", dtype="float32", prompts=PROMPTS)
