from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llm2vec_pl.data.files.docstrings import Docstring

TEXTS = [
    f"Article {i} is about the number {i}, which is {'even' if i % 2 == 0 else 'odd'}. "
    * (i % 7 + 1)
    for i in range(60)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, a few merges, and a BOS in front of each text."""
    bytes_and_merges = Tokenizer(models.BPE())
    bytes_and_merges.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_and_merges.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bytes_and_merges.train_from_iterator(TEXTS, trainer)
    bytes_and_merges.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_and_merges,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
    )


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    """A text file with 60 articles, one a line, empty lines between them."""
    path = tmp_path / "articles.txt"
    path.write_text("\n\n".join(TEXTS))
    return path


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch) -> list[Docstring]:
    """600 made-up docstrings in the place of those installed."""
    body = "What number {} does is said here at length. It is nothing like what the others do."
    found = [
        Docstring(
            f"package{i % 4}.module{i % 12}.function{i}",
            f"Compute the value of the series at {i}.\n\n{i} it is. {body.format(i)}",
        )
        for i in range(600)
    ]
    monkeypatch.setattr("llm2vec_pl.data.python_docs.read_docstrings", lambda _: sorted(found))
    monkeypatch.setattr("llm2vec_pl.data.python_docs.installed_packages", list)
    return found
