import pytest
import torch
from saved_models import save_model
from torch import nn
from transformers import OPTConfig

from llm2vec_pl.bidirectional.switch import check_bidirectional
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Contrastive

TEXTS = ["a text", "", "another text, somewhat longer than the first one", "日本語 😀"]


def trainable(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder).load()


def test_construction_reads_no_weights(llama_folder):
    assert not Encoder(llama_folder).is_loaded


def test_a_second_load_changes_nothing(encoder):
    decoder = encoder.decoder
    assert encoder.load().decoder is decoder


def test_loading_leaves_training_mode_so_that_dropout_is_on(encoder):
    assert all(module.training for module in encoder.modules())


def test_a_loaded_encoder_sees_both_ways(encoder):
    check_bidirectional(encoder.decoder)


def test_a_causal_encoder_does_not_see_what_follows(llama_folder):
    causal = Encoder(llama_folder, bidirectional=False, lora_rank=0).load().eval()
    short, long = causal.tokenize(["one two"]), causal.tokenize(["one two three four"])
    n = short["input_ids"].shape[1]
    torch.testing.assert_close(causal.hidden_states(short), causal.hidden_states(long)[:, :n])


def test_a_lora_is_all_that_trains(encoder):
    names = trainable(encoder)
    assert names
    assert all("lora_" in name for name in names)


def test_the_lora_is_on_every_linear_layer_and_has_twice_its_rank_as_scale(encoder):
    config = encoder.decoder.peft_config["default"]
    assert config.target_modules == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)


def test_the_keys_of_the_lora_are_those_of_the_published_adapters(encoder):
    assert all(name.startswith("decoder.base_model.model.layers.") for name in trainable(encoder))


def test_rank_0_trains_all_weights_but_the_head(llama_folder):
    full = Encoder(llama_folder, lora_rank=0).load()
    assert {n for n, _ in full.named_parameters()} - trainable(full) == {"lm_head.weight"}


@pytest.mark.parametrize("flag", ["dora", "rslora"])
def test_dora_and_rslora_are_a_flag(llama_folder, flag):
    config = Encoder(llama_folder, **{flag: True}).load().decoder.peft_config["default"]
    assert config.use_dora == (flag == "dora")
    assert config.use_rslora == (flag == "rslora")


def test_a_lora_on_bfloat16_weights_stays_in_float32(llama_folder):
    encoder = Encoder(llama_folder, dtype="bfloat16").load()
    dtypes = {"lora_" in name: p.dtype for name, p in encoder.decoder.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_gradient_checkpointing_gives_the_same_gradients(llama_folder):
    gradients = []
    for checkpointing in (False, True):
        encoder = Encoder(llama_folder, lora_dropout=0.0, gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        encoder.load()
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
        encoder(encoder.tokenize(TEXTS)).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last", "first"])
def test_batch_and_padding_change_no_embedding(llama_folder, pooling):
    encoder = Encoder(llama_folder, pooling=pooling, lora_rank=0)
    together = encoder.encode(TEXTS)
    alone = torch.stack([encoder.encode(text) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def tokens_run(encoder, run):
    """How many tokens, padding among them, go through the decoder."""
    counts = []
    hook = encoder.decoder.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: counts.append(inputs[0].numel())
    )
    run()
    hook.remove()
    return counts


@pytest.mark.parametrize("run", ["hidden_states", "forward"])
def test_only_real_tokens_go_through_the_decoder(encoder, run):
    batch = encoder.tokenize(TEXTS)
    real, padded = int(batch["attention_mask"].sum()), batch["input_ids"].numel()
    assert real < padded
    assert tokens_run(encoder, lambda: getattr(encoder, run)(batch)) == [real]


@pytest.mark.parametrize("flags", [{"padding_free": False}, {"attention": "eager"}])
def test_a_padded_batch_runs_whole_where_texts_are_not_packed(llama_folder, flags):
    encoder = Encoder(llama_folder, **flags).load()
    batch = encoder.tokenize(TEXTS)
    assert tokens_run(encoder, lambda: encoder(batch)) == [batch["input_ids"].numel()]


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last", "first"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_embeddings_are_those_of_padded_batches(llama_folder, pooling, bidirectional):
    options = {"pooling": pooling, "bidirectional": bidirectional, "lora_rank": 0}
    packed, padded = (
        Encoder(llama_folder, padding_free=p, **options).load() for p in (True, False)
    )
    batch = packed.tokenize(TEXTS, "an instruction: ")
    assert packed.packs
    torch.testing.assert_close(packed(batch), padded(batch), atol=1e-5, rtol=0)


def test_embeddings_in_bfloat16_are_near_those_in_float32(llama_folder):
    embeddings = [
        Encoder(llama_folder, lora_rank=0, dtype=dtype).encode(TEXTS)
        for dtype in ("float32", "bfloat16")
    ]
    assert torch.cosine_similarity(*embeddings).min() > 0.999


@pytest.mark.parametrize("padding_free", [True, False])
def test_encode_keeps_to_its_batch_size_and_on_a_cpu_to_its_tokens(
    llama_folder, padding_free, monkeypatch
):
    encoder = Encoder(llama_folder, padding_free=padding_free)
    texts = [f"{'word ' * (i % 7)}text {i}" for i in range(50)]
    expected = encoder.encode(texts)
    assert max(tokens_run(encoder, lambda: encoder.encode(texts, batch_size=2))) <= 2 * 20
    monkeypatch.setattr("llm2vec_pl.encoder.encoding.BYTES_AT_ONCE", 30 * 4)
    monkeypatch.setattr("llm2vec_pl.encoder.encoding.BATCHES_AHEAD", 1)
    few = tokens_run(encoder, lambda: encoder.encode(texts))
    assert len(few) > 10
    assert max(few) <= 30
    torch.testing.assert_close(encoder.encode(texts), expected, atol=1e-5, rtol=0)


def test_what_an_earlier_stage_noted_stays_known(encoder, tmp_path):
    encoder.notes["temperature"] = 0.05
    stage = save_encoder(encoder, tmp_path / "stage")
    assert Encoder.from_pretrained(stage).settings()["temperature"] == 0.05


def test_embeddings_come_in_the_order_of_the_texts(encoder):
    one_by_one = encoder.encode(TEXTS, batch_size=1)
    torch.testing.assert_close(encoder.encode(TEXTS, batch_size=3), one_by_one, atol=1e-5, rtol=0)


def test_one_text_gives_one_vector_and_none_an_empty_matrix(encoder):
    assert encoder.encode("hello").shape == (32,)
    assert encoder.encode([]).shape == (0, 32)


def test_embeddings_have_the_size_of_the_last_states_not_of_the_layers(tmp_path):
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = OPTConfig(vocab_size=8192, word_embed_proj_dim=16, do_layer_norm_before=False, **sizes)
    encoder = Encoder(str(save_model(config, tmp_path / "opt")), lora_rank=4)
    assert encoder.encode(TEXTS).shape == (4, 16)
    assert encoder.encode([]).shape == (0, 16)
    batch = encoder.tokenize(TEXTS)
    assert encoder.logits(encoder.hidden_states(batch)).shape[-1] == 8192
    assert Contrastive(encoder, projection_dim=8).projection[0].in_features == 16


def test_encode_drops_nothing_and_leaves_the_mode_as_it_was(encoder):
    assert torch.equal(encoder.encode(TEXTS), encoder.encode(TEXTS))
    assert encoder.training


def test_an_encoder_that_has_encoded_can_still_be_trained(llama_folder):
    encoder = Encoder(llama_folder)
    encoder.encode(TEXTS)
    encoder(encoder.tokenize(TEXTS)).sum().backward()
    assert any(p.grad is not None for p in encoder.parameters())


def test_an_instruction_changes_the_embedding_but_is_not_pooled(encoder):
    plain, instructed = encoder.encode("cats"), encoder.encode("cats", "Find animals: ")
    assert not torch.allclose(plain, instructed)


def test_the_logits_are_those_of_the_language_model(llama_folder):
    causal = Encoder(llama_folder, bidirectional=False, lora_rank=0).load().eval()
    batch = causal.tokenize(["some text to predict"])
    expected = causal.causal_lm(input_ids=batch["input_ids"]).logits
    torch.testing.assert_close(causal.logits(causal.hidden_states(batch)), expected)


def test_random_weights_need_no_weights_on_disk(llama_folder, tmp_path):
    encoder = Encoder(llama_folder)
    encoder.config.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    random = Encoder(str(tmp_path), random_weights=True, lora_rank=0).load()
    assert random.lm_head.weight.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "/no/such/folder"}, "`model_name`: there is no folder"),
        ({"random_weights": True}, "Set `lora_rank=0`"),
        ({"max_length": 0}, "max_length"),
        ({"template": "nothing"}, "`template`"),
    ],
)
def test_a_wrong_argument_is_named_before_weights_load(llama_folder, arguments, message):
    with pytest.raises(UserError, match=message):
        Encoder(**{"model_name": llama_folder, **arguments})


def test_a_folder_without_weights_says_what_it_holds(llama_folder, tmp_path):
    Encoder(llama_folder).config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has no weights .* holds config\.json"):
        Encoder(str(tmp_path))


def test_a_misspelt_folder_names_the_nearest(llama_folder):
    with pytest.raises(UserError, match=r"Did you mean .*llama\?"):
        Encoder(llama_folder + "a")


def test_the_states_of_all_layers_begin_with_the_embeddings_and_end_with_those_that_are_pooled(
    encoder,
):
    encoder.eval()
    batch = encoder.tokenize(TEXTS)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        states = encoder.layer_states(batch)
        last = encoder.hidden_states(batch)
        embedded = encoder.decoder.get_input_embeddings()(batch["input_ids"])
    assert len(states) == encoder.config.num_hidden_layers + 1
    torch.testing.assert_close(states[0][real], embedded[real])
    torch.testing.assert_close(states[-1][real], last[real], atol=1e-5, rtol=1e-4)


def test_an_encoder_as_saved_is_that_of_from_pretrained_without_its_weights(encoder, tmp_path):
    folder = save_encoder(encoder, tmp_path / "encoder")
    waiting = Encoder.as_saved(folder, pooling="last")
    assert not waiting.is_loaded
    expected = Encoder.from_pretrained(folder, pooling="last").encode(TEXTS)
    torch.testing.assert_close(waiting.load().encode(TEXTS), expected)
