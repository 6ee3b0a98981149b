from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import spawn
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from silent import SILENT

from llm2vec_pl.data.contrastive_data import ContrastiveData
from llm2vec_pl.data.examples.contrastive_batch import Task, TextBatch, Tokenised
from llm2vec_pl.data.examples.example import Example
from llm2vec_pl.data.examples.examples import ListedExamples
from llm2vec_pl.data.examples.instructions import Instruction
from llm2vec_pl.data.examples.token_counts import CHARACTERS_PER_TOKEN
from llm2vec_pl.data.files.splits import SPLITS
from llm2vec_pl.data.files.text_ids import text_id
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError


def numbered(name: str, count: int, negatives: int = 0) -> ListedExamples:
    return ListedExamples(
        [
            Example(
                f"{name} query {i}",
                f"{name} positive {i}" + " word" * (i % 5),
                [f"{name} negative {i} {n}" for n in range(negatives)],
            )
            for i in range(count)
        ]
    )


class Numbers(ContrastiveData):
    """Two tasks of numbered texts, one of them with negatives."""

    def __init__(
        self,
        size: int = 30,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
        max_tokens: int | None = None,
    ):
        super().__init__(batch_size, num_workers, seed, max_tokens)
        self.size = size

    def read_tasks(self) -> list[Task]:
        plain, hard = numbered("plain", self.size), numbered("hard", self.size // 2, negatives=2)
        several = Instruction(("find: ", "seek: "), symmetric=True)
        return [
            Task("plain", plain, numbered("held out", 9)),
            Task("hard", hard, numbered("held out", 0), several),
        ]


@pytest.fixture
def text(tokenizer) -> TextTokenizer:
    return TextTokenizer(tokenizer, max_length=64)


@pytest.fixture
def data(text) -> Numbers:
    numbers = Numbers().attach(text)
    numbers.setup()
    return numbers


def decoded(text: TextTokenizer, batch: dict[str, torch.Tensor], mask: str) -> list[str]:
    rows = zip(batch["input_ids"], batch[mask].bool(), strict=True)
    return [text.tokenizer.decode(ids[chosen]) for ids, chosen in rows]


def test_a_batch_has_queries_positives_and_negatives_of_one_task(data: Numbers, text) -> None:
    kinds = set()
    for batch in data.train_dataloader():
        queries = decoded(text, batch["query"], "pooling_mask")
        positives = decoded(text, batch["positive"], "pooling_mask")
        names = [query.replace("query ", "").split() for query in queries]
        assert len({name for name, _ in names}) == 1
        kinds.add(names[0][0])
        for (name, number), positive in zip(names, positives, strict=True):
            assert positive.strip().startswith(f"{name} positive {number}")
        if names[0][0] == "plain":
            assert "negative" not in batch
            continue
        owners = batch["negative"]["query_index"].tolist()
        negatives = decoded(text, batch["negative"], "pooling_mask")
        assert owners == [row for row in range(len(queries)) for _ in range(2)]
        for owner, negative in zip(owners, negatives, strict=True):
            assert negative.strip().startswith(f"hard negative {names[owner][1]} ")
    assert kinds == {"plain", "hard"}


def test_its_prompts_are_the_tasks_instructions(data: Numbers) -> None:
    assert data.prompts == {"hard": "find: "}


@pytest.mark.parametrize(
    ("symmetric", "expected"),
    [(False, {"query": "find: "}), (True, {"query": "find: ", "document": "find: "})],
)
def test_what_all_tasks_write_is_written_before_any_query(
    data: Numbers, symmetric: bool, expected: dict[str, str]
) -> None:
    shared = Instruction(("find: ",), symmetric)
    data.tasks = [replace(task, instruction=shared) for task in data.tasks]
    assert data.prompts == {"plain": "find: ", "hard": "find: ", **expected}


def test_a_batch_draws_one_instruction_and_gives_it_to_both_sides(data: Numbers, text) -> None:
    drawn = set()
    for batch in data.train_dataloader():
        heads = {
            part: {row.split()[0] for row in decoded(text, tokens, "attention_mask")}
            for part, tokens in batch.items()
        }
        if "negative" in heads:
            assert heads["query"] == heads["positive"] == heads["negative"]
            drawn |= heads["query"]
        else:
            assert heads["query"] == heads["positive"] == {"<s>plain"}
    assert drawn == {"<s>find:", "<s>seek:"}


def test_an_asymmetric_instruction_stands_before_queries_alone(text) -> None:
    batch = TextBatch("a", ["one", "two"], ["three", "four"], ["five"], [1], "find: ", "")
    tokens = Tokenised(text)(batch)
    assert decoded(text, tokens["query"], "attention_mask")[0].startswith("<s>find:")
    assert decoded(text, tokens["positive"], "attention_mask")[0].startswith("<s>three")
    assert tokens["negative"]["query_index"].tolist() == [1]


def test_equal_texts_have_equal_ids_whatever_stands_before_them(text) -> None:
    batch = TextBatch("a", ["one", "two"], ["one ", "Two"], ["two"], [0], "find: ", "")
    tokens = Tokenised(text)(batch)
    assert tokens["query"]["text_id"].tolist() == [text_id("one"), text_id("two")]
    assert tokens["positive"]["text_id"][0] == tokens["query"]["text_id"][0]
    assert tokens["positive"]["text_id"][1] != tokens["query"]["text_id"][1]
    assert tokens["negative"]["text_id"].tolist() == [text_id("two")]


@pytest.mark.parametrize("word", ["word ", "     ", "é"])
def test_a_very_long_text_gives_the_tokens_of_its_beginning(text, word: str) -> None:
    long = word * 20_000
    tokens = Tokenised(text).tokens([long, "short"], "find: ")
    expected = text([long, "short"], "find: ")
    assert all(torch.equal(tokens[key], expected[key]) for key in expected)
    assert tokens["text_id"][0] == text_id(long)


def test_only_what_can_matter_of_a_long_text_is_tokenised(text, monkeypatch) -> None:
    given: list[list[str]] = []
    tokenise = TextTokenizer.__call__

    def spy(self, texts, instruction=""):
        given.append(list(texts))
        return tokenise(self, texts, instruction)

    monkeypatch.setattr(TextTokenizer, "__call__", spy)
    Tokenised(text).tokens(["word " * 100_000, "short"], "")
    assert [len(each) for each in given[0]] == [CHARACTERS_PER_TOKEN * 64, 5]
    assert len(given) == 1


def test_workers_give_the_same_batches(data: Numbers) -> None:
    def ids() -> list[list[int]]:
        return [batch["query"]["text_id"].tolist() for batch in data.train_dataloader()]

    alone = ids()
    data.num_workers = 2
    assert ids() == alone


def test_validation_is_the_same_whatever_the_seed(text) -> None:
    orders = []
    for seed in (0, 1):
        data = Numbers(seed=seed).attach(text)
        data.setup()
        orders.append([b["query"]["text_id"].tolist() for b in data.val_dataloader()])
    assert orders[0] == orders[1]
    assert sum(map(len, orders[0])) == 8  # of 9: one is left over


def test_rows_and_batches_and_what_is_left_over_are_said(text, monkeypatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.contrastive_data.rank_zero_info", shown.append)
    Numbers(size=33).attach(text).setup("fit")
    assert shown == [
        "Numbers: plain: 33 train + 9 validation examples",
        "Numbers: hard: 16 train + 0 validation examples",
        "Numbers: 12 train batches of 4 examples; rows left over: 1 of plain",
        "Numbers: 2 validation batches of 4 examples; rows left over: 1 of plain",
    ]


def test_the_limits_of_batches_by_tokens_are_said(text, monkeypatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.contrastive_data.rank_zero_info", shown.append)
    data = Numbers(size=70, batch_size=64, max_tokens=250).attach(text)
    data.setup("fit")
    rows = [sum(len(batch.queries) for batch in data.text_batches(s)) for s in SPLITS]
    batches = [len(data.batches(split)) for split in SPLITS]
    (left,) = data.batches("train").left_over.items()
    limits = "batches of at most 64 examples and 250 tokens"
    assert shown[2:] == [
        f"Numbers: {batches[0]} train {limits}, {rows[0] / batches[0]:.1f} on average; "
        f"rows left over: {left[1]} of {left[0]}",
        f"Numbers: {batches[1]} validation {limits}, {rows[1] / batches[1]:.1f} on average",
    ]


def test_batches_by_tokens_hold_no_more_and_are_the_same_with_workers(text) -> None:
    seen = []
    for num_workers in (0, 2):
        data = Numbers(batch_size=64, max_tokens=640, num_workers=num_workers).attach(text)
        data.prepare_data()
        data.setup()
        loaders = [data.train_dataloader(), data.val_dataloader()]
        batches = [batch for loader in loaders for batch in loader]  # type: ignore[union-attr]
        sizes = [sum(int(p["attention_mask"].sum()) for p in b.values()) for b in batches]
        assert max(sizes) <= 640
        seen.append([batch["query"]["text_id"].tolist() for batch in batches])
    assert seen[0] == seen[1]
    assert len({len(ids) for ids in seen[0]}) > 1


def test_too_small_a_budget_of_tokens_says_what_is_enough(text) -> None:
    with pytest.raises(UserError, match=r"`max_tokens=50` is too small for plain: .* Set at"):
        Numbers(max_tokens=50).attach(text).setup()


def test_too_few_examples_for_one_batch_are_an_error(text) -> None:
    with pytest.raises(UserError, match="needs at least 2 examples of one task"):
        Numbers(size=1).attach(text).setup()


def test_without_a_tokenizer_the_error_says_how_to_give_one() -> None:
    data = Numbers()
    data.setup()
    with pytest.raises(UserError, match=r"attach\(encoder\)"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("batch_size", 0), ("num_workers", -1), ("seed", -1), ("max_tokens", 0), ("max_tokens", -1)],
)
def test_a_number_out_of_range_names_its_flag(flag: str, value: int) -> None:
    with pytest.raises(UserError, match=f"`{flag}` expects at least"):
        Numbers(**{flag: value})


class Recorder(LightningModule):
    """Keeps the ids of the queries that it is given, by epoch."""

    def __init__(self, text: TextTokenizer) -> None:
        super().__init__()
        self.encoder = SimpleNamespace(tokenize=text)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []
        self.validated = 0

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch["query"]["text_id"].tolist()))
        return self.weight * 1.0

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stop(Callback):
    """Ends a run as a killed process would: in the middle of an epoch, without its end's hooks."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def fit(
    text: TextTokenizer,
    folder: Path,
    num_workers: int,
    stop: int | None = None,
    resume: str | None = None,
    max_tokens: int | None = None,
    **options: Any,
) -> list[tuple[int, list[int]]]:
    """The batches that a run of three epochs was given; it may be stopped, or resumed."""
    checkpoint = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    module = Recorder(text)
    trainer = Trainer(
        max_epochs=3,
        callbacks=[checkpoint, *([Stop(stop)] if stop else [])],
        **{**SILENT, **options},
    )
    try:
        data = Numbers(num_workers=num_workers, max_tokens=max_tokens)
        trainer.fit(module, data, ckpt_path=resume)
    except (KeyboardInterrupt, SystemExit):
        assert stop
    return module.seen


@pytest.mark.parametrize(
    ("num_workers", "step"),
    [(0, 1), (0, 5), (0, 11), (0, 12), (0, 13), (0, 17), (0, 24), (2, 5), (2, 17)],
)
def test_a_stopped_run_goes_on_with_the_very_next_batch(
    text, tmp_path: Path, num_workers: int, step: int
) -> None:
    """An epoch has 12 batches."""
    whole = fit(text, tmp_path / "whole", 0)
    assert len(whole) == 36
    before = fit(text, tmp_path / "run", num_workers, stop=step)
    assert before == whole[:step]
    checkpoint = str(tmp_path / "run" / f"step={step}.ckpt")
    after = fit(text, tmp_path / "more", num_workers, resume=checkpoint)
    assert before + after == whole


@pytest.mark.parametrize("step", [5, 15, 18, 30])
def test_a_stopped_run_of_batches_by_tokens_goes_on_with_the_very_next_batch(
    text, tmp_path: Path, step: int
) -> None:
    """An epoch has 15 batches."""
    whole = fit(text, tmp_path / "whole", 0, max_tokens=250)
    assert len(whole) == 45
    before = fit(text, tmp_path / "run", 0, stop=step, max_tokens=250)
    assert before == whole[:step]
    checkpoint = str(tmp_path / "run" / f"step={step}.ckpt")
    assert before + fit(text, tmp_path / "more", 0, resume=checkpoint, max_tokens=250) == whole


def test_a_run_stopped_after_validating_in_mid_epoch_goes_on_too(text, tmp_path: Path) -> None:
    whole = fit(text, tmp_path / "whole", 0, val_check_interval=5)
    before = fit(text, tmp_path / "run", 0, stop=17, val_check_interval=5)
    checkpoint = str(tmp_path / "run" / "step=17.ckpt")
    after = fit(text, tmp_path / "more", 0, resume=checkpoint, val_check_interval=5)
    assert before + after == whole


def test_each_epoch_has_another_order_of_the_same_texts(text, tmp_path: Path) -> None:
    seen = fit(text, tmp_path, 0)
    epochs = [[ids for epoch, ids in seen if epoch == number] for number in range(3)]
    assert len({json.dumps(epoch) for epoch in epochs}) == 3
    assert len({json.dumps(sorted(i for ids in epoch for i in ids)) for epoch in epochs}) == 1


def test_a_run_without_held_out_texts_trains(text) -> None:
    class NothingHeldOut(Numbers):
        def read_tasks(self) -> list[Task]:
            return [Task("plain", numbered("plain", 30), numbered("held out", 0))]

    module = Recorder(text)
    trainer = Trainer(max_steps=3, enable_checkpointing=False, **SILENT)
    trainer.fit(module, NothingHeldOut())
    assert len(module.seen) == 3


def test_overfitting_a_batch_is_refused_with_what_to_do(text) -> None:
    trainer = Trainer(overfit_batches=1, enable_checkpointing=False, **SILENT)
    with pytest.raises(UserError, match=r"`Trainer\(limit_train_batches=N\)`"):
        trainer.fit(Recorder(text), Numbers())


def train_on_a_rank(
    rank: int, tokenizer: Any, folder: str, max_tokens: int | None, resume: str | None
) -> None:
    checkpoint = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    module = Recorder(TextTokenizer(tokenizer, 64))
    trainer = Trainer(
        max_epochs=2, devices=2, strategy="ddp", callbacks=[checkpoint], num_nodes=1, **SILENT
    )
    data = Numbers(33, batch_size=64 if max_tokens else 4, max_tokens=max_tokens)
    trainer.fit(module, data, ckpt_path=resume)
    sampler = trainer.train_dataloader.sampler  # type: ignore[union-attr]
    name = f"{'more' if resume else 'whole'}-{rank}.json"
    left = {"seen": module.seen, "sampler": type(sampler).__name__, "validated": module.validated}
    (Path(folder) / name).write_text(json.dumps(left))


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [None, 300])
def test_two_ranks_train_on_the_same_task_and_resume(
    tokenizer, tmp_path: Path, max_tokens: int | None
) -> None:
    """Lightning leaves the sampler alone, and tells it each epoch, on both ranks."""
    folder = str(tmp_path)
    spawn(train_on_a_rank, (tokenizer, folder, max_tokens, None), nprocs=2)
    resume = str(tmp_path / "step=3.ckpt")
    spawn(train_on_a_rank, (tokenizer, folder, max_tokens, resume), nprocs=2)
    names = {
        text_id(example.query): task.name
        for task in Numbers(size=33).read_tasks()
        for example in task.train.examples  # type: ignore[attr-defined]
    }
    ranks = []
    for rank in range(2):
        whole, more = (
            json.loads((tmp_path / f"{kind}-{rank}.json").read_text()) for kind in ("whole", "more")
        )
        assert whole["sampler"] == ("TokenBatchSampler" if max_tokens else "TaskBatchSampler")
        assert whole["validated"] > 0
        assert more["seen"] == whole["seen"][3:]
        ranks.append(whole["seen"])
    epochs: list[set[int]] = [set(), set()]
    for (epoch, first), (other, second) in zip(*ranks, strict=True):
        assert epoch == other
        assert len({names[i] for i in (*first, *second)}) == 1
        assert set(first).isdisjoint(second)
        epochs[epoch] |= {*first, *second}
    assert all(len(epoch) == (49 if max_tokens else 48) for epoch in epochs)  # of 33 + 16
