import pytest
import torch
from contrastive_texts import assert_same_gradients, contrastive_batch
from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Contrastive
from llm2vec_pl.objectives.spread_out import spread_out


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_loss_and_gradient_are_those_of_sentence_transformers(spread):
    """For texts that lie close together, and for others."""
    torch.manual_seed(0)
    parts = [(torch.ones(16) + spread * torch.randn(rows, 16)).requires_grad_() for rows in (5, 7)]
    terms = GlobalOrthogonalRegularizationLoss(torch.nn.Identity())
    expected = torch.stack(list(terms.compute_loss_from_embeddings(parts).values())).sum()
    loss = spread_out(parts)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, parts) for each in (loss, expected))
    torch.testing.assert_close(found, wanted)


def test_orthogonal_texts_and_lonely_ones_are_spread_out_already():
    assert spread_out([torch.eye(4)]) == 0
    assert spread_out([torch.ones(1, 4)]) == 0


def test_equal_texts_are_not_pushed_apart():
    torch.manual_seed(0)
    part = torch.randn(4, 8)
    twice, ids = torch.cat([part, part[:1]]), torch.tensor([1, 2, 3, 4, 1])
    cosines = torch.nn.functional.cosine_similarity(twice[:, None], twice[None], dim=-1)
    others = cosines[ids[:, None] != ids[None, :]]
    expected = others.mean() ** 2 + (others.square().mean() - 1 / 8).clamp(min=0)
    torch.testing.assert_close(spread_out([twice], [ids]), expected)


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=4, lora_dropout=0.0)


@pytest.mark.parametrize("dims", [None, [8, 32]])
def test_contrastive_adds_it_with_its_weight(encoder, dims):
    module = Contrastive(encoder, matryoshka_dims=dims)
    module.configure_model()
    batch = contrastive_batch(encoder)
    plain, texts = module.loss(batch), module.embed(batch)
    module.spread_out_weight = 2.0
    regularisers = [spread_out([p[:, :dim] for p in texts[:3]], texts.ids) for dim in module.dims]
    expected = plain + 2 * torch.stack(regularisers).mean()
    torch.testing.assert_close(module.loss(batch), expected)


def test_chunks_give_the_gradient_of_the_whole_batch(encoder):
    module = Contrastive(encoder, spread_out_weight=1.0)
    module.configure_model()
    batch, found = contrastive_batch(encoder), []
    for module.chunk_size in (None, 5):
        module.zero_grad()
        module.loss(batch).backward()
        grads = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        found.append(grads)
    assert_same_gradients(*found)


def test_a_negative_weight_is_an_error(encoder):
    with pytest.raises(UserError, match="`spread_out_weight` is at least 0, but got -1.0"):
        Contrastive(encoder, spread_out_weight=-1.0)
