"""Encoders, adapters and revisions on the hub, from its cache and without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft_adapters import train_lora
from saved_models import save_model, small_llama
from transformers import AutoModelForCausalLM

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.errors import UserError

TEXTS = ["a text", "another one that is longer"]


def stage(start: str, folder: Path, **arguments: object) -> Path:
    """A stage whose LoRA does something."""
    encoder = Encoder(start, lora_rank=4, **arguments).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return save_encoder(encoder, folder, {"recipe": folder.name})


def embed(name: str | Path, **options: object) -> torch.Tensor:
    return Encoder.from_pretrained(name, dtype="float32", **options).encode(TEXTS)


def other_llama(folder: Path) -> Path:
    """Weights of the same shape, and other ones."""
    save_model(small_llama(), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("recorded", [True, False], ids=["now", "before_it_was_counted"])
def test_a_second_stage_on_the_hub_brings_the_first(hub, llama_folder, tmp_path, recorded):
    hub.publish("org/base", llama_folder)
    one = stage("org/base", tmp_path / "one")
    two = stage(str(one), tmp_path / "two")
    three = stage(str(two), tmp_path / "three", pooling="last", max_length=64)
    expected = embed(three)
    if not recorded:
        for file in three.rglob("llm2vec_config.json"):
            settings = json.loads(file.read_text())
            kept = ("base_model", "pooling", "max_length", "bidirectional")
            file.write_text(json.dumps({k: settings[k] for k in kept}))
    hub.publish("org/three", three)
    for folder in (one, two, three):
        shutil.rmtree(folder)
    encoder = Encoder.from_pretrained("org/three", dtype="float32")
    assert len(encoder.adapters) == 3
    assert (encoder.pooling, encoder.tokenize.max_length) == ("last", 64)
    torch.testing.assert_close(encoder.encode(TEXTS), expected, atol=1e-5, rtol=1e-4)
    fourth = save_encoder(Encoder("org/three", lora_rank=4).load(), tmp_path / "four")
    stages = json.loads((fourth / "lineage.json").read_text())["stages"]
    assert [s["recipe"] for s in stages] == ["one", "two", "three"]
    torch.testing.assert_close(
        embed(fourth, pooling="last", max_length=64), expected, atol=1e-5, rtol=1e-4
    )


def test_an_earlier_adapter_that_is_missing_is_an_error(hub, llama_folder, tmp_path):
    two = stage(str(stage(llama_folder, tmp_path / "one")), tmp_path / "two")
    shutil.rmtree(two / "adapters")
    hub.publish("org/two", two)
    for name in ("org/two", str(two)):
        with pytest.raises(UserError, match="adapters/0 is missing"):
            Encoder.from_pretrained(name)


def test_full_weights_on_the_hub_keep_settings_notes_and_lineage(hub, llama_folder, tmp_path):
    encoder = Encoder(llama_folder, lora_rank=0, pooling="weighted_mean").load()
    encoder.notes["instruction"] = "Find this: "
    hub.publish("org/full", save_encoder(encoder, tmp_path / "full", {"recipe": "mntp"}))
    reopened = Encoder.from_pretrained("org/full", dtype="float32")
    assert reopened.pooling == "weighted_mean"
    assert reopened.notes["instruction"] == "Find this: "
    following = save_encoder(reopened, tmp_path / "next", {"recipe": "simcse"})
    stages = json.loads((following / "lineage.json").read_text())["stages"]
    assert [s["recipe"] for s in stages] == ["mntp", "simcse"]


def test_a_stage_trained_on_a_revision_comes_back_on_it(hub, llama_folder, tmp_path):
    commit = hub.publish("org/base", other_llama(tmp_path / "v1"), revision="v1")
    hub.publish("org/base", llama_folder)
    folder = stage("org/base", tmp_path / "stage", revision="v1")
    expected = embed(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["revision"] == commit
    assert json.loads((folder / "lineage.json").read_text())["revision"] == commit
    assert Encoder(str(folder)).source.revision == commit
    following = stage(str(folder), tmp_path / "next")
    assert Encoder(str(following)).source.revision == commit
    hub.publish("org/base", llama_folder, revision="v1")  # the tag moves
    torch.testing.assert_close(embed(folder), expected, atol=1e-5, rtol=1e-4)


def test_a_revision_from_before_the_adapter_said_it_is_in_the_lineage(hub, llama_folder, tmp_path):
    commit = hub.publish("org/base", other_llama(tmp_path / "v1"), revision="v1")
    hub.publish("org/base", llama_folder)
    folder = stage("org/base", tmp_path / "stage", revision="v1")
    for name in ("adapter_config.json", "llm2vec_config.json"):
        content = json.loads((folder / name).read_text())
        for key in ("revision", "base_revision", "base_fingerprint"):
            content.pop(key, None)
        (folder / name).write_text(json.dumps(content))
    assert Encoder(str(folder)).source.revision == commit


def test_a_revision_is_of_the_adapter_that_is_named(hub, llama_folder, tmp_path):
    """And not of its base, which says its own."""
    commit = hub.publish("org/base", llama_folder)
    first = stage("org/base", tmp_path / "first", max_length=32)
    second = stage("org/base", tmp_path / "second", max_length=64)
    expected = embed(first), embed(second)
    assert not torch.allclose(*expected)
    hub.publish("org/adapter", first, revision="v1")
    hub.publish("org/adapter", second)
    for revision, embeddings, length in (("v1", expected[0], 32), (None, expected[1], 64)):
        encoder = Encoder.from_pretrained("org/adapter", revision=revision, dtype="float32")
        torch.testing.assert_close(encoder.encode(TEXTS), embeddings, atol=1e-5, rtol=1e-4)
        assert encoder.tokenize.max_length == length
        assert encoder.source.revision == commit


def test_a_stage_on_a_revision_of_an_adapter_copies_that_one(hub, llama_folder, tmp_path):
    hub.publish("org/base", llama_folder)
    hub.publish("org/adapter", stage("org/base", tmp_path / "first"), revision="v1")
    hub.publish("org/adapter", stage("org/base", tmp_path / "second"))
    expected = embed("org/adapter", revision="v1")
    folder = save_encoder(Encoder("org/adapter", revision="v1").load(), tmp_path / "next")
    torch.testing.assert_close(embed(folder), expected, atol=1e-5, rtol=1e-4)
    also = save_encoder(Encoder("org/base", adapters=["org/adapter@v1"]).load(), tmp_path / "also")
    torch.testing.assert_close(embed(also), expected, atol=1e-5, rtol=1e-4)
    names = json.loads((also / "lineage.json").read_text())["adapters"]
    assert names[0].startswith("org/adapter@")


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_a_lora_of_others_on_the_hub_opens_without_a_tokenizer(
    hub,
    llama_folder,
    tmp_path,
    task_type,
):
    hub.publish("org/base", llama_folder)
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    lora = train_lora(model, "org/base", tmp_path / "lora", task_type=task_type)
    expected = embed(lora)
    for file in lora.glob("tokenizer*"):
        file.unlink()
    hub.publish("org/lora", lora)
    torch.testing.assert_close(embed("org/lora"), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(embed("org/base"), expected, atol=1e-2)


def test_a_folder_of_an_earlier_version_offline_does_not_pass_for_whole(
    hub,
    llama_folder,
    tmp_path,
):
    """The earlier version did not fetch earlier adapters: they may be missing in the cache only."""
    lora = {"config": {"encoder": {"lora_rank": 4}}}
    one = save_encoder(Encoder(llama_folder).load(), tmp_path / "1", lora)
    two = save_encoder(Encoder(str(one)).load(), tmp_path / "2", lora)
    shutil.rmtree(two / "adapters")
    settings = json.loads((two / "llm2vec_config.json").read_text())
    del settings["earlier_adapters"]
    (two / "llm2vec_config.json").write_text(json.dumps(settings))
    hub.publish("org/two", two)
    with pytest.raises(UserError, match=r"download it while online: hf download org/two"):
        Encoder.from_pretrained("org/two")
