"""Embeddings that are kept."""

import shutil
from collections import namedtuple

import numpy as np
import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.mteb.embeddings import Embeddings


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path))
    return {"model": "counts"}


def test_a_text_is_embedded_once_under_one_instruction(counts, recipe):
    embeddings = Embeddings(counts, recipe)
    first = embeddings(["sea", "sky", "sea"], "find: ")
    assert counts.asked == [("find: ", "sea"), ("find: ", "sky")]
    again = Embeddings(counts, recipe)(["sky", "bread"], "find: ")
    assert counts.asked[2:] == [("find: ", "bread")]
    np.testing.assert_array_equal(first[1], again[0])
    np.testing.assert_array_equal(first[0], first[2])
    Embeddings(counts, recipe)(["sea"])
    Embeddings(counts, recipe)(["find: sea"])  # not the instruction with the text
    assert counts.asked[3:] == [("", "sea"), ("", "find: sea")]


def test_another_model_has_embeddings_of_its_own(counts, recipe):
    Embeddings(counts, recipe)(["sea"])
    Embeddings(counts, {"model": "other"})(["sea"])
    assert counts.texts == ["sea", "sea"]


def test_nothing_is_kept_without_a_recipe(counts, recipe, tmp_path):
    Embeddings(counts)(["sea"])
    Embeddings(counts)(["sea"])
    assert counts.texts == ["sea", "sea"]
    assert not any(tmp_path.iterdir())


def test_what_was_embedded_before_a_failure_is_kept(counts, recipe, monkeypatch):
    monkeypatch.setattr("llm2vec_pl.evaluation.mteb.embeddings.AT_ONCE", 2)
    counts.encode_all, calls = counts.encode, []

    def killed(texts, *args, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(texts)
        return counts.encode_all(texts, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(counts, "encode", killed)
        with pytest.raises(KeyboardInterrupt):
            Embeddings(counts, recipe)(["a", "b", "c", "d"])
    Embeddings(counts, recipe)(["a", "b", "c", "d"])
    assert counts.texts == ["a", "b", "c", "d"]


def test_a_disk_that_is_nearly_full_is_left_alone(counts, recipe, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 2**30, 2**30))
    embeddings = Embeddings(counts, recipe)
    with pytest.warns(UserWarning, match="further embeddings are not kept"):
        embeddings(["sea"])
    embeddings(["sky"])  # says so once
    assert counts.texts == ["sea", "sky"]


def test_several_devices_have_processes_from_the_first_text_on_until_they_are_closed(counts):
    """What the processes give is tested where they are made."""
    pools, used = [], []

    class Pool:
        def __init__(self, devices):
            pools.append(self)
            self.devices, self.open = devices, True

        def close(self):
            self.open = False

    counts.start_pool = Pool
    encode = counts.encode
    counts.encode = lambda *args, device: used.append(device) or encode(*args)
    embeddings = Embeddings(counts, devices=["cpu", "cpu"])
    assert not pools
    for text in ("sea", "sky"):
        embeddings([text])
    assert pools[0].devices == ["cpu", "cpu"]
    assert used == pools * 2
    embeddings.close()
    assert not pools[0].open


def test_an_unknown_device_is_an_error(counts):
    with pytest.raises(UserError, match="cannot be used"):
        Embeddings(counts, devices=["cuda:99"])
