"""One small decoder with random weights, opened as causal, as bidirectional, and with eager attention."""

import pytest

from llm2vec_pl.encoder.encoder import Encoder


def opened(folder, **options):
    return Encoder.from_pretrained(folder, dtype="float32", **options)


@pytest.fixture(scope="session")
def causal(llama_folder):
    return opened(llama_folder, bidirectional=False)


@pytest.fixture(scope="session")
def bidirectional(llama_folder):
    return opened(llama_folder)


@pytest.fixture(scope="session")
def eager(llama_folder):
    return {
        name: opened(llama_folder, bidirectional=name == "bidirectional", attention="eager")
        for name in ("causal", "bidirectional")
    }
