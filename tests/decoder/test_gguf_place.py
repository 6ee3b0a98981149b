"""Which names mean a GGUF, and which do not."""

from __future__ import annotations

import pytest

from llm2vec_pl.decoder.gguf_place import gguf_place
from llm2vec_pl.errors import UserError


@pytest.mark.parametrize(
    "name", ["tiny", "org/name", "org/name@v1", "gpt2", "runs/mntp", "./folder", "/no/such/folder"]
)
def test_other_names_are_left_to_others(name):
    assert gguf_place(name, None) is None


@pytest.mark.parametrize("name", ["model.gguf", "MODEL.GGUF", "sha256-3f2a"])
def test_any_file_is_taken_for_one_and_named_in_full(name, tmp_path, monkeypatch):
    """Also those without an ending, as some programs keep them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"GGUF")
    place = gguf_place(name, None)
    assert (place.name, place.revision) == (str(tmp_path / name), None)


def test_a_link_keeps_its_own_name(tmp_path):
    (tmp_path / "blob").write_bytes(b"GGUF")
    (tmp_path / "model.gguf").symlink_to(tmp_path / "blob")
    assert gguf_place(str(tmp_path / "model.gguf"), None).name == str(tmp_path / "model.gguf")


def test_a_folder_may_stand_where_a_repository_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_bytes(b"GGUF")
    assert gguf_place("models:a.gguf", None).name == str(tmp_path / "models" / "a.gguf")
    with pytest.raises(UserError, match="no file models/b.gguf"):
        gguf_place("models:b.gguf", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modl.gguf", r"no file modl\.gguf\. Did you mean model\.gguf\?"),
        ("zzz.gguf", r"no file zzz\.gguf\. Check the path: that folder has model\.gguf\."),
        ("/no/such/model.gguf", "Check the path; one on the hub is written org/name:FILE.gguf"),
    ],
)
def test_a_missing_file_is_an_error(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=message):
        gguf_place(name, None)


def test_a_missing_file_of_the_hub_is_an_error(hub, llama_folder):
    hub.publish("org/name", llama_folder)
    with pytest.raises(UserError, match="org/name on the hub has no file other.gguf, or it cannot"):
        gguf_place("org/name:other.gguf", None)
    with pytest.raises(UserError, match="has no file other.gguf at v1, or it cannot"):
        gguf_place("org/name@v1:other.gguf", None)


def test_a_part_on_the_hub_is_refused_before_it_is_downloaded(monkeypatch):
    monkeypatch.setattr("llm2vec_pl.decoder.gguf_place.fetch", lambda *_: pytest.fail("fetched"))
    with pytest.raises(UserError, match="part 2 of a GGUF that is split into 3"):
        gguf_place("org/name:big-00002-of-00003.gguf", None)
