from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.files import cache_root, cached_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def content(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def write_one(folder: Path) -> None:
    (folder / "data").write_text("one")


def test_a_folder_is_written_once_per_recipe(cache: Path) -> None:
    written = []

    def write(folder: Path) -> None:
        written.append(folder)
        write_one(folder)

    first = cached_folder("x", {"a": 1}, write)
    assert cached_folder("x", {"a": 1}, write) == first
    assert cached_folder("x", {"a": 2}, write) != first
    assert len(written) == 2
    assert (first / "data").read_text() == "one"


def test_a_killed_run_leaves_nothing_that_is_read(cache: Path) -> None:
    def die_half_way(folder: Path) -> None:
        write_one(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("x", {}, die_half_way)
    assert content(cache) == []
    half = cache / ".unfinished-of-a-run-killed-at-once"
    half.mkdir()
    write_one(half)
    folder = cached_folder("x", {}, write_one)
    assert folder != half
    assert half.is_dir()  # it may belong to a run that goes on


def test_what_was_left_for_days_is_removed(cache: Path) -> None:
    half = cache / ".unfinished-old"
    half.mkdir(parents=True)
    os.utime(half, (0, 0))
    cached_folder("x", {}, write_one)
    assert not half.exists()


def test_of_two_that_want_the_same_folder_one_builds_it(cache: Path) -> None:
    built = []

    def write(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        write_one(folder)

    with ThreadPoolExecutor(4) as threads:
        wanted = [threads.submit(cached_folder, "x", {}, write) for _ in range(4)]
        folders = {future.result() for future in wanted}
    assert len(built) == len(folders) == len(content(cache)) == 1


def test_without_locks_the_first_to_finish_wins(cache: Path, monkeypatch) -> None:
    def no_lock(*_: object) -> None:
        raise NotImplementedError("this file system has no locks")

    def be_overtaken(folder: Path) -> None:
        cached_folder("x", {}, write_one)
        (folder / "data").write_text("two")

    monkeypatch.setattr("filelock.FileLock.acquire", no_lock)
    assert (cached_folder("x", {}, be_overtaken) / "data").read_text() == "one"
    assert len(content(cache)) == 1


def test_a_full_disk_says_what_to_do(cache: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"No space left.*LLM2VEC_PL_CACHE"):
        cached_folder("x", {}, fill)


def test_a_folder_that_cannot_be_made_says_what_to_do(cache: Path) -> None:
    cache.write_text("a file in its place")
    with pytest.raises(UserError, match=r"Cannot write the cache.*LLM2VEC_PL_CACHE"):
        cached_folder("x", {}, write_one)


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM2VEC_PL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/llm2vec_pl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "llm2vec_pl"
