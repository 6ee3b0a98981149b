from __future__ import annotations

from pathlib import Path

import pytest

from llm2vec_pl.data.examples.instructions import Instruction, read_instructions
from llm2vec_pl.errors import UserError

# LLM2Vec, Table 8 and appendix G.1.
PAPER = {
    "allnli": [
        "Given a premise, retrieve a hypothesis that is entailed by the premise",
        "Retrieve semantically similar text",
    ],
    "dureader": ["Given a Chinese search query, retrieve web passages that answer the question"],
    "eli5_question_answer": [
        "Provided a user question, retrieve the highest voted answers on Reddit ELI5 forum"
    ],
    "fever": ["Given a claim, retrieve documents that support or refute the claim"],
    "hotpot_qa": [
        "Given a multi-hop question, retrieve documents that can help answer the question"
    ],
    "miracl": ["Given a question, retrieve Wikipedia passages that answer the question"],
    "mrtydi": ["Given a question, retrieve Wikipedia passages that answer the question"],
    "msmarco_passage": [
        "Given a web search query, retrieve relevant passages that answer the query"
    ],
    "msmarco_document": [
        "Given a web search query, retrieve relevant documents that answer the query"
    ],
    "nq": ["Given a question, retrieve Wikipedia passages that answer the question"],
    "quora_duplicates": [
        "Given a question, retrieve questions that are semantically equivalent to the given question",
        "Find questions that have the same meaning as the input question",
    ],
    "squad": ["Retrieve Wikipedia passages that answer the question"],
    "t2ranking": ["Given a Chinese search query, retrieve web passages that answer the question"],
    "trivia_qa": ["Retrieve Wikipedia passages that answer the question"],
}
RATES = {
    "eli5_question_answer": 0.1,
    "msmarco_passage": 0.5,
    "msmarco_document": 0.2,
    "quora_duplicates": 0.1,
    "t2ranking": 0.5,
}


@pytest.mark.parametrize("task", PAPER)
def test_the_papers_tasks_have_the_papers_instructions(task: str) -> None:
    found = read_instructions()[task]
    assert list(found.texts) == [f"{text}: " for text in PAPER[task]]
    assert found.symmetric == (task in ("allnli", "quora_duplicates"))
    assert found.paper_rate == RATES.get(task, 1.0)


@pytest.mark.parametrize("task", ["allnli", "quora_duplicates"])
def test_the_splits_of_a_task_have_one_of_its_instructions_each(task: str) -> None:
    table = read_instructions()
    splits = [table[f"{task}_split{i}"] for i in (1, 2)]
    assert [split.texts[0] for split in splits] == list(table[task].texts)
    assert all(split.symmetric for split in splits)


def test_every_instruction_ends_with_its_separator() -> None:
    for instruction in read_instructions().values():
        assert all(text.endswith(": ") for text in instruction.texts)


def test_a_users_table_adds_to_the_papers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('nq: "Search: "\nmine: ["a: ", "b: "]\nother: {symmetric: true}\n')
    table = read_instructions(str(path))
    assert table["nq"] == Instruction(("Search: ",))
    assert table["mine"].texts == ("a: ", "b: ")
    assert table["other"] == Instruction(("",), symmetric=True)
    assert table["squad"] == read_instructions()["squad"]


@pytest.mark.parametrize(
    "content",
    ["- a\n- b", "nq: 7", "nq: []", "nq: {instruction: a, symetric: true}", "nq: [a", "\x00"],
)
def test_a_table_of_another_form_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"`instructions.*mine\.yaml"):
        read_instructions(str(path))


def test_a_table_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`instructions='.*none\.yaml'` cannot be read"):
        read_instructions(str(tmp_path / "none.yaml"))
