import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.data.examples.example import Candidates
from llm2vec_pl.data.files.text_ids import text_id
from llm2vec_pl.errors import UserError
from llm2vec_pl.mining.file import read_pairs, read_texts, write_triplets
from llm2vec_pl.mining.negatives import mine
from llm2vec_pl.mining.rules import Rules


class Degrees(torch.nn.Linear):
    """Embeds a text such as `40 any words` at 40 degrees on the unit circle."""

    def __init__(self):
        super().__init__(1, 1)
        self.seen = []

    def encode(self, texts, instruction, batch_size):
        self.seen += [instruction + text for text in texts]
        degrees = torch.tensor([float(text.split()[0]) for text in texts])
        return 2 * torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)


class Random(torch.nn.Linear):
    """Embeds each text at random, the same each time."""

    def __init__(self, size=4):
        super().__init__(1, 1)
        self.size = size

    def encode(self, texts, instruction="", batch_size=32):
        rows = [
            torch.randn(self.size, generator=torch.Generator().manual_seed(text_id(text)))
            for text in texts
        ]
        return torch.stack(rows)


def cos(degrees):
    return torch.tensor(float(degrees)).deg2rad().cos().item()


# One query at 0 degrees; the cosine falls as the degrees rise.
QUERY = Candidates("0 query", ["30 positive"])
CORPUS = [f"{degrees} other" for degrees in (10, 20, 40, 50, 60, 70, 80)]


def mined(rules=None, rows=(QUERY,), corpus=CORPUS, **options):
    return mine(Degrees(), list(rows), rules, corpus, **options).negatives


def degrees(negatives):
    return [int(text.split()[0]) for text in negatives[0]]


def test_the_nearest_come_first_and_the_positive_is_none_of_them():
    assert degrees(mined()) == [10, 20, 40]
    assert degrees(mined(Rules(num_negatives=100))) == [10, 20, 40, 50, 60, 70, 80]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"range_min": 2}, [40, 50, 60]),
        ({"range_min": 2, "range_max": 5, "num_negatives": 2}, [40, 50]),
        ({"max_score": cos(25)}, [40, 50, 60]),
        ({"min_score": cos(45)}, [10, 20, 40]),
        ({"min_score": cos(35)}, [10, 20]),
        ({"max_score": cos(15), "min_score": cos(55)}, [20, 40, 50]),
        ({"absolute_margin": 0.0}, [40, 50, 60]),
        ({"absolute_margin": cos(30) - cos(45)}, [50, 60, 70]),
        ({"relative_margin": 0.0}, [40, 50, 60]),
        ({"relative_margin": 1 - cos(55) / cos(30)}, [60, 70, 80]),
        ({"relative_margin": 0.0, "range_min": 1}, [50, 60, 70]),  # of what the scores leave
        ({"relative_margin": 0.0, "range_max": 4}, [40, 50]),  # of all, the positive not counted
        ({"max_score": -0.5}, []),
    ],
)
def test_each_rule_leaves_out_what_it_says(rules, expected):
    assert degrees(mined(Rules(**rules))) == expected


def test_a_margin_below_a_negative_positive_score_is_below_it():
    rows = [Candidates("0 query", ["100 positive"])]
    corpus = ["95 other", "101 other", "120 other", "150 other"]
    assert degrees(mined(Rules(relative_margin=0.5), rows, corpus)) == [120, 150]


def test_the_lowest_positive_counts_for_the_margins_and_none_is_a_negative():
    rows = [Candidates("0 query", ["30 a", "45 b"]), Candidates("0 query", ["62 c"])]
    found = mined(Rules(absolute_margin=0.0), rows)
    assert found == [["70 other", "80 other"]] * 2  # one query, in two rows
    assert degrees(mined(rows=rows)) == [10, 20, 40]


def test_texts_of_other_rows_are_candidates_and_equal_texts_are_one():
    rows = [
        Candidates("0 query", ["30 positive"]),
        Candidates("90 query", ["85 other"]),
        Candidates("80 query", ["30  positive", "40 other"]),
    ]
    found = mine(Degrees(), rows, Rules(num_negatives=9), ["40 other", "85 other", "30 positive "])
    assert found.negatives[0] == ["40 other", "85 other"]
    assert found.negatives[1] == ["40 other", "30 positive"]
    assert found.negatives[2] == ["85 other"]
    assert found.counts["candidates"] == 3
    assert found.counts["duplicate texts left out"] == 4


def test_the_query_itself_is_not_its_negative():
    rows = [Candidates("0 query", ["30 positive"]), Candidates("5 asked", ["0 query"])]
    assert mined(rows=rows, corpus=["2 other"])[0] == ["2 other"]


def test_chance_draws_among_what_is_left_by_seed_and_query():
    rows = [Candidates(f"{i} query", [f"{90 + i} positive"]) for i in range(8)]
    rules = {"num_negatives": 2, "range_min": 1, "range_max": 6, "sampling": "random"}
    first = mined(Rules(**rules), rows)
    assert first == mined(Rules(**rules), rows)
    assert first[1:] == mined(Rules(**rules), rows[1:], [*CORPUS, "90 positive"])
    assert first != mined(Rules(**rules, seed=1), rows)
    assert len({str(negatives) for negatives in first}) > 1
    for found in first:
        scores = [float(text.split()[0]) for text in found]
        assert scores == sorted(scores)
        assert set(found) <= {f"{degrees} other" for degrees in (20, 40, 50, 60, 70)}


def test_instructions_reach_queries_and_documents_alone():
    encoder = Degrees()
    encoder.encode = lambda texts, instruction, batch_size: Degrees.encode(
        encoder, texts, instruction, batch_size
    )
    mine(encoder, [QUERY], None, ["40 other"], "ask ", "tell ")
    assert encoder.seen == ["ask 0 query", "tell 30 positive", "tell 40 other"]


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 7), st.integers(1, 6))
def test_chunks_change_nothing(queries, texts, chunk, negatives):
    rows = [Candidates(f"q{i}", [f"p{i % 5}"]) for i in range(queries)]
    corpus = [f"c{i}" for i in range(texts)]
    rules = Rules(num_negatives=negatives, relative_margin=0.05)
    whole = mine(Random(), rows, rules, corpus)
    parts = mine(Random(), rows, rules, corpus, chunk_size=chunk)
    assert whole.negatives == parts.negatives
    assert whole.counts == parts.counts


def test_the_summary_counts_all_that_was_left_out():
    rows = [QUERY, Candidates("89 query", ["80 other"])]
    rules = Rules(num_negatives=2, max_score=cos(25))
    found = mine(Degrees(), rows, rules, CORPUS)
    assert found.negatives == [["40 other", "50 other"], ["60 other", "50 other"]]
    lines = "\n".join(found.summary(rules))
    assert "2 queries\n8 candidates\n1 duplicate texts left out" in lines
    assert "3 near candidates left out by max_score" in lines
    positive, negative = (cos(30) + cos(9)) / 2, (cos(40) + cos(50) + cos(29) + cos(39)) / 4
    assert f"{positive:.3f} of the positives, {negative:.3f} of the negatives" in lines
    none = mine(Degrees(), rows, Rules(max_score=-1.0), CORPUS)
    summary = "\n".join(none.summary(Rules(max_score=-1.0)))
    assert "0 negatives for 2 rows; 2 rows have fewer than 3, and 2 of these have none" in summary
    assert "raise `range_max`, now 30" in summary


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"num_negatives": 0}, "`num_negatives` is at least 1"),
        ({"range_min": -1}, "`range_min` at least 0"),
        ({"range_min": 5, "range_max": 7}, "`range_max=7` leaves fewer than 3.*Raise it to 8"),
        ({"min_score": 0.5, "max_score": 0.2}, "`min_score=0.5` is above `max_score=0.2`"),
    ],
)
def test_rules_that_leave_nothing_are_clear_errors(rules, message):
    with pytest.raises(UserError, match=message):
        Rules(**rules)


def test_no_rows_and_a_diverged_encoder_are_clear_errors():
    with pytest.raises(UserError, match="no rows"):
        mine(Degrees(), [])
    encoder = Degrees()
    encoder.encode = lambda texts, *_: torch.full((len(texts), 2), torch.nan)
    with pytest.raises(UserError, match="not finite"):
        mine(encoder, [QUERY])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"range_min": 3},
        {"range_max": 200, "relative_margin": 0.05},
        {"range_max": 200, "absolute_margin": 0.1, "range_min": 2},
        {"range_max": 200, "max_score": 0.6, "min_score": 0.1},
    ],
)
def test_negatives_are_those_of_sentence_transformers(options):
    package = pytest.importorskip("sentence_transformers.util")
    from datasets import Dataset

    encoder = Random(8)
    rows = [Candidates(f"query {i % 50}", [f"text {i}"]) for i in range(60)]
    corpus = [f"more {i}" for i in range(100)] + ["text 3"]

    class Model:
        device = torch.device("cpu")

        def encode_query(self, texts, **_):
            return F.normalize(encoder.encode(texts)).numpy()

        encode_document = encode_query

        def similarity(self, a, b):
            return torch.as_tensor(a) @ torch.as_tensor(b).T

        def similarity_pairwise(self, a, b):
            return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1)

    pairs = Dataset.from_list([{"query": r.query, "positive": r.positives[0]} for r in rows])
    theirs = package.mine_hard_negatives(pairs, Model(), corpus=corpus, verbose=False, **options)
    expected = {}
    for row in theirs:
        expected.setdefault((row["query"], row["positive"]), []).append(row["negative"])
    ours = mine(encoder, rows, Rules(**options), corpus)
    found = {
        (row.query, row.positives[0]): negatives
        for row, negatives in zip(rows, ours.negatives, strict=True)
        if negatives
    }
    assert len(found) > 30
    assert sum(map(len, found.values())) > 90
    assert found == expected


def test_files_of_pairs_are_read_and_triplets_written(tmp_path):
    rows = [
        {"query": "q1", "positive": "a", "negative": "old"},
        {"query": "q2", "positive": ["b", "c"]},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = read_pairs(tmp_path / "in.jsonl")
    assert [(row.query, row.positives, bool(row.negatives)) for row in read] == [
        ("q1", ["a"], True),
        ("q2", ["b", "c"], False),
    ]
    write_triplets(tmp_path / "out.jsonl", read, [["x", "ü\u2028"], []])
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert list(map(json.loads, written)) == [
        {"query": "q1", "positive": "a", "negative": ["x", "ü\u2028"]},
        {"query": "q2", "positive": ["b", "c"], "negative": []},
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_a_writing_cut_off_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("before")
    with pytest.raises(ValueError, match="shorter"):
        write_triplets(path, [QUERY, QUERY], [["a"]])
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"positive": "a"}', "line 2: expected a text in 'query', but got null"),
        ('{"query": "a"}', "line 2: expected a text.* in 'positive', but got null"),
        ('{"query": "a", "positive": []}', r"line 2: expected .* in 'positive', but got \[\]"),
        ('{"query": "a", "positive": ["b", 3]}', "line 2: .*'positive', but got not a string"),
        ('{"query": " ", "positive": "b"}', "line 2: .*'query', but got empty"),
        ("[]", "line 2: expected a query and a positive, but got not a JSON object"),
        ('{"query": "a"', "line 2: expected a query and a positive, but got broken JSON"),
    ],
)
def test_a_bad_pair_is_an_error_with_file_and_line(line, message, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"query": "q", "positive": "p"}\n' + line)
    with pytest.raises(UserError, match=f"in.jsonl {message}"):
        read_pairs(path)


def test_a_corpus_is_a_column_or_the_lines_of_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.csv").write_text('body,x\none,1\n"two\nlines",2\n')
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{"text": null}')
    assert list(read_texts(tmp_path / "a.txt")) == ["one", "two"]
    assert list(read_texts(tmp_path / "b.csv", "body")) == ["one", "two\nlines"]
    with pytest.raises(UserError, match="c.jsonl line 2: expected a text in 'text', but got null"):
        list(read_texts(tmp_path / "c.jsonl"))
    with pytest.raises(UserError, match="b.csv has no column 'text'; its columns are: body, x"):
        list(read_texts(tmp_path / "b.csv"))
    with pytest.raises(UserError, match="d.txt does not exist"):
        list(read_texts(tmp_path / "d.txt"))
