from llm2vec_pl.training.pipeline.stage_record import interrupted


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(tmp_path):
    assert interrupted(tmp_path) is None
    for version, is_finished in (("version_0", True), ("version_1", False)):
        (tmp_path / version / "checkpoints").mkdir(parents=True)
        (tmp_path / version / "checkpoints" / "last.ckpt").touch()
        if is_finished:
            (tmp_path / version / "encoder").mkdir()
    assert interrupted(tmp_path) == tmp_path / "version_1" / "checkpoints" / "last.ckpt"


def test_an_interrupted_run_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "version_3" / "checkpoints").mkdir(parents=True)
    (tmp_path / "version_3" / "checkpoints" / "last.ckpt").touch()
    assert interrupted(tmp_path, ["version_3"]) is None
