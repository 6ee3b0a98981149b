import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.data.files.shards import spread
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.sts import STSTask, evaluate_sts, spearman

ROWS = [
    {"sentence1": "a cat", "sentence2": "a dog", "score": 2.5},
    {"sentence1": "a cat", "sentence2": "one cat", "score": 5.0},
    {"sentence1": 'a "car", red', "sentence2": "rain\nfalls", "score": 0.0},
]


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-3, 3)), min_size=2, max_size=60).filter(
        lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))
    )
)
def test_spearman_is_that_of_scipy_also_with_ties(pairs):
    stats = pytest.importorskip("scipy.stats")
    first, second = (torch.tensor(side, dtype=torch.float32) for side in zip(*pairs, strict=True))
    expected = stats.spearmanr(first, second).statistic
    assert spearman(first, second).item() == pytest.approx(expected, abs=1e-9)


def test_spearman_of_many_ties_is_exact():
    """Sums of ranks above 2 ** 31."""
    first = torch.arange(100_000) % 2.0
    assert spearman(first, first).item() == 1.0
    assert spearman(first, -first).item() == -1.0


def test_what_has_no_order_has_no_correlation():
    numbers = torch.tensor([1.0, 2.0, 3.0])
    assert spearman(numbers, torch.ones(3)).isnan()
    assert spearman(numbers, torch.tensor([1.0, torch.nan, 2.0])).isnan()


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_files_of_each_kind_give_the_same_pairs(kind, tmp_path):
    path = tmp_path / f"pairs_dev.{kind}"
    write(path, ROWS)
    task = STSTask.read(path)
    assert task.name == "pairs_dev"
    assert task.first == [row["sentence1"] for row in ROWS]
    assert task.second == [row["sentence2"] for row in ROWS]
    assert task.scores == [2.5, 5.0, 0.0]


def test_columns_and_name_are_arguments(tmp_path):
    write(tmp_path / "a.jsonl", [{"x": "b", "y": "a", "s": i} for i in range(2)])
    task = STSTask.read(str(tmp_path / "a.jsonl"), columns=("y", "x", "s"), name="mine")
    assert (task.name, task.first, task.second, task.scores) == (
        "mine",
        ["a"] * 2,
        ["b"] * 2,
        [0, 1],
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence1": "a", "sentence2": "b", "score": "high"}', r"line 4: .*number.*'high'"),
        ('{"sentence1": "a", "sentence2": "b", "score": NaN}', "line 4: .*number.*nan"),
        ('{"sentence1": "a", "sentence2": "b"}', "line 4: .*number.*None"),
        ('{"sentence1": "a", "sentence2": "b", "score": true}', "line 4: .*number.*True"),
        (
            '{"sentence1": "a", "sentence2": " ", "score": 1}',
            "line 4: .*'sentence2', but got empty",
        ),
        ('{"sentence1": 3, "sentence2": "b", "score": 1}', "line 4: .*'sentence1', but got not a"),
        ('{"sentence1": "a", "sent', "line 4: .*broken JSON"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(line, message, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps(row) for row in ROWS] + [line]))
    with pytest.raises(UserError, match=f"a.jsonl {message}"):
        STSTask.read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "at least two different scores.* 0 pairs"),
        ("a.jsonl", json.dumps(ROWS[0]), "at least two different scores.* 1 pairs"),
        (
            "a.jsonl",
            '{"a": "x", "score": 1}',
            r"line 1 has no column 'sentence1', 'sentence2'.*: a, score\.",
        ),
        ("a.csv", "", "no column 'sentence1'"),
        ("a.txt", "a", "unknown extension.*jsonl"),
        ("a.docx", "a", "unknown extension.*jsonl"),
        ("a.parquet", "a", "cannot be read as Parquet"),
        ("missing.jsonl", None, "does not exist"),
        (".", None, "is a folder; name a file"),
    ],
)
def test_a_file_without_pairs_is_a_clear_error(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        STSTask.read(str(tmp_path / name))
    assert "--data" not in str(error.value)


def test_a_data_set_of_the_hub_is_read_by_split(monkeypatch):
    from datasets import Dataset

    def fake(path, subset, split):
        assert (path, subset, split) == ("mteb/stsbenchmark-sts", None, "test")
        return Dataset.from_list([{**row, "split": "test"} for row in ROWS])

    monkeypatch.setattr("datasets.load_dataset", fake)
    task = STSTask.read("mteb/stsbenchmark-sts", split="test")
    assert (task.name, len(task.scores)) == ("stsbenchmark-sts", 3)
    with pytest.raises(UserError, match="no column 'gold'; its columns are: sentence1"):
        STSTask.read("mteb/stsbenchmark-sts", "test", columns=("sentence1", "sentence2", "gold"))


def test_a_data_set_that_cannot_be_had_is_a_clear_error(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"not a local file.* the hub.*'dev'\): offline"):
        STSTask.read("some/data", split="dev")


@given(st.integers(1, 50), st.integers(1, 60))
def test_a_limit_spreads_over_the_whole(count, limit):
    rows = spread(count, limit)
    assert len(set(rows)) == len(rows) == min(count, limit)
    assert rows == sorted(rows)
    assert 0 <= rows[0] <= rows[-1] < count
    assert max(b - a for a, b in zip(rows, [*rows[1:], count], strict=True)) <= -(-count // limit)


def test_the_limited_pairs_stay_together():
    task = STSTask("t", ["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"], [0, 1, 2, 3])
    assert task.limited(2) == STSTask("t", ["a0", "a2"], ["b0", "b2"], [0, 2])
    assert task.limited(None) == task


class Lengths:
    """Embeds a text by its length as an angle, and counts the texts."""

    texts = 0

    def encode(self, texts, instruction, batch_size):
        self.texts += len(texts)
        angles = torch.tensor([float(len(instruction + text)) for text in texts]) / 10
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_texts_whose_cosines_are_in_the_order_of_the_scores_correlate_fully():
    task = STSTask("t", ["a", "a", "a"], ["a", "aaa", "aaaaaa"], [5.0, 4.0, 1.0])
    encoder = Lengths()
    assert evaluate_sts(encoder, task) == 1.0
    assert encoder.texts == 3  # each sentence once
    opposite = STSTask("t", task.first, task.second, [1.0, 4.0, 5.0])
    assert evaluate_sts(encoder, opposite) == -1.0


def test_a_diverged_encoder_has_no_correlation():
    encoder = SimpleNamespace(encode=lambda texts, *_: torch.full((len(texts), 2), torch.nan))
    task = STSTask("t", ["a", "b"], ["c", "d"], [1.0, 2.0])
    assert torch.tensor(evaluate_sts(encoder, task)).isnan()


@pytest.mark.slow
def test_the_embedded_decoder_on_the_real_sts_benchmark(shared_data):
    task = STSTask.read(shared_data / "sts" / "stsb_dev.jsonl")
    assert len(task.scores) == 1500
    value = evaluate_sts(Encoder("tiny", lora_rank=0), task.limited(200))
    assert 0.3 < value < 0.9
