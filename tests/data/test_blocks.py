from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.data import Wikipedia
from llm2vec_pl.data.blocks.blocks import Blocks, collate_blocks, pack, tokenise, write_blocks
from llm2vec_pl.encoder.tokenizer import TextTokenizer

TEXTS = [f"Article {i}, which is a number." * (i % 7 + 1) for i in range(60)]

token_lists = st.lists(st.lists(st.integers(0, 999), max_size=30), max_size=20)


@given(token_lists, st.integers(1, 17))
def test_blocks_hold_the_stream_without_a_gap(lists: list[list[int]], max_length: int) -> None:
    blocks = list(pack((np.array(tokens, np.uint16) for tokens in lists), max_length))
    assert np.concatenate([[], *blocks]).tolist() == [token for tokens in lists for token in tokens]
    assert all(len(block) == max_length for block in blocks[:-1])
    assert all(0 < len(block) <= max_length for block in blocks[-1:])


@pytest.mark.parametrize(("largest", "dtype"), [(999, np.uint16), (100_000, np.uint32)])
def test_blocks_on_disk_are_those_written(tmp_path: Path, largest: int, dtype: type) -> None:
    stream = np.random.default_rng(0).integers(0, largest, 1_200_003).astype(dtype)
    write_blocks(pack([stream], 100), tmp_path / "blocks.arrow")
    blocks = Blocks(tmp_path / "blocks.arrow")
    assert len(blocks) == 12_001
    assert blocks.num_tokens == len(stream)
    assert blocks[0].dtype == dtype
    assert np.array_equal(np.concatenate([blocks[i] for i in range(len(blocks))]), stream)
    assert np.array_equal(blocks[-1], stream[-3:])
    with pytest.raises(IndexError):
        blocks[12_001]


def test_blocks_are_pickled_by_their_path(tmp_path: Path) -> None:
    write_blocks(pack([np.arange(10_000, dtype=np.uint16)], 10), tmp_path / "blocks.arrow")
    pickled = pickle.dumps(Blocks(tmp_path / "blocks.arrow"))
    assert len(pickled) < 1000
    assert pickle.loads(pickled)[999].tolist() == list(range(9990, 10_000))


def test_the_arrow_file_opens_as_a_data_set(tmp_path: Path) -> None:
    from datasets import Dataset

    write_blocks(pack([np.arange(25, dtype=np.uint16)], 10), tmp_path / "blocks.arrow")
    rows = Dataset.from_file(str(tmp_path / "blocks.arrow"))
    assert rows[2]["input_ids"] == [20, 21, 22, 23, 24]


def test_no_tokens_give_no_blocks(tmp_path: Path) -> None:
    write_blocks(pack([], 10), tmp_path / "blocks.arrow")
    assert len(Blocks(tmp_path / "blocks.arrow")) == 0


@pytest.mark.parametrize("num_proc", [1, 2])
def test_every_text_keeps_its_special_tokens_and_order(tokenizer, num_proc: int) -> None:
    stream = np.concatenate(list(tokenise(TEXTS, tokenizer, num_proc, texts_per_call=7)))
    assert stream.tolist() == [token for text in TEXTS for token in tokenizer(text)["input_ids"]]


def test_a_special_token_spelled_out_in_a_text_is_text(tokenizer) -> None:
    (stream,) = tokenise(["the <mask> token"], tokenizer)
    assert tokenizer.mask_token_id not in stream
    assert tokenizer.decode(stream) == "<s>the <mask> token"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_those_who_want_it_have_it_as_a_special_token(tokenizer, num_proc: int) -> None:
    (stream,) = tokenise(["the <mask> token"], tokenizer, num_proc, control_tokens=True)
    assert tokenizer.mask_token_id in stream


@pytest.mark.parametrize("streaming", [False, True])
def test_blocks_follow_the_rule_of_the_encoder(tokenizer, tmp_path: Path, streaming: bool) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"the <mask> token, {i}" for i in range(50)))
    found = []
    for control_tokens in (False, True):
        text = TextTokenizer(tokenizer, max_length=16, control_tokens=control_tokens)
        data = Wikipedia(str(path), batch_size=4, streaming=streaming).attach(text)
        data.prepare_data()
        data.setup()
        batch = next(iter(data.train_dataloader()))
        found.append(tokenizer.mask_token_id in batch["input_ids"])
    assert found == [False, True]


def test_tokenise_reads_no_further_ahead_than_a_few_calls(tokenizer) -> None:
    read = []

    def texts():
        for i in range(10_000):
            read.append(i)
            yield "text"

    next(tokenise(texts(), tokenizer, num_proc=2, texts_per_call=10))
    assert len(read) <= 100


def test_a_short_block_is_padded_on_the_right() -> None:
    batch = collate_blocks([np.array([5, 6, 7], np.uint16), np.array([8], np.uint16)], 2)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
