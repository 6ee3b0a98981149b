"""Sharded encoders: the same weights and embeddings, a share of the memory, one checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contrastive_texts import QUERIES
from forked import run_ranks
from gguf_files import few_tokens, write_gguf
from matrix_runs import launch
from saved_models import small_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.distributed.sharding import gradient_norm
from llm2vec_pl.encoder.encoder import Encoder

MB = 2**20


def ranks_run(case: str, ranks: int, folder: Path, *models: str) -> list:
    """What each rank has found, for each model."""
    script = Path(__file__).parents[1] / "sharded_runs.py"
    flags = [case, str(folder), *models]
    if case == "memory":  # in processes that share none with the one that they are forked from
        start_by_torchrun(script, flags, ranks)
    else:
        for done in run_ranks(script, flags, ranks, cwd=folder):
            assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(ranks)]


def start_by_torchrun(script: Path, flags: list[str], ranks: int) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    # Memory that was freed goes back at once, so that what is measured was needed.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, *launch, str(script), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 290 MB in files of at most 60 MB, with layers of 16 MB."""
    folder = tmp_path_factory.mktemp("large")
    config = small_llama(hidden_size=512, intermediate_size=2048, num_hidden_layers=16)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size="60MB")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


@pytest.mark.exhaustive
def test_a_rank_needs_its_share_and_one_file(large_folder: Path, tmp_path: Path):
    files = [file.stat().st_size for file in large_folder.glob("*.safetensors")]
    assert len(files) > 2
    found = ranks_run("memory", 2, tmp_path, str(large_folder))
    for (rank,) in found:
        print(f"rank {rank}; files {sum(files)}, largest {max(files)}")
        assert rank["own"] < 0.6 * sum(files)
        assert rank["peak"] < rank["own"] + max(files) + 10 * MB


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_sharded_encoder_has_the_weights_and_embeddings_of_a_whole_one(
    kind: str, llama_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On three ranks, which share no dimension evenly. One of them unpacks a GGUF for all."""
    if kind == "gguf":
        monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
        llama_folder = str(tmp_path / "model.gguf")
        write_gguf(few_tokens(), Path(llama_folder), "Q8_0")
    found = ranks_run("embeddings", 3, tmp_path, llama_folder)
    assert found[0] == found[1] == found[2]
    for quantization, embeddings in found[0][0].items():
        kind = None if quantization == "None" else quantization
        torch.manual_seed(0)
        whole = Encoder(llama_folder, lora_rank=2, quantization=kind).load()
        expected = whole.encode(QUERIES)
        torch.testing.assert_close(torch.tensor(embeddings), expected, atol=1e-5, rtol=1e-5)
        if kind is None:
            state = torch.load(tmp_path / "state_0.pt")
            torch.testing.assert_close(state, dict(whole.causal_lm.state_dict()), atol=0, rtol=0)
    assert torch.load(tmp_path / "state_1.pt") == {}


@pytest.mark.slow
def test_a_checkpoint_of_any_strategy_resumes_under_any_other(llama_folder: str, tmp_path: Path):
    """Losses go on as if nothing had happened, with whole files and with a folder of shards."""
    plain = {"precision": "32-true", "quantization": None, "objective": "chunks"}
    saves = [
        {**plain, "strategy": name, "save": str(tmp_path / name.replace(" ", "_"))}
        for name in ("ddp", "fsdp2", "fsdp2 in shards")
    ]
    resumes = [
        {**plain, "strategy": name, "start": 3, "resume": save["save"]}
        for name, save in [("fsdp2", saves[0]), ("ddp", saves[1]), ("fsdp2", saves[2])]
    ]
    whole = {**plain, "strategy": "auto", "save": str(tmp_path / "auto")}
    on = {**plain, "strategy": "auto", "start": 3}
    _, *after = launch(2, [*saves, *resumes], llama_folder, tmp_path)[2:]
    alone = [whole, *({**on, "resume": case["save"]} for case in (whole, *saves[:2]))]
    _, expected, *others = launch(1, alone, llama_folder, tmp_path)
    assert (tmp_path / "fsdp2_in_shards").is_dir()
    for losses in [*after, *others]:
        assert losses == pytest.approx(expected, rel=1e-5)


def test_the_norm_of_no_gradients_is_zero():
    assert gradient_norm([torch.nn.Parameter(torch.ones(2))]) == 0
