"""The model card of an export: what it was made from, how to use it, how to serve it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.use.export.lineage import public_name
from llm2vec_pl.use.export.stock import OLDEST_TRANSFORMERS

TEI = {
    "llama": "a GPU, in float16",
    "mistral": "a GPU, in float16",
    "qwen3": "a CPU or a GPU",
    "gemma3_text": "a CPU or a GPU, in float32",
}
"""Architectures that Text Embeddings Inference reads both ways, and where it runs them. It looks
for Qwen2's tensors under another name, with the prefix `model.`."""


@dataclass
class About:
    """What a card says of an encoder.

    Attributes:
        model_type: of the architecture.
        bidirectional: whether each token sees every other.
        pooling: how.
        size: of an embedding.
        max_length: most tokens.
        dtype: of the weights.
        lineage: base, adapters and stages.
    """

    model_type: str
    bidirectional: bool
    pooling: str
    size: int
    max_length: int
    dtype: str
    lineage: dict[str, Any]

    @classmethod
    def of(cls, encoder: Encoder, lineage: dict[str, Any]) -> About:
        """What there is to say of an encoder with its weights."""
        return cls(
            model_type=encoder.config.model_type,
            bidirectional=encoder.bidirectional,
            pooling=encoder.pooling,
            size=encoder.embedding_size,
            max_length=encoder.tokenize.max_length,
            dtype=encoder.dtype,
            lineage=lineage,
        )


def stock_card(about: About, prompts: dict[str, str], compared: str, others: Sequence[str]) -> str:
    """The README.md of a folder for sentence-transformers.

    Args:
        about: the encoder.
        prompts: by name, as sentence-transformers writes them before a text.
        compared: how its embeddings compare with the encoder's.
        others: what other programs do otherwise.
    """
    query = (
        'model.encode_query(["how do ferries dock?"])' if prompts.get("query") else
        'model.encode(["how do ferries dock?"])'
    )  # fmt: skip
    usage = f"""```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
queries = {query}
documents = model.encode_document(["The ferry leaves the island at dawn."])
print(model.similarity(queries, documents))
```"""
    parts = [
        _front_matter("sentence-transformers"),
        _what_it_is(about),
        "## Usage",
        "PATH is this folder, or its name on the hub. No code of its own is run."
        + (_needed_to_read_both_ways() if about.bidirectional else ""),
        usage,
        _prompts(prompts),
        compared,
        "## Serving",
        *_serving(about),
        *others,
        *_made_from(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def onnx_card(about: About, rules: dict[str, Any], compared: str) -> str:
    """The README.md of a folder with an ONNX model.

    Args:
        about: the encoder.
        rules: its template and its prompts.
        compared: how its embeddings compare with the encoder's, and how fast it is.
    """
    before, after = (rules["template"] or "{text}").split("{text}")
    usage = f"""```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("PATH/model.onnx")
tokenizer = Tokenizer.from_file("PATH/tokenizer.json")


def embed(texts, prompt=""):
    before, after = {before!r} + prompt, {after!r}
    rows = [tokenizer.encode(before + text + after{rules["special"]}) for text in texts]
    inputs = {{
        name: np.zeros((len(rows), max(len(row.ids) for row in rows)), dtype=np.int64)
        for name in ("input_ids", "attention_mask", "pooling_mask")
    }}
    for i, (row, text) in enumerate(zip(rows, texts)):
        inputs["input_ids"][i, : len(row.ids)] = row.ids
        inputs["attention_mask"][i, : len(row.ids)] = 1
        for j, (first, last) in enumerate(row.offsets):
            own = first < len(before) + len(text) and last > len(before)
            inputs["pooling_mask"][i, j] = own and not row.special_tokens_mask[j]
    return session.run(None, inputs)[0]
```"""
    parts = [
        _front_matter("onnx"),
        _what_it_is(about),
        "## Usage",
        "`model.onnx` takes `input_ids`, `attention_mask` and `pooling_mask`, (B, L) each, and "
        "gives `sentence_embedding`, (B, D), of length 1. The pooling mask is 1 on the text's own "
        "tokens and 0 on a prompt, a template and control tokens. PATH is this folder. Texts of "
        f"more than {about.max_length} tokens are cut first.",
        usage,
        _prompts(rules["prompts"]),
        compared,
        *_made_from(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(library: str) -> str:
    tags = ["sentence-similarity", "feature-extraction", "llm2vec"]
    listed = "\n".join(f"- {tag}" for tag in tags)
    return f"---\nlibrary_name: {library}\npipeline_tag: sentence-similarity\ntags:\n{listed}\n---"


def _what_it_is(about: About) -> str:
    reads = "reads each text both ways (LLM2Vec)" if about.bidirectional else "reads left to right"
    base = public_name(about.lineage["base_model"])
    return (
        f"# An encoder from {base}\n\nA text becomes {about.size} numbers, "
        f"to be compared by cosine. The decoder (`{about.model_type}`, weights in {about.dtype}) "
        f"{reads}; pooling: {about.pooling.replace('_', ' ')}; at most {about.max_length} tokens."
    )


def _needed_to_read_both_ways() -> str:
    return (
        f" **It needs transformers {OLDEST_TRANSFORMERS} or later.** Without a warning, an earlier "
        "one reads each text from left to right only, and its embeddings are wrong."
    )


def _prompts(prompts: dict[str, str]) -> str:
    rows = [f"| `{name}` | {json.dumps(text, ensure_ascii=False)} |" for name, text in
            prompts.items() if text]  # fmt: skip
    if not rows:
        return ""
    return "Prompts, written right before the text:\n\n| name | prompt |\n| --- | --- |\n" + (
        "\n".join(rows)
    )


def _serving(about: About) -> list[str]:
    where = TEI.get(about.model_type)
    override = " --hf-overrides '{\"is_causal\": false}'" if about.bidirectional else ""
    vllm = f"```bash\nvllm serve PATH --runner pooling{override}\n```"
    if where is None:
        tei = f"Text Embeddings Inference does not take {about.model_type} in this form."
    elif about.pooling == "weighted_mean":
        tei = "Text Embeddings Inference has no weighted mean."
    else:
        tei = (
            f"Text Embeddings Inference, in a recent version, runs {about.model_type} on {where}:"
            "\n\n```bash\n"
            "text-embeddings-router --model-id PATH --port 8080\n```"
        )
    return [tei, f"vLLM:\n\n{vllm}"]


def _made_from(about: About) -> list[str]:
    lineage = about.lineage
    base = public_name(lineage["base_model"])
    revision = f" at {lineage['revision']}" if lineage.get("revision") else ""
    parts = ["## Made from", f"The decoder is {base}{revision}."]
    if count := len(lineage.get("adapters") or []):
        merged = "One adapter is" if count == 1 else f"{count} adapters are"
        parts[-1] += f" {merged} merged into its weights."
    if stages := lineage.get("stages"):
        head = "| stage | steps | data | measured |\n| --- | --- | --- | --- |"
        parts.append("\n".join([head, *map(_row, stages)]))
    parts.append("`lineage.json` has every setting.")
    return parts


def _row(stage: dict[str, Any]) -> str:
    metrics = {k: v for k, v in (stage.get("metrics") or {}).items() if isinstance(v, int | float)}
    measured = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    name = stage.get("recipe") or stage.get("objective") or ""
    return f"| {name} | {stage.get('steps', '')} | {_data(stage)} | {measured} |"


def _data(stage: dict[str, Any]) -> str:
    """The class of a stage's data, and where it lies."""
    data = (stage.get("config") or {}).get("data") or stage.get("data") or {}
    if not isinstance(data, dict):
        return str(data)
    place = (data.get("init_args") or {}).get("path")
    name = str(data.get("class_path", "")).rpartition(".")[2]
    return f"{name} {place}" if isinstance(place, str) else name
