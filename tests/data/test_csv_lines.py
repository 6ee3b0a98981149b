from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.data.files.csv_lines import UNCLOSED, separated_values

FIELD = st.text('ab ,\t"\n\r\u2028é', max_size=8)


def lines_of(content: str) -> list[str]:
    return list(io.StringIO(content, newline=""))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=12), st.sampled_from(",\t"))
def test_whatever_csv_writes_is_read_back(table: list[list[str]], delimiter: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows(table)
    found = list(separated_values(lines_of(file.getvalue()), delimiter))
    assert [record.fields for record in found] == table
    assert not any(record.problem for record in found)


@pytest.mark.parametrize(
    "broken",
    ['"never closed', 'a,"never closed', '"he said "hi" to me",b', '"closed" too early,b'],
)
@pytest.mark.parametrize("following", [["c,d"], ["c,d", 'e,"f"', "g,h"]])
def test_a_broken_quote_costs_its_own_line_alone(broken: str, following: list[str]) -> None:
    content = "\n".join(['x,"one\nand more"', broken, *following])
    first, second, *rest = separated_values(lines_of(content), ",")
    assert first == (1, ["x", "one\nand more"], "")
    assert second == (3, [], UNCLOSED)
    expected = [[field.strip('"') for field in line.split(",")] for line in following]
    assert [record.fields for record in rest] == expected
    assert [record.line for record in rest] == list(range(4, 4 + len(following)))
