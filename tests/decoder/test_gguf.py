"""Decoders in GGUF files: unpacked once, and then as good as a folder in everything."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gguf_files import few_tokens, few_tokens_qwen2, few_tokens_tokenizer, write_gguf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from llm2vec_pl.decoder import gguf
from llm2vec_pl.decoder.source import locate
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.origin import pinned_flags
from llm2vec_pl.errors import UserError

TEXTS = ["a text", "another one that is longer, with 12 numbers\n\n3"]
SMOLLM2 = Path.home() / ".cache" / "llm2vec-models" / "smollm2-135m.gguf"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A Llama in float32, with the folder of the same model beside it."""
    folder = tmp_path_factory.mktemp("gguf")
    model = write_gguf(few_tokens(), folder / "llama.gguf")
    model.save_pretrained(folder / "llama")
    few_tokens_tokenizer().save_pretrained(folder / "llama")
    return folder / "llama.gguf"


def unpacked_folder(name: object) -> Path:
    return Path(locate(str(name)).base)


def embed(name: object, **options: object) -> torch.Tensor:
    return Encoder.from_pretrained(str(name), **{"dtype": "float32", **options}).encode(TEXTS)


def trained(encoder: Encoder) -> Encoder:
    """A loaded encoder whose LoRA does something."""
    for name, parameter in encoder.load().named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def test_a_gguf_embeds_as_the_folder_that_it_was_made_from(llama):
    torch.testing.assert_close(embed(llama), embed(llama.with_suffix("")))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("config", [few_tokens(), few_tokens_qwen2()], ids=["llama", "qwen2"])
def test_quantized_weights_are_those_that_transformers_unpacks(config, causal, tmp_path):
    file = tmp_path / "model.gguf"
    before = write_gguf(config, file, "Q8_0")
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    encoder = Encoder(str(file), lora_rank=0, bidirectional=not causal).load()
    found = encoder.causal_lm.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=0, rtol=0)
        torch.testing.assert_close(weight, before.state_dict()[name], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("kind", "kept"), [("BF16", "bfloat16"), ("F16", "float16"), ("Q8_0", "float32")]
)
def test_the_cache_keeps_every_value_in_as_few_bits_as_hold_it(kind, kept, tmp_path):
    file = tmp_path / "model.gguf"
    before = write_gguf(few_tokens(), file, kind)
    weights = load_file(unpacked_folder(file) / "model.safetensors")
    matrix, vector = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
    assert weights[matrix].dtype == getattr(torch, kept)
    if kind != "Q8_0":
        rounded = before.state_dict()[matrix].to(getattr(torch, kept))
        torch.testing.assert_close(weights[matrix], rounded, atol=0, rtol=0)
    torch.testing.assert_close(weights[vector], before.state_dict()[vector], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_arrive_in_the_dtype_asked_for(dtype, llama):
    encoder = Encoder(str(llama), lora_rank=0, dtype=dtype).load()
    assert {p.dtype for p in encoder.causal_lm.parameters()} == {getattr(torch, dtype)}


def test_the_configuration_remembers_nothing_of_the_gguf(llama):
    config = json.loads((unpacked_folder(llama) / "config.json").read_text())
    assert not config.keys() & {"quantization_config", "_model_name_or_path", "gguf_file"}


def test_an_adapter_names_the_file_and_comes_back_on_it(llama, tmp_path):
    encoder = trained(Encoder(str(llama), lora_rank=4))
    expected = encoder.encode(TEXTS)
    folder = save_encoder(encoder, tmp_path / "stage", {"recipe": "mntp"})
    sha256 = hashlib.sha256(llama.read_bytes()).hexdigest()
    for file in ("llm2vec_config.json", "lineage.json"):
        record = json.loads((folder / file).read_text())
        assert record["base_model"] == str(llama)
        assert record["base_file"] == {"name": "llama.gguf", "sha256": sha256}
        assert record["base_fingerprint"] == sha256[:16]
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(llama)
    torch.testing.assert_close(embed(folder), expected, atol=1e-5, rtol=1e-4)
    following = save_encoder(trained(Encoder(str(folder), lora_rank=4)), tmp_path / "next")
    lineage = json.loads((following / "lineage.json").read_text())
    assert (lineage["base_file"]["sha256"], len(lineage["stages"])) == (sha256, 1)
    assert len(Encoder(str(following)).adapters) == 2


def test_an_adapter_opens_on_the_file_wherever_it_is_but_not_on_another(llama, tmp_path):
    file = Path(shutil.copy(llama, tmp_path / "first.gguf"))
    encoder = trained(Encoder(str(file), lora_rank=4))
    expected = encoder.encode(TEXTS)
    folder = save_encoder(encoder, tmp_path / "stage")
    moved = file.rename(tmp_path / "second.gguf")
    with pytest.raises(
        UserError, match=r"there is no file .*first\.gguf\..*that folder has second\.gguf"
    ):
        Encoder.from_pretrained(folder)
    on_the_moved = Encoder(str(moved), adapters=[str(folder)], lora_rank=0, dtype="float32")
    torch.testing.assert_close(
        on_the_moved.load().eval().encode(TEXTS), expected, atol=1e-5, rtol=1e-4
    )
    write_gguf(few_tokens(), file, "Q8_0")
    with pytest.raises(UserError, match=r"trained on weights with the fingerprint"):
        Encoder.from_pretrained(folder)


def test_full_weights_are_saved_as_safetensors_that_need_no_gguf(llama, tmp_path):
    file = Path(shutil.copy(llama, tmp_path / "copy.gguf"))
    encoder = Encoder(str(file), lora_rank=0).load()
    expected = encoder.eval().encode(TEXTS)
    folder = save_encoder(encoder, tmp_path / "full", {"recipe": "mntp"})
    assert (folder / "model.safetensors").is_file()
    file.unlink()
    torch.testing.assert_close(embed(folder), expected, atol=1e-6, rtol=1e-6)
    following = save_encoder(Encoder(str(folder), lora_rank=4).load(), tmp_path / "next")
    settings = json.loads((following / "llm2vec_config.json").read_text())
    assert settings["base_file"] is None  # its base is the folder
    assert json.loads((following / "lineage.json").read_text())["base_file"]["name"] == "copy.gguf"


def test_the_gradients_are_those_of_the_folder(llama):
    norms = []
    for name in (llama, llama.with_suffix("")):
        torch.manual_seed(0)
        encoder = trained(Encoder(str(name), lora_rank=4, lora_dropout=0.0))
        encoder(encoder.tokenize(TEXTS)).square().sum().backward()
        norms.append([p.grad.norm() for p in encoder.parameters() if p.grad is not None])
    assert len(norms[0]) == 2 * 7 * 2
    assert min(norms[0]) > 0
    torch.testing.assert_close(norms[0], norms[1])


def test_random_weights_have_the_shapes_of_the_file(llama):
    encoder = Encoder(str(llama), random_weights=True, lora_rank=0).load()
    assert encoder.encode(TEXTS).shape == (2, 32)
    assert not torch.allclose(encoder.eval().encode(TEXTS), embed(llama), atol=1e-2)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_frozen_weights_are_quantized_as_those_of_the_folder_are(kind, llama, tmp_path):
    """And an adapter that was trained on them comes back on them."""
    folder = str(llama.with_suffix(""))
    exact = embed(folder, quantization=kind)
    torch.testing.assert_close(embed(llama, quantization=kind), exact, atol=1e-5, rtol=1e-4)
    encoder = trained(Encoder(str(llama), lora_rank=4, quantization=kind))
    expected = encoder.eval().encode(TEXTS)
    stage = save_encoder(encoder, tmp_path / "stage")
    torch.testing.assert_close(embed(stage), expected, atol=1e-5, rtol=1e-4)


def test_int8_dynamic_embeds_as_on_the_folder(llama):
    options = {"quantization": "int8_dynamic"}
    expected = embed(llama.with_suffix(""), **options)
    torch.testing.assert_close(embed(llama, **options), expected, atol=1e-5, rtol=1e-4)


def test_the_flags_of_a_run_name_the_file_and_its_state(llama, monkeypatch):
    monkeypatch.chdir(llama.parent)
    flags = pinned_flags(Encoder(llama.name))
    assert flags["model_name"] == str(llama)
    assert Encoder(**flags).load().origin.base == flags["fingerprint"]
    with pytest.raises(UserError, match="is not that of"):
        Encoder(**{**flags, "fingerprint": "0" * 16}).load()


def test_a_gguf_on_the_hub_is_pinned_to_its_commit(hub, llama, tmp_path):
    (tmp_path / "repo" / "sub").mkdir(parents=True)
    shutil.copy(llama, tmp_path / "repo" / "sub" / "model-q8.gguf")
    commit = hub.publish("org/ggufs", tmp_path / "repo", revision="v1")
    shutil.rmtree(tmp_path / "repo")
    for name, revision in (
        ("org/ggufs@v1:sub/model-q8.gguf", None),
        ("org/ggufs:sub/model-q8.gguf", "v1"),
    ):
        encoder = Encoder(name, revision=revision, lora_rank=4).load()
        assert encoder.source.base_name == "org/ggufs:sub/model-q8.gguf"
        assert encoder.source.revision == commit
    folder = save_encoder(trained(encoder), tmp_path / "stage")
    settings = json.loads((folder / "llm2vec_config.json").read_text())
    assert settings["base_model"] == "org/ggufs:sub/model-q8.gguf"
    assert settings["base_revision"] == commit
    assert Encoder(str(folder)).source.revision == commit
    assert Encoder(**pinned_flags(encoder)).source.revision == commit


def test_a_file_is_unpacked_once(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path))
    before = embed(llama)
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("it was unpacked again"))
    torch.testing.assert_close(embed(llama), before, atol=0, rtol=0)
    copied = shutil.copy(llama, tmp_path / "copy.gguf")
    torch.testing.assert_close(embed(copied), before, atol=0, rtol=0)


def test_unpacking_that_is_interrupted_leaves_nothing_and_begins_again(
    llama, tmp_path, monkeypatch
):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path))

    def interrupt(model: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "write_weights", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Encoder(str(llama))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    torch.testing.assert_close(embed(llama), embed(llama.with_suffix("")))


def test_a_file_of_the_same_name_in_the_current_folder_is_not_read_instead(
    llama, tmp_path, monkeypatch
):
    write_gguf(few_tokens_qwen2(), tmp_path / "llama.gguf")
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert isinstance(Encoder(str(llama)).config, LlamaConfig)


def test_without_the_package_gguf_the_error_names_the_extra(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install llm2vec_pl\[gguf\]"):
        Encoder(str(llama))


def test_an_architecture_that_transformers_does_not_know_is_an_error(tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    config = few_tokens()
    write_gguf(config, file)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"llama", b"xlama"))
    with pytest.raises(UserError, match="architecture 'xlama', which transformers .* cannot open"):
        Encoder(str(file))


def test_a_file_that_lacks_weights_is_an_error_and_not_filled_at_random(tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(few_tokens(), file)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight"))
    with pytest.raises(UserError, match=r"lacks weights .*layers\.1\.mlp\.up_proj"):
        Encoder(str(file))


def test_a_file_that_scales_its_rotation_says_so_each_time(tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(few_tokens(), file, entries={"llama.rope.scaling.type": "yarn"})
    for _ in range(2):
        with pytest.warns(UserWarning, match="scales its rotary angles"):
            Encoder(str(file))


def test_a_folder_of_ggufs_asks_for_one_of_them(llama, tmp_path):
    shutil.copy(llama, tmp_path / "one.gguf")
    with pytest.raises(UserError, match=r"name a GGUF itself, not its folder: .*one\.gguf"):
        Encoder(str(tmp_path))


@pytest.mark.exhaustive
def test_the_real_smollm2_embeds_as_transformers_unpacks_it():
    if not SMOLLM2.is_file():
        pytest.skip(f"needs the real decoder in {SMOLLM2}")
    expected = AutoModelForCausalLM.from_pretrained(
        SMOLLM2.parent, gguf_file=str(SMOLLM2), dtype=torch.float32
    )
    encoder = Encoder(str(SMOLLM2), lora_rank=0, bidirectional=False).load().eval()
    batch = encoder.tokenize(["A man is playing a flute."])
    with torch.no_grad():
        states = encoder.hidden_states(batch)
        whole = expected.model(input_ids=batch["input_ids"]).last_hidden_state
    torch.testing.assert_close(states, whole, atol=1e-3, rtol=1e-3)
    tokens = encoder.tokenizer.tokenize("a list:\n\n1. <|im_end|>", split_special_tokens=True)
    assert tokens[:5] == ["a", "Ġlist", ":", "ĊĊ", "1"]
