import json
from itertools import pairwise
from pathlib import Path

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.report import plot, report
from llm2vec_pl.pipeline import Pipeline, flags_of, interrupted

RECIPES = Path(__file__).parents[1] / "recipes"
TEXTS = [f"Text number {i} says that {i} and {i + 1} make {2 * i + 1}." for i in range(200)]


def pipeline(out, **options):
    return Pipeline(recipes=RECIPES, configs=RECIPES / "configs" / "tiny", out=out, **options)


def option(command, flag):
    """The last value of a flag, the one that counts."""
    return [after for word, after in pairwise(command) if word == flag][-1]


def test_a_flag_goes_to_all_stages_or_to_one():
    flags = ["--trainer.devices", "2", "--mntp.trainer.max_steps", "5", "--model.margin=0.1"]
    assert flags_of("mntp", flags) == [
        "--trainer.devices", "2", "--trainer.max_steps", "5", "--model.margin=0.1",
    ]  # fmt: skip
    assert flags_of("simcse", flags) == ["--trainer.devices", "2", "--model.margin=0.1"]


def test_each_stage_starts_from_the_one_before_and_supervised_from_mntp(tmp_path):
    for stage in ("mntp", "simcse"):
        (tmp_path / stage / "version_0" / "encoder").mkdir(parents=True)
    start = {s: option(pipeline(tmp_path).command(s), "--encoder.model_name") for s in ("mntp", "simcse", "supervised")}  # fmt: skip
    mntp = str(tmp_path / "mntp" / "version_0" / "encoder")
    assert start == {"mntp": "tiny", "simcse": mntp, "supervised": mntp}
    from_simcse = pipeline(tmp_path, supervised_from="simcse").command("supervised")
    simcse = str(tmp_path / "simcse" / "version_0" / "encoder")
    assert option(from_simcse, "--encoder.model_name") == simcse


def test_a_causal_pipeline_leaves_out_mntp_and_step_1(tmp_path):
    causal = pipeline(tmp_path, causal=True)
    assert causal.stages == ("simcse", "supervised")
    command = causal.command("supervised")
    assert option(command, "--encoder.bidirectional") == "false"
    assert option(command, "--encoder.model_name") == "tiny"


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(tmp_path):
    assert interrupted(tmp_path) is None
    for version, is_finished in (("version_0", True), ("version_1", False)):
        (tmp_path / version / "checkpoints").mkdir(parents=True)
        (tmp_path / version / "checkpoints" / "last.ckpt").touch()
        if is_finished:
            (tmp_path / version / "encoder").mkdir()
    assert interrupted(tmp_path) == tmp_path / "version_1" / "checkpoints" / "last.ckpt"


def test_a_stage_trained_with_other_flags_is_not_taken_for_done(tmp_path):
    done = {"command": pipeline(tmp_path).command("mntp")[1:], "minutes": 1.0}
    (tmp_path / "mntp").mkdir()
    (tmp_path / "mntp" / "done.json").write_text(json.dumps(done))
    assert pipeline(tmp_path).is_done("mntp")
    with pytest.raises(UserError, match="Name another folder with --out"):
        pipeline(tmp_path, flags=["--trainer.max_steps", "7"]).is_done("mntp")


def test_a_folder_without_the_stages_configurations_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"lacks .*mntp.yaml"):
        Pipeline(recipes=RECIPES, configs=tmp_path, out=tmp_path)


def test_the_report_has_a_row_a_step_and_a_plot(tmp_path, capsys):
    rows = {"causal": {"ndcg@10": 0.1}, "+ MNTP": {"ndcg@10": 0.2, "minutes": 5.04}}
    report(rows, tmp_path)
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("causal", "0.100", "+ MNTP", "0.200", "5.0"))
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert (tmp_path / "table.png").stat().st_size > 1000


def test_a_metric_that_a_row_lacks_leaves_a_gap(tmp_path):
    plot({"a": {"x": 1.0}, "b": {"y": 2.0}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").is_file()


@pytest.mark.slow
def test_a_pipeline_that_failed_goes_on_where_it_was(tmp_path, monkeypatch):
    """Every recipe really runs, for two steps; what is measured is not under test here."""
    measured = []

    def evaluate(encoder, sts):
        measured.append((encoder.bidirectional, len(encoder.adapters)))
        return {"ndcg@10": 0.5}

    monkeypatch.setattr("llm2vec_pl.evaluation.summary.evaluate", evaluate)
    texts, pairs = tmp_path / "texts.txt", tmp_path / "pairs.jsonl"
    texts.write_text("\n".join(TEXTS))
    rows = [{"query": text[:14], "positive": text} for text in TEXTS]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    flags = [
        "--trainer.max_steps", "2", "--trainer.val_check_interval", "1", "--data.batch_size", "4",
        "--trainer.limit_val_batches", "1", "--trainer.enable_progress_bar", "false",
        "--mntp.data", "Wikipedia", "--mntp.data.path", str(texts),
        "--simcse.data", "WikipediaSentences",
        "--supervised.data", "E5", "--supervised.data.path", str(pairs),
    ]  # fmt: skip
    out = tmp_path / "out"
    broken = pipeline(out, flags=[*flags, "--simcse.data.path", str(tmp_path / "nothing.txt")])
    with pytest.raises(UserError, match="simcse did not finish"):
        broken.run()
    mntp = (out / "mntp" / "done.json").stat().st_mtime_ns
    whole = pipeline(out, flags=[*flags, "--simcse.data.path", str(texts)])
    result = whole.run()
    assert (out / "mntp" / "done.json").stat().st_mtime_ns == mntp
    assert list(result) == ["causal", "bidirectional", "+ MNTP", "+ SimCSE", "supervised"]
    assert measured == [(False, 0), (True, 0), (True, 1), (True, 2), (True, 2)]
    assert all(row["minutes"] > 0 for row in list(result.values())[2:])
    measured.clear()
    assert whole.run() == result
    assert not measured
