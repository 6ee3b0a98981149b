import copy
import pickle
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contrastive_texts import POSITIVES, QUERIES
from teachers import word_vectors

from llm2vec_pl.encoder import text_key
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.teacher import Teacher


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return word_vectors(tmp_path_factory.mktemp("teachers") / "words")


def counted(teacher):
    """The texts that a teacher embeds from now on."""
    asked = []
    embeddings = teacher._embeddings
    teacher._embeddings = lambda texts, device: asked.extend(texts) or embeddings(texts, device)
    return asked


def test_a_model_of_sentence_transformers_gives_its_own_embeddings(words):
    from sentence_transformers import SentenceTransformer

    teacher = Teacher(words)
    expected = SentenceTransformer(words, device="cpu").encode(QUERIES, convert_to_tensor=True)
    assert teacher.size == 16
    found = teacher(QUERIES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=1e-3, rtol=0)


def test_an_encoder_gives_its_own_embeddings(llama_folder):
    expected = Encoder.from_pretrained(llama_folder).encode(QUERIES)
    found = Teacher(llama_folder)(QUERIES)
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=1e-3, rtol=0)


def test_an_instruction_is_written_before_each_text(words, llama_folder):
    encoder = Encoder.from_pretrained(llama_folder)
    expected = F.normalize(encoder.encode(QUERIES, "query: "), dim=-1)
    found = Teacher(llama_folder, "query: ")(QUERIES)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    plain = Teacher(words)([f"query: {text}" for text in QUERIES])
    torch.testing.assert_close(Teacher(words, "query: ")(QUERIES), plain, atol=1e-3, rtol=0)


def test_a_text_is_embedded_once(words):
    teacher = Teacher(words)
    asked = counted(teacher)
    first = teacher([*QUERIES, *QUERIES])
    assert asked == QUERIES
    again = teacher([*POSITIVES, *QUERIES])
    assert asked == [*QUERIES, *POSITIVES]
    assert torch.equal(first[: len(QUERIES)], again[len(POSITIVES) :])


def test_another_run_does_not_even_open_the_teacher(words, monkeypatch):
    first = Teacher(words)(QUERIES)
    monkeypatch.setattr(Teacher, "_opened", lambda self: pytest.fail("it was opened"))
    assert torch.equal(Teacher(words)(QUERIES), first)


def test_other_weights_instructions_and_teachers_have_embeddings_of_their_own(words, tmp_path):
    other = word_vectors(tmp_path / "other", size=8)
    Teacher(words)(QUERIES)
    for teacher in (Teacher(other), Teacher(words, "query: ")):
        asked = counted(teacher)
        teacher(QUERIES)
        assert asked == QUERIES


def test_it_is_frozen_and_in_evaluation_mode(llama_folder, monkeypatch):
    opened = []
    load = Encoder.from_pretrained
    monkeypatch.setattr(
        Encoder, "from_pretrained", lambda *a, **k: opened.append(load(*a, **k)) or opened[-1]
    )
    Teacher(llama_folder)(QUERIES)
    (encoder,) = opened
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_opening_it_draws_no_random_numbers(llama_folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Teacher(llama_folder)(QUERIES)
    assert torch.equal(torch.rand(3), expected)


def test_what_lightning_sets_around_it_changes_nothing(words):
    """As `bf16-true` and `configure_model` do."""
    expected = Teacher(words)(QUERIES)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            teacher = Teacher(words, "")
            teacher.cache.get = lambda keys: {}
            found = teacher(QUERIES)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copy_in_another_process_opens_what_it_needs(words, copied):
    teacher = Teacher(words)
    first = teacher(QUERIES)
    again = copied(teacher)
    assert torch.equal(again([*QUERIES, *POSITIVES])[: len(QUERIES)], first)


@pytest.mark.parametrize("name", ["./nowhere", "runs/supervised", "no/such-model"])
def test_a_teacher_that_is_not_there_is_an_error(name, hub):
    with pytest.raises(UserError, match="^`teacher`: ") as error:
        Teacher(name)
    assert "model_name" not in str(error.value)


def test_a_folder_without_a_model_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="^`teacher`: expected a folder with an encoder"):
        Teacher(str(tmp_path / "empty"))


def test_broken_weights_are_an_error(tmp_path):
    folder = word_vectors(tmp_path / "broken")
    (file,) = (tmp_path / "broken").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="`teacher`: sentence-transformers cannot open"):
        Teacher(folder)


def test_without_sentence_transformers_the_error_says_how_to_install_it(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match='pip install "sentence-transformers>=5"'):
        Teacher(words)


def test_embeddings_that_are_not_finite_are_refused_and_not_kept(words, monkeypatch):
    teacher = Teacher(words)
    embeddings = teacher._embeddings
    monkeypatch.setattr(
        teacher, "_embeddings", lambda texts, device: embeddings(texts, device) / torch.zeros(1)
    )
    with pytest.raises(UserError, match=r"not finite for 1 of 1 texts, first for 'a new text'"):
        teacher(["a new text"])
    monkeypatch.undo()
    teacher.cache.put({text_key("an old text"): np.full(teacher.size, np.nan)})
    assert teacher(["a new text", "an old text"]).isfinite().all()
