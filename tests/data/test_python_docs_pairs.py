from __future__ import annotations

from collections import Counter

import pytest

from llm2vec_pl.data import PythonDocs, PythonDocsPairs, PythonDocsSentences
from llm2vec_pl.data.files.docstrings import installed_packages
from llm2vec_pl.data.python_docs import DocPair
from llm2vec_pl.data.python_docs_pairs import PairExamples
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError

NAMES = ["a", "a.b.C", "a.b.C.f", "a.b.C.g", "a.b.h", "a.bc.i", "a.d", "z.y.x"]


def pairs(names: list[str] = NAMES) -> list[DocPair]:
    return [DocPair(name, f"query of {name}", f"text of {name}") for name in sorted(names)]


@pytest.mark.parametrize(
    ("name", "most", "near"),
    [
        ("a.b.C.f", 1, {"a.b.C.g"}),
        ("a.b.C.f", 2, {"a.b.C", "a.b.C.g", "a.b.h"}),
        ("a.b.C.f", 3, {"a.b.C", "a.b.C.g", "a.b.h"}),
        ("a.d", 1, {"a.b.C", "a.b.C.f", "a.b.C.g", "a.b.h", "a.bc.i"}),
        ("a.bc.i", 1, {"a.b.C", "a.b.C.f", "a.b.C.g", "a.b.h", "a.d"}),
        ("z.y.x", 1, set(NAMES) - {"z.y.x"}),
    ],
)
def test_negatives_come_from_the_nearest_names(name: str, most: int, near: set[str]) -> None:
    examples = PairExamples(pairs(), most, seed=0)
    row = [pair.name for pair in examples.pairs].index(name)
    drawn = Counter(n for epoch in range(60) for n in examples.example(row, epoch).negatives)
    assert set(drawn) == {f"text of {other}" for other in near}
    assert drawn.total() == 60 * most


def test_a_pair_is_never_its_own_negative_and_each_epoch_draws_others() -> None:
    examples = PairExamples(pairs([f"m.f{i}" for i in range(9)]), 3, seed=0)
    for row in range(9):
        for epoch in range(9):
            example = examples.example(row, epoch)
            assert example.positive not in example.negatives
            assert len(set(example.negatives)) == 3
            assert example == examples.example(row, epoch)
    assert len({tuple(examples.example(0, epoch).negatives) for epoch in range(9)}) > 3


def test_too_few_others_give_fewer_negatives() -> None:
    assert list(PairExamples(pairs(["a.b"]), 2, 0).example(0, 0).negatives) == []
    assert len(PairExamples(pairs(["a.b", "c.d"]), 2, 0).example(0, 0).negatives) == 1


def test_held_out_names_are_in_validation_alone(docs) -> None:
    data = PythonDocsPairs(max_negatives=2)
    data.setup()
    task = data.tasks[0]
    held_out = {pair.positive for pair in PythonDocs().pairs("validation")}
    assert len(task.train) + len(task.validation) == 600
    assert len(held_out) == len(task.validation) > 5
    for split, inside in (("train", False), ("validation", True)):
        examples = task.examples(split)
        for row in range(len(examples)):
            example = examples.example(row, 0)
            assert {text in held_out for text in (example.positive, *example.negatives)} == {inside}
    assert data.retrieval(5) == PythonDocs().retrieval(5)


def test_batches_have_a_negative_per_query_and_an_instruction(docs, tokenizer) -> None:
    data = PythonDocsPairs(batch_size=8, instruction="Find: ").attach(TextTokenizer(tokenizer, 64))
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["negative"]["query_index"].tolist() == list(range(8))
    assert next(data.text_batches()).query_instruction == "Find: "
    assert next(data.text_batches()).text_instruction == ""
    with pytest.raises(UserError, match="`max_negatives`"):
        PythonDocsPairs(max_negatives=-1)


@pytest.mark.slow
def test_the_real_standard_library_gives_pairs_and_sentences(monkeypatch) -> None:
    python = [package for package in installed_packages() if package.name == "python"]
    monkeypatch.setattr("llm2vec_pl.data.python_docs.installed_packages", lambda: python)
    pairs, sentences = PythonDocsPairs(), PythonDocsSentences()
    pairs.setup()
    assert len(pairs.tasks[0].train) > 1000
    example = pairs.tasks[0].train.example(500, 0)
    assert len(example.negatives) == 1
    sentences.setup()
    assert len(sentences.tasks[0].train) > 5000
