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
from standard_library_docs import fill_cache
from teachers import quiet, word_vectors
from torch.utils.data import DataLoader

from llm2vec_pl.data import E5, PythonDocsPairs, Wikipedia, WikipediaSentences
from llm2vec_pl.distributed import Repeated
from llm2vec_pl.encoder import save_encoder
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Distillation
from llm2vec_pl.objectives.distillation_losses import cosine_distance, in_batch_kl
from llm2vec_pl.objectives.teacher import Teacher

TEXTS = [*QUERIES, *POSITIVES, *(text for texts in NEGATIVES for text in texts)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """Of embeddings of 16 elements; the small decoder's have 32."""
    return word_vectors(tmp_path_factory.mktemp("teachers") / "words")


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=4, lora_dropout=0.0)


def loaded(encoder, teacher, **options):
    module = Distillation(encoder, teacher, **options)
    module.configure_model()
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def batch_of(encoder):
    """Queries, positives and negatives with their texts."""
    batch = contrastive_batch(encoder)
    batch["query"]["texts"] = QUERIES
    batch["positive"]["texts"] = POSITIVES
    batch["negative"]["texts"] = [text for texts in NEGATIVES for text in texts]
    return batch


def sentences(encoder, texts=QUERIES):
    """As for SimCSE: each is its own positive."""
    part = {**encoder.tokenize(texts), "texts": texts}
    return {"query": part, "positive": dict(part)}


def gradients(module, batch):
    module.zero_grad()
    loss = module.loss(batch)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def test_the_loss_is_that_of_all_texts_embedded_one_by_one(encoder, teacher):
    module = loaded(encoder, teacher, temperature=0.1, similarity_weight=2.0, embedding_weight=3.0)
    student = torch.cat([encoder(encoder.tokenize([text])) for text in TEXTS])
    target = Teacher(teacher)(TEXTS)
    oneself = torch.eye(len(TEXTS), dtype=torch.bool)
    kl = in_batch_kl(student, target, 0.1, oneself, slice(0, len(TEXTS)))
    distance = cosine_distance(student @ module.to_teacher.weight.T, target)
    expected = 2.0 * kl.mean() + 3.0 * distance.mean()
    torch.testing.assert_close(module.loss(batch_of(encoder)), expected, atol=1e-5, rtol=1e-5)


def test_a_weight_of_0_leaves_a_loss_out(encoder, teacher):
    module, batch = loaded(encoder, teacher), batch_of(encoder)
    both = module.loss(batch)
    module.similarity_weight = 0.0
    embedding = module.loss(batch)
    module.similarity_weight, module.embedding_weight = 1.0, 0.0
    similarity = module.loss(batch)
    assert min(embedding, similarity) > 0
    torch.testing.assert_close(both, embedding + similarity)
    without = loaded(encoder, teacher, embedding_weight=0.0)
    assert isinstance(without.to_teacher, torch.nn.Identity)


def test_embeddings_of_one_size_need_no_map(encoder, tmp_path):
    module = loaded(encoder, word_vectors(tmp_path / "words", size=32))
    assert isinstance(module.to_teacher, torch.nn.Identity)
    assert not [name for name, _ in module.named_parameters() if "teacher" in name]


def test_the_map_begins_as_a_projection(encoder, teacher):
    weight = loaded(encoder, teacher).to_teacher.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(16), atol=1e-5, rtol=0)


def test_a_text_that_occurs_twice_is_read_once(encoder, teacher):
    module = loaded(encoder, teacher)
    read = []
    encoder.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    batch = sentences(encoder, [*QUERIES, QUERIES[2]])
    tokens = module.taught(batch)
    module.loss(tokens)
    assert tokens["teacher"].shape == (len(QUERIES), 16)
    assert read == [sum(map(len, encoder.tokenizer(QUERIES)["input_ids"]))]
    torch.testing.assert_close(module.loss(batch), module.loss(module.taught(sentences(encoder))))


@pytest.mark.parametrize("chunk_size", [1, 5, 100])
def test_chunks_give_the_gradient_of_the_whole_batch(encoder, teacher, chunk_size):
    module = loaded(encoder, teacher)
    batch = batch_of(encoder)
    loss, expected = gradients(module, batch)
    module.chunk_size = chunk_size
    chunked_loss, chunked = gradients(module, batch)
    torch.testing.assert_close(chunked_loss, loss, atol=0, rtol=1e-6)
    assert_same_gradients(chunked, expected, tolerance=2e-6)


def test_padded_texts_have_the_loss_of_packed_ones(llama_folder, teacher):
    losses = []
    for padding_free in (True, False):
        torch.manual_seed(0)
        options = {"lora_rank": 4, "lora_dropout": 0.0, "padding_free": padding_free}
        module = loaded(Encoder(llama_folder, **options), teacher, embedding_weight=0.0)
        losses.append(module.loss(batch_of(module.encoder)))
    torch.testing.assert_close(*losses)


def test_a_repeated_batch_stays_one_that_does_not_count(encoder, teacher):
    module = loaded(encoder, teacher)
    assert isinstance(module.taught(Repeated(sentences(encoder))), Repeated)
    assert not isinstance(module.taught(sentences(encoder)), Repeated)


def similarity_to(teacher, encoder, texts):
    """How well a student's similarities of texts follow the teacher's."""
    pairs = torch.triu_indices(len(texts), len(texts), 1).unbind()
    rows = []
    for embeddings in (encoder.encode(texts), Teacher(teacher)(texts)):
        unit = F.normalize(embeddings, dim=-1)
        rows.append((unit @ unit.T)[pairs])
    return torch.corrcoef(torch.stack(rows))[0, 1].item()


def lines(tmp_path, count=64):
    words = ["river", "lake", "hill", "road", "house", "tree", "stone", "bridge", "field", "town"]
    texts = [
        f"a {words[i % 10]} by the {words[i // 10]} and a {words[7 * i % 9]}" for i in range(count)
    ]
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(texts))
    return str(path), texts


@pytest.mark.parametrize("options", [{"embedding_weight": 0.0}, {"similarity_weight": 0.0}, {}])
def test_a_student_comes_closer_to_its_teacher(options, teacher, tmp_path):
    path, texts = lines(tmp_path)
    folder = str(save_model(small_llama(hidden_size=64), tmp_path / "model"))
    module = Distillation(Encoder(folder, lora_rank=0), teacher, learning_rate=3e-3, **options)
    data = WikipediaSentences(path, batch_size=32)
    trainer = quiet(max_steps=60, val_check_interval=30, check_val_every_n_epoch=None)
    trainer.validate(module, data, verbose=False)
    before = dict(trainer.callback_metrics)
    started_at = similarity_to(teacher, module.encoder, texts)
    trainer.fit(module, data)
    after = trainer.callback_metrics
    assert after["val/loss"] < 0.8 * before["val/loss"]
    assert after["val/correlation"] > before["val/correlation"]
    assert similarity_to(teacher, module.encoder, texts) > max(0.5, started_at + 0.2)
    both = {"val/similarity_loss", "val/embedding_loss"} <= after.keys()
    assert both == (not options)


def pairs_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": q, "positive": p, "negative": n}
        for q, p, n in zip(QUERIES * 4, POSITIVES * 4, NEGATIVES * 4, strict=True)
    ]
    rows = [
        {k: f"{v} {i}" if k != "negative" else v for k, v in r.items()} for i, r in enumerate(rows)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


class Texts(Distillation):
    """Keeps what it was given."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.given = [text for part in batch.values() for text in part["texts"]]
        self.ready = super().on_before_batch_transfer(batch, dataloader_idx)
        return self.ready


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("sentences", 0), ("E5", 0), ("E5", 1), pytest.param("docs", 0, marks=pytest.mark.slow)],
)
def test_all_contrastive_data_bring_their_texts(kind, workers, encoder, teacher, tmp_path):
    if kind == "docs":
        fill_cache(every=40)
    data = {
        "sentences": lambda: WikipediaSentences(lines(tmp_path)[0], num_workers=workers),
        "E5": lambda: E5(pairs_file(tmp_path), num_workers=workers, batch_size=8),
        "docs": lambda: PythonDocsPairs(num_workers=workers, batch_size=4),
    }[kind]()
    module = Texts(encoder, teacher)
    quiet(max_steps=1, limit_val_batches=0).fit(module, data)
    assert set(module.ready) >= {"input_ids", "text_lengths", "teacher", "text_id"}
    assert "texts" not in module.ready
    distinct = list(dict.fromkeys(module.given))
    torch.testing.assert_close(module.ready["teacher"], Teacher(teacher)(distinct))
    assert len(module.ready["text_lengths"]) == len(distinct) == len(module.ready["input_ids"])


def test_the_student_alone_reads_the_datas_instruction(encoder, teacher, tmp_path):
    instructions = tmp_path / "instructions.yaml"
    instructions.write_text("pairs: Find the answer\n")
    data = E5(pairs_file(tmp_path), batch_size=8, instructions=str(instructions))
    module = Texts(encoder, teacher)
    quiet(max_steps=1, limit_val_batches=0).fit(module, data)
    assert not any("Find the answer" in text for text in module.given)
    rows = [encoder.tokenizer.decode(ids) for ids in module.ready["input_ids"]]
    assert sum("Find the answer" in row for row in rows) == 8
    assert module.notes()["instructions"]["pairs"]


def test_checkpoints_and_saved_encoders_hold_nothing_of_the_teacher(encoder, tmp_path):
    module = Distillation(encoder, "tiny")
    trainer = quiet(max_steps=2, limit_val_batches=0)
    trainer.fit(module, DataLoader([sentences(encoder)] * 2, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert module.teacher._embed is not None
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert {name for name in checkpoint["state_dict"] if "lora" not in name} == {
        "to_teacher.weight"
    }
    assert all(
        "lora" in name or name == "to_teacher.weight"
        for name, p in module.named_parameters()
        if p.requires_grad
    )
    assert not any("teacher." in name for name in module.state_dict() if "to_teacher" not in name)
    save_encoder(encoder, tmp_path / "saved", {})
    size = sum(file.stat().st_size for file in (tmp_path / "saved").rglob("*.safetensors"))
    assert size < 4 * 1.2 * sum(p.numel() for p in encoder.parameters() if p.requires_grad) + 20_000
    assert Encoder.from_pretrained(tmp_path / "saved").encode("a text").shape == (32,)


def test_a_run_resumes_with_its_map(encoder, llama_folder, teacher, tmp_path):
    batches = DataLoader([sentences(encoder)] * 4, batch_size=None)
    module = Distillation(encoder, teacher, learning_rate=1e-2, schedule="constant")
    trainer = quiet(max_steps=2, limit_val_batches=0)
    trainer.fit(module, batches)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    quiet(max_steps=4, limit_val_batches=0).fit(module, batches, ckpt_path=tmp_path / "last.ckpt")
    torch.manual_seed(9)
    again = Distillation(
        Encoder(llama_folder, lora_rank=4, lora_dropout=0.0),
        teacher,
        learning_rate=1e-2,
        schedule="constant",
    )
    quiet(max_steps=4, limit_val_batches=0).fit(again, batches, ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(again.to_teacher.weight, module.to_teacher.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None}, "`teacher` is missing"),
        ({"temperature": 0.0}, "`temperature` is above 0, but got 0.0"),
        ({"chunk_size": 0}, "`chunk_size` is at least 1 text"),
        ({"teacher_batch_size": 0}, "`teacher_batch_size` is at least 1 text"),
        ({"similarity_weight": 0.0, "embedding_weight": 0.0}, "one of them above 0, but got 0.0"),
        ({"embedding_weight": -1.0}, "`embedding_weight` are at least 0"),
    ],
)
def test_wrong_options_are_errors_before_any_weights_are_read(encoder, options, message):
    with pytest.raises(UserError, match=message):
        Distillation(encoder, **{"teacher": "tiny", **options})


def test_a_teacher_that_cannot_be_opened_is_an_error_before_the_student_is_loaded(encoder):
    module = Distillation(encoder, "./nowhere")
    with pytest.raises(UserError, match="`teacher`: there is no folder"):
        quiet(max_steps=1).fit(module, DataLoader([sentences(encoder)], batch_size=None))
    assert not encoder.is_loaded


def test_data_without_texts_are_an_error(encoder, teacher, tmp_path):
    path, _ = lines(tmp_path)
    data = Wikipedia(path, max_length=16, batch_size=4)
    with pytest.raises(
        UserError, match="this data gives tokens only. Use a data module for contra"
    ):
        quiet(max_steps=1).fit(Distillation(encoder, teacher), data)


def test_other_objectives_get_no_texts(encoder, tmp_path):
    data = WikipediaSentences(lines(tmp_path)[0])
    data.prepare_data()
    data.attach(encoder).setup()
    assert "texts" not in next(iter(data.train_dataloader()))["query"]
