import json

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.training.pipeline import trained_encoders


def finish(folder, stage, base="org/decoder"):
    encoder = folder / stage / "version_1" / "encoder"
    encoder.mkdir(parents=True)
    (folder / stage / "done.json").write_text(json.dumps({"encoder": "version_1/encoder"}))
    (encoder / "lineage.json").write_text(json.dumps({"base_model": base} if base else {}))
    return str(encoder)


def test_the_finished_stages_of_a_pipeline_come_in_the_order_of_the_method(tmp_path):
    simcse, mntp = (finish(tmp_path, stage) for stage in ("simcse", "mntp"))
    (tmp_path / "supervised").mkdir()  # interrupted
    assert trained_encoders(tmp_path) == ("org/decoder", {"+ MNTP": mntp, "+ SimCSE": simcse})


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no finished stage"):
        trained_encoders(tmp_path)


def test_a_stage_that_does_not_name_its_decoder_is_refused(tmp_path):
    finish(tmp_path, "mntp", base=None)
    with pytest.raises(UserError, match="Name it: --decoder"):
        trained_encoders(tmp_path)
