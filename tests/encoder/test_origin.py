"""An adapter comes back onto what it was trained on, or is refused with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from saved_models import save_model, small_llama
from transformers import AutoModelForCausalLM

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.origin import pinned_flags
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import MNTP


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(small_llama(), tmp_path / "base")


def overwrite(folder: Path) -> None:
    """Puts other weights of the same shapes in the place of those that are there."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)


def stage(start: Path | str, folder: Path, **options: object) -> Path:
    encoder = Encoder(str(start), lora_rank=2, **options).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return save_encoder(encoder, folder)


def forget(folder: Path, *keys: str) -> None:
    """Makes settings of an earlier version."""
    for file in folder.rglob("llm2vec_config.json"):
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in settings.items() if k not in keys}))


def test_a_lora_on_other_weights_in_the_place_of_its_base_is_refused(base, tmp_path):
    folder = stage(stage(base, tmp_path / "one"), tmp_path / "two")
    expected = json.loads((folder / "llm2vec_config.json").read_text())["base_fingerprint"]
    Encoder.from_pretrained(folder)
    overwrite(base)
    with pytest.raises(UserError, match=f"trained on weights with the fingerprint {expected}, but"):
        Encoder.from_pretrained(folder)
    with pytest.raises(UserError, match="base_fingerprint"):
        Encoder(str(folder)).load()
    forget(folder, "base_fingerprint")
    assert Encoder.from_pretrained(folder).is_loaded  # on the user's own word, as before


def test_a_lora_on_a_base_that_has_moved_says_what_to_do(base, tmp_path):
    folder = stage(base, tmp_path / "one")
    expected = Encoder.from_pretrained(folder).encode("a text")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r'cannot be opened.*"base_model" in llm2vec_config\.json'):
        Encoder.from_pretrained(folder)
    named = Encoder.from_pretrained(str(moved), adapters=[str(folder)])
    torch.testing.assert_close(named.encode("a text"), expected)
    file = folder / "llm2vec_config.json"
    file.write_text(file.read_text().replace(str(base), str(moved)))
    torch.testing.assert_close(Encoder.from_pretrained(folder).encode("a text"), expected)


def test_a_lora_that_is_named_beside_another_base_is_refused(base, llama_folder, tmp_path):
    folder = stage(base, tmp_path / "one")
    overwrite(base)
    with pytest.raises(UserError, match="was trained on weights with the fingerprint"):
        Encoder(str(base), adapters=[str(folder)]).load()


def test_folders_from_before_fingerprints_open_as_ever(base, tmp_path):
    folder = stage(stage(base, tmp_path / "one"), tmp_path / "two")
    expected = Encoder.from_pretrained(folder).encode("a text")
    forget(folder, "base_fingerprint", "base_revision", "earlier_adapters", "quantization")
    torch.testing.assert_close(Encoder.from_pretrained(folder).encode("a text"), expected)


def test_a_name_that_moves_on_is_pinned_to_what_it_stood_for(base, tmp_path):
    run = tmp_path / "mntp"
    first = stage(base, run / "version_0" / "encoder")
    flags = pinned_flags(Encoder(str(run)))
    assert flags["model_name"] == str(first)
    stage(base, run / "version_1" / "encoder")
    assert Encoder(**flags).load().adapters == [str(first)]
    shutil.copytree(run / "version_1" / "encoder", first, dirs_exist_ok=True)
    with pytest.raises(UserError, match="`fingerprint=.* weights or adapters have changed"):
        Encoder(**flags).load()
    assert Encoder(**{**flags, "fingerprint": None}).load().is_loaded


def test_pinned_flags_name_the_commit_on_the_hub(hub, base, tmp_path):
    commit = hub.publish("org/base", base)
    adapter = hub.publish("org/adapter", stage("org/base", tmp_path / "one"))
    flags = pinned_flags(Encoder("org/base", adapters=["org/adapter"]))
    assert (flags["model_name"], flags["revision"]) == ("org/base", commit)
    assert flags["adapters"] == [f"org/adapter@{adapter}"]
    flags = pinned_flags(Encoder("org/adapter"))
    assert (flags["model_name"], flags["revision"]) == ("org/adapter", adapter)
    expected = Encoder("org/adapter", lora_rank=0).load().eval().encode("a text")
    hub.publish("org/adapter", stage("org/base", tmp_path / "two"))
    again = Encoder(**flags, lora_rank=0).load().eval().encode("a text")
    torch.testing.assert_close(again, expected)


def test_a_checkpoint_is_refused_on_anything_but_what_it_was_trained_on(base, tmp_path):
    one, two = stage(base, tmp_path / "one"), stage(base, tmp_path / "two")
    trained = MNTP(Encoder(str(one), lora_rank=2).load())
    weights = {n: p for n, p in trained.named_parameters() if p.requires_grad}
    checkpoint = {"state_dict": weights, "origin": origin_in_checkpoint(trained)}
    trained.on_load_checkpoint(checkpoint)
    other = MNTP(Encoder(str(two), lora_rank=2).load())
    with pytest.raises(UserError, match=f"`ckpt_path`: .* Set `model_name='{one}'`"):
        other.on_load_checkpoint(checkpoint)
    other.on_load_checkpoint({"state_dict": weights})  # one from before this was recorded


def origin_in_checkpoint(objective: MNTP) -> object:
    class Attached:
        optimizers: tuple[()] = ()

    objective._trainer = Attached()  # type: ignore[assignment]
    checkpoint = {"state_dict": {}}
    objective.on_save_checkpoint(checkpoint)
    return checkpoint["origin"]
