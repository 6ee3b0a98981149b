"""`config.json` has the names of transformers 4 and 5, which mean the same to transformers 5."""

from __future__ import annotations

from transformers import AutoConfig, Gemma3TextConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from llm2vec_pl.files import write_json
from llm2vec_pl.use.export.stock_folder import with_older_names

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def written(config: PretrainedConfig) -> dict:
    return with_older_names(config.to_dict())


def test_the_base_of_the_positions_stands_where_transformers_4_looks():
    plain = LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 100000.0})
    assert written(plain)["rope_theta"] == 100000.0
    assert "rope_scaling" not in written(plain)


def test_scaled_positions_are_not_read_as_plain_ones():
    config = written(LlamaConfig(rope_parameters=LLAMA3))
    assert config["rope_theta"] == 500000.0
    assert config["rope_scaling"]["rope_type"] == "llama3"


def test_gemma_3_has_two_bases():
    config = written(Gemma3TextConfig())
    assert config["rope_theta"] == 1_000_000.0
    assert config["rope_local_base_freq"] == 10_000.0


def test_one_of_several_ends_is_kept():
    assert written(LlamaConfig(eos_token_id=[5, 6]))["eos_token_id"] == 5


def test_transformers_5_reads_the_same_from_both(tmp_path):
    for config in (LlamaConfig(rope_parameters=LLAMA3), Gemma3TextConfig(), Qwen3Config()):
        folder = tmp_path / config.model_type
        folder.mkdir()
        write_json(folder / "config.json", written(config))
        read = AutoConfig.from_pretrained(folder)
        assert read.rope_parameters == config.rope_parameters
