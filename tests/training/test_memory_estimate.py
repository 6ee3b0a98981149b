"""What a step needs is known before it runs: exact numbers of weights, measured peaks."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_models import save_model, small_llama
from tiny_models import tiny_config
from transformers import GPT2Config, LlamaConfig, MistralConfig

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives.next_token import NextTokenObjective
from llm2vec_pl.training.memory import Memory, Step, estimate, estimate_of, free, free_memory, step
from llm2vec_pl.training.memory.activations import measure
from llm2vec_pl.training.memory.weight_sizes import NF4_BYTES

LLAMA_3_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_key_value_heads=8
)
S_LLAMA = LlamaConfig(
    hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16
)
STEP = Step(tokens=64, length=16)

# Weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "weights"),
    [(LLAMA_3_8B, 8_030_261_248), (MistralConfig(), 7_241_732_096), (S_LLAMA, 1_345_423_360)],
    ids=["llama-3-8b", "mistral-7b", "s-llama-1.3b"],
)
def test_the_weights_of_known_models_are_counted_exactly(config, weights):
    assert estimate(config, STEP).frozen == 2 * weights


def test_a_lora_of_rank_16_on_llama_3_8b_has_42_million_weights_in_float32():
    memory = estimate(LLAMA_3_8B, STEP)
    assert memory.trained == 4 * 41_943_040
    assert memory.optimizer == 2 * memory.trained


def test_nf4_with_its_scales_takes_a_little_over_half_a_byte_a_weight_of_the_linear_layers():
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    rest = 2 * (7_241_732_096 - linear)
    assert pytest.approx(0.5 + 1 / 64 + 4 / 64 / 256) == NF4_BYTES
    frozen = estimate(MistralConfig(), STEP, quantization="nf4").frozen
    assert frozen == pytest.approx(rest + linear * NF4_BYTES, abs=1000)


@pytest.mark.parametrize("options", [{"lora_rank": 4}, {"lora_rank": 0}], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_loaded_encoder_needs_what_its_configuration_promised(tmp_path, options, tied):
    config = small_llama(tie_word_embeddings=tied)
    encoder = Encoder(str(save_model(config, tmp_path)), **options).load()
    for sharing in ({}, {"devices": 2}, {"devices": 2, "sharded": True}):
        wanted = replace(STEP, **sharing)
        assert estimate_of(encoder, wanted) == estimate(config, wanted, dtype="float32", **options)


def test_fsdp2_divides_all_but_the_head():
    one, many = (estimate(LLAMA_3_8B, Step(64, devices=n, sharded=True)) for n in (1, 8))
    head = 2 * 128256 * 4096
    assert many.frozen == pytest.approx((one.frozen - head) / 8 + head, rel=1e-6)
    assert many.trained == pytest.approx(one.trained / 8, rel=1e-6)


def test_ddp_needs_buckets_for_the_gradients():
    one, many = (estimate(small_llama(), replace(STEP, devices=n)) for n in (1, 8))
    assert many.gradients == one.gradients + one.trained
    assert many.frozen == one.frozen


# Activations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "qwen3", "opt", "bloom", "mixtral"])
def test_activations_are_known_for_any_architecture(name):
    memory = estimate(tiny_config(name), Step(512), lora_rank=4)
    assert memory.activations > 0


@pytest.mark.parametrize("options", [{"lora_rank": 4}, {"gradient_checkpointing": True}], ids=str)
def test_what_one_layer_of_each_kind_keeps_says_what_all_keep(monkeypatch, options):
    config = tiny_config("deepseek_v3", num_hidden_layers=5, first_k_dense_replace=2)
    found, place = [], "llm2vec_pl.training.memory.estimates.measure"
    monkeypatch.setattr(place, lambda *args: found.append(measure(*args)) or found[-1])
    estimate(config, Step(512), **options)
    each_its_own_kind = [[i] for i in range(5)]
    monkeypatch.setattr(
        "llm2vec_pl.training.memory.activations._alike", lambda _: each_its_own_kind
    )
    estimate(config, Step(512), **options)
    quick, whole = found
    assert quick.kept == whole.kept > 0
    assert quick.transient == whole.transient


def test_eager_attention_keeps_the_square_of_the_length_and_sdpa_does_not():
    def per_token(attention, length):
        config = small_llama()
        step = Step(512, length)
        return estimate(config, step, attention=attention, lora_rank=0).activations / 512

    assert per_token("sdpa", 512) == pytest.approx(per_token("sdpa", 64), rel=0.01)
    layers, heads = 2, 4
    assert per_token("eager", 512) - per_token("eager", 64) > 2 * layers * heads * (512 - 64)


def test_a_cpu_keeps_the_attention_weights_of_short_texts_and_a_gpu_does_not():
    def per_token(length, device):
        step = Step(512, length, device=device)
        return estimate(small_llama(), step, lora_rank=0).activations / 512

    assert per_token(64, "cpu") > per_token(512, "cpu") == pytest.approx(per_token(512, "cuda"))
    assert per_token(64, "cuda") == pytest.approx(per_token(512, "cuda"), rel=0.01)


def test_checkpointing_keeps_only_the_inputs_of_layers():
    config = small_llama(num_hidden_layers=6)
    plain, less = (
        estimate(config, Step(512), gradient_checkpointing=on, lora_rank=0).activations
        for on in (False, True)
    )
    inputs = 6 * 512 * 32 * 2  # in bfloat16
    assert inputs <= less <= 3 * inputs < plain


def test_a_mask_of_dropout_takes_a_byte_on_a_gpu_and_four_on_a_cpu():
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.0)
    gpu, cpu = (
        estimate(config, Step(512, precision="32-true", device=d), dtype="float32", lora_rank=0)
        for d in ("cuda", "cpu")
    )
    numbers = 32 * (1 + 2 * 2)  # a token's, of the embeddings and of two outputs a layer
    assert cpu.activations - gpu.activations == 3 * numbers * 512


def test_what_a_lora_drops_takes_half_a_byte_a_number():
    dropped, whole = (
        estimate(small_llama(), STEP, lora_dropout=p).activations for p in (0.05, 0.0)
    )
    numbers = 2 * (6 * 32 + 64)  # a token's, that the LoRAs of two layers read
    assert 0.3 * numbers < (dropped - whole) / STEP.tokens < 0.5 * numbers


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([8, 64]))
def test_more_tokens_never_need_less(tokens, more, length):
    steps = (Step(n, length) for n in (tokens, tokens + more))
    few, many = (estimate(small_llama(), each, lora_rank=0) for each in steps)
    assert few.total <= many.total


def test_an_estimate_draws_no_random_numbers():
    before = torch.get_rng_state()
    estimate(small_llama(), STEP, gradient_checkpointing=True)
    estimate(small_llama(), STEP, lora_rank=0)
    assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_measured_is_unknown_and_raises_nothing(monkeypatch):
    def look(*_, **__):
        raise RuntimeError("needs the data")

    assert estimate(tiny_config("mamba"), STEP) is None  # step 1 refuses it
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaMLP.forward", look)
    memory = estimate(small_llama(), STEP, lora_rank=0)
    assert memory.activations is None
    assert memory.fits(2**40) is None
    assert "activations unknown" in memory.line()


# The answer --------------------------------------------------------------------------------------

MEMORY = Memory(
    frozen=15 * 2**30,
    trained=2**28,
    optimizer=2**29,
    gradients=0,
    activations=4 * 2**30,
    transient=2**28,
)


def test_the_line_adds_up():
    assert MEMORY.line(2**40 // 40) == (
        "frozen weights 15.0 + trained weights 0.25 + optimizer 0.50 + activations 4.0 + "
        "transient 0.25 = 20.0 GiB of 25.6 GiB free"
    )


def test_loaded_weights_are_not_needed_again():
    assert not MEMORY.fits(10 * 2**30)
    assert MEMORY.fits(10 * 2**30, loaded=True)
    assert MEMORY.fits(None) is None


def test_a_container_may_leave_less_than_the_machine(tmp_path, monkeypatch):
    assert free_memory("meta") is None
    monkeypatch.setattr(free, "_left_in_container", lambda: None)
    machine = free_memory("cpu")
    for name, text in {"max": "3000", "current": "2000", "stat": "inactive_file 500"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.undo()
    assert free._left_in_container(tmp_path) == 1500
    (tmp_path / "memory.max").write_text("max")
    assert free._left_in_container(tmp_path) is None
    assert machine is None or machine > 2**20


def test_chunks_of_logits_are_those_of_the_objective():
    assert NextTokenObjective.logits_at_once == step.LOGITS_AT_ONCE


def test_the_recipe_prints_a_row_for_a_model_and_settings(capsys):
    recipe = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "memory.py"))
    recipe["run"](Step(2048, devices=8, sharded=True), model="s-llama-1.3b", lora_rank=0)
    *_, line = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["s-llama-1.3b", "all, bfloat16", "8, FSDP2", "4 x 512"]
    assert float(cells[-1]) == pytest.approx(sum(map(float, cells[4:7])), abs=0.1)


# Measured ----------------------------------------------------------------------------------------

CASES = {
    "LoRA, MNTP": ("MNTP", 8, 128, {}),
    "all weights, MNTP": ("MNTP", 4, 128, {"lora_rank": 0}),
    "LoRA, contrastive": ("Contrastive", 16, 64, {}),
    "LoRA, MNTP, checkpointing": ("MNTP", 16, 128, {"gradient_checkpointing": True}),
}

# Each case in a process of its own, forked once everything is imported: its peak is its own.
TRAIN = """
import gc, json, os, sys, torch
from llm2vec_pl import MNTP, Contrastive, Encoder
from llm2vec_pl.training.memory import Step, estimate_of
import peft
torch.set_num_threads(1)

def megabytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(name)) / 1024

def train(folder, objective, rows, length, options):
    module = {"MNTP": MNTP, "Contrastive": Contrastive}[objective](Encoder(folder, **options))
    module.configure_model()
    module.encoder.lm_head.weight.sum()  # not in memory before it is read
    ids = torch.randint(5, 8000, (rows, length))
    ones = torch.ones_like(ids)
    batch = {"input_ids": ids, "attention_mask": ones, "pooling_mask": ones}
    if objective == "Contrastive":
        batch = {k: {n: v[part::2] for n, v in batch.items()} for part, k in enumerate(["query", "positive"])}
    optimizer = module.optimizer()
    for _ in range(2):
        optimizer.zero_grad()
        module.loss(batch).backward()
        optimizer.step()
    return module.encoder

def compare(objective, rows, length, options):
    train("tiny", objective, 2, 8, options)  # what libraries need once
    gc.collect()
    before = megabytes("VmRSS")
    encoder = train(sys.argv[1], objective, rows, length, options)
    measured = megabytes("VmHWM") - before
    labels = 0.2 if objective == "MNTP" else 0.0
    step = Step(rows * length, length, "32-true", labels, device="cpu")
    print(measured, estimate_of(encoder, step).total / 2**20, flush=True)

for case in json.loads(sys.argv[2]):
    if os.fork() == 0:
        compare(*case)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peaks from /proc")
def test_estimates_agree_with_measured_peaks(tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    folder = save_model(small_llama(**sizes, **heads), tmp_path)
    # glibc would keep small pieces that are free.
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), json.dumps(list(CASES.values()))],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = result.stdout.splitlines()
    print()
    for name, line in zip(CASES, lines, strict=True):
        measured, estimated = map(float, line.split())
        print(f"{name}: measured {measured:.0f} MiB, estimated {estimated:.0f} MiB")
        assert estimated == pytest.approx(measured, rel=0.1), name
