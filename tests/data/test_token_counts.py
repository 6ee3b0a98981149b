from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import ByteLevel

from llm2vec_pl.data import E5, PythonDocsPairs, PythonDocsSentences
from llm2vec_pl.data.contrastive_data import ContrastiveData
from llm2vec_pl.data.examples.contrastive_batch import Tokenised
from llm2vec_pl.data.examples.example import Candidates
from llm2vec_pl.data.examples.examples import ArrowExamples, write_candidates
from llm2vec_pl.data.examples.instructions import Instruction
from llm2vec_pl.data.examples.token_counts import CHARACTERS_PER_TOKEN, TokenCounter
from llm2vec_pl.data.python_docs import DocPair
from llm2vec_pl.data.python_docs_pairs import PairExamples
from llm2vec_pl.encoder.tokenizer import TextTokenizer


@pytest.fixture
def text(tokenizer) -> TextTokenizer:
    return TextTokenizer(tokenizer, max_length=64)


def tokens(text: TextTokenizer, texts: list[str], instruction: str = "") -> list[int]:
    """As a batch has them."""
    return Tokenised(text).tokens(texts, instruction)["attention_mask"].sum(dim=1).tolist()


@pytest.mark.parametrize("template", [None, "[INST] {text} [/INST]"])
@pytest.mark.parametrize("instruction", ["", "Retrieve what is alike: "])
def test_texts_have_the_tokens_counted_in_a_batch(tokenizer, template, instruction) -> None:
    text = TextTokenizer(tokenizer, max_length=48, template=template)
    long = CHARACTERS_PER_TOKEN * 48
    texts = [
        "",
        "a",
        "two words",
        "é漢字🙂",
        "word " * 40,
        "word " * long,
        " " * (long + 9),
        "a\n\n",
    ]
    counter = TokenCounter(text, Instruction((instruction,)), "")
    assert counter.queries(texts).tolist() == tokens(text, texts, instruction)
    assert counter.texts(texts).tolist() == tokens(text, texts)


def test_the_empty_text_has_one_token_where_the_tokenizer_adds_none(tokenizer) -> None:
    bare = deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = ByteLevel(trim_offsets=False)
    text = TextTokenizer(bare, max_length=8)
    assert (
        text.lengths(["", "a"]) == text(["", "a"])["attention_mask"].sum(dim=1).tolist() == [1, 1]
    )
    assert text.lengths([]) == []


def test_of_several_instructions_the_longest_counts_on_the_sides_that_have_it(text) -> None:
    short, long = "find: ", "find whatever may be of use: "
    one_sided = TokenCounter(text, Instruction((short, long)), "")
    assert one_sided.queries(["a"]).tolist() == tokens(text, ["a"], long)
    assert one_sided.texts(["a"]).tolist() == tokens(text, ["a"])
    both = TokenCounter(text, Instruction((long, short), symmetric=True), "")
    assert both.texts(["a"]).tolist() == tokens(text, ["a"], long)
    row = Candidates("a", ["a"], ["a"])
    assert one_sided.most([row]) == [tokens(text, ["a"], long)[0] + 2 * tokens(text, ["a"])[0]]
    assert both.most([row]) == [3 * tokens(text, ["a"], long)[0]]


def test_of_several_texts_the_longest_that_an_epoch_may_draw_count(text, tmp_path: Path) -> None:
    one, three, nine = ("word " * n for n in (1, 3, 9))
    rows = [
        Candidates("q", [one, nine, three], [three, one, nine]),
        Candidates("q", [one]),
        Candidates(three, []),  # its own positive
    ]
    write_candidates(iter(rows), tmp_path)
    counter = TokenCounter(text, Instruction(), "")
    examples = ArrowExamples(tmp_path, np.array([2, 0, 1]), max_negatives=2)
    q, of_one, of_three, of_nine = tokens(text, ["q", one, three, nine])
    first = q + of_nine + of_nine + of_three
    assert examples.tokens(counter).tolist() == [2 * of_three, first, q + of_one]


def test_pairs_count_the_longest_of_the_neighbours_they_draw(text) -> None:
    pairs = [DocPair(f"m{i % 3}.f{i}", f"q{i}", "word " * (i % 11)) for i in range(40)]
    for max_negatives in (0, 1, 3, 50):
        examples = PairExamples(sorted(pairs), max_negatives, seed=0)
        counts = examples.tokens(TokenCounter(text, Instruction(), ""))
        of_positive = tokens(text, [pair.positive for pair in examples.pairs])
        for row, pair in enumerate(examples.pairs):
            others = [of_positive[i] for i in examples.neighbours(row) if i != row]
            most = sum(sorted(others, reverse=True)[:max_negatives])
            assert counts[row] == tokens(text, [pair.query])[0] + of_positive[row] + most


def test_counts_are_kept_for_the_same_texts_tokenizer_and_length_alone(
    text, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.examples.token_counts.rank_zero_info", said.append)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_candidates(iter([Candidates("q", ["p", "longer"], ["n", "n n"])]), tmp_path / name)

    def count(folder="a", text=text, instruction=Instruction(), max_negatives=1) -> None:  # noqa: B008
        examples = ArrowExamples(tmp_path / folder, max_negatives=max_negatives)
        examples.tokens(TokenCounter(text, instruction, "E5: nq"))

    count()
    count()
    assert said == ["E5: nq: counting tokens, once; the counts are kept on disk."]
    for other in [
        {"folder": "b"},
        {"text": TextTokenizer(tokenizer, 63)},
        {"text": TextTokenizer(tokenizer, 64, template="<{text}>")},
        {"instruction": Instruction(("find: ",))},
        {"instruction": Instruction(("find: ",), symmetric=True)},
        {"max_negatives": 2},
    ]:
        said.clear()
        count(**other)
        count(**other)
        assert len(said) == 1


def check_batches(data: ContrastiveData, text: TextTokenizer, exact: bool) -> None:
    """Every batch of two epochs holds the tokens counted for its rows, or fewer where it draws."""
    data.attach(text).prepare_data()
    data.setup()
    assert data.max_tokens
    for epoch in (0, 1):
        loader, sampler = data.train_dataloader(), data.batches("train")
        sampler.set_epoch(epoch)
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch, named in zip(loader, sampler, strict=True):
            counted = sampler.tasks[named.task].lengths[named.rows].sum()
            real = sum(int(part["attention_mask"].sum()) for part in batch.values())
            assert real == counted if exact else real <= counted
            assert counted <= data.max_tokens
            assert 2 <= len(named.rows) <= data.batch_size


def test_real_batches_of_sentences_have_the_tokens_counted(docs, text) -> None:
    check_batches(PythonDocsSentences(batch_size=64, max_tokens=700), text, exact=True)


def test_real_batches_of_pairs_have_the_tokens_counted(docs, text) -> None:
    data = PythonDocsPairs(max_negatives=0, batch_size=64, max_tokens=700)
    check_batches(data, text, exact=True)
    data = PythonDocsPairs(2, instruction="Find: ", batch_size=64, max_tokens=900)
    check_batches(data, text, exact=False)


def test_real_batches_of_e5_data_have_the_tokens_counted(shared_data: Path, tokenizer) -> None:
    text = TextTokenizer(tokenizer, max_length=256)

    def data(tasks: list[str]) -> E5:
        path = str(shared_data / "echo-data")
        return E5(path, tasks=tasks, max_rows=600, batch_size=256, max_tokens=2048)

    check_batches(data(["boolq", "medquad", "wiki_section"]), text, exact=True)
    check_batches(data(["allnli"]), text, exact=False)  # draws one of two instructions
