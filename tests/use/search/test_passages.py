import pytest

from llm2vec_pl.use.search.document import Document
from llm2vec_pl.use.search.passages import split


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def passages(text: str, most: int, **fields) -> list:
    document = Document(text, "a.md", line=1, by_lines=True)._replace(**fields)
    return list(split([document], words, most))


def test_short_paragraphs_share_a_passage_and_keep_their_line():
    found = passages("one two\n\nthree\nfour\n\n\nfive six seven\n", most=4)
    assert [(p.text, p.line) for p in found] == [
        ("one two\n\nthree\nfour", 1),
        ("five six seven", 7),
    ]


def test_a_heading_begins_a_passage():
    found = passages("before\n\n## Title\n\nbelow it\n", most=100)
    assert [(p.text, p.line) for p in found] == [("before", 1), ("## Title\n\nbelow it", 3)]


def test_a_long_paragraph_is_cut_between_lines_then_sentences_then_words():
    lines = passages("a b c d\ne f g h\n", most=4)
    assert [(p.text, p.line) for p in lines] == [("a b c d", 1), ("e f g h", 2)]
    sentences = passages("One two three. Four five six seven.", most=5)
    assert [p.text for p in sentences] == ["One two three.", "Four five six seven."]
    assert [p.text for p in passages("aa bb cc dd", most=2)] == ["aa bb", "cc dd"]


def test_a_text_without_a_blank_is_cut_anywhere():
    def characters(texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    found = list(split([Document("x" * 100, "a.txt")], characters, 30))
    assert "".join(p.text for p in found) == "x" * 100
    assert max(len(p.text) for p in found) <= 30


@pytest.mark.parametrize("most", [1, 3, 7, 50])
def test_no_word_is_lost_and_no_passage_is_too_long(most):
    text = "\n\n".join(" ".join(f"w{i}-{j}" for j in range(i % 17 + 1)) for i in range(40))
    found = passages(text, most)
    assert " ".join(p.text for p in found).split() == text.split()
    assert max(words([p.text for p in found])) <= most
    lines = text.splitlines()
    assert all(lines[p.line - 1].find(p.text.split()[0]) >= 0 for p in found)


def test_a_row_keeps_its_number_and_its_title_is_embedded_with_each_passage():
    found = passages("one two\n\nthree four", most=2, line=17, by_lines=False, title="Numbers")
    assert [(p.line, p.embedded) for p in found] == [
        (17, "Numbers\none two"),
        (17, "Numbers\nthree four"),
    ]


def test_a_document_of_blanks_has_no_passage():
    assert passages(" \n\n\t\n", most=5) == []
