import gc
import weakref

import pytest
import torch

from llm2vec_pl.encoder.lengths import TEXT_LENGTHS, Notes, send, text_lengths
from llm2vec_pl.encoder.tokenizer import join, take


def noted(lengths: list[int], width: int) -> dict[str, torch.Tensor]:
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    TEXT_LENGTHS.write(mask, lengths)
    return {"input_ids": torch.ones_like(mask), "attention_mask": mask}


def test_a_fact_belongs_to_the_very_tensor():
    notes = Notes()
    tensor = torch.zeros(3)
    notes.write(tensor, "three zeros")
    assert notes.read(tensor) == "three zeros"
    assert notes.read(tensor[:2]) is None
    assert notes.read(tensor.clone()) is None


def test_a_tensor_that_was_changed_is_not_known_any_more():
    mask = torch.ones(2, 3)
    TEXT_LENGTHS.write(mask, [3, 3])
    mask[0, 2] = 0
    assert text_lengths(mask) == [2, 3]


def test_a_fact_ends_with_its_tensor():
    notes = Notes()
    tensor, fact = torch.zeros(3), torch.ones(1)
    notes.write(tensor, fact)
    gone = weakref.ref(fact)
    del tensor, fact
    gc.collect()
    assert gone() is None


def test_tensors_of_the_inference_mode_can_be_known():
    with torch.inference_mode():
        mask = torch.ones(2, 3)
        TEXT_LENGTHS.write(mask, [3, 3])
        assert TEXT_LENGTHS.read(mask) == [3, 3]


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_lengths_are_whole_numbers_whatever_the_mask_is_made_of(dtype):
    lengths = text_lengths(torch.tensor([[1, 1, 0], [1, 0, 0]]).to(dtype))
    assert lengths == [2, 1]
    assert all(type(length) is int for length in lengths)


def test_the_lengths_of_joined_and_taken_texts_are_known_where_all_are():
    first, second = noted([2, 1], 2), noted([3], 3)
    joined = join([first, second])
    assert TEXT_LENGTHS.read(joined["attention_mask"]) == [2, 1, 3]
    taken = take(joined, [2, 1], 3)
    assert TEXT_LENGTHS.read(taken["attention_mask"]) == [3, 1]
    assert taken["attention_mask"].sum(dim=1).tolist() == [3, 1]
    unknown = {key: value.clone() for key, value in second.items()}
    assert TEXT_LENGTHS.read(join([first, unknown])["attention_mask"]) is None


@pytest.mark.parametrize("values", [[1, 2], torch.tensor([1, 2]), 3])
def test_what_is_sent_arrives(values):
    assert torch.equal(send(values, torch.device("cpu")), torch.as_tensor(values))
