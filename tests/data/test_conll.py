import gzip

import pytest
from conll_files import CONLL2000, CONLL2003_IOB1, CONLL2003_IOB2, CONLLU

from llm2vec_pl.data.words.conll import read_columns, read_conllu
from llm2vec_pl.data.words.sentence import Layout
from llm2vec_pl.data.words.tags import label_order, to_iob2
from llm2vec_pl.errors import UserError


def read(tmp_path, text, task="ner", name="train.txt", **layout):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    reader = read_conllu if name.endswith(".conllu") else read_columns
    return list(reader(path, Layout(task, **layout)))


@pytest.mark.parametrize(
    ("task", "tags"),
    [
        ("pos", ["NNP", "NNP", "NNP", "VBD", "TO", "NNP", "."]),
        ("chunk", ["B-NP", "I-NP", "I-NP", "B-VP", "B-PP", "B-NP", "O"]),
        ("ner", ["B-PER", "I-PER", "B-PER", "O", "O", "B-LOC", "O"]),
    ],
)
def test_each_task_of_conll2003_has_its_column(tmp_path, task, tags):
    first, second = read(tmp_path, CONLL2003_IOB2, task)
    assert first.words == ["Marta", "Lindqvist", "Olsen", "flew", "to", "Oslo", "."]
    assert first.tags == tags
    assert second.words[0] == "The"
    assert second.place == f"{tmp_path / 'train.txt'} line 13"


@pytest.mark.parametrize("task", ["chunk", "ner"])
def test_iob1_and_iob2_say_the_same(tmp_path, task):
    old, new = (read(tmp_path, text, task) for text in (CONLL2003_IOB1, CONLL2003_IOB2))
    assert [to_iob2(s.tags) for s in old] == [s.tags for s in new]
    assert [to_iob2(s.tags) for s in new] == [s.tags for s in new]


def test_the_pound_sign_of_conll2000_is_a_word(tmp_path):
    first, second = read(tmp_path, CONLL2000, "chunk")
    assert first.words == ["Shares", "rose", "#", "3", "million", "in", "London", "."]
    assert (second.words[0], second.tags[0]) == ("#", "B-NP")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace(" ", "\t").encode(),
        lambda text: text.rstrip("\n").encode(),
        lambda text: text.replace("\n\n", "\n \n\n").encode(),
        lambda text: text.replace("\n", " \n").encode(),
        lambda text: (
            "# id = 5\n" + text.replace("\n\nThe", "\n\n# text = 5\n# domain 1\nThe")
        ).encode(),
    ],
    ids=["crlf", "bom", "tabs", "no last line", "blank lines", "trailing blanks", "comments"],
)
def test_files_may_be_written_differently(tmp_path, change):
    plain = read(tmp_path, CONLL2003_IOB2)
    changed = read(tmp_path, change(CONLL2003_IOB2))
    assert [(s.words, s.tags) for s in changed] == [(s.words, s.tags) for s in plain]


def test_a_compressed_file_is_read(tmp_path):
    assert len(read(tmp_path, gzip.compress(CONLL2000.encode()), "chunk", "train.txt.gz")) == 2


def test_a_word_may_hold_blanks_that_are_no_divider(tmp_path):
    words = ["10\xa0000", "a\u2028b", "x\x85"]
    (sentence,) = read(tmp_path, "\n".join(f"{word} O" for word in words) + "\nOslo B-LOC")
    assert sentence.words == [*words, "Oslo"]


def test_a_line_with_other_columns_is_named(tmp_path):
    broken = CONLL2003_IOB2.replace("Oslo NNP B-NP B-LOC", "Oslo NNP")
    with pytest.raises(UserError, match=r"train.txt line 8: expected 4 columns.*got 2: 'Oslo NNP'"):
        read(tmp_path, broken)


def test_a_broken_character_is_named(tmp_path):
    text = CONLL2000.replace("London", "Zürich").encode("latin-1")
    with pytest.raises(UserError, match=r"line 7: expected UTF-8"):
        read(tmp_path, text, "chunk")


def test_another_column_is_chosen_by_its_number(tmp_path):
    (sentence, _) = read(tmp_path, CONLL2003_IOB2, "pos", column=3, word_column="2")
    assert sentence.words[0] == "NNP"
    assert sentence.tags[0] == "B-NP"


@pytest.mark.parametrize("column", [0, 5, "upos", -1])
def test_a_column_that_is_not_there_is_an_error(tmp_path, column):
    with pytest.raises(UserError, match=r"`column` is a number from 1 to 4, but got"):
        read(tmp_path, CONLL2003_IOB2, column=column)


def test_a_file_of_text_or_of_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"expected lines of a word and its tags.*'Marta'"):
        read(tmp_path, "Marta\nflew\n")
    with pytest.raises(UserError, match="has no words"):
        read(tmp_path, "\n\n")


def test_conllu_leaves_out_multiword_tokens_empty_nodes_and_comments(tmp_path):
    first, second = read(tmp_path, CONLLU, "pos", "train.conllu")
    assert first.words == ["We", "do", "n't", "know", "."]
    assert first.tags == ["PRON", "AUX", "PART", "VERB", "PUNCT"]
    assert (second.words, second.tags) == (["#", "10 000"], ["SYM", "NUM"])
    assert second.place.endswith("train.conllu line 13")


def test_other_columns_of_conllu_have_names(tmp_path):
    (first, _) = read(tmp_path, CONLLU, "pos", "train.conllu", column="xpos")
    assert first.tags == ["PRP", "VBP", "RB", "VB", "."]
    with pytest.raises(UserError, match=r"CoNLL-U has no column for `task='ner'`"):
        read(tmp_path, CONLLU, "ner", "train.conllu")


def test_a_broken_line_of_conllu_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train.conllu line 4: expected ten columns of CoNLL-U"):
        read(tmp_path, CONLLU.replace("1\tWe", "1 We"), "pos", "train.conllu")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-PER I-LOC O", "B-PER B-LOC O"),
        ("B-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("B-PER I-LOC", "B-PER B-LOC"),
        ("S-PER S-PER B-LOC I-LOC E-LOC", "B-PER B-PER B-LOC I-LOC I-LOC"),
        ("U-PER B-LOC L-LOC I-LOC", "B-PER B-LOC I-LOC B-LOC"),
        ("B I O I", "B I O B"),
        ("B-creative-work I-creative-work", "B-creative-work I-creative-work"),
    ],
)
def test_spans_are_written_in_iob2(tags, expected):
    assert to_iob2(tags.split()) == expected.split()


def test_labels_are_ordered_by_type():
    labels = ["I-LOC", "B-PER", "O", "B-LOC", "I-PER"]
    assert sorted(labels, key=label_order) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
