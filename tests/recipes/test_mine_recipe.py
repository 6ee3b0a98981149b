"""`recipes/mine.py` as a user runs it, in a process of its own."""

import json
from pathlib import Path

import pytest
from forked import run_recipe

from llm2vec_pl.data import E5
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.mining.file import read_pairs
from llm2vec_pl.mining.negatives import mine
from llm2vec_pl.mining.rules import Rules

WORDS = ["red", "green", "blue", "old", "new", "small", "large"]
COLOURS = [f"{a} {b}" for a in WORDS for b in WORDS if a != b]


def run(*arguments: str, cwd: Path, expect: int = 0) -> str:
    done = run_recipe("mine.py", *arguments, cwd=cwd)
    assert done.returncode == expect, done.printed
    assert "Traceback" not in done.printed
    return done.printed


@pytest.fixture
def pairs(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": f"what is {text}?", "positive": f"a {text} thing", "negative": "old"}
        for text in COLOURS
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.slow
def test_triplets_are_mined_and_e5_reads_them(llama_folder, pairs, tmp_path, monkeypatch):
    flags = f"""--encoder.model_name {llama_folder} --encoder.pooling last
        --encoder.dtype float32 --data {pairs} --out runs/triplets.jsonl --num_negatives 2 --range_min 1 --max_score 0.99 --show 1"""
    printed = run(*flags.split(), "--query_instruction", "Find: ", cwd=tmp_path)
    written = read_pairs(tmp_path / "runs" / "triplets.jsonl")
    encoder = Encoder(llama_folder, lora_rank=0, pooling="last")
    rules = Rules(num_negatives=2, range_min=1, max_score=0.99)
    rows = read_pairs(pairs)
    expected = mine(encoder, rows, rules, query_instruction="Find: ")
    assert [list(row.negatives) for row in written] == expected.negatives
    assert [(row.query, row.positives) for row in written] == [(r.query, r.positives) for r in rows]
    assert "42 rows have negatives already, which the mined ones replace" in printed
    assert "84 negatives for 42 rows" in printed
    assert "negative  0." in printed

    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    data = E5(path=str(tmp_path / "runs" / "triplets.jsonl"), batch_size=4)
    data.attach(encoder).setup()
    batch = next(iter(data.train_dataloader()))
    assert len(batch["negative"]["input_ids"]) == 4  # one of two for each of four queries


@pytest.mark.slow
def test_incomplete_rows_are_dropped_by_flag_and_counted(llama_folder, pairs, tmp_path):
    flags = f"""--encoder.model_name {llama_folder} --data {pairs} --out out.jsonl
        --min_score 2 --drop_incomplete true --corpus more.txt"""
    (tmp_path / "more.txt").write_text("one more\na red green thing\n")
    printed = run(*flags.split(), cwd=tmp_path)
    assert "43 candidates\n1 duplicate texts left out" in printed
    assert "42 rows dropped" in printed
    assert (tmp_path / "out.jsonl").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--data none.jsonl --out o.jsonl", "none.jsonl does not exist"),
        ("--data {pairs} --out {here}", "cannot be written"),
        ("--data {pairs} --out o.jsonl --range_min 9 --range_max 9", "--range_max 9 leaves fewer"),
        ("--data {pairs} --out o.jsonl --samplng top", "no option --samplng. Did you mean --sampl"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, expected, pairs, tmp_path):
    printed = run(*flags.format(pairs=pairs, here=tmp_path).split(), cwd=tmp_path, expect=2)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert not (tmp_path / "o.jsonl").exists()
