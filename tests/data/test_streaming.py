from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from llm2vec_pl.data import Wikipedia
from llm2vec_pl.data.blocks import stream_loader
from llm2vec_pl.data.blocks.placed_blocks import placed_blocks, shuffled_in_groups
from llm2vec_pl.data.blocks.stream_loader import StreamLoader
from llm2vec_pl.data.files.rows import Row
from llm2vec_pl.data.files.shards import Shard, ShardFilter
from llm2vec_pl.data.files.sources import HubDataset, LocalFiles
from llm2vec_pl.data.files.splits import SplitTexts
from llm2vec_pl.errors import UserError

TEXTS = [f"Article {i} is one. " * (i % 5 + 1) for i in range(90)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, start in enumerate((0, 40, 45)):
        rows = [{"text": text} for text in TEXTS[start : (40, 45, 90)[number]]]
        (folder / f"train-{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "valid.jsonl").write_text('{"text": "held out"}')
    return folder


def loader_of(
    folder: Path, tokenizer, num_workers: int = 0, rank: int = 0, world_size: int = 1, **options
) -> StreamLoader:
    options = {"max_length": 16, "batch_size": 3, "shuffle_buffer": 7, **options}
    data = Wikipedia(str(folder), streaming=True, **options).attach(tokenizer)
    data.setup()
    return StreamLoader(data.blocks["train"], rank, world_size, num_workers)  # type: ignore[arg-type]


def rows_of(batches: Any) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_a_stream_goes_on_with_the_very_next_batch(
    folder: Path, tokenizer, num_workers: int
) -> None:
    whole = rows_of(loader_of(folder, tokenizer, num_workers))
    assert len(whole) > 20
    for stop in (1, 2, 13, len(whole) - 1) if num_workers else range(1, len(whole)):
        first = loader_of(folder, tokenizer, num_workers)
        before = rows_of(islice(first, stop))
        second = loader_of(folder, tokenizer, num_workers)
        second.load_state_dict(json.loads(json.dumps(first.state_dict()), object_hook=int_keys))
        assert before + rows_of(second) == whole


def int_keys(state: dict[str, Any]) -> dict[Any, Any]:
    return {int(key) if key.isdecimal() else key: value for key, value in state.items()}


def test_the_next_epoch_after_a_resume_is_a_whole_one(folder: Path, tokenizer) -> None:
    first = loader_of(folder, tokenizer)
    list(islice(first, 5))
    second = loader_of(folder, tokenizer)
    second.load_state_dict(first.state_dict())
    list(second)
    second.sampler.set_epoch(1)  # type: ignore[attr-defined]
    first.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert rows_of(second) == rows_of(first)


def test_a_state_at_an_epochs_end_goes_on_with_the_next(folder: Path, tokenizer) -> None:
    first = loader_of(folder, tokenizer)
    list(first)
    second = loader_of(folder, tokenizer)
    second.load_state_dict(first.state_dict())
    first.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert rows_of(second) == rows_of(first)


def test_another_batch_size_goes_on_with_the_very_next_block(folder: Path, tokenizer) -> None:
    whole = [*chain.from_iterable(rows_of(loader_of(folder, tokenizer)))]
    first = loader_of(folder, tokenizer)
    before = rows_of(islice(first, 5))
    second = loader_of(folder, tokenizer, batch_size=7)
    second.load_state_dict(first.state_dict())
    after = rows_of(second)
    assert len(after[0]) == 7
    assert [row[:9] for row in [*chain.from_iterable(before + after)]] == [row[:9] for row in whole]


class Ranks:
    """Loaders of several ranks, with their states gathered as torch.distributed does it."""

    def __init__(
        self, folder: Path, tokenizer, world_size: int, num_workers: int, monkeypatch
    ) -> None:
        self.loaders = [
            loader_of(folder, tokenizer, num_workers, rank, world_size)
            for rank in range(world_size)
        ]
        self.monkeypatch = monkeypatch
        self.running = [iter(loader) for loader in self.loaders]

    def state(self) -> dict[str, Any]:
        states: list[Any] = []

        def gather(found: list[Any], state: Any) -> None:
            states.append(state)
            found[:] = (states * len(found))[: len(found)]

        self.monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        for loader in self.loaders:
            state = loader.state_dict()
        return state  # the last knows all

    def batches(self, count: int) -> Iterator[list[list[int]]]:
        for _ in range(count):
            for batch in [next(running) for running in self.running]:
                yield batch["input_ids"].tolist()


@pytest.mark.parametrize(
    ("world_size", "num_workers"), [(2, 2), (1, 4), (4, 0), (4, 1), (2, 0), (1, 0), (1, 2)]
)
def test_other_ranks_and_workers_go_on_in_the_same_global_order(
    folder: Path, tokenizer, monkeypatch, world_size: int, num_workers: int
) -> None:
    """An epoch that 2 ranks with 2 workers each began, killed after 6 global batches."""
    whole = list(Ranks(folder, tokenizer, 2, 2, monkeypatch).batches(10))
    first = Ranks(folder, tokenizer, 2, 2, monkeypatch)
    assert list(first.batches(3)) == whole[:6]
    state = first.state()
    second = Ranks(folder, tokenizer, world_size, num_workers, monkeypatch)
    for loader in second.loaders:
        loader.load_state_dict(state)
    assert list(second.batches(12 // world_size))[:12] == whole[6:18]
    third = Ranks(folder, tokenizer, 2, 2, monkeypatch)  # and back, from a state of theirs
    state = second.state()
    for loader in third.loaders:
        loader.load_state_dict(state)
    assert list(third.batches(1)) == whole[18:20]


def test_more_readers_than_began_are_refused_with_what_to_set(folder: Path, tokenizer) -> None:
    first = loader_of(folder, tokenizer, num_workers=2)
    list(islice(first, 3))
    second = loader_of(folder, tokenizer, num_workers=3)
    second.load_state_dict(first.state_dict())
    with pytest.raises(UserError, match=r"2 readers.*3 processes.*`num_workers`"):
        next(iter(second))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text("ab cd", max_size=40), max_size=30),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(0, 30),
)
def test_blocks_begin_again_at_any_cursor(
    tokenizer, texts: list[str], max_length: int, group_size: int, stop: int
) -> None:
    def blocks(row: int, offset: int, handed_out: int):
        numbered = list(enumerate(texts))[row:]
        placed = placed_blocks(numbered, tokenizer, max_length, offset)
        return list(shuffled_in_groups(placed, group_size, "seed", handed_out))

    whole = blocks(0, 0, 0)
    stream = [token for text in texts for token in tokenizer(text)["input_ids"]]
    assert sorted(token for tokens, _ in whole for token in tokens) == sorted(stream)
    for _, cursor in whole[stop : stop + 1]:
        rest = [(tokens.tolist(), c) for tokens, c in whole[stop + 1 :]]
        assert [(tokens.tolist(), c) for tokens, c in blocks(*cursor)] == rest


@given(st.integers(0, 4), st.integers(0, 9), st.lists(st.integers(0, 20), max_size=6))
def test_a_picker_picks_every_nth_row_of_several_files(
    reader: int, start: int, files: list[int]
) -> None:
    share = Shard(reader, 5, start)
    expected = list(range(sum(files)))[share.first :: 5]
    one_by_one, by_file = ShardFilter(share), ShardFilter(share)
    assert [row for row in range(sum(files)) if one_by_one.wants()] == expected
    begin, found = 0, []
    for rows in files:
        if not by_file.passes(rows):
            found += [begin + row for row in by_file.wanted(rows)]
        begin += rows
    assert found == expected


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "tsv", "txt", "parquet"])
def test_shares_of_files_are_the_rows_between_them(tmp_path: Path, kind: str) -> None:
    rows = [f"text {i}" for i in range(50)]
    for part, some in enumerate((rows[:17], rows[17:])):
        path = tmp_path / f"train-{part}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"text": some}), path, row_group_size=5)
        elif kind.startswith("jsonl"):
            opener: Any = gzip.open if kind.endswith("gz") else open
            with opener(path, "wt") as file:
                file.write("\n\n".join(json.dumps({"text": text}) for text in some))
        else:
            path.write_text("\n".join([*([] if kind == "txt" else ["text"]), *some]))
    source = LocalFiles(tmp_path, "text")
    every = list(source.rows("train"))
    assert [row.value for row in every] == rows
    for share in (Shard(), Shard(1, 3), Shard(2, 3, start=7), Shard(0, 2, start=9)):
        assert list(source.rows("train", share)) == every[share.first :: share.readers]


def test_files_are_dealt_out_to_readers_of_a_streamed_data_set(tmp_path: Path) -> None:
    for part in range(4):
        rows = [{"text": f"{part} {i}"} for i in range(7)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def texts(share: Shard | None) -> list[str]:
        source = HubDataset("json", None, "text", True, str(tmp_path / "*.jsonl"))
        return [str(row.value) for row in source.rows("train", share)]

    every = texts(None)
    two = [texts(Shard(reader, 2)) for reader in range(2)]
    assert two == [every[:14], every[14:]]
    assert texts(Shard(1, 2, start=3)) == two[1][3:]
    assert texts(Shard(1, 3, start=2)) == every[7::3]
    assert texts(Shard(1, 2, stop=20)) == every[1::2]


def test_max_rows_are_those_of_all_readers_together(folder: Path, tokenizer) -> None:
    alone = [
        *chain.from_iterable(rows_of(loader_of(folder, tokenizer, max_rows=31, max_length=400)))
    ]
    shared = [
        *chain.from_iterable(rows_of(loader_of(folder, tokenizer, 2, max_rows=31, max_length=400)))
    ]

    def tokens(rows: list[list[int]]) -> list[int]:
        return sorted(token for row in rows for token in row if token != tokenizer.pad_token_id)

    assert tokens(shared) == tokens(alone)


def test_overfitting_a_stream_is_refused_with_what_to_do(folder: Path, tokenizer) -> None:
    data = Wikipedia(str(folder), streaming=True).attach(tokenizer)
    data.trainer = Trainer(overfit_batches=1, logger=False, enable_checkpointing=False)
    data.setup()
    with pytest.raises(UserError, match=r"`Trainer\(limit_train_batches=N\)`"):
        data.train_dataloader()


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ten_times_the_rows_cost_no_more_memory(tmp_path: Path, tokenizer, kind: str) -> None:
    """By hand, for 10 million rows: python tests/data/stream_memory.py FILE tokenizer.json."""
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    peaks = []
    for count in (40_000, 400_000):
        path = tmp_path / f"{count}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"text": [f"row {i}" for i in range(count)]}), path)
        else:
            path.write_text("\n".join(f'{{"text": "row {i}"}}' for i in range(count)))
        script = str(Path(__file__).with_name("stream_memory.py"))
        command = [sys.executable, script, str(path), str(tmp_path / "tokenizer.json")]
        alone = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "ARROW_DEFAULT_MEMORY_POOL": "system",  # others keep what they have given back
        }
        printed = subprocess.run(command, env=alone, capture_output=True, check=True, text=True)
        measured = json.loads(printed.stdout.splitlines()[-1])
        assert measured["tokens"] > 5 * count
        peaks.append(measured["kb"])
    assert peaks[1] - peaks[0] < 12_000  # kB


class Counted:
    """Rows in memory, and how many of them were read."""

    notes: tuple[str, ...] = ()
    splits = frozenset({"train"})

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.read = 0

    def rows(self, split: str, share: Shard | None = None) -> Iterator[Row]:
        share = share or Shard()
        for number in range(share.first, len(self.texts), share.readers):
            self.read += 1
            yield Row(self.texts[number], "memory", number + 1, "row")


def test_a_stream_is_validated_on_a_sample_that_is_read_once() -> None:
    source = Counted([f"text {i}" for i in range(20_000)])
    texts = SplitTexts(source, "error", None, sampled=True)
    first = list(texts.read("validation"))
    assert source.read == 1000
    assert len(first) == 100
    assert list(texts.read("validation")) == first
    assert next(texts.read("train"))
    assert source.read < 1100  # before the first step
    train = list(texts.read("train"))
    assert len(train) == 19_900
    assert set(train).isdisjoint(first)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.sampled_from(["a b", "a  b", "c", "d e", "f", "g", "h", "i"]), max_size=40),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 30)),
)
def test_no_text_of_a_stream_is_on_both_sides(
    rows: list[str], readers: int, max_rows: int | None
) -> None:
    """Nor one that differs in nothing but blanks."""
    texts = SplitTexts(Counted(rows), "error", max_rows, sampled=True)
    train, validation = (
        {
            " ".join(text.split())
            for reader in range(readers)
            for _, text in texts.numbered(split, Shard(reader, readers))
        }
        for split in ("train", "validation")
    )
    assert train.isdisjoint(validation)
    assert train | validation == {" ".join(text.split()) for text in rows[:max_rows]}
    assert bool(validation) == (len(train | validation) > 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_without_a_validation_split_goes_on_and_trains_on_the_rest(
    folder: Path, tokenizer, num_workers: int
) -> None:
    (folder / "valid.jsonl").unlink()
    whole = rows_of(loader_of(folder, tokenizer, num_workers))
    first = loader_of(folder, tokenizer, num_workers)
    before = rows_of(islice(first, 7))
    second = loader_of(folder, tokenizer, num_workers)
    second.load_state_dict(first.state_dict())
    assert before + rows_of(second) == whole
    data = Wikipedia(str(folder), streaming=True, max_length=400).attach(tokenizer)
    data.setup()
    loaders = (data.train_dataloader(), data.val_dataloader())
    train, validation = (
        "".join(tokenizer.decode(row, skip_special_tokens=True) for batch in rows for row in batch)
        for rows in map(rows_of, loaders)
    )
    held_out = [text for text in TEXTS if text in validation]
    assert len(held_out) == 9
    assert not [text for text in held_out if text in train]


@pytest.mark.parametrize(
    ("having", "expected"), [([False], "no text to train on"), ([True, False], "for rank 1")]
)
def test_a_stream_without_a_step_is_an_error_not_an_epoch_after_the_other(
    monkeypatch: pytest.MonkeyPatch, having: list[bool], expected: str
) -> None:
    monkeypatch.setattr(stream_loader, "_ranks_with", lambda turn: having)
    with pytest.raises(UserError, match=expected):
        next(stream_loader._until_one_ends(iter([]), is_whole=True))
    assert list(stream_loader._until_one_ends(iter([]), is_whole=False)) == []
