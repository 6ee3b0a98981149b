"""`Encoder.encode` in the words of sentence-transformers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers.util.quantization import quantize_embeddings

from llm2vec_pl import Encoder, UserError

TEXTS = [f"text number {i} is about {'rivers ' * (i % 7)}and lakes" for i in range(20)]
PROMPTS = {"query": "Find the page: ", "passage": "A page: ", "task": "Solve: "}


@pytest.fixture(scope="module")
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=0, prompts=PROMPTS).load().eval()


def test_a_prompt_by_name_is_the_instruction_that_it_stands_for(encoder):
    written = encoder.encode(TEXTS, instruction="Solve: ")
    assert torch.equal(written, encoder.encode(TEXTS, prompt_name="task"))
    assert torch.equal(written, encoder.encode(TEXTS, prompt="Solve: "))
    assert not torch.equal(written, encoder.encode(TEXTS))


def test_queries_and_documents_have_the_prompts_of_their_names(encoder):
    query, document = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    assert torch.equal(query, encoder.encode(TEXTS, prompt_name="query"))
    assert torch.equal(document, encoder.encode(TEXTS, prompt_name="passage"))
    assert torch.equal(
        encoder.encode_query(TEXTS, prompt_name="task"), encoder.encode(TEXTS, "Solve: ")
    )


def test_without_prompts_a_query_is_a_text_like_any_other(llama_folder):
    plain = Encoder(llama_folder, lora_rank=0).load()
    assert torch.equal(plain.encode_query("a text"), plain.encode("a text"))


def test_prompts_are_kept_in_a_folder(encoder, tmp_path):
    from llm2vec_pl.encoder import save_encoder

    save_encoder(encoder, tmp_path / "saved")
    reopened = Encoder.from_pretrained(tmp_path / "saved", dtype="float32")
    assert reopened.prompts == PROMPTS
    torch.testing.assert_close(reopened.encode_query(TEXTS), encoder.encode_query(TEXTS))
    other = Encoder.from_pretrained(tmp_path / "saved", prompts={"query": ""})
    assert other.prompts == {"query": ""}


def test_training_goes_on_with_the_prompts_of_the_encoder_before(encoder, tmp_path):
    from llm2vec_pl.encoder import save_encoder

    before = str(save_encoder(encoder, tmp_path / "saved"))
    assert Encoder(before).prompts == PROMPTS
    assert Encoder(before, prompts={}).prompts == {}


def test_prompts_of_a_run_do_not_replace_those_that_were_asked_for(llama_folder):
    encoder = Encoder(llama_folder, prompts={"query": "Mine: "})
    encoder.add_prompts({"query": "Theirs: ", "nq": "Answer: "})
    assert encoder.prompts == {"query": "Mine: ", "nq": "Answer: "}
    with pytest.raises(UserError, match="`prompts` are strings, but got 'nq': 3"):
        encoder.add_prompts({"nq": 3})


@pytest.mark.parametrize(
    "texts",
    [tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), (text for text in TEXTS)],
    ids=["tuple", "array", "array of objects", "generator"],
)
def test_any_sequence_of_strings_is_embedded(encoder, texts):
    assert torch.equal(encoder.encode(texts), encoder.encode(TEXTS))


def test_output_is_a_tensor_an_array_or_a_list(encoder):
    embeddings = encoder.encode(TEXTS)
    array = encoder.encode(TEXTS, convert_to_numpy=True)
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, embeddings.numpy())
    rows = encoder.encode(TEXTS, convert_to_tensor=False)
    assert isinstance(rows, list)
    assert torch.equal(torch.stack(rows), embeddings)
    assert encoder.encode("one", convert_to_numpy=True).shape == (32,)


def test_embeddings_are_cut_before_they_are_normalised(encoder):
    cut = encoder.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    expected = torch.nn.functional.normalize(encoder.encode(TEXTS)[:, :8], dim=1)
    torch.testing.assert_close(cut, expected)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_embeddings_are_those_of_sentence_transformers(encoder, precision):
    ours = encoder.encode(TEXTS, precision=precision, convert_to_numpy=True)
    theirs = quantize_embeddings(encoder.encode(TEXTS).numpy(), precision)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


def test_no_texts_give_no_embeddings_in_any_form(encoder):
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode([], convert_to_numpy=True, normalize_embeddings=True).shape == (0, 32)
    assert encoder.encode([], precision="ubinary").shape == (0, 4)


def test_odd_texts_have_embeddings_of_their_own(encoder):
    odd = ["", " ", "\0", "a\0b", "\ud83d", "word " * 200_000, "a" * 100_000]
    together = encoder.encode([*odd, *TEXTS])
    assert together.isfinite().all()
    alone = torch.stack([encoder.encode(text) for text in odd])
    torch.testing.assert_close(together[: len(odd)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["a", None]}, r"text 1 is None \(NoneType\)"),
        ({"texts": ["a", b"b"]}, "text 1 is b'b'"),
        ({"texts": np.array([["a"], ["b"]])}, "text 0 is array"),
        ({"texts": np.array("a")}, "array of no dimensions"),
        ({"texts": {"a": "b"}}, "got a dictionary"),
        ({"texts": None}, "list of texts, but got None"),
        ({"prompt_name": "qury"}, "no prompt named 'qury': it has query, passage, task"),
        ({"prompt": "a", "prompt_name": "query"}, "`prompt` and `prompt_name` all say"),
        ({"precision": "int4"}, "`precision` is one of float32, int8"),
        ({"truncate_dim": 33}, "from 1 to 32, .* but got 33"),
        ({"truncate_dim": True}, "but got True"),
        ({"truncate_dim": 12, "precision": "binary"}, "a multiple of eight"),
        ({"texts": "one", "precision": "int8"}, "range of each dimension .* got one"),
        ({"device": "gpu"}, "`device='gpu'` cannot be used"),
        ({"device": []}, "a list of no devices"),
        ({"device": ["cpu", "cuda:99"]}, "`device='cuda:99'` cannot be used"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_an_error(encoder, arguments, message):
    with pytest.raises(UserError, match=message):
        encoder.encode(**{"texts": TEXTS, **arguments})


@pytest.mark.parametrize(
    ("prompts", "message"),
    [("Find: ", "instructions by name"), ({"query": None}, "'query': None")],
)
def test_prompts_are_strings_by_name(llama_folder, prompts, message):
    with pytest.raises(UserError, match=message):
        Encoder(llama_folder, prompts=prompts)


def test_a_progress_bar_is_shown_on_request_only(encoder, capsys):
    encoder.encode(TEXTS)
    assert capsys.readouterr().err == ""
    encoder.encode(TEXTS, show_progress_bar=True)
    assert "20/20" in capsys.readouterr().err


def test_similarity_is_the_cosine(encoder):
    one, others = encoder.encode(TEXTS[0]), encoder.encode(TEXTS, convert_to_numpy=True)
    expected = torch.nn.functional.cosine_similarity(one, torch.from_numpy(others))
    torch.testing.assert_close(encoder.similarity(one, others), expected[None])
    rows = encoder.encode(TEXTS, convert_to_tensor=False)
    assert encoder.similarity(rows, rows).diagonal().allclose(torch.ones(20))


def test_what_has_no_cosine_is_an_error(encoder):
    with pytest.raises(UserError, match="of 8 and of 32 numbers"):
        encoder.similarity(encoder.encode(TEXTS, truncate_dim=8), encoder.encode(TEXTS))
    with pytest.raises(UserError, match=r"floating point, but got torch.uint8"):
        encoder.similarity(encoder.encode(TEXTS, precision="ubinary"), encoder.encode(TEXTS))


def test_threads_may_ask_in_different_words(encoder):
    asked = [{"prompt_name": "query"}, {"truncate_dim": 8}, {"normalize_embeddings": True}, {}] * 4
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda how: encoder.encode(TEXTS, **how), asked))
    for embeddings, how in zip(found, asked, strict=True):
        torch.testing.assert_close(embeddings, encoder.encode(TEXTS, **how))
