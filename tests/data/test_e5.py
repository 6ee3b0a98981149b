from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2vec_pl.data import E5
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError


def rows_of(task: str, count: int = 40, **more: object) -> list[dict[str, object]]:
    return [{"query": f"{task} q{i}", "positive": f"{task} p{i}", **more} for i in range(count)]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "echo"
    for task in ("nq", "fever", "allnli"):
        write(folder / f"{task}.jsonl", rows_of(task, negative=f"{task} n"))
    (folder / "README.md").write_text("about")
    return folder


def opened(data: E5, tokenizer, max_length: int = 64) -> E5:
    data.attach(TextTokenizer(tokenizer, max_length)).prepare_data()
    data.setup()
    return data


def queries(data: E5, split: str = "train") -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for task in data.tasks:
        examples = task.examples(split)  # type: ignore[arg-type]
        found[task.name] = {examples.example(i, 0).query for i in range(len(examples))}
    return found


def test_a_folder_holds_a_task_a_file(folder: Path, tokenizer) -> None:
    data = opened(E5(str(folder)), tokenizer)
    train, validation = queries(data), queries(data, "validation")
    assert set(train) == {"nq", "fever", "allnli"}
    for task in train:
        assert train[task] | validation[task] == {f"{task} q{i}" for i in range(40)}
        assert train[task].isdisjoint(validation[task])
        assert len(validation[task]) >= 2


def test_each_task_has_its_instruction_and_symmetric_ones_on_both_sides(
    folder: Path, tokenizer
) -> None:
    data = opened(E5(str(folder)), tokenizer)
    for batch in data.text_batches():
        assert batch.query_instruction.endswith(": ")
        symmetric = batch.query_instruction if batch.task == "allnli" else ""
        assert batch.text_instruction == symmetric


def test_named_tasks_alone_are_used(folder: Path, tokenizer) -> None:
    assert set(queries(opened(E5(str(folder), tasks=["nq"]), tokenizer))) == {"nq"}


@pytest.mark.parametrize("option", ["tasks", "weights"])
def test_a_task_that_is_missing_lists_those_there_are(folder: Path, option: str) -> None:
    value = ["squad"] if option == "tasks" else {"squad": 0.5}
    with pytest.raises(UserError, match=r"no task 'squad'; there are: allnli, fever, nq\."):
        E5(str(folder), **{option: value})  # type: ignore[arg-type]


def test_a_file_of_which_there_are_parts_is_left_out(folder: Path, tokenizer, monkeypatch) -> None:
    for part in (1, 2):
        write(folder / f"allnli_split{part}.jsonl", rows_of(f"allnli_split{part}"))
    shown: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.e5.rank_zero_info", shown.append)
    data = opened(E5(str(folder)), tokenizer)
    assert set(queries(data)) == {"nq", "fever", "allnli_split1", "allnli_split2"}
    reason = "left out, since its rows are those of allnli_split1 and allnli_split2"
    assert shown[-1] == f"E5: allnli: {reason}"
    assert set(queries(opened(E5(str(folder), tasks=["allnli"]), tokenizer))) == {"allnli"}


def test_files_named_by_split_are_splits_of_one_task(tmp_path: Path, tokenizer) -> None:
    folder = tmp_path / "mine"
    write(folder / "train-00.jsonl", rows_of("a"))
    write(folder / "train-01.jsonl", rows_of("b"))
    write(folder / "dev.jsonl", rows_of("c", 4))
    write(folder / "nq_train.jsonl", rows_of("d", 4))
    write(folder / "other_test.jsonl", rows_of("e"))
    data = opened(E5(str(folder)), tokenizer)
    assert {task.name: (len(task.train), len(task.validation)) for task in data.tasks} == {
        "mine": (80, 4),
        "nq": (2, 2),
    }
    assert [source.name for source in data.left_out] == ["other"]
    with pytest.raises(UserError, match="only has test files"):
        opened(E5(str(folder), tasks=["other"]), tokenizer)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_users_own_file_has_named_columns(tmp_path: Path, tokenizer, kind: str) -> None:
    rows = [{"id": i, "question": f"q{i}", "pos": f"p{i}", "neg": f"n{i}"} for i in range(8)]
    path = tmp_path / f"mine.{kind}"
    if kind == "jsonl":
        write(path, rows)
    elif kind == "csv":
        path.write_text(
            "id,question,pos,neg\n" + "\n".join(f"{i},q{i},p{i},n{i}" for i in range(8))
        )
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    columns = {"query_column": "question", "positive_column": "pos", "negative_column": "neg"}
    data = opened(E5(str(path), **columns), tokenizer)  # type: ignore[arg-type]
    example = data.tasks[0].train.example(0, 0)
    assert (data.tasks[0].name, example.query[0], list(example.negatives)) == (
        "mine",
        "q",
        [f"n{example.query[1:]}"],
    )
    for flag in columns:
        with pytest.raises(UserError, match=rf"no column 'x'; .*Set `{flag}`"):
            opened(E5(str(path), **{**columns, flag: "x"}), tokenizer)  # type: ignore[arg-type]


def test_a_hub_data_set_is_one_task_with_its_own_splits(monkeypatch, tokenizer) -> None:
    from datasets import Dataset, DatasetDict

    def fake(path: str, subset: str | None, streaming: bool) -> DatasetDict:
        assert (path, subset, streaming) == ("someone/nq", "triplet", False)
        negatives = [[f"n{i}"] * (i % 3) for i in range(30)]
        train = {
            "query": [f"q{i}" for i in range(30)],
            "positive": [f"p{i}" for i in range(30)],
            "negative": negatives,
        }
        dev = {"query": ["a", "b"], "positive": ["c", "d"], "negative": [[], ["n"]]}
        return DatasetDict(train=Dataset.from_dict(train), dev=Dataset.from_dict(dev))

    monkeypatch.setattr("datasets.load_dataset", fake)
    data = opened(E5("someone/nq", subset="triplet"), tokenizer)
    task = data.tasks[0]
    assert (task.name, len(task.train), len(task.validation)) == ("nq", 30, 2)
    assert "Wikipedia" in task.instruction.texts[0]
    with pytest.raises(UserError, match=r"someone/nq \(train\) has no column 'text'.*query, pos"):
        opened(E5("someone/nq", subset="triplet", query_column="text"), tokenizer)


def test_a_real_data_set_on_disk_is_read_by_datasets(
    tmp_path: Path, tokenizer, monkeypatch
) -> None:
    """`load_dataset` itself, given a folder in the place of the hub."""
    import datasets

    write(tmp_path / "hub" / "train.jsonl", rows_of("a"))
    load = datasets.load_dataset
    cache = str(tmp_path / "hf")

    def local(path: str, subset: str | None, **options: object) -> object:
        return load(str(tmp_path / "hub"), subset, cache_dir=cache, **options)

    monkeypatch.setattr("datasets.load_dataset", local)
    assert len(queries(opened(E5("someone/data"), tokenizer))["data"]) > 30


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"`path='.*none'` does not exist"),
        ("a.txt", r"unknown extension.*\.jsonl"),
        ("empty", r"holds no file with examples.*\.jsonl"),
    ],
)
def test_a_path_without_examples_is_a_clear_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        E5(str(tmp_path / name))


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_an_empty_file_is_an_error_that_names_it(folder: Path, tokenizer, on_bad_row: str) -> None:
    (folder / "squad.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"squad\.jsonl holds no examples\. Remove it"):
        opened(E5(str(folder), on_bad_row=on_bad_row), tokenizer)  # type: ignore[arg-type]


def test_a_file_of_bad_rows_alone_says_what_they_were(folder: Path, tokenizer) -> None:
    write(folder / "squad.jsonl", [{"query": "", "positive": "p"}] * 3)
    with pytest.raises(UserError, match=r"no examples: skipped 3 of 3 rows: 3 query empty"):
        opened(E5(str(folder), on_bad_row="skip"), tokenizer)


def test_bad_rows_are_reported_each_time(folder: Path, tokenizer, monkeypatch) -> None:
    path = write(folder / "nq.jsonl", [*rows_of("nq"), {"query": "q"}])
    for _ in range(2):
        shown: list[str] = []
        monkeypatch.setattr("llm2vec_pl.data.contrastive_data.rank_zero_info", shown.append)
        opened(E5(str(folder), on_bad_row="skip"), tokenizer)
        note = f"skipped 1 of 41 rows: 1 no positive (first: {path} line 41)"
        assert f"E5: nq: {note}" in shown
    with pytest.raises(UserError, match=r"nq\.jsonl line 41: .*no positive"):
        opened(E5(str(folder)), tokenizer)


def test_a_task_without_an_instruction_says_so(folder: Path, tokenizer, tmp_path: Path) -> None:
    write(folder / "mine.jsonl", rows_of("mine"))
    data = opened(E5(str(folder), tasks=["mine"]), tokenizer)
    assert data.tasks[0].notes == ["no instruction; give one in `instructions`"]
    (tmp_path / "table.yaml").write_text('mine: "find: "')
    data = opened(
        E5(str(folder), tasks=["mine"], instructions=str(tmp_path / "table.yaml")), tokenizer
    )
    assert next(data.text_batches()).query_instruction == "find: "


def test_duplicates_of_a_query_are_on_one_side(tmp_path: Path, tokenizer) -> None:
    rows = [{"query": f"q{i % 50}", "positive": f"p{i}"} for i in range(500)]
    data = opened(E5(str(write(tmp_path / "a.jsonl", rows))), tokenizer)
    train, validation = queries(data)["a"], queries(data, "validation")["a"]
    assert train.isdisjoint(validation)
    assert len(data.tasks[0].validation) == 10 * len(validation)
    assert data.tasks[0].notes[-1] == "450 rows have the query of an earlier row"


def test_rows_with_the_same_positive_are_on_one_side(tmp_path: Path, tokenizer) -> None:
    """Several questions on one passage."""
    rows = [{"query": f"q{i}", "positive": f"p{i // 4}"} for i in range(400)]
    data = opened(E5(str(write(tmp_path / "a.jsonl", rows))), tokenizer)
    train, validation = (
        {s.example(i, 0).positive for i in range(len(s))}
        for s in (data.tasks[0].train, data.tasks[0].validation)
    )
    assert len(validation) >= 2
    assert train.isdisjoint(validation)
    assert not [note for note in data.tasks[0].notes if "training row" in note]


def test_labels_on_both_sides_are_counted(tmp_path: Path, tokenizer) -> None:
    rows = [{"query": f"q{i}", "positive": "yes" if i % 3 else "no"} for i in range(400)]
    data = opened(E5(str(write(tmp_path / "a.jsonl", rows))), tokenizer)
    count = len(data.tasks[0].validation)
    assert count >= 2
    note = f"{count} validation rows share a text with a training row: too many rows share"
    assert data.tasks[0].notes[-1].startswith(note)


def test_training_rows_that_are_validation_rows_are_left_out(tmp_path: Path, tokenizer) -> None:
    folder = tmp_path / "mine"
    dev = [{"query": "a q3", "positive": "a  p3"}, {"query": "a q4", "positive": ["x", "a p4"]}]
    write(folder / "train.jsonl", rows_of("a"))
    write(folder / "dev.jsonl", [*dev, {"query": "a q5", "positive": "another"}])
    data = opened(E5(str(folder)), tokenizer)
    assert queries(data)["mine"] == {f"a q{i}" for i in range(40)} - {"a q3", "a q4"}
    assert len(data.tasks[0].validation) == 3
    assert "2 training rows left out: they are validation rows too" in data.tasks[0].notes
    write(folder / "dev.jsonl", rows_of("a"))
    with pytest.raises(UserError, match=r"train\.jsonl: each of its rows is also in .*dev\.jsonl"):
        opened(E5(str(folder)), tokenizer)


def test_weights_choose_the_share_of_a_task(folder: Path, tokenizer) -> None:
    data = opened(E5(str(folder), weights={"nq": 0.25, "fever": 0.0}, batch_size=3), tokenizer)
    sizes = {task.name: len(task.train) for task in data.tasks}
    used = [batch.task for batch in data.text_batches() for _ in batch.queries]
    assert set(used) == {"nq", "allnli"}
    assert used.count("nq") <= round(sizes["nq"] / 4)
    first, second = (
        {q for b in data.text_batches(epoch=e) if b.task == "nq" for q in b.queries} for e in (0, 1)
    )
    assert first.isdisjoint(second)


def test_the_papers_rates_are_a_word(tmp_path: Path, tokenizer) -> None:
    for task in ("eli5_question_answer", "nq", "mine"):
        write(tmp_path / f"{task}.jsonl", rows_of(task))
    assert E5(str(tmp_path), weights="paper").weights == {"eli5_question_answer": 0.1, "nq": 1.0}


@pytest.mark.parametrize(
    ("option", "value"), [("max_negatives", -1), ("max_rows", 0), ("weights", {"nq": -1.0})]
)
def test_a_number_out_of_range_names_its_flag(folder: Path, option: str, value: object) -> None:
    with pytest.raises(UserError, match=f"`{option}`"):
        E5(str(folder), **{option: value})  # type: ignore[arg-type]


def test_a_missing_path_says_what_is_expected() -> None:
    with pytest.raises(UserError, match=r"`path` is missing.*folder"):
        E5()


def test_max_rows_limits_each_task(folder: Path, tokenizer) -> None:
    data = opened(E5(str(folder), max_rows=10), tokenizer)
    assert {len(task.train) + len(task.validation) for task in data.tasks} == {10}


def test_several_negatives_are_drawn_anew_each_epoch(tmp_path: Path, tokenizer) -> None:
    rows = rows_of("a", negative=[f"n{i}" for i in range(6)])
    data = opened(E5(str(write(tmp_path / "a.jsonl", rows)), max_negatives=2), tokenizer)
    epochs = [
        {
            batch.queries[i]: batch.negatives[2 * i : 2 * i + 2]
            for batch in data.text_batches(epoch=e)
            for i in range(len(batch.queries))
        }
        for e in (0, 1)
    ]
    assert epochs[0].keys() & epochs[1].keys()
    assert any(epochs[0][query] != epochs[1].get(query) for query in epochs[0])


def test_the_second_opening_reads_no_file(folder: Path, tokenizer, monkeypatch) -> None:
    first = queries(opened(E5(str(folder)), tokenizer))
    monkeypatch.setattr("llm2vec_pl.data.e5.GoodCandidates", None)
    assert queries(opened(E5(str(folder), batch_size=3, seed=5), tokenizer)) == first


def test_a_changed_file_is_read_again(folder: Path, tokenizer) -> None:
    opened(E5(str(folder)), tokenizer)
    write(folder / "nq.jsonl", rows_of("other"))
    assert all(
        query.startswith("other") for query in queries(opened(E5(str(folder)), tokenizer))["nq"]
    )


def test_the_texts_stay_on_disk(tmp_path: Path, tokenizer) -> None:
    rows = [{"query": f"q{i}", "positive": f"{i} " * 1000} for i in range(2000)]
    data = opened(E5(str(write(tmp_path / "a.jsonl", rows))), tokenizer)
    data.tasks[0].train.example(0, 0)
    tracemalloc.start()
    data.setup()
    for row in range(0, 1900, 100):
        data.tasks[0].train.example(row, 0)
    assert tracemalloc.get_traced_memory()[0] < 1_000_000  # of 10 MB
    tracemalloc.stop()


def test_real_tasks_are_read_and_batched(shared_data: Path, tokenizer) -> None:
    data = E5(str(shared_data / "echo-data"), max_rows=2000, batch_size=16)
    opened(data, tokenizer, max_length=512)
    assert {task.name for task in data.tasks} == {
        "allnli", "boolq", "medquad", "science_qa", "wiki_section",
    }  # fmt: skip
    assert all(task.instruction.texts[0] for task in data.tasks)
    batch = next(iter(data.train_dataloader()))
    assert batch["query"]["input_ids"].shape[0] == 16
    assert batch["positive"]["pooling_mask"].sum(1).min() > 0
