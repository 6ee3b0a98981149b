"""What a benchmark hands to the contestants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import works
from benchmarks.contest import Result


def test_the_reference_gets_a_model_that_its_transformers_reads(monkeypatch):
    found: dict[str, Any] = {}

    def contest(job: dict[str, Any], against: str | None, rounds: int) -> list[Result]:
        folder = Path(job["old_model"])
        found["tokenizer"] = json.loads((folder / "tokenizer.json").read_text())
        found["config"] = json.loads((folder / "config.json").read_text())
        assert any(folder.glob("*.safetensors"))
        facts = {"tokens": 1, "padded": 1, "flops": 1.0, "rate": 1.0}
        Path(job["facts"]).write_text(json.dumps(facts))
        return [Result("llm2vec_pl", [1.0], 1, 1)]

    monkeypatch.setattr(works, "contest", contest)
    works.encode({"model_name": "tiny", "revision": None}, count=2, against="some/python")
    assert isinstance(found["tokenizer"]["model"]["merges"][0], str)
    assert "rope_theta" in found["config"]
