"""The printed batch: each text with its instruction, and the pooled tokens marked."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_recipe
from rich.console import Console

from llm2vec_pl.data import E5, GradedPairs, Wikipedia
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.training.show_batch import ShowBatch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("tiny", max_length=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for task in ("nq", "allnli", "mine"):
        rows = [
            {"query": f"where is {i}", "positive": "here", "negative": [f"there {i}"] * (i % 2)}
            for i in range(40)
        ]
        (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def shown(encoder: Encoder, data, terminal: bool = False, **options) -> str:
    file = io.StringIO()
    width = {"force_terminal": terminal, "width": 1000, "soft_wrap": True, "highlight": False}
    console = Console(file=file, color_system="standard" if terminal else None, **width)
    ShowBatch(encoder, max_rows=3, max_tokens=30, console=console).show(data, **options)
    return file.getvalue()


def part(printed: str, task: str) -> list[str]:
    """The lines of a task's batch."""
    lines = printed.splitlines()
    start = lines.index(f"{task}, train")
    ends = [i for i, line in enumerate(lines) if line.endswith(", train") and i > start]
    return lines[start + 1 : (ends or [len(lines)])[0]]


def test_a_batch_of_each_task_is_shown_with_pooled_tokens_in_brackets(encoder, folder) -> None:
    printed = shown(encoder, E5(str(folder), batch_size=8))
    lines = part(printed, "nq")
    assert lines[0].startswith("instruction of queries: 'Given a question, retrieve Wikipedia")
    assert lines[1] == "instruction of positives and negatives: ''"
    assert "0 of 8 queries" in lines[2]
    row = next(line for line in lines if line.startswith("  0: <s>|Given|"))
    instruction, text = row.split("|:|")
    assert "[" not in instruction
    assert text.replace("][", "").strip("[]").startswith(" where is ")
    assert "  and 5 more rows" in lines


def test_symmetric_tasks_show_their_instruction_on_both_sides(encoder, folder) -> None:
    lines = part(shown(encoder, E5(str(folder))), "allnli")
    assert lines[1] == lines[0].replace("queries", "positives and negatives")
    assert lines[1] != "instruction of positives and negatives: ''"


def test_equal_texts_and_the_queries_of_negatives_are_shown(encoder, folder) -> None:
    lines = part(shown(encoder, E5(str(folder), batch_size=8), task="mine"), "mine")
    assert lines[0] == "instruction of queries: ''"
    assert lines[2].startswith("equal texts: 0 of 8 queries, 7 of ")
    assert any("(of query " in line for line in lines)


def test_graded_pairs_are_shown_with_their_scores(encoder, tmp_path) -> None:
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i / 4} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = part(shown(encoder, GradedPairs(str(tmp_path / "pairs.jsonl"))), "pairs")
    positives = lines[next(i for i, line in enumerate(lines) if line.startswith("positive:")) :]
    for line in positives[1:4]:
        number = int(re.search(r"b\D*(\d+)", line.replace("][", ""))[1])
        assert f"(score {number / 4:g}): " in line


def test_on_a_terminal_pooled_tokens_are_bold_and_the_others_dim(encoder, folder) -> None:
    printed = shown(encoder, E5(str(folder)), terminal=True, task="nq")
    assert "\x1b[2m<s>" in printed
    assert "\x1b[1;36m" in printed
    assert "\x1b[1;32m" in printed


def test_long_texts_are_cut_and_say_so(encoder, tmp_path) -> None:
    rows = [{"query": f"q{i}", "positive": f"{i} word " * 50} for i in range(20)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert " ... 34 more tokens, 64 in all" in shown(encoder, E5(str(path)))


def test_blocks_of_text_are_shown_too(encoder, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"Article {i} is about rivers." for i in range(200)))
    data = Wikipedia(str(tmp_path / "a.txt"), max_length=32, batch_size=4)
    printed = shown(encoder, data, batches=2)
    assert "train batch 1" in printed
    assert "blocks: 4 rows of 32 to 32 tokens, 0% padding" in printed


def test_validation_and_several_batches_can_be_asked_for(encoder, folder) -> None:
    printed = shown(encoder, E5(str(folder), batch_size=4), batches=2, task="nq")
    assert printed.count("nq, train") == 2
    assert "nq, validation" in shown(encoder, E5(str(folder)), split="validation", task="nq")


def test_a_task_that_is_missing_lists_those_there_are(encoder, folder) -> None:
    with pytest.raises(UserError, match="no task 'squad'; there are: allnli, mine, nq"):
        shown(encoder, E5(str(folder)), task="squad")


def run_from_a_shell(*flags: str, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "recipes" / "show_batch.py"), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.slow
def test_the_recipe_reads_the_config_of_a_run(folder, tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"""
seed_everything: 0
encoder: {{model_name: tiny, max_length: 48}}
model: {{class_path: llm2vec_pl.MNTP, init_args: {{learning_rate: 0.1}}}}
data:
  class_path: llm2vec_pl.data.E5
  init_args: {{path: {folder}, weights: {{nq: 0.5}}, batch_size: 4}}
trainer: {{max_steps: 10, callbacks: null}}
resume: null
"""
    )
    printed = run_from_a_shell(
        "--config", "config.yaml", "--task", "nq", "--max_rows", "1", cwd=tmp_path
    )
    assert "instruction of queries: 'Given a question" in printed
    assert "  and 3 more rows" in printed
    assert "Deprecat" not in printed


@pytest.mark.slow
def test_a_mistake_is_a_line_and_exit_code_2(folder, tmp_path) -> None:
    flags = ["--data", "E5", "--data.path", str(folder), "--data.tasks", "[squad]"]
    done = run_recipe("show_batch.py", *flags, cwd=tmp_path)
    printed = done.printed
    assert done.returncode == 2
    assert "error: --data.tasks: there is no task 'squad'; there are: allnli, mine, nq" in printed
    assert "Traceback" not in printed
