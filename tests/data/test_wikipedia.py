from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from llm2vec_pl.data import Wikipedia
from llm2vec_pl.data.files.sources import open_source, split_of
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError

WIKIPEDIA = Path(__file__).parents[3] / "shared" / "data" / "wikipedia"
TEXTS = [f"Article {i}, which is a number. " * (i % 7 + 1) for i in range(300)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "wiki"
    folder.mkdir()
    pq.write_table(pa.table({"text": TEXTS[:200]}), folder / "train-00.parquet")
    pq.write_table(pa.table({"text": TEXTS[200:250]}), folder / "train-01.parquet")
    pq.write_table(pa.table({"text": TEXTS[250:280]}), folder / "valid.parquet")
    pq.write_table(pa.table({"text": TEXTS[280:]}), folder / "test.parquet")
    (folder / "README.md").write_text("about")
    (folder / "sentences.txt").write_text("not of a split")
    return folder


def tokens_of(loader) -> list[int]:
    return [
        token
        for batch in loader
        for tokens, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        for token in tokens[mask.bool()].tolist()
    ]


def rows_of(loader) -> list[list[int]]:
    return [row for batch in loader for row in batch["input_ids"].tolist()]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("stsb_train.jsonl", "train"),
        ("wiki.valid.raw.txt", "validation"),
        ("dev", "validation"),
        ("Test.txt", "test"),
        ("training-data.txt", "train"),
        ("trains.txt", None),
        ("contest.txt", None),
    ],
)
def test_a_split_is_a_word_of_the_name(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_files_named_by_split_are_used_and_the_others_left_out(folder: Path, tokenizer) -> None:
    data = Wikipedia(str(folder), max_length=32, batch_size=4).attach(tokenizer)
    assert list(data.texts("train")) == TEXTS[:250]
    assert list(data.texts("validation")) == TEXTS[250:280]
    data.setup()
    expected = [token for text in TEXTS[250:280] for token in tokenizer(text)["input_ids"]]
    assert tokens_of(data.val_dataloader()) == expected


def test_without_a_validation_split_texts_are_held_out_by_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    texts = [f"text number {i}" for i in range(3000)]
    path.write_text("\n".join(texts))
    data = Wikipedia(str(path))
    train, validation = list(data.texts("train")), list(data.texts("validation"))
    assert sorted(train + validation) == sorted(texts)
    assert 15 <= len(validation) <= 45
    path.write_text("\n".join(reversed(texts)))
    assert list(data.texts("validation")) == validation[::-1]


def test_max_rows_limits_each_split(folder: Path) -> None:
    data = Wikipedia(str(folder), max_rows=20)
    assert list(data.texts("train")) == TEXTS[:20]
    assert list(data.texts("validation")) == TEXTS[250:270]


def test_the_second_run_does_not_tokenise(
    folder: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Wikipedia(str(folder), max_length=32).attach(tokenizer)
    first.prepare_data()
    first.setup()
    monkeypatch.setattr("llm2vec_pl.data.text_blocks.tokenise", None)
    tokenizer(["changes the tokenizer's padding"], padding="max_length", max_length=9)
    second = Wikipedia(str(folder), max_length=32, batch_size=7, seed=3).attach(tokenizer)
    second.prepare_data()
    second.setup()
    assert len(second.blocks["train"]) == len(first.blocks["train"])


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_how_many_tokens_there_are_so_far(
    folder: Path, tokenizer, terminal: bool, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    Wikipedia(str(folder), max_length=32).attach(tokenizer).prepare_data()
    assert ("train tokens: " in capsys.readouterr().err) == terminal


@pytest.mark.parametrize("change", ["file", "max_length", "max_rows", "tokenizer"])
def test_the_cache_is_made_anew_when_its_source_changes(
    folder: Path, cache: Path, tokenizer, change: str
) -> None:
    settings = {"max_length": 32}
    Wikipedia(str(folder), **settings).attach(tokenizer).prepare_data()
    if change == "file":
        pq.write_table(pa.table({"text": TEXTS[:9]}), folder / "train-00.parquet")
    elif change == "tokenizer":
        import copy

        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens(["Article"])
    else:
        settings[change] = 33
    Wikipedia(str(folder), **settings).attach(tokenizer).prepare_data()
    folders = [entry for entry in cache.iterdir() if entry.is_dir()]  # and a lock beside each
    assert len(folders) == 2


def test_skipped_rows_are_reported_each_time(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*TEXTS, None, ""]))
    for _ in range(2):
        shown: list[str] = []
        monkeypatch.setattr("llm2vec_pl.data.text_blocks.rank_zero_info", shown.append)
        Wikipedia(str(path), max_length=32, on_bad_row="skip").attach(tokenizer).setup()
        summary = f"skipped 2 of 302 rows: 1 null, 1 empty (first: {path} line 301)"
        assert shown[-1] == f"Wikipedia: {summary}"
    with pytest.raises(UserError, match="line 301"):
        Wikipedia(str(path), max_length=32).attach(tokenizer).setup()


def test_epochs_differ_and_are_a_function_of_the_seed(folder: Path, tokenizer) -> None:
    def epochs(seed: int, num_workers: int = 0) -> list[list[list[int]]]:
        data = Wikipedia(str(folder), max_length=32, seed=seed, num_workers=num_workers)
        data.attach(tokenizer).setup()
        loader = data.train_dataloader()
        orders = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            orders.append(rows_of(loader))
        return orders

    first, second = epochs(seed=0)
    assert first != second
    assert sorted(first) == sorted(second)
    assert epochs(seed=0, num_workers=2) == [first, second]
    assert epochs(seed=7)[0] != first


class Recorder(LightningModule):
    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.encoder = SimpleNamespace(tokenizer=tokenizer)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[list[int]]] = []

    def training_step(self, batch, index: int) -> torch.Tensor:
        self.epochs += [[]] * (self.current_epoch + 1 - len(self.epochs))
        self.epochs[-1] = [*self.epochs[-1], *batch["input_ids"].tolist()]
        return self.weight * 1.0

    def validation_step(self, batch, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("streaming", "num_workers"), [(False, 0), (True, 0), (True, 1)])
def test_a_trainer_gives_the_tokenizer_and_a_new_order_each_epoch(
    folder: Path, tokenizer, streaming: bool, num_workers: int
) -> None:
    module = Recorder(tokenizer)
    data = Wikipedia(
        str(folder), max_length=32, streaming=streaming, num_workers=num_workers, max_rows=50
    )
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **silent).fit(module, data)
    assert len({str(epoch) for epoch in module.epochs}) == 3
    assert len({str(sorted(epoch)) for epoch in module.epochs}) == 1


def test_two_ranks_take_all_blocks(folder: Path, tokenizer) -> None:
    data = Wikipedia(str(folder), max_length=32).attach(tokenizer)
    data.setup()
    alone = rows_of(data.val_dataloader())
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        shares.append(rows_of(data.val_dataloader()))
    assert {str(row) for row in alone} == {str(row) for share in shares for row in share}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_of_two_ranks_lose_and_double_nothing(
    folder: Path, tokenizer, num_workers: int
) -> None:
    read = Counter[str]()
    for rank in range(2):
        data = Wikipedia(
            str(folder), max_length=32, batch_size=4, num_workers=num_workers, streaming=True
        )
        data.shuffle_buffer = 0
        data.attach(tokenizer)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        data.setup()
        per_reader = [[] for _ in range(max(1, num_workers))]
        for i, batch in enumerate(data.train_dataloader()):
            tokens = batch["input_ids"][batch["attention_mask"].bool()]
            # Workers are asked in turn, until one has no more.
            per_reader[i % len(per_reader)] += tokens.tolist()
        read.update(token for tokens in per_reader for token in tokens)
    expected = Counter(token for text in TEXTS[:250] for token in tokenizer(text)["input_ids"])
    assert read == expected


def test_a_stream_writes_nothing_and_holds_a_buffer(folder: Path, cache: Path, tokenizer) -> None:
    data = Wikipedia(str(folder), max_length=32, streaming=True, shuffle_buffer=5)
    data.attach(tokenizer).prepare_data()
    data.setup()
    rows = rows_of(data.train_dataloader())
    data.blocks = pickle.loads(pickle.dumps(data.blocks))  # what spawned workers get
    assert rows_of(data.train_dataloader()) == rows
    data.shuffle_buffer = 0
    data.setup()
    in_order = rows_of(data.train_dataloader())
    assert rows != in_order
    assert sorted(rows) == sorted(in_order)
    assert not cache.exists()


def test_without_a_tokenizer_the_error_says_how_to_give_one(folder: Path) -> None:
    with pytest.raises(UserError, match=r"attach\(encoder\)"):
        Wikipedia(str(folder)).setup()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, r"`path='.*missing\.txt'` does not exist"),
        ("a.docx", "x", r"unknown extension.*\.txt"),
        ("a.txt", "\n\n", "no text to train on"),
        ("a.jsonl", "", "no text to train on"),
    ],
)
def test_a_path_without_text_is_a_clear_error(
    tmp_path: Path, tokenizer, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Wikipedia(str(tmp_path / name)).attach(tokenizer).setup()


def test_an_empty_folder_and_one_of_several_kinds_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no file to train on.*\.jsonl"):
        Wikipedia(str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"several kinds: \.jsonl, \.txt"):
        Wikipedia(str(tmp_path))


def test_a_number_out_of_range_names_its_flag() -> None:
    with pytest.raises(UserError, match="`batch_size` expects at least 1, but got 0"):
        Wikipedia(batch_size=0)


def test_wikitext_is_the_default_and_its_empty_lines_separate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datasets import Dataset, DatasetDict

    def fake(path: str, subset: str | None, streaming: bool) -> DatasetDict:
        assert (path, subset) == ("Salesforce/wikitext", "wikitext-103-raw-v1")
        part = Dataset.from_dict({"text": ["", " = Title = \n", "", "Text. \n"]})
        other = Dataset.from_dict({"text": ["", "Other text. \n"]})
        return DatasetDict(train=part, validation=other, test=other)

    monkeypatch.setattr("datasets.load_dataset", fake)
    assert list(Wikipedia().texts("train")) == [" = Title = \n", "Text. \n"]


def test_a_hub_data_set_that_cannot_be_had_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr("datasets.load_dataset", offline)
    source = open_source("some/data", None, "text", streaming=False)
    with pytest.raises(UserError, match=r"not a local file.* loaded from the hub.*offline"):
        next(source.rows("train"))


@pytest.mark.skipif(not WIKIPEDIA.is_dir(), reason="needs ../shared/data/wikipedia")
def test_real_articles_are_read_from_their_splits(tokenizer) -> None:
    data = Wikipedia(str(WIKIPEDIA), max_length=128, max_rows=50).attach(tokenizer)
    data.setup()
    assert len(data.blocks["train"]) > 100
    assert len(data.blocks["validation"]) > 100


@pytest.mark.parametrize(("given", "length"), [(None, 24), (24, 24), (32, 32)])
def test_blocks_have_the_encoders_length_unless_another_is_given_which_is_said(
    folder: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, given: int | None, length: int
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.text_blocks.rank_zero_info", shown.append)
    monkeypatch.setattr("llm2vec_pl.data.wikipedia.rank_zero_info", shown.append)
    encoder = SimpleNamespace(tokenizer=tokenizer, tokenize=TextTokenizer(tokenizer, max_length=24))
    for streaming in (False, True):
        data = Wikipedia(str(folder), max_length=given, streaming=streaming)
        data.attach(encoder).setup()  # type: ignore[arg-type]
        assert {len(row) for row in rows_of(data.train_dataloader())} == {length}
        said = "`data.max_length`; `encoder.max_length` is 24" in "".join(shown)
        assert said == (length != 24)
        shown.clear()


def test_a_training_text_that_is_a_validation_text_is_left_out_and_counted(
    tmp_path: Path, tokenizer
) -> None:
    for name, lines in {"train": ["one", "two  words", "three"], "valid": ["two words"]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    data = Wikipedia(str(tmp_path), max_length=8).attach(tokenizer)
    assert list(data.texts("train")) == ["one", "three"]
    data.prepare_data()
    assert any("1 training texts left out" in note for note in data._notes)
