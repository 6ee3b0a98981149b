"""Fingerprints of weights: of their content, whatever the files are called."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from llm2vec_pl.decoder.fingerprint import WHOLE, adapter_fingerprint, weights_fingerprint
from llm2vec_pl.decoder.source import locate
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.origin import origin_of
from llm2vec_pl.errors import UserError


def base_fingerprint(folder) -> str:
    return origin_of(locate(str(folder)), []).base


def test_a_copy_and_other_file_sizes_have_the_same(llama_folder, tmp_path):
    expected = base_fingerprint(llama_folder)
    shutil.copytree(llama_folder, tmp_path / "copy")
    assert base_fingerprint(tmp_path / "copy") == expected
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    shutil.copytree(llama_folder, tmp_path / "shards")
    (tmp_path / "shards" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert base_fingerprint(tmp_path / "shards") == expected


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, 999), tensor=st.sampled_from(["a", "b"]))
def test_any_number_of_a_small_tensor_counts(tmp_path_factory, place, tensor):
    folder = tmp_path_factory.mktemp("weights")
    weights = {"a": torch.zeros(1000), "b": torch.zeros(10, 100)}
    save_file(weights, folder / "before.safetensors")
    weights[tensor].view(-1)[place] = 1e-6
    save_file(weights, folder / "after.safetensors")
    before, after = (
        weights_fingerprint([folder / f"{n}.safetensors"]) for n in ("before", "after")
    )
    assert before != after


@pytest.mark.parametrize("place", [0, -1])
def test_beginning_and_end_of_a_large_tensor_count(tmp_path, place):
    large = torch.zeros(WHOLE)
    save_file({"w": large}, tmp_path / "before.safetensors")
    large[place] = 1.0
    save_file({"w": large}, tmp_path / "after.safetensors")
    files = [tmp_path / "before.safetensors"], [tmp_path / "after.safetensors"]
    assert weights_fingerprint(files[0]) != weights_fingerprint(files[1])


def test_names_types_and_shapes_count(tmp_path):
    zeros = torch.zeros(4, 4)
    kinds = [{"a": zeros}, {"b": zeros}, {"a": zeros.view(2, 8)}, {"a": zeros.bfloat16()}]
    found = set()
    for kind in kinds:
        save_file(kind, tmp_path / "w.safetensors")
        found.add(weights_fingerprint([tmp_path / "w.safetensors"]))
    assert len(found) == 4


def test_an_adapters_scale_counts_and_where_its_base_lies_does_not(llama_folder, tmp_path):
    folder = save_encoder(Encoder(llama_folder, lora_rank=2).load(), tmp_path / "stage")
    expected = adapter_fingerprint(folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere", "revision": "x"}))
    assert adapter_fingerprint(folder) == expected
    file.write_text(json.dumps({**config, "lora_alpha": 64}))
    assert adapter_fingerprint(folder) != expected


def test_a_file_that_was_cut_off_is_named(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"\x10\x00")
    with pytest.raises(UserError, match=r"w\.safetensors is not a readable safetensors file.*copy"):
        weights_fingerprint([file])
