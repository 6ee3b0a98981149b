import pytest

from llm2vec_pl.decoder.source import locate, newest_run
from llm2vec_pl.errors import UserError


def finished(folder):
    (folder / "encoder").mkdir(parents=True)
    return folder / "encoder"


def test_a_recipes_folder_stands_for_its_newest_finished_run(tmp_path):
    for version in (2, 10, 9):
        finished(tmp_path / "mntp" / f"version_{version}")
    (tmp_path / "mntp" / "version_11").mkdir()  # was interrupted
    assert newest_run(tmp_path / "mntp") == tmp_path / "mntp" / "version_10" / "encoder"


def test_a_runs_folder_stands_for_its_encoder(tmp_path):
    encoder = finished(tmp_path / "version_3")
    assert newest_run(tmp_path / "version_3") == encoder
    assert newest_run(encoder) == encoder


@pytest.mark.parametrize("there", [False, True])
def test_a_stage_that_was_not_trained_yet_is_an_error_that_says_so(tmp_path, monkeypatch, there):
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / "runs" / "mntp" / "version_0").mkdir(parents=True)
    with pytest.raises(UserError, match="no finished run in runs/mntp"):
        locate("runs/mntp")
