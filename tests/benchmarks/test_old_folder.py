import json
from pathlib import Path

import pytest

from benchmarks.old_folder import copy_as_of_old
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError


@pytest.fixture
def new_folder(llama_folder):
    return Path(llama_folder)


def test_a_folder_of_transformers_5_becomes_one_of_4(new_folder, tmp_path):
    copy_as_of_old(new_folder, tmp_path / "old")
    new, old = (json.loads((f / "config.json").read_text()) for f in (new_folder, tmp_path / "old"))  # fmt: skip
    assert old["rope_theta"] == new["rope_parameters"]["rope_theta"]
    assert old["torch_dtype"] == new["dtype"]
    assert "rope_parameters" not in old
    assert "rope_scaling" not in old
    settings = json.loads((tmp_path / "old" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert next((tmp_path / "old").glob("*.safetensors")).is_symlink()


def test_the_tokens_stay_the_same(new_folder, tmp_path):
    copy_as_of_old(new_folder, tmp_path / "old")
    merges = json.loads((tmp_path / "old" / "tokenizer.json").read_text())["model"].get("merges")
    assert all(isinstance(merge, str) for merge in merges or [])
    first, second = (Encoder(str(f)).tokenize(["a text of 9 tokens"]) for f in (new_folder, tmp_path / "old"))  # fmt: skip
    assert first["input_ids"].tolist() == second["input_ids"].tolist()


def test_a_scaled_rope_keeps_its_scale(new_folder, tmp_path):
    copy_as_of_old(new_folder, tmp_path / "one")
    file = tmp_path / "one" / "config.json"
    rope = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "rope_parameters": rope}))
    copy_as_of_old(tmp_path / "one", tmp_path / "two")
    old = json.loads((tmp_path / "two" / "config.json").read_text())
    assert old["rope_theta"] == 5e5
    assert old["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


def test_a_folder_without_weights_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no tokenizer.json, \*.safetensors"):
        copy_as_of_old(tmp_path, tmp_path / "old")
