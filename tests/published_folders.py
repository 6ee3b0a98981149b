"""Folders as `llm2vec` publishes them, made again from what `record_published.py` recorded.

Imported by the reference's interpreter too, which has none of this package's dependencies but torch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RECORD = Path(__file__).parent / "encoder" / "published.json"
CODE = "modeling_llama_encoder"  # as in the -mntp repositories

LONG = " ".join(f"Sentence {i} is about item {i * 7 % 13}." for i in range(90))
TEXTS = {
    "sentence": "Bidirectional attention lets each token see every other one.",
    "blanks": "  outer blanks,\n a line break and  two blanks \n",
    "odd": "naïve café, 日本語, \U0001f600 — and [/INST] in a text",
    "separator": "one half!@#$%^&*()another half",
    "control": "an end </s> in the text",
    "long": LONG,
    "no blanks": "今日は" * 200,
    "empty": "",
}
INSTRUCTION = "Given a query, retrieve passages that answer it:"
INSTRUCTIONS = ["", INSTRUCTION, f"  {INSTRUCTION} \n", LONG[:600]]

SMALL = {"max_length": 48, "doc_max_length": 32}
CASES: dict[str, dict[str, Any]] = {
    "its defaults": {
        "name": "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "settings": None,
        "texts": ["odd", "long"],  # few, since they are long here
    },
    "one adapter": {"name": "", "settings": {"pooling_mode": "mean", **SMALL}},
    "mistral": {
        "name": "mistralai/Mistral-7B-Instruct-v0.2",
        "settings": {"pooling_mode": "mean", **SMALL},
        "second": True,
    },
    "llama 3": {
        "name": "meta-llama/Meta-Llama-3-8B-Instruct",
        "settings": {"pooling_mode": "weighted_mean", **SMALL},
        "second": True,
    },
    "gemma": {"name": "google/gemma-2-9b-it", "settings": {"pooling_mode": "mean", **SMALL}},
    "qwen": {
        "name": "Qwen/Qwen2-7B-Instruct",
        "settings": {"pooling_mode": "last_token", **SMALL},
    },
    "end token": {"name": "", "settings": {"pooling_mode": "eos_token", **SMALL}},
    "end token in a template": {
        "name": "meta-llama/Llama-2-7b-chat-hf",
        "settings": {"pooling_mode": "eos_token", **SMALL},
        "second": True,
    },
    "end token of llama 3": {
        "name": "meta-llama/Meta-Llama-3-8B",
        "settings": {"pooling_mode": "eos_token", **SMALL},
    },
    "no end token": {
        "name": "meta-llama/Meta-Llama-3-8B-Instruct",
        "settings": {"pooling_mode": "eos_token", **SMALL},
    },
    "begin token": {"name": "", "settings": {"pooling_mode": "bos_token", **SMALL}},
    "instruction pooled": {
        "name": "",
        "settings": {"pooling_mode": "mean", "skip_instruction": False, **SMALL},
        "second": True,
    },
}
"""By name: the model's name, the content of llm2vec_config.json, and whether there is a second
adapter, which then has that file."""


def rows(case: dict[str, Any]) -> list[tuple[str, str]]:
    """Instruction and text of each row that is embedded."""
    texts = [TEXTS[name] for name in case.get("texts", TEXTS) for _ in range(2)]
    return [(INSTRUCTIONS[i % len(INSTRUCTIONS)], text) for i, text in enumerate(texts)]


def lora_values(place: int, shape: list[int], adapter: int) -> torch.Tensor:
    """Weights that look random but are the same everywhere: of a LoRA's `place`-th matrix."""
    steps = torch.arange(shape[0] * shape[1], dtype=torch.float64)
    return (torch.sin(steps * (0.7 + 0.01 * place) + adapter) * 0.05).float().reshape(shape)


def write_adapter(folder: Path, recorded: dict[str, Any], base: str, adapter: int) -> Path:
    """Writes an adapter's folder as `llm2vec` left it.

    Args:
        folder: to write.
        recorded: the content of its files, and the shapes of its matrices.
        base: what to name as its base.
        adapter: 1 or 2.
    """
    folder.mkdir(parents=True)
    for name, content in recorded["files"].items():
        if name == "adapter_config.json":
            content = {**content, "base_model_name_or_path": base}
        (folder / name).write_text(json.dumps(content))
    shapes = sorted(recorded["shapes"].items())
    save_file(
        {name: lora_values(i, shape, adapter) for i, (name, shape) in enumerate(shapes)},
        folder / "adapter_model.safetensors",
    )
    return folder


def as_published(
    root: Path, case: dict[str, Any], recorded: dict[str, Any], base: str, tokenizer: Path
) -> tuple[Path, list[Path]]:
    """The folder of a case, and the adapter to put on top of it, if there is one.

    Args:
        root: where to write them.
        case: one of `CASES`.
        recorded: what `record_published.py` recorded of the two folders.
        base: of the first adapter.
        tokenizer: a folder with tokenizer.json, as transformers 4.44 reads it.
    """
    mntp = write_adapter(root / "mntp", recorded["mntp"], base, 1)
    shutil.copy(tokenizer / "tokenizer.json", mntp)
    config = json.loads((mntp / "config.json").read_text())
    config["_name_or_path"] = case["name"]
    config["auto_map"] = dict.fromkeys(("AutoModel", "AutoConfig"), f"{CODE}.LlamaEncoderModel")
    (mntp / "config.json").write_text(json.dumps(config))
    (mntp / f"{CODE}.py").write_text("raise SystemExit('code of the repository was run')")
    further = []
    if case.get("second"):
        further = [write_adapter(root / "second", recorded["second"], base, 2)]
    if case["settings"] is not None:
        (further or [mntp])[0].joinpath("llm2vec_config.json").write_text(
            json.dumps(case["settings"])
        )
    return mntp, further
