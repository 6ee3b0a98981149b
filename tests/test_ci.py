"""When CI runs the tests of every architecture, and when those of a sample."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "decoders-untouched"


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, name: str, content: str = "changed") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", name)


def untouched(folder: Path) -> bool:
    return not subprocess.run([folder / ".ci" / SCRIPT.name], capture_output=True).returncode


@pytest.fixture
def branch(tmp_path: Path) -> Path:
    """A clone, on a branch that is where main is."""
    origin = tmp_path / "origin"
    (origin / ".ci").mkdir(parents=True)
    shutil.copy(SCRIPT, origin / ".ci")
    git(origin, "init", "--quiet", "--initial-branch", "main")
    commit(origin, "llm2vec_pl/decoder/architectures.py")
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    git(tmp_path / "clone", "checkout", "--quiet", "-b", "branch")
    return tmp_path / "clone"


def test_a_branch_that_changes_no_decoder_tests_a_sample(branch):
    commit(branch, "README.md")
    assert untouched(branch)


@pytest.mark.parametrize(
    "name",
    [
        "llm2vec_pl/bidirectional/switch.py",
        "llm2vec_pl/decoder/architectures.py",
        ".ci/constraints.txt",
        "tests/tiny_models.py",
        "tests/bidirectional/architecture_sample.py",
    ],
)
def test_a_branch_that_changes_what_decoders_do_tests_all_of_them(branch, name):
    commit(branch, name, "new")
    assert not untouched(branch)


def test_changes_that_are_not_committed_count(branch):
    commit(branch, "README.md")
    (branch / "llm2vec_pl" / "decoder" / "new.py").touch()
    assert not untouched(branch)


def test_where_it_cannot_be_told_all_are_tested(branch, tmp_path):
    assert not untouched(branch)  # a branch without a commit of its own
    commit(branch, "README.md")
    git(branch, "remote", "remove", "origin")
    git(branch, "branch", "--delete", "--force", "main")
    assert not untouched(branch)  # nothing to compare with
    shutil.rmtree(branch / ".git")
    assert not untouched(branch)


def test_what_is_looked_at_is_there():
    listed = re.search(r"decoders=\((.*?)\)", SCRIPT.read_text(), re.DOTALL)[1].split()
    if not (ROOT / ".git").exists():
        pytest.skip("needs git to know its own files")
    for name in listed:
        files = subprocess.check_output(["git", "ls-files", "--", name.strip("'")], cwd=ROOT)
        assert files, name
