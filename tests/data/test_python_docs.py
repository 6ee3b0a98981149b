from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from llm2vec_pl.data import PythonDocs
from llm2vec_pl.data.files.docstrings import (
    Docstring,
    Package,
    installed_packages,
    prose,
    read_docstrings,
    sentences_of,
)
from llm2vec_pl.data.python_docs import unlike_pairs

FUNCTION = '''
def f{i}(x):
    """Compute the {i}th value of the series.

    The {i}th value is found by adding up all those before it, starting from {i} times x, and
    it is returned without being rounded.
    """
'''


def install(site: Path, name: str, version: str, files: dict[str, str]) -> Package:
    """A distribution in a made-up site-packages folder."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, source in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(source)
    (info / "RECORD").write_text("\n".join(f"{path},," for path in files))
    return Package(name, version, metadata.PathDistribution(info))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Package]:
    many = "".join(FUNCTION.format(i=i) for i in range(400))
    found = [
        install(tmp_path / "site", "series", "1.0", {"series/__init__.py": '"""Sums."""\n' + many})
    ]
    monkeypatch.setattr("llm2vec_pl.data.python_docs.installed_packages", lambda: found)
    return found


def test_docstrings_have_dotted_names_and_are_sorted(tmp_path: Path) -> None:
    source = '''
"""About the module."""
try:
    class Outer:
        """About the class."""
        async def method(self):
            """About the method."""
            def inner():
                """About the function inside."""
except ImportError:
    def fallback():
        """About the fallback."""
'''
    package = install(tmp_path, "a", "1", {"a/__init__.py": "", "a/b.py": source})
    assert read_docstrings([package]) == [
        Docstring("a.b", "About the module."),
        Docstring("a.b.Outer", "About the class."),
        Docstring("a.b.Outer.method", "About the method."),
        Docstring("a.b.Outer.method.inner", "About the function inside."),
        Docstring("a.b.fallback", "About the fallback."),
    ]


def test_tests_and_vendored_copies_are_left_out(tmp_path: Path) -> None:
    module = '"""About {}."""'
    names = ["a/x.py", "a/tests/x.py", "a/_vendor/x.py", "a/test_x.py", "a/x.txt"]
    package = install(tmp_path, "a", "1", {name: module.format(name) for name in names})
    assert [docstring.name for docstring in read_docstrings([package])] == ["a.x"]


def test_a_file_that_is_no_python_is_passed_over(tmp_path: Path) -> None:
    files = {"a/x.py": "def {{ name }}():", "a/y.py": '"""About y."""', "a/z.py": "\0"}
    package = install(tmp_path, "a", "1", files)
    (tmp_path / "a/x.py").write_bytes(b"\xff\xfe")
    assert len(read_docstrings([package])) == 1


def test_docstrings_that_begin_alike_are_kept_once(tmp_path: Path) -> None:
    begin = "The same words at the beginning, " * 4
    source = f'def b():\n    """{begin}b."""\ndef a():\n    """{begin}a."""\n'
    package = install(tmp_path, "m", "1", {"m.py": source})
    assert [docstring.name for docstring in read_docstrings([package])] == ["m.a"]


def test_the_number_of_processes_does_not_change_what_is_read(tmp_path: Path) -> None:
    files = {f"a/m{i}.py": f'"""About {i}."""' for i in range(501)}
    package = install(tmp_path, "a", "1", files)
    assert read_docstrings([package], processes=2) == read_docstrings([package], processes=1)


def test_prose_has_no_code_no_underlines_and_no_roles() -> None:
    docstring = """Make a :class:`~torch.Tensor` or ``None``.

Notes
-----
See :func:`make it <torch.make>` first.

Examples
========
>>> make(1)
tensor(1)
>>> make(
...     2)

It is also fast::

```python
make(3)
```

The end."""
    assert prose(docstring) == (
        "Make a `torch.Tensor` or `None`.\n\nNotes\nSee `make it` first.\n\n"
        "It is also fast::\n\nThe end."
    )


def test_prose_is_cut_into_sentences_and_the_rest_left_out() -> None:
    text = """Compute the sum of the values, e.g. of a list. It may be nothing!

    Args: x: the values to add up. Returns: The sum of the values.
    out (int, optional): Where the sum is written to.

    "Quoted words" are sentences too. Two words. x = f(y[0], z[1]) + {3: 4}[5] it is.
    This one goes
    on in the next line. But this one never ends"""
    assert sentences_of(text) == [
        "Compute the sum of the values, e.g. of a list.",
        "It may be nothing!",
        '"Quoted words" are sentences too.',
        "This one goes on in the next line.",
    ]


def test_pairs_need_a_summary_and_a_body_unlike_all_others() -> None:
    body = "A body of text that is long enough to be worth finding, because it says something: {}"
    pairs = unlike_pairs(
        [
            Docstring("a", "A first summary line.\n\n" + body.format("a") + "a" * 100),
            Docstring("b", "a first  summary line.\n\n" + "Another body. " * 10),
            Docstring("c", "A second summary line.\n\n" + body.format("a") + "a" * 99),
            Docstring("d", "A third summary line, without a body."),
            Docstring("e", "x (`int`, *optional*): an argument\n\n" + body.format("e")),
            Docstring("f", "A fourth summary\nline.\n\n" + body.format("f")),
        ]
    )
    assert [pair.name for pair in pairs] == ["a", "f"]
    assert pairs[1].query == "A fourth summary line."


def test_names_are_split_and_never_shared(packages) -> None:
    data = PythonDocs()
    train, validation = data.pairs("train"), data.pairs("validation")
    assert len(train) + len(validation) == 400
    assert 5 <= len(validation) <= 40
    held_out = {pair.name for pair in validation}
    assert held_out.isdisjoint(pair.name for pair in train)
    assert held_out == {docstring.name for docstring in data.docstrings("validation")}
    assert not any(text in set(data.texts("train")) for text in data.texts("validation"))


def test_retrieval_has_one_relevant_document_per_query(packages) -> None:
    data = PythonDocs()
    task = data.retrieval(num_queries=5)
    assert len(task.queries) == len(task.corpus) == 5
    assert task.relevant == {name: {name: 1} for name in task.queries}
    assert set(task.queries) <= {pair.name for pair in data.pairs("validation")}
    assert task == PythonDocs().retrieval(num_queries=5)
    assert set(task.queries) <= set(data.retrieval().queries)


def test_docstrings_are_read_once_until_a_version_changes(
    packages, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counting(packages):
        read.append(packages)
        return read_docstrings(packages)

    monkeypatch.setattr("llm2vec_pl.data.python_docs.read_docstrings", counting)
    for max_length in (32, 64):
        data = PythonDocs(max_length=max_length).attach(tokenizer)
        data.setup()
        assert data.blocks["train"][0].shape == (max_length,)
    assert len(read) == 1
    packages.append(Package("series-2", "2.0", packages[0].distribution))
    PythonDocs().attach(tokenizer).setup()
    assert len(read) == 2


def test_installed_packages_are_python_and_the_requirements() -> None:
    packages = {package.name: package for package in installed_packages()}
    assert {"python", "torch", "transformers", "lightning", "numpy"} <= set(packages)
    assert "pytest" not in packages
    assert packages["python"].version == sys.version.split()[0]
    root, first = packages["lightning"].files()[0]
    assert (root / first).is_file()


@pytest.mark.exhaustive
def test_the_real_installation_gives_text_pairs_and_a_retrieval_test() -> None:
    data = PythonDocs()
    assert sum(map(len, data.texts("train"))) > 10_000_000
    assert len(data.pairs("train")) > 10_000
    assert len(data.retrieval().queries) > 500
