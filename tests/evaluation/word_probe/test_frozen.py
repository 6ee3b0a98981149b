import json

import pytest
import torch
from tiny_models import tiny_tokenizer
from transformers import BertConfig, BertForMaskedLM, BertModel, T5Config

from llm2vec_pl.encoder import Encoder, save_encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.word_probe.frozen import EncoderOnly, FrozenDecoder, open_frozen


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small BERT with a head for masked words, as bert-base-uncased comes."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def batch_of(model, texts):
    tokens = model.tokenize(texts)
    return {key: tokens[key] for key in ("input_ids", "attention_mask")}


def test_an_encoder_only_model_gives_the_states_that_transformers_gives(bert):
    model = open_frozen(str(bert))
    assert isinstance(model, EncoderOnly)
    assert (model.layers, model.shifts, model.tokenize.max_length) == (3, (0,), 40)
    batch = batch_of(model, ["a green lake", "yes"])
    states = model.states(batch)
    plain = BertModel.from_pretrained(bert, dtype=getattr(torch, model.dtype)).eval()
    expected = plain(**batch, output_hidden_states=True).hidden_states
    assert len(states) == 4
    for found, wanted in zip(states, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_decoder_is_opened_causal_or_bidirectional_or_as_it_was_saved():
    causal, bidirectional, saved = (open_frozen("tiny", each) for each in (False, True, None))
    assert isinstance(causal, FrozenDecoder)
    assert causal.shifts == (0, 1)
    batch = batch_of(causal, ["a green lake and a river"])
    last = [model.states(batch)[-1] for model in (causal, bidirectional, saved)]
    assert not torch.allclose(last[0], last[1], atol=0.1)
    assert torch.equal(last[1], last[2])
    assert causal.key != bidirectional.key == saved.key


def test_the_last_states_are_those_that_the_encoder_pools():
    model = open_frozen("tiny", bidirectional=True)
    batch = batch_of(model, ["a green lake and a river", "yes"])
    encoder = Encoder.from_pretrained("tiny")
    with torch.no_grad():
        expected = encoder.hidden_states(batch)
    found = model.states(batch)[-1] * batch["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.05)


def test_an_encoder_only_model_has_no_causal_variant(bert):
    with pytest.raises(UserError, match="encoder-only"):
        open_frozen(str(bert), bidirectional=False)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    T5Config(vocab_size=50, d_model=16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has an encoder and a decoder"):
        open_frozen(str(tmp_path))


def test_an_encoder_only_model_without_its_weights_is_refused(bert, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((bert / name).read_text())
    weights = load_file(bert / "model.safetensors")
    few = {name: value for name, value in weights.items() if "layer.1." not in name}
    save_file(few, tmp_path / "model.safetensors", {"format": "pt"})
    model = open_frozen(str(tmp_path))
    with pytest.raises(UserError, match=r"lacks 16 weights.*layer\.1\."):
        model.states(batch_of(model, ["a lake"]))


def test_a_folder_that_does_not_exist_is_an_error_that_names_it():
    with pytest.raises(UserError, match="/no/such"):
        open_frozen("/no/such")


def test_a_bert_saved_as_a_causal_decoder_counts_as_a_decoder(bert, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((bert / name).read_text())
    config = json.loads((bert / "config.json").read_text())
    config |= {"architectures": ["BertLMHeadModel"], "is_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    from llm2vec_pl.decoder import locate
    from llm2vec_pl.evaluation.word_probe.frozen import is_decoder

    assert is_decoder(locate(str(tmp_path)))
    assert not is_decoder(locate(str(bert)))


def test_a_length_that_an_encoder_was_saved_with_does_not_cut_sentences(tmp_path):
    save_encoder(Encoder("tiny", lora_rank=2, max_length=8).load(), tmp_path / "encoder")
    model = open_frozen(str(tmp_path / "encoder"))
    assert model.tokenize.max_length == 512
