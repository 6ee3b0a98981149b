import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from saved_models import save_model, small_llama
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from llm2vec_pl.decoder.source import locate
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.errors import UserError

TEXTS = ["a text", "another one that is longer"]


def trained(model_name: str, **arguments: object) -> Encoder:
    """An encoder whose LoRA does something: a new one is the identity."""
    encoder = Encoder(model_name, **arguments).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return encoder


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_saved_encoder_gives_the_same_embeddings(llama_folder, tmp_path, lora_rank):
    encoder = trained(llama_folder, lora_rank=lora_rank, pooling="weighted_mean", max_length=64)
    folder = save_encoder(encoder, tmp_path / "encoder")
    reopened = Encoder.from_pretrained(folder, dtype="float32")
    torch.testing.assert_close(reopened.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5, rtol=1e-4)
    assert not reopened.training
    now = reopened.settings()
    its_own = {key: now[key] for key in ("base_model", "base_fingerprint")}
    assert now == {**encoder.settings(), **(its_own if lora_rank == 0 else {})}


def test_a_folder_holds_safetensors_tokenizer_settings_and_lineage(llama_folder, tmp_path):
    folder = save_encoder(trained(llama_folder), tmp_path / "encoder", {"recipe": "mntp"})
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert {"llm2vec_config.json", "lineage.json"} <= names
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["base_model"] == llama_folder
    assert lineage["stages"] == [{"recipe": "mntp"}]


def test_peft_and_transformers_open_an_adapter_as_it_is(llama_folder, tmp_path):
    folder = save_encoder(trained(llama_folder), tmp_path / "encoder")
    adapter = PeftModel.from_pretrained(AutoModel.from_pretrained(llama_folder), folder)
    assert any("lora_B" in name and p.any() for name, p in adapter.named_parameters())
    assert AutoTokenizer.from_pretrained(folder)("text")["input_ids"]


def test_transformers_opens_full_weights_as_it_is_and_still_bidirectional(llama_folder, tmp_path):
    folder = save_encoder(Encoder(llama_folder, lora_rank=0).load(), tmp_path / "encoder")
    config = AutoModelForCausalLM.from_pretrained(folder).config
    assert config.is_causal is False
    assert config.use_bidirectional_attention is True


def test_a_second_stage_merges_the_first_and_needs_no_other_folder(llama_folder, tmp_path):
    first = save_encoder(trained(llama_folder), tmp_path / "first", {"recipe": "mntp"})
    encoder = trained(str(first))
    assert encoder.adapters == [str(first)]
    second = save_encoder(encoder, tmp_path / "second", {"recipe": "simcse"})
    expected = encoder.encode(TEXTS)
    shutil.rmtree(first)
    reopened = Encoder.from_pretrained(second, dtype="float32")
    torch.testing.assert_close(reopened.encode(TEXTS), expected, atol=1e-5, rtol=1e-4)
    stages = json.loads((second / "lineage.json").read_text())["stages"]
    assert [stage["recipe"] for stage in stages] == ["mntp", "simcse"]


def test_merging_into_bfloat16_weights_leaves_the_positions_in_float32(llama_folder, tmp_path):
    folder = save_encoder(trained(llama_folder), tmp_path / "encoder")
    encoder = Encoder.from_pretrained(folder, dtype="bfloat16")
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in encoder.buffers()} == {torch.float32}


def test_an_adapter_whose_base_is_an_adapter_is_followed_down(llama_folder, tmp_path):
    """The layout of the published folders: MNTP, then SimCSE or supervised on top of it."""
    lower = save_encoder(trained(llama_folder), tmp_path / "lower")
    upper = save_encoder(trained(llama_folder), tmp_path / "upper")
    for folder in (lower, upper):
        (folder / "llm2vec_config.json").unlink()
    config = json.loads((upper / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(lower)
    (upper / "adapter_config.json").write_text(json.dumps(config))
    source = locate(str(upper))
    assert source.base == llama_folder
    assert source.adapters == (str(lower), str(upper))


def test_an_interrupted_save_leaves_the_old_folder_whole(llama_folder, tmp_path, monkeypatch):
    folder = save_encoder(trained(llama_folder), tmp_path / "encoder")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm2vec_pl.encoder.folder.write_json", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        save_encoder(trained(llama_folder), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_a_cut_off_settings_file_is_named(llama_folder, tmp_path):
    folder = save_encoder(trained(llama_folder), tmp_path / "encoder")
    (folder / "llm2vec_config.json").write_text('{"pooling": "me')
    with pytest.raises(UserError, match=r"llm2vec_config.json is not a JSON object"):
        Encoder.from_pretrained(folder)


def test_an_adapter_of_another_model_is_refused(llama_folder, tmp_path):
    other = str(save_model(small_llama(hidden_size=64), tmp_path / "other"))
    adapter = save_encoder(trained(other), tmp_path / "adapter")
    (adapter / "llm2vec_config.json").unlink()  # which says what it was trained on
    with pytest.raises(UserError, match="does not fit the decoder"):
        Encoder(llama_folder, adapters=[str(adapter)]).load()


def test_a_saved_folder_is_readable_by_others(llama_folder, tmp_path):
    folder = save_encoder(trained(llama_folder), tmp_path / "encoder")
    assert Path(folder).stat().st_mode & 0o700 == 0o700


def test_three_stages_each_start_from_the_one_before(llama_folder, tmp_path):
    """The third trains all weights, on top of two merged adapters."""
    one = save_encoder(trained(llama_folder), tmp_path / "1", {"recipe": "mntp"})
    two = save_encoder(trained(str(one)), tmp_path / "2", {"recipe": "simcse"})
    encoder = trained(str(two), lora_rank=0)
    assert encoder.adapters == [str(two / "adapters" / "0"), str(two)]
    trainable = [p for n, p in encoder.decoder.named_parameters() if p.requires_grad]
    assert len(trainable) == len(list(encoder.decoder.parameters()))
    three = save_encoder(encoder, tmp_path / "3", {"recipe": "supervised"})
    expected = encoder.eval().encode(TEXTS)
    shutil.rmtree(one)
    shutil.rmtree(two)
    reopened = Encoder.from_pretrained(three, dtype="float32")
    torch.testing.assert_close(reopened.encode(TEXTS), expected)
    stages = json.loads((three / "lineage.json").read_text())["stages"]
    assert [stage["recipe"] for stage in stages] == ["mntp", "simcse", "supervised"]
