import platform

import pytest
import torch

from llm2vec_pl.decoder.cpu import multiplies_in_bfloat16
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder

X86 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.fixture
def x86(monkeypatch):
    """An x86 whose torch has oneDNN, without any of the instructions."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for name in X86:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)


@pytest.fixture
def with_bfloat16(monkeypatch):
    monkeypatch.setattr("llm2vec_pl.encoder.encoder.multiplies_in_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", X86)
def test_avx512_bf16_and_amx_multiply_in_bfloat16(x86, monkeypatch, name):
    assert not multiplies_in_bfloat16()
    monkeypatch.setattr(torch.cpu, name, lambda: True)
    assert multiplies_in_bfloat16()


def test_a_torch_that_cannot_say_has_no_bfloat16(x86, monkeypatch):
    for name in X86:
        monkeypatch.delattr(torch.cpu, name)
    assert not multiplies_in_bfloat16()


def test_a_torch_without_onednn_uses_no_bfloat16_instructions(x86, monkeypatch):
    monkeypatch.setattr(torch.cpu, X86[0], lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not multiplies_in_bfloat16()


@pytest.mark.parametrize("answer", [True, False])
def test_on_arm_onednn_says_whether_there_is_bfloat16(x86, monkeypatch, answer):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    question = "_is_mkldnn_bf16_supported"
    monkeypatch.setattr(torch.ops.mkldnn, question, lambda: answer, raising=False)
    assert multiplies_in_bfloat16() == answer


def test_from_pretrained_encodes_in_bfloat16_where_the_cpu_has_it(llama_folder, with_bfloat16):
    encoder = Encoder.from_pretrained(llama_folder)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert encoder.encode("a text").dtype == torch.float32


@pytest.mark.parametrize("capable", [True, False])
def test_from_pretrained_takes_the_dtype_that_it_is_given(llama_folder, monkeypatch, capable):
    monkeypatch.setattr("llm2vec_pl.encoder.encoder.multiplies_in_bfloat16", lambda: capable)
    assert Encoder.from_pretrained(llama_folder, dtype="float32").dtype == "float32"
    assert Encoder.from_pretrained(llama_folder, dtype="bfloat16").dtype == "bfloat16"


def test_without_bfloat16_the_dtype_is_the_folders(llama_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("llm2vec_pl.encoder.encoder.multiplies_in_bfloat16", lambda: False)
    stage = save_encoder(Encoder(llama_folder, dtype="bfloat16").load(), tmp_path / "stage")
    assert Encoder.from_pretrained(llama_folder).dtype == "float32"
    assert Encoder.from_pretrained(stage).dtype == "bfloat16"


def test_on_a_machine_with_cuda_the_dtype_is_the_folders(llama_folder, with_bfloat16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Encoder.from_pretrained(llama_folder).dtype == "float32"


def test_training_keeps_its_dtype(llama_folder, with_bfloat16):
    """An encoder that is constructed, and one that is opened for a new LoRA."""
    assert Encoder(llama_folder).load().dtype == "float32"
    assert Encoder.from_pretrained(llama_folder, lora_rank=4).dtype == "float32"
