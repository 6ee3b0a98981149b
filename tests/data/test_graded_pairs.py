import json
from pathlib import Path

import pytest
import torch

from llm2vec_pl.data import GradedPairs
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError

PAIRS = [
    {"sentence1": f"one {i}", "sentence2": f"two {i}", "score": float(i % 6)} for i in range(40)
]


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def opened(tokenizer, path: str, **options: object) -> GradedPairs:
    data = GradedPairs(path, **options)  # type: ignore[arg-type]
    data.attach(TextTokenizer(tokenizer, 64)).prepare_data()
    data.setup()
    return data


def pairs_of(data: GradedPairs, split: str = "train") -> set[tuple]:
    examples = [task.examples(split) for task in data.tasks]  # type: ignore[arg-type]
    rows = [each.example(i, 0) for each in examples for i in range(len(each))]
    return {(row.query, row.positive, row.score) for row in rows}


def test_each_pair_keeps_its_score(tokenizer, tmp_path: Path) -> None:
    scores = {pair["sentence1"]: pair["score"] for pair in PAIRS}
    data = opened(tokenizer, write(tmp_path / "pairs.jsonl", PAIRS), batch_size=8)
    for texts, batch in zip(data.text_batches(), data.train_dataloader(), strict=True):
        assert texts.scores == [scores[text] for text in texts.queries]
        assert batch["positive"]["score"].tolist() == texts.scores
        assert batch["positive"]["score"].dtype == torch.float32
        assert "negative" not in batch


def test_without_a_validation_split_some_pairs_are_held_out(tokenizer, tmp_path: Path) -> None:
    data = opened(tokenizer, write(tmp_path / "pairs.jsonl", PAIRS))
    train, held_out = pairs_of(data), pairs_of(data, "validation")
    assert len(held_out) >= 2
    assert train.isdisjoint(held_out)
    assert train | held_out == {tuple(pair.values()) for pair in PAIRS}


def test_pairs_that_share_a_text_stay_on_one_side(tokenizer, tmp_path: Path) -> None:
    rows = [{**pair, "sentence2": f"two {i // 2}"} for i, pair in enumerate(PAIRS)]
    data = opened(tokenizer, write(tmp_path / "pairs.jsonl", rows))
    train, held_out = (
        {second for _, second, _ in pairs_of(data, s)} for s in ("train", "validation")
    )
    assert train.isdisjoint(held_out)


def test_a_folder_has_splits_by_the_names_of_its_files(tokenizer, tmp_path: Path, capsys) -> None:
    write(tmp_path / "stsb_train.jsonl", PAIRS)
    swapped = {"sentence1": "two 3", "sentence2": "one 3", "score": 5}
    write(tmp_path / "stsb_dev.jsonl", [swapped, {**swapped, "sentence1": "new", "score": 1}])
    write(tmp_path / "stsb_test.jsonl", PAIRS)
    write(tmp_path / "sts16_test.jsonl", PAIRS)
    data = opened(tokenizer, str(tmp_path))
    assert [task.name for task in data.tasks] == ["stsb"]
    assert len(pairs_of(data, "validation")) == 2
    assert len(pairs_of(data)) == 39
    assert list(data.tasks[0].notes) == ["1 training pairs left out: they are validation pairs too"]
    assert data.left_out == ["left out sts16: it only has test files"]


def test_columns_have_names_of_the_users(tokenizer, tmp_path: Path) -> None:
    rows = "\n".join(f"a {i},b {i},{i / 10}" for i in range(20))
    (tmp_path / "pairs.csv").write_text("left,right,grade\n" + rows)
    columns = {"first_column": "left", "second_column": "right", "score_column": "grade"}
    data = opened(tokenizer, str(tmp_path / "pairs.csv"), **columns)
    assert ("a 3", "b 3", 0.3) in pairs_of(data) | pairs_of(data, "validation")


def test_both_texts_get_the_instruction(tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    batch = next(opened(tokenizer, path, instruction="similar: ").text_batches())
    assert (batch.query_instruction, batch.text_instruction) == ("similar: ", "similar: ")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"sentence1": "a", "sentence2": "b", "score": "high"}, "a number in 'score', but got 'hi"),
        ({"sentence1": "a", "sentence2": "b", "score": float("nan")}, "a number in 'score', but g"),
        ({"sentence1": "a", "sentence2": " ", "score": 1}, "a text in 'sentence2', but got empty"),
        ({"sentence1": 3, "sentence2": "b", "score": 1}, "a text in 'sentence1', but got not a st"),
    ],
)
def test_a_broken_line_is_an_error_with_its_number(broken, message, tokenizer, tmp_path) -> None:
    path = write(tmp_path / "pairs.jsonl", [*PAIRS[:4], broken])
    with pytest.raises(UserError, match=f"pairs.jsonl line 5: expected {message}"):
        opened(tokenizer, path)


def test_a_missing_column_lists_those_there_are(tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [{"a": "x", "b": "y", "score": 1}])
    with pytest.raises(
        UserError, match=r"'sentence1'; its columns are: a, b, score\. Set `first_c"
    ):
        opened(tokenizer, path)


@pytest.mark.parametrize("rows", [[], [{**pair, "score": 1} for pair in PAIRS]])
def test_pairs_without_an_order_are_an_error(rows, tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pairs with at least two different scores"):
        opened(tokenizer, write(tmp_path / "pairs.jsonl", rows))


def test_a_path_is_required() -> None:
    with pytest.raises(UserError, match="`path` is missing: GradedPairs expects a file"):
        GradedPairs()
