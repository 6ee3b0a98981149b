import itertools

import pytest
import torch
from conll_files import write_conll2003
from lightning.pytorch import Trainer, seed_everything
from shown_commands import ROOT, fences

from llm2vec_pl.data import WordTask
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.words import tokenize_words, word_states
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import WordObjective

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def shown_objective():
    """The class that docs/words.md shows, from a file as a user has it."""
    (block,) = [b for b in fences(ROOT / "docs" / "words.md", "python") if "my_words.py" in b[:20]]
    scope = {"__name__": "my_words"}
    exec(block, scope)
    return scope["ChainCRF"], block[block.index("class ChainCRF") :]


ChainCRF, SOURCE = shown_objective()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_conll2003(tmp_path_factory.mktemp("words") / "conll2003"))


@pytest.fixture(scope="module")
def encoder():
    return Encoder("tiny", lora_rank=0, max_length=64).load()


def test_the_states_are_the_encoders_of_the_words(encoder):
    encoder.eval()
    batch = tokenize_words(encoder.tokenize, [["a", "longer", "sentence"], ["b"]])
    hidden = encoder.hidden_states(batch)
    for shift in (0, 1):
        objective = WordObjective(encoder, shift=shift)
        states = objective.word_states(objective.prepared(batch))
        expected = word_states(hidden, batch["word_index"], shift)
        torch.testing.assert_close(states, expected)
        assert not states.requires_grad


def test_kept_states_are_used_and_the_encoder_is_not_run(encoder, monkeypatch):
    monkeypatch.setattr(encoder, "hidden_states", None)
    kept = torch.randn(2, 5, 256).bfloat16()
    objective = WordObjective(encoder, shift=1)
    torch.testing.assert_close(objective.word_states({"word_states": kept}), kept[1].float())
    assert [s.shape for s in objective.shifted_states({"word_states": kept}, [0, 1])] == [
        (5, 256)
    ] * 2


@pytest.mark.parametrize("train_encoder", ["none", "lora", "full"])
def test_the_encoder_trains_as_it_is_told(folder, train_encoder):
    rank = 4 if train_encoder == "lora" else 0
    encoder = Encoder("tiny", lora_rank=rank, max_length=64)
    objective = ChainCRF(encoder, train_encoder=train_encoder, learning_rate=1e-2)
    Trainer(max_steps=2, limit_val_batches=0, **QUIET).fit(objective, WordTask(folder, "ner"))
    trained = {name for name, weight in encoder.named_parameters() if weight.grad is not None}
    assert encoder.decoder.training == (train_encoder != "none")
    if train_encoder == "none":
        assert not any(weight.requires_grad for weight in encoder.parameters())
    elif train_encoder == "lora":
        assert trained
        assert all("lora_" in name for name in trained)
    else:
        assert any("q_proj.weight" in name for name in trained)


def test_a_frozen_encoder_needs_no_new_lora():
    encoder = Encoder("tiny")
    assert encoder.lora_rank == 16
    WordObjective(encoder)
    assert encoder.lora_rank == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": 2}, "`shift` is 0 or 1"),
        ({"train_encoder": "some"}, "`train_encoder` is one of none, lora, full"),
        ({"train_encoder": "lora"}, "trains a LoRA, but `lora_rank` is 0"),
    ],
)
def test_arguments_are_checked(encoder, arguments, message):
    with pytest.raises(UserError, match=message):
        WordObjective(encoder, **arguments)


def test_an_own_objective_is_twenty_lines_and_learns(folder, encoder):
    lines = [line for line in SOURCE.splitlines() if line.strip()]
    assert len(lines) <= 20
    seed_everything(0, verbose=False)
    objective = ChainCRF(encoder, learning_rate=1e-2)
    data = WordTask(folder, "chunk", batch_size=16)
    trainer = Trainer(max_steps=25, **QUIET)
    trainer.fit(objective, data)
    loss = trainer.validate(objective, data, verbose=False)[0]["val/loss"]
    assert loss < 0.3 * torch.log(torch.tensor(float(len(data.labels))))
    begin, inside = (data.labels.index(label) for label in ("B-NP", "I-NP"))
    assert objective.follows[begin, inside] > objective.follows[begin, begin]


def test_its_chain_is_the_likelihood_over_all_taggings(encoder):
    objective = ChainCRF(encoder)
    objective.build(["a", "b", "c"])
    torch.nn.init.normal_(objective.follows)
    scores, tags = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])

    def score(each):
        own = sum(scores[i, tag] for i, tag in enumerate(each))
        return own + sum(objective.follows[pair] for pair in itertools.pairwise(each))

    every = torch.stack([score(each) for each in itertools.product(range(3), repeat=4)])
    expected = (every.logsumexp(0) - score(tags.tolist())) / 4
    torch.testing.assert_close(objective.chain_loss(scores, tags), expected)
