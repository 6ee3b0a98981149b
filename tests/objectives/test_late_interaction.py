import json

import pytest
import torch
import torch.nn.functional as F
from contrastive_texts import (
    NEGATIVES,
    POSITIVES,
    QUERIES,
    assert_same_gradients,
    contrastive_batch,
)
from saved_models import save_model, small_llama
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.multi_vector_encoder.scoring import mean_colbert_scores
from teachers import quiet
from torch.utils.data import DataLoader

from llm2vec_pl.encoder import MultiVectorEncoder, max_sim, save_encoder
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import RetrievalEvaluation
from llm2vec_pl.objectives import LateInteraction
from llm2vec_pl.objectives.info_nce import info_nce

ALL_NEGATIVES = [text for texts in NEGATIVES for text in texts]


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=4, lora_dropout=0.0)


def loaded(encoder, **options):
    torch.manual_seed(1)
    module = LateInteraction(encoder, **{"projection_dim": 8, **options})
    module.configure_model()
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def gradients(module, batch):
    module.zero_grad()
    loss = module.loss(batch)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


class Embedded(torch.nn.Module):
    """Passes for sentence-transformers' model, which has embedded the tokens already."""

    def forward(self, features, task=None):
        return features


def test_loss_and_gradient_are_those_of_sentence_transformers():
    """With padding on both sides, and a hard negative for each query."""
    torch.manual_seed(0)
    vectors = [torch.randn(6, tokens, 8).requires_grad_() for tokens in (5, 9, 9)]
    masks = [torch.arange(v.shape[1]) < torch.randint(2, v.shape[1] + 1, (6, 1)) for v in vectors]
    theirs = MultiVectorMultipleNegativesRankingLoss(
        Embedded(), scale=20.0, similarity_fct=mean_colbert_scores
    )
    features = [
        {"token_embeddings": F.normalize(v, dim=-1), "attention_mask": mask.long()}
        for v, mask in zip(vectors, masks, strict=True)
    ]
    expected = theirs(features)
    without_padding = [v * mask[..., None] for v, mask in zip(vectors, masks, strict=True)]
    loss = info_nce(*without_padding, 0.05, score=max_sim)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, vectors) for each in (loss, expected))
    torch.testing.assert_close(found, wanted)


def test_the_loss_is_that_of_all_texts_embedded_one_by_one(encoder):
    module = loaded(encoder, temperature=0.1).eval()
    vectors = [module.retriever.encode(texts, batch_size=1) for texts in (QUERIES, POSITIVES)]
    negatives = module.retriever.encode(ALL_NEGATIVES, batch_size=1)
    scores = [[one_by_one(q, d) for d in [*vectors[1], *negatives]] for q in vectors[0]]
    expected = F.cross_entropy(torch.tensor(scores) / 0.1, torch.arange(len(QUERIES)))
    loss = module.loss(contrastive_batch(encoder))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def one_by_one(query, document):
    """MaxSim as ColBERT describes it, divided by the number of tokens."""
    return sum(max(float(q @ d) for d in document) for q in query) / len(query)


@pytest.mark.parametrize(
    "options", [{}, {"symmetric": True, "matryoshka_dims": [4, 8]}, {"in_batch_negatives": False}]
)
def test_chunks_give_the_gradient_of_the_whole_batch(encoder, options):
    module, batch = loaded(encoder, **options), contrastive_batch(encoder)
    loss, expected = gradients(module, batch)
    module.chunk_size = 5
    chunked_loss, chunked = gradients(module, batch)
    torch.testing.assert_close(chunked_loss, loss, atol=0, rtol=1e-6)
    assert_same_gradients(chunked, expected)
    assert expected["token_projection.weight"].any()


def test_padded_and_packed_batches_have_the_same_gradient(encoder):
    module, batch = loaded(encoder), contrastive_batch(encoder)
    assert encoder.packs
    _, packed = gradients(module, batch)
    encoder.padding_free = False
    _, padded = gradients(module, batch)
    assert_same_gradients(packed, padded, tolerance=1e-5)


def test_an_instruction_has_no_vectors(encoder):
    module = loaded(encoder)
    batch = contrastive_batch(encoder)
    batch["query"] = {**encoder.tokenize(QUERIES, "Find what answers: ")}
    vectors = module.embed(batch).queries
    assert torch.equal(vectors.any(dim=-1), batch["query"]["pooling_mask"].bool())


def test_training_brings_pairs_together_and_leaves_an_encoder_with_its_layer(tmp_path):
    folder = save_model(small_llama(num_hidden_layers=1), tmp_path / "model")
    module = LateInteraction(Encoder(str(folder), lora_rank=0), 16, learning_rate=3e-3)
    loader = DataLoader([contrastive_batch(module.encoder)] * 12, batch_size=None)
    beir = write_beir(tmp_path / "beir")
    trainer = quiet(
        max_steps=12, val_check_interval=12, callbacks=[RetrievalEvaluation(str(beir), "docs")]
    )
    trainer.validate(module, loader, verbose=False)
    before = dict(trainer.callback_metrics)
    trainer.fit(module, loader, loader)
    after = trainer.callback_metrics
    assert after["val/loss"] < 0.5 * before["val/loss"]
    assert after["val/docs/ndcg@10"] > 0.9
    save_encoder(module.encoder, tmp_path / "saved", {}, also=module.save_beside)
    opened = MultiVectorEncoder.from_pretrained(tmp_path / "saved", dtype="float32")
    expected = module.retriever.encode(QUERIES)
    for got, wanted in zip(opened.encode(QUERIES), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    again = LateInteraction(Encoder(str(tmp_path / "saved"), lora_rank=0), 16)
    torch.testing.assert_close(again.token_projection.weight, module.token_projection.weight)
    with pytest.raises(UserError, match=r"has a projection to 16 already\. Set `projection_dim=16"):
        LateInteraction(Encoder(str(tmp_path / "saved"), lora_rank=0))


def write_beir(folder):
    (folder / "qrels").mkdir(parents=True)
    for name, texts in {"queries": QUERIES, "corpus": POSITIVES}.items():
        rows = [json.dumps({"_id": f"{name}{i}", "text": text}) for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    judged = "\n".join(f"queries{i}\tcorpus{i}\t1" for i in range(len(QUERIES)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_dim": 0}, "`projection_dim` is at least 1, but got 0"),
        ({"spread_out_weight": 0.1}, "`spread_out_weight` is for one vector a text"),
        ({"matryoshka_dims": [16]}, "the size of a vector, 8, but got"),
        ({"temperature": 0.0}, "`temperature` is above 0, but got 0.0"),
    ],
)
def test_wrong_options_are_errors_before_any_weights_are_read(encoder, options, message):
    with pytest.raises(UserError, match=message):
        LateInteraction(encoder, **{"projection_dim": 8, **options})
    assert not encoder.is_loaded
