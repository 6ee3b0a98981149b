import os
from pathlib import Path

import pytest
import torch

from llm2vec_pl.decoder.cpu import limit_threads, usable_cores
from llm2vec_pl.encoder.encoder import Encoder


def control_group(root: Path, **files: str) -> Path:
    """A folder with these files, as `cpu_max`; version 1 has them in `cpu`."""
    for name, content in files.items():
        *folder, name = name.split("__")
        file = root.joinpath(*folder, name.replace("_", ".", 1))
        file.parent.mkdir(exist_ok=True)
        file.write_text(content + "\n")
    return root


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.fixture
def threads(monkeypatch):
    """What torch is told, on a machine where it would take 8 threads and no variable says so."""
    told = []
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu_max": "max 100000"}, 8),
        ({"cpu_max": "200000 100000"}, 2),
        ({"cpu_max": "150000 100000"}, 2),  # a part of a core runs a thread too
        ({"cpu_max": "5000 100000"}, 1),
        ({"cpu_max": "1600000 100000"}, 8),  # more than the affinity allows
        ({"cpu_max": "what is this"}, 8),
        ({"cpu__cpu_cfs_quota_us": "300000", "cpu__cpu_cfs_period_us": "100000"}, 3),
        ({"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, 8),
        ({"cpu__cpu_cfs_quota_us": "300000"}, 8),
        ({"cpu__cpu_cfs_quota_us": "300000", "cpu__cpu_cfs_period_us": "0"}, 8),
    ],
)
def test_the_usable_cores_are_those_of_the_control_group(eight_cores, tmp_path, files, cores):
    assert usable_cores(control_group(tmp_path, **files)) == cores


def test_the_usable_cores_are_those_of_the_affinity(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert usable_cores(tmp_path) == 2


def test_a_system_without_affinity_or_control_groups_has_all_its_cores(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path / "nowhere") == 6


def test_threads_are_lowered_to_the_usable_cores(threads, monkeypatch):
    monkeypatch.setattr("llm2vec_pl.decoder.cpu.usable_cores", lambda: 2)
    limit_threads()
    assert threads == [2]


@pytest.mark.parametrize("cores", [8, 64])
def test_threads_are_never_raised(threads, monkeypatch, cores):
    monkeypatch.setattr("llm2vec_pl.decoder.cpu.usable_cores", lambda: cores)
    limit_threads()
    assert threads == []


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_of_threads_that_the_user_chose_stays(threads, monkeypatch, variable):
    monkeypatch.setattr("llm2vec_pl.decoder.cpu.usable_cores", lambda: 2)
    monkeypatch.setenv(variable, "8")
    limit_threads()
    assert threads == []


def test_loading_an_encoder_lowers_the_threads(threads, monkeypatch, llama_folder):
    monkeypatch.setattr("llm2vec_pl.decoder.cpu.usable_cores", lambda: 2)
    Encoder(llama_folder).load()
    assert threads == [2]
