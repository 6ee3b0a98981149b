import pytest
import torch

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import CausalLM
from llm2vec_pl.objectives.optimizer import muon_and_adamw


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, bidirectional=False, lora_rank=0)


def test_a_lora_has_nothing_for_adamw(llama_folder):
    encoder = Encoder(llama_folder, bidirectional=False, lora_rank=2).load()
    (muon,) = muon_and_adamw(encoder, 1e-3, 0.1).optimizers
    assert isinstance(muon, torch.optim.Muon)


def test_the_loss_is_that_of_transformers(encoder):
    module = CausalLM(encoder)
    module.configure_model()
    batch = encoder.tokenize(["some text", "a somewhat longer text than that"])
    labelled = module.labelled(batch)
    expected = encoder.causal_lm(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=labelled["labels"],
    ).loss
    torch.testing.assert_close(module.loss(labelled), expected)


def test_a_bidirectional_encoder_is_refused(llama_folder):
    with pytest.raises(UserError, match="Set `bidirectional=False`"):
        CausalLM(Encoder(llama_folder))


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest(encoder):
    encoder.load()
    chain = muon_and_adamw(encoder, 1e-3, 0.1)
    shapes = [
        {tuple(p.shape) for g in o.param_groups for p in g["params"]} for o in chain.optimizers
    ]
    assert all(len(shape) == 2 and 8192 not in shape for shape in shapes[0])
    assert {(8192, 32), (32,)} == shapes[1]


def test_the_chain_steps_all_members_at_the_scheduled_rate(encoder):
    encoder.load()
    chain = muon_and_adamw(encoder, 1e-3, 0.0)
    before = [p.clone() for p in encoder.parameters() if p.requires_grad]
    encoder(encoder.tokenize(["text"])).sum().backward()
    for group in chain.param_groups:
        group["lr"] = 0.0
    chain.step()
    after = [p for p in encoder.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for group in chain.param_groups:
        group["lr"] = 0.1
    chain.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if b.ndim == 2)


def test_the_chain_resumes_from_its_state(encoder):
    encoder.load()
    chain = muon_and_adamw(encoder, 1e-3, 0.0)
    encoder(encoder.tokenize(["text"])).sum().backward()
    chain.step()
    other = muon_and_adamw(encoder, 5e-1, 0.0)
    other.load_state_dict(chain.state_dict())
    assert [g["lr"] for g in other.param_groups] == [1e-3, 1e-3]
    momentum = next(iter(other.optimizers[0].state.values()))["momentum_buffer"]
    assert momentum.any()
