"""Arguments that cannot be are named at once, together, before any weights are read."""

from __future__ import annotations

import pytest
import torch
from architecture_sample import marks
from saved_models import save_model
from test_architectures import (
    ARCHITECTURES,
    _one_thread,  # noqa: F401 - a fixture
    bidirectional_lm,
)
from transformers import GPT2Config, OPTConfig

from llm2vec_pl.bidirectional.switch import accepts_position_ids
from llm2vec_pl.decoder.head import split_causal_lm
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError

SMALL = {"vocab_size": 8192, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
LEARNED = {
    "gpt2": GPT2Config(vocab_size=8192, n_embd=32, n_head=4, n_layer=2, n_positions=24),
    "opt": OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=24),
}


@pytest.fixture(scope="module", params=LEARNED)
def learned(request, tmp_path_factory):
    """A decoder with 24 learned positions."""
    folder = tmp_path_factory.mktemp("learned") / request.param
    return str(save_model(LEARNED[request.param], folder))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("pooling", "cls"),
        ("dtype", "fp16"),
        ("dtype", torch.float16),
        ("quantization", "nf5"),
        ("attention", "sdpaa"),
        ("lora_rank", -1),
        ("lora_dropout", 1.0),
        ("attention_dropout", 2.0),
        ("max_length", 0),
        ("template", "nothing"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(llama_folder, argument, value):
    with pytest.raises(UserError, match=argument) as error:
        Encoder(llama_folder, **{argument: value})
    assert str(value) in str(error.value)


def test_all_that_is_wrong_is_said_together(llama_folder):
    wrong = {"pooling": "cls", "dtype": "fp16", "quantization": "nf5", "lora_rank": -3}
    more = {"template": "nothing", "attention_dropout": 2.0, "max_length": 0}
    with pytest.raises(UserError) as error:
        Encoder(llama_folder, **wrong, **more)
    assert len(str(error.value).splitlines()) == 7
    for name in (*wrong, *more):
        assert f"--encoder.{name} " in str(error.value) or name == "template"
    with pytest.raises(UserError, match=r"(?s)pooling.*no folder"):
        Encoder("/no/such/folder", pooling="cls")


def test_opening_a_stage_checks_them_too(llama_folder):
    with pytest.raises(UserError, match="'nf5'"):
        Encoder.from_pretrained(llama_folder, quantization="nf5")


# Positions --------------------------------------------------------------------------------------


def test_texts_are_cut_where_learned_positions_end(learned):
    with pytest.warns(UserWarning, match="positions for 24 tokens only"):
        encoder = Encoder(learned, max_length=100)
    assert encoder.tokenize.max_length == encoder.settings()["max_length"] == 24
    embeddings = encoder.encode(["word " * 200, "word " * 300, "short"])
    assert embeddings.isfinite().all()
    torch.testing.assert_close(embeddings[0], embeddings[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("lengths", [[25], [25, 3]])
def test_a_row_that_is_longer_than_the_positions_is_an_error(learned, padding_free, lengths):
    encoder = Encoder(learned, max_length=24, padding_free=padding_free).load()
    mask = (torch.arange(25) < torch.tensor(lengths)[:, None]).long()
    batch = {"input_ids": torch.full_like(mask, 7), "attention_mask": mask, "pooling_mask": mask}
    for run in (encoder, encoder.hidden_states):
        with pytest.raises(UserError, match=r"positions for 24 tokens, but got a row of 25"):
            run(batch)
    shorter = {key: value[:, :24] for key, value in batch.items()}
    assert encoder(shorter).isfinite().all()


@pytest.mark.filterwarnings("error:.*has positions for")
def test_rotary_positions_have_no_limit(llama_folder):
    assert Encoder(llama_folder, max_length=4096).tokenize.max_length == 4096


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(m, marks=marks(m)) for m in ARCHITECTURES],
)
def test_the_table_says_where_positions_end_on_every_architecture(model_type):
    from llm2vec_pl.encoder.arguments import position_limit

    decoder, _ = split_causal_lm(bidirectional_lm(model_type, "eager"))
    limit = position_limit(decoder.config)

    def run(length: int) -> None:
        ids = torch.full((1, length), 7)
        positions = torch.arange(length)[None]
        more = {"position_ids": positions} if accepts_position_ids(decoder) else {}
        with torch.no_grad():
            decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more)

    run(limit or 140)  # the tiny configurations say 128
    if limit:
        with pytest.raises((IndexError, RuntimeError)):
            run(limit + 1)
