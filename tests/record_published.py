"""Records what llm2vec 0.2.3 makes of folders like those it publishes, for the ordinary tests.

reference/bin/python tests/record_published.py record BASE [OUT [CASE…]]

BASE is a folder with a decoder as transformers 4.44 reads it, such as benchmarks.old_folder writes
of the embedded one. llm2vec itself makes and saves the two adapters, opens them, and embeds. OUT is
a JSON file; without it, tests/encoder/published.json is written, with every 32nd number of an
embedding.

reference/bin/python tests/record_published.py embed FOLDER OUT [ADAPTER]

embeds the same texts with llm2vec's own folders.

Both run in an interpreter with llm2vec 0.2.3.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed.tensor  # recent peft takes it for imported
import transformers
from llm2vec import LLM2Vec
from published_folders import CASES, RECORD, as_published, lora_values, rows
from safetensors.torch import load_file

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
JSON_FILES = ("adapter_config.json", "config.json", "tokenizer_config.json")


def record(base: Path, out: Path, every: int, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folders = Path(name)
        recorded = {
            "mntp": _trained(base, None, folders / "first", 1),
            "second": _trained(base, folders / "first", folders / "then", 2),
        }
        embeddings = {}
        for place, key in enumerate(names):
            case = CASES[key]
            mntp, further = as_published(folders / str(place), case, recorded, str(base), base)
            embeddings[key] = [row[::every] for row in _embedded(case, mntp, *further)]
    versions = {"llm2vec": "0.2.3", "transformers": transformers.__version__}
    versions |= {"torch": torch.__version__, "peft": peft.__version__}
    content = {"versions": versions, "every": every, "folders": recorded, "embeddings": embeddings}
    out.write_text(_compact(content))


def _trained(base: Path, first: Path | None, folder: Path, adapter: int) -> dict[str, Any]:
    """Makes an adapter, on top of an earlier one if there is one, and has llm2vec save it."""
    encoder = LLM2Vec.from_pretrained(str(first or base))
    config = peft.LoraConfig(r=2, lora_alpha=8, lora_dropout=0.05, target_modules=PROJECTIONS)
    encoder.model = peft.get_peft_model(encoder.model, config)
    encoder.save(str(folder))
    weights = folder / "adapter_model.safetensors"
    shapes = {name: list(value.shape) for name, value in sorted(load_file(weights).items())}
    _fill(encoder.model, shapes, adapter)
    encoder.save(str(folder))
    if first is None:
        encoder.model.config.save_pretrained(folder)
        (folder / "llm2vec_config.json").unlink()
    saved = load_file(weights)
    for place, (name, shape) in enumerate(shapes.items()):
        assert torch.equal(saved[name], lora_values(place, shape, adapter))
    names = JSON_FILES if first is None else JSON_FILES[:1]
    files = {name: json.loads((folder / name).read_text()) for name in names}
    files["adapter_config.json"]["target_modules"].sort()
    files["adapter_config.json"]["base_model_name_or_path"] = ""  # a folder of the moment
    return {"files": files, "shapes": shapes}


def _fill(model: Any, shapes: dict[str, list[int]], adapter: int) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for place, (name, shape) in enumerate(shapes.items()):
            parameters[name.replace(".weight", ".default.weight")].copy_(
                lora_values(place, shape, adapter)
            )


def _embedded(case: dict[str, Any], mntp: Path, *further: Path) -> list[list[float]]:
    encoder = LLM2Vec.from_pretrained(
        str(mntp), peft_model_name_or_path=str(further[0]) if further else None
    )
    embeddings = []
    for row in rows(case):
        try:  # one by one: the reference pools the padding of a text that it has made empty
            (embedding,) = encoder.encode([[*row]], show_progress_bar=False).tolist()
        except (RuntimeError, ValueError):
            embedding = []  # without a begin token, it can embed no empty text
        embeddings.append([round(value, 6) for value in embedding])
    return embeddings


def _compact(content: dict[str, Any]) -> str:
    """JSON with one embedding, one matrix's shape or one entry of a file on each line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    if task == "record":
        out, every = (Path(rest[0]), 1) if rest else (RECORD, 32)
        record(Path(folder), out, every, rest[1:] or list(CASES))
    else:
        out, *adapter = map(Path, rest)
        out.write_text(json.dumps(_embedded({}, Path(folder), *adapter)))
