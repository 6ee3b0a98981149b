import pytest
import torch

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.lengths import require, send, text_lengths
from llm2vec_pl.encoder.tokenizer import join, take


def batch_of(lengths: list[int], width: int) -> dict[str, object]:
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.ones_like(mask)
    return {"input_ids": ids, "attention_mask": mask, "text_lengths": tuple(lengths)}


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_lengths_are_whole_numbers_whatever_the_mask_is_made_of(dtype):
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).to(dtype)
    assert text_lengths(mask) == text_lengths(mask, (2, 1)) == (2, 1)
    assert all(type(length) is int for length in text_lengths(mask))


@pytest.mark.parametrize("told", [(2,), (2, 1, 1), (2, 4)])
def test_lengths_that_no_such_mask_has_are_an_error(told):
    with pytest.raises(ValueError, match=r"its attention_mask has shape \(2, 3\)"):
        text_lengths(torch.tensor([[1, 1, 0], [1, 0, 0]]), told)


def test_lengths_of_another_mask_are_an_error():
    with pytest.raises(RuntimeError, match="text_lengths do not match its attention_mask"):
        text_lengths(torch.tensor([[1, 1, 0], [1, 0, 0]]), (1, 2))


def test_the_lengths_of_joined_and_taken_texts_are_known_where_all_are():
    first, second = batch_of([2, 1], 2), batch_of([3], 3)
    joined = join([first, second])
    assert joined["text_lengths"] == (2, 1, 3)
    taken = take(joined, [2, 1], 3)
    assert taken["text_lengths"] == (3, 1)
    assert taken["attention_mask"].sum(dim=1).tolist() == [3, 1]
    assert take(joined, [2, 1], 2)["text_lengths"] == (2, 1)
    del second["text_lengths"]
    assert "text_lengths" not in join([first, second])
    assert "text_lengths" not in take(second, [0], 2)


@pytest.mark.parametrize("padding_free", [True, False])
def test_a_batch_has_the_same_embeddings_with_its_lengths_as_without(llama_folder, padding_free):
    encoder = Encoder(llama_folder, lora_rank=0, padding_free=padding_free).load().eval()
    batch = encoder.tokenize(["one text", "another text, which is longer", "a third"])
    lengths = tuple(batch["attention_mask"].sum(dim=1).tolist())
    assert torch.equal(encoder({**batch, "text_lengths": lengths}), encoder(batch))


def test_what_does_not_hold_is_an_error():
    require(torch.tensor(True), "fine")
    with pytest.raises(RuntimeError, match="not fine"):
        require(torch.tensor(False), "not fine")


@pytest.mark.parametrize("values", [[1, 2], torch.tensor([1, 2]), 3])
def test_what_is_sent_arrives(values):
    assert torch.equal(send(values, torch.device("cpu")), torch.as_tensor(values))
