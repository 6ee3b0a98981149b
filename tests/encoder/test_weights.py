import pytest
import torch
from saved_models import save_model, small_llama
from transformers import AutoConfig, GPT2Config

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.errors import UserError

TEXTS = ["a text of some length", "short", "another text, somewhat longer than the first one"]


def small_gpt2():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 8192}
    return GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def small(model_type):
    if model_type == "gpt2":
        return small_gpt2()
    config = AutoConfig.for_model(model_type)
    changes = {k: v for k, v in small_llama().to_diff_dict().items() if hasattr(config, k)}
    changes |= {"head_dim": 8, "layer_types": None, "pad_token_id": None, "sliding_window": 16}
    keep = {k: v for k, v in changes.items() if k != "model_type" and hasattr(config, k)}
    return type(config)(**keep)


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    model_type = request.param
    return str(save_model(small(model_type), tmp_path_factory.mktemp(model_type) / "model"))


several_architectures = pytest.mark.parametrize(
    "folder", ["llama", "gpt2", "qwen3", "mistral", "gemma3_text"], indirect=True
)


@several_architectures
@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1]], ids=["padded", "unpadded"])
def test_attention_drops_in_training_and_not_in_evaluation(folder, padding_free, texts):
    """And nothing else drops: no LoRA, and the models have no dropout of their own."""
    options = {"lora_rank": 0, "padding_free": padding_free}
    encoder = Encoder(folder, attention_dropout=0.3, **options).load()
    batch = encoder.tokenize(texts)
    assert not torch.isclose(encoder(batch), encoder(batch)).all(dim=1).any()
    encoder.eval()
    assert torch.equal(encoder(batch), encoder(batch))
    plain = Encoder(folder, **options).load()
    assert torch.equal(plain(batch), plain(batch))
    torch.testing.assert_close(plain(batch), encoder(batch))


@several_architectures
def test_random_weights_drop_too(folder):
    encoder = Encoder(folder, attention_dropout=0.3, lora_rank=0, random_weights=True).load()
    batch = encoder.tokenize(TEXTS)
    assert not torch.isclose(encoder(batch), encoder(batch)).all(dim=1).any()


def test_attention_drops_the_share_that_was_asked_for(llama_folder):
    encoder = Encoder(llama_folder, attention_dropout=0.3, lora_rank=0).load()
    assert {m.attention_dropout for m in encoder.modules() if hasattr(m, "attention_dropout")} == {
        0.3
    }


def test_a_models_own_attention_dropout_stays_unless_another_is_asked_for(tmp_path):
    folder = str(save_model(small_llama(attention_dropout=0.2), tmp_path / "model"))
    for asked, found in ((None, 0.2), (0.0, 0.0), (0.4, 0.4)):
        encoder = Encoder(folder, attention_dropout=asked, lora_rank=0).load()
        assert encoder.decoder.layers[0].self_attn.attention_dropout == found


def test_the_next_stage_does_not_inherit_attention_dropout(llama_folder, tmp_path):
    encoder = Encoder(llama_folder, attention_dropout=0.3, lora_rank=0).load()
    stage = save_encoder(encoder, tmp_path / "stage")
    assert AutoConfig.from_pretrained(stage).attention_dropout == 0.0
    following = Encoder(str(stage), lora_rank=0).load()
    assert following.decoder.layers[0].self_attn.attention_dropout == 0.0


def test_an_architecture_without_attention_dropout_is_told_what_to_do(tmp_path):
    folder = str(save_model(small("ernie4_5"), tmp_path / "model"))
    with pytest.raises(UserError, match=r"`attention_dropout=0\.3`.*`lora_dropout`"):
        Encoder(folder, attention_dropout=0.3)
    assert not Encoder(folder, attention_dropout=0.0).is_loaded


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 30])
def test_a_dropout_that_is_no_probability_is_named(llama_folder, dropout):
    with pytest.raises(UserError, match="`attention_dropout` lies in"):
        Encoder(llama_folder, attention_dropout=dropout)
