import pytest
import torch
from contrastive_texts import (
    NEGATIVES,
    POSITIVES,
    QUERIES,
    assert_same_gradients,
    contrastive_batch,
)
from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss
from teachers import quiet, word_vectors
from torch.utils.data import DataLoader

from llm2vec_pl.data import WikipediaSentences
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Contrastive, GISTEmbed
from llm2vec_pl.objectives.info_nce import EachText, info_nce
from llm2vec_pl.objectives.teacher import Teacher

ALL_NEGATIVES = [text for texts in NEGATIVES for text in texts]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def guide(tmp_path_factory) -> str:
    return word_vectors(tmp_path_factory.mktemp("guides") / "words")


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=4, lora_dropout=0.0)


def batch_of(encoder):
    batch = contrastive_batch(encoder)
    parts = {"query": QUERIES, "positive": POSITIVES, "negative": ALL_NEGATIVES}
    for part, texts in parts.items():
        batch[part]["texts"] = texts
    return batch


class Answers(torch.nn.Module):
    """Passes for a model of sentence-transformers that has embedded the texts already."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = iter(embeddings)

    def forward(self, features):
        return {**features, "sentence_embedding": next(self.embeddings)}


def theirs(embeddings, guide, temperature, margin):
    """sentence-transformers' loss, without the comparisons of queries with queries."""
    loss = GISTEmbedLoss.__new__(GISTEmbedLoss)
    torch.nn.Module.__init__(loss)
    loss.model, loss.guide = Answers(embeddings), Answers(guide)
    loss.similarity_fct = torch.nn.CosineSimilarity(dim=-1)
    loss.cross_entropy_loss = torch.nn.CrossEntropyLoss()
    loss.temperature, loss.margin, loss.margin_strategy = temperature, margin, "absolute"
    loss.must_retokenize = loss.gather_across_devices = False
    loss.contrast_anchors = loss.contrast_positives = False
    return loss([{"input_ids": torch.zeros(1)}] * 3, None)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_loss_and_gradient_are_those_of_sentence_transformers(margin):
    torch.manual_seed(0)
    texts = torch.randn(3, 8, 16, requires_grad=True)  # queries, positives, one negative each
    guide = torch.randn(3, 8, 6)
    guide[1] += 1.5 * guide[0]  # most positives are right answers for the guide too
    expected = theirs(texts, guide, 0.05, margin)
    loss = info_nce(*texts, 0.05, margin=margin, guide=EachText(*guide))
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, texts)[0] for each in (loss, expected))
    torch.testing.assert_close(found, wanted)
    assert not torch.isclose(loss, info_nce(*texts, 0.05))  # some were ignored


def test_the_guide_decides_for_both_directions():
    torch.manual_seed(0)
    queries, positives = torch.randn(2, 6, 16)
    guide = torch.randn(2, 6, 4)
    back = info_nce(positives, queries, margin=0.0, guide=EachText(*guide.flip(0), guide[0, :0]))
    there = info_nce(queries, positives, margin=0.0, guide=EachText(*guide, guide[0, :0]))
    known = EachText(*guide, guide[0, :0])
    both = info_nce(queries, positives, margin=0.0, guide=known, symmetric=True)
    torch.testing.assert_close(both, (there + back) / 2)


def test_the_batch_is_judged_by_the_guides_embeddings_of_its_texts(encoder, guide):
    module = GISTEmbed(encoder, guide, temperature=0.1)
    module.configure_model()
    batch = batch_of(encoder)
    asked = Teacher(guide)
    known = EachText(asked(QUERIES), asked(POSITIVES), asked(ALL_NEGATIVES))
    texts = module.embed(batch)
    expected = info_nce(*texts[:3], 0.1, ids=texts.ids, margin=0.0, guide=known)
    torch.testing.assert_close(module.loss(batch), expected)
    torch.testing.assert_close(module.loss(module.guided(batch)), expected)
    assert batch["query"]["texts"] == QUERIES  # the batch itself stays as it was


def test_chunks_give_the_gradient_of_the_whole_batch(encoder, guide):
    module = GISTEmbed(encoder, guide)
    module.configure_model()
    batch, found = module.guided(batch_of(encoder)), []
    for module.chunk_size in (None, 5):
        module.zero_grad()
        module.loss(batch).backward()
        grads = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        found.append(grads)
    assert_same_gradients(*found)


class Seen(GISTEmbed):
    """Keeps what reaches the loss."""

    def loss(self, batch):
        self.ready = batch
        return super().loss(batch)


def test_a_run_asks_the_guide_before_the_batch_goes_to_the_device(encoder, guide, tmp_path):
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("\n".join(f"Sentence {i} is about lakes." for i in range(20)))
    encoder.attention_dropout = 0.3
    module = Seen(encoder, guide)
    quiet(max_steps=1, limit_val_batches=0).fit(module, WikipediaSentences(str(sentences)))
    assert set(module.ready["query"]) >= {"guide", "text_lengths", "text_id"}
    assert "texts" not in module.ready["positive"]
    assert module.notes()["guide"] == guide
    assert not any("guide" in name for name in module.state_dict())


def test_data_without_texts_are_an_error(encoder, guide):
    batch = contrastive_batch(encoder)
    with pytest.raises(UserError, match="`guide` reads the texts of a batch, but this data gives"):
        quiet(max_steps=1).fit(GISTEmbed(encoder, guide), DataLoader([batch], batch_size=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": None}, "`guide` is missing"),
        ({"guide_batch_size": 0}, "`guide_batch_size` is at least 1 text"),
        ({"temperature": 0.0}, "`temperature` is above 0, but got 0.0"),
    ],
)
def test_wrong_options_are_errors_before_any_weights_are_read(encoder, options, message):
    with pytest.raises(UserError, match=message):
        GISTEmbed(encoder, **{"guide": "tiny", **options})


def test_a_guide_that_cannot_be_opened_is_an_error_about_the_guide(encoder):
    with pytest.raises(UserError, match="`guide`: there is no folder"):
        GISTEmbed(encoder, "./nowhere").configure_model()


def test_it_is_contrastive_learning_with_all_its_arguments(encoder):
    module = GISTEmbed(encoder, "tiny", symmetric=True, spread_out_weight=0.1, learning_rate=1e-3)
    assert isinstance(module, Contrastive)
    assert (module.margin, module.symmetric, module.learning_rate) == (0.0, True, 1e-3)
