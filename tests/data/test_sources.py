from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from llm2vec_pl.data import E5, Wikipedia, WikipediaSentences
from llm2vec_pl.data.files.shards import Shard
from llm2vec_pl.data.files.sources import HubDataset, LocalFiles
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """Gives these splits in the place of the hub's."""

    def give(**splits: list[dict[str, Any]]) -> None:
        def load(path: str, subset: str | None, streaming: bool, **options: Any) -> Any:
            found = {name: Dataset.from_list(rows) for name, rows in splits.items()}
            if streaming:
                return {name: part.to_iterable_dataset() for name, part in found.items()}
            return DatasetDict(found)

        monkeypatch.setattr("datasets.load_dataset", load)

    return give


def rows(name: str, count: int = 7) -> list[dict[str, Any]]:
    return [{"text": f"{name} {i}"} for i in range(count)]


@pytest.mark.parametrize("streaming", [False, True])
def test_all_of_the_hubs_splits_of_one_name_are_read(hub, streaming: bool) -> None:
    hub(train_sft=rows("sft"), test_sft=rows("test"), train_gen=rows("gen"), unsupervised=rows("u"))
    source = HubDataset("some/chat", None, "text", streaming)
    found = list(source.rows("train"))
    assert [row.value for row in found] == [row["text"] for row in rows("sft") + rows("gen")]
    assert [found[6].place, found[7].place] == [
        "some/chat (train_sft) row 7",
        "some/chat (train_gen) row 1",
    ]
    assert source.splits == {"train", "test", "unsupervised"}
    assert source.notes == [
        "train is read from train_sft and train_gen",
        "splits left out: unsupervised",
    ]
    shares = (Shard(0, 2), Shard(1, 2), Shard(1, 3, start=2), Shard(0, 2, start=5, stop=14))
    for share in shares if streaming else ():
        shared = [row.value for row in source.rows("train", share)]
        assert shared == [row.value for row in found[share.first :: share.readers]]


def test_a_column_has_to_be_in_all_of_them(hub) -> None:
    hub(train_a=rows("a"), train_b=[{"body": "b"}])
    source = HubDataset("some/data", None, "text", streaming=False)
    with pytest.raises(UserError, match="no column 'text'"):
        list(source.rows("train"))


def test_a_stream_that_does_not_know_its_columns_is_asked_for_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n')
    source = HubDataset("json", None, "text", True, str(tmp_path / "*.jsonl"))
    with pytest.raises(UserError, match=r"no column 'text'; its columns are: body\."):
        list(source.rows("train"))


def test_an_only_split_is_trained_on_whatever_its_name_and_that_is_said(hub) -> None:
    hub(test=rows("a"))
    source = HubDataset("some/data", None, "text", streaming=False)
    assert len(list(source.rows("train"))) == 7
    assert source.notes == ["train is read from test"]


def test_each_task_says_which_splits_it_is_read_from(hub, tokenizer) -> None:
    pairs = {
        name: [{"query": f"{name} {i}", "positive": f"of {name} {i}"} for i in range(10)]
        for name in ("train_sft", "train_gen")
    }
    hub(**pairs)
    data = E5("some/chat").attach(TextTokenizer(tokenizer, 32))
    data.setup()
    assert len(data.tasks[0].train) + len(data.tasks[0].validation) == 20
    assert "train is read from train_sft and train_gen" in data.tasks[0].notes


def test_files_that_are_not_read_are_named(tmp_path: Path, tokenizer, monkeypatch) -> None:
    folder = tmp_path / "texts"  # beside the cache
    folder.mkdir()
    for name in ("train-1.txt", "train-2.txt", "more.txt"):
        (folder / name).write_text("\n".join(f"{name} {i}" for i in range(50)))
    (folder / "train-3.txt.zst").write_bytes(b"")
    notes = [
        "left out (no split in the name, while other names say train): more.txt",
        "left out (unknown kind of file): train-3.txt.zst",
    ]
    assert LocalFiles(folder, "text").notes == notes
    shown: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.wikipedia.rank_zero_info", shown.append)
    Wikipedia(str(folder), max_length=16).attach(tokenizer).setup()
    assert shown == [f"Wikipedia: {note}" for note in notes]
    sentences = WikipediaSentences(str(folder)).attach(TextTokenizer(tokenizer, 32))
    sentences.setup()
    assert sentences.tasks[0].notes == notes


def test_an_e5_folder_names_what_it_does_not_read(tmp_path: Path, tokenizer, monkeypatch) -> None:
    pairs = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(20)]
    (tmp_path / "nq.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "fever.jsonl.bz2").write_bytes(b"")
    (tmp_path / "more").mkdir()
    shown: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.e5.rank_zero_info", shown.append)
    E5(str(tmp_path)).attach(TextTokenizer(tokenizer, 32)).setup()
    line = "E5: left out (a folder, or an unknown kind of file): fever.jsonl.bz2, more"
    assert shown[-1] == line
