import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import run_recipe

from llm2vec_pl.errors import UserError
from llm2vec_pl.training.pipeline import Measure, Pipeline
from llm2vec_pl.training.pipeline.stages import flags_of

RECIPES = Path(__file__).parents[2] / "recipes"
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


def starts(stages, supervised_from=None, causal=False):
    whole = pipeline("out", stages=stages, supervised_from=supervised_from, causal=causal)
    return [whole.before(stage) for stage in whole.stages]


def test_the_stages_run_in_the_order_given(tmp_path):
    assert starts(["supervised", "mntp", "simcse"]) == [None, "supervised", "mntp"]
    assert starts(["mntp", "simcse", "supervised"]) == [None, "mntp", "mntp"]
    assert starts(["mntp", "simcse", "supervised"], "simcse") == [None, "mntp", "simcse"]
    assert starts(["simcse", "supervised"]) == [None, None]
    assert starts(["mntp", "simcse", "supervised"], "mntp", causal=True) == [None, None]


@pytest.mark.parametrize(
    ("stages", "supervised_from", "message"),
    [
        (["mntp", "simsce"], None, r"no recipe for 'simsce'.*The stages are mntp, simcse"),
        (["mntp", "benchmark"], None, "lacks .*benchmark.yaml"),
        (["mntp", "mntp"], None, "different stages.*but got mntp,mntp"),
        ([], None, "but got none"),
        (["mntp", "supervised"], "simcse", "--supervised_from simcse.*; those are mntp"),
        (["supervised", "mntp"], "mntp", "--supervised_from mntp.*; those are none"),
    ],
)
def test_stages_that_cannot_be_run_are_an_error(stages, supervised_from, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pipeline(tmp_path, stages=stages, supervised_from=supervised_from)


@pytest.fixture
def with_polish(tmp_path):
    """Recipes and configurations with a stage of one's own."""
    shutil.copytree(RECIPES / "configs" / "tiny", tmp_path / "configs")
    (tmp_path / "recipes").mkdir()
    for name in ("mntp", "simcse", "polish"):
        (tmp_path / "recipes" / f"{name}.py").touch()
    (tmp_path / "configs" / "polish.yaml").write_text(f"model:\n  teacher: {tmp_path}/teacher")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "weights").write_text("first")
    return lambda **options: Pipeline(
        tmp_path / "recipes", tmp_path / "configs", tmp_path / "out", **options
    )


def test_a_stage_of_ones_own_is_a_recipe_with_a_configuration(with_polish, trained):
    flags = ["--polish.trainer.max_steps", "7", "--simcse.trainer.max_steps", "8"]
    whole = with_polish(stages=["mntp", "polish"], flags=flags, measures=trained.measures)
    rows = trained.again(whole)[0]
    assert rows["+ polish"] == "polish 2 of mntp 1 of tiny"
    assert option(whole.command("polish"), "--trainer.max_steps") == "7"
    assert "--trainer.max_steps" not in whole.command("mntp")


def test_a_teacher_that_changed_since_a_stage_was_trained_is_an_error(
    with_polish, trained, tmp_path
):
    build = lambda: with_polish(stages=["mntp", "polish"])  # noqa: E731
    build().run()
    (tmp_path / "teacher" / "weights").write_text("a second one")
    with pytest.raises(UserError, match="teacher has changed since .*polish was trained"):
        build().run()


def test_a_stage_that_comes_to_start_from_another_is_trained_again(trained, tmp_path):
    first = trained.again(pipeline(tmp_path, supervised_from="mntp"))[0]
    assert first["supervised"] == "supervised 3 of mntp 1 of tiny"
    rows, stages, measured = trained.again(pipeline(tmp_path, supervised_from="simcse"))
    assert (stages, measured) == (["supervised"], 1)
    assert rows["supervised"] == "supervised 4 of simcse 2 of mntp 1 of tiny"


def test_without_mntp_the_decoder_is_that_of_the_first_stage(tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "simcse.yaml").write_text("encoder: {model_name: some/decoder}")
    whole = Pipeline(RECIPES, configs, tmp_path, stages=["simcse"])
    assert whole.base() == "some/decoder"
    (configs / "simcse.yaml").write_text("trainer: {max_steps: 3}")
    with pytest.raises(UserError, match="simcse.yaml has no encoder.model_name.*--model_name"):
        whole.base()


def test_a_causal_pipeline_leaves_out_mntp_and_step_1(tmp_path):
    causal = pipeline(tmp_path, causal=True)
    assert causal.stages == ("simcse", "supervised")
    command = causal.command("supervised")
    assert option(command, "--encoder.bidirectional") == "false"
    assert option(command, "--encoder.model_name") == "tiny"


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


class Trained:
    """Plays the recipes: a training leaves what its flags, its start and its count make of it."""

    def __init__(self, monkeypatch, fails=()):
        self.stages, self.resumed, self.measured = [], [], []
        self.fails, self.count = set(fails), 0
        monkeypatch.setattr("llm2vec_pl.training.pipeline.run.subprocess.run", self.run)
        monkeypatch.setattr(
            "llm2vec_pl.encoder.encoder.Encoder.from_pretrained", lambda name, **_: name
        )
        self.measures = [Measure("made of", {}, self.measure)]

    def run(self, command, **_):
        if "--print_config" in command:
            return SimpleNamespace(returncode=0)
        stage, start = Path(command[1]).stem, option(command, "--encoder.model_name")
        self.stages.append(stage)
        self.resumed.append("--resume" in command)
        folder = Path(option(command, "--trainer.default_root_dir"))
        run = folder / f"version_{len(list(folder.glob('version_*')))}"
        if self.resumed[-1]:
            run = Path(option(command, "--resume")).parents[1]
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / "last.ckpt").touch()
        if stage in self.fails:
            return SimpleNamespace(returncode=1)
        (run / "encoder").mkdir()
        self.count += 1
        below = Path(start) / "model.safetensors"
        made = f"{stage} {self.count} of {below.read_text() if below.is_file() else start}"
        (run / "encoder" / "model.safetensors").write_text(made)
        return SimpleNamespace(returncode=0)

    def measure(self, name):
        file = Path(name) / "model.safetensors"
        self.measured.append(file.read_text() if file.is_file() else name)
        return {"of": self.measured[-1]}

    def again(self, pipeline):
        """A run of the pipeline: what each row is of, what was trained, what was measured."""
        self.stages, self.resumed, self.measured = [], [], []
        pipeline.measures = pipeline.measures or self.measures
        rows = {row: metrics["of"] for row, metrics in pipeline.run().items()}
        return rows, self.stages, len(self.measured)


ALL = ["mntp", "simcse", "supervised"]


@pytest.fixture
def trained(monkeypatch):
    return Trained(monkeypatch)


def test_what_is_finished_is_neither_trained_nor_measured_again(trained, tmp_path):
    rows, stages, measured = trained.again(pipeline(tmp_path))
    assert (stages, measured) == (ALL, 5)
    assert rows["supervised"] == "supervised 3 of mntp 1 of tiny"
    assert trained.again(pipeline(tmp_path)) == (rows, [], 0)


@pytest.mark.parametrize("left", ["version_0", "done.json", ""])
def test_a_stage_trained_anew_has_those_after_it_trained_and_measured_anew(left, trained, tmp_path):
    trained.again(pipeline(tmp_path))
    gone = tmp_path / "mntp" / left
    gone.unlink() if gone.is_file() else shutil.rmtree(gone)
    rows, stages, measured = trained.again(pipeline(tmp_path))
    assert (stages, measured) == (ALL, 3)
    assert rows["+ SimCSE"] == "simcse 5 of mntp 4 of tiny"
    assert rows["supervised"] == "supervised 6 of mntp 4 of tiny"
    assert trained.again(pipeline(tmp_path)) == (rows, [], 0)


def test_other_flags_for_a_stage_that_was_deleted_reach_those_after_it(trained, tmp_path):
    trained.again(pipeline(tmp_path))
    shutil.rmtree(tmp_path / "mntp")
    other = pipeline(tmp_path, flags=["--mntp.trainer.max_steps", "7"])
    rows, stages, _ = trained.again(other)
    assert stages == ALL
    assert all(" 4 of tiny" in of for row, of in rows.items() if row not in ("causal", "bidirectional"))  # fmt: skip


def test_a_stage_in_the_middle_leaves_those_beside_it(trained, tmp_path):
    trained.again(pipeline(tmp_path))
    shutil.rmtree(tmp_path / "simcse")
    rows, stages, measured = trained.again(pipeline(tmp_path))
    assert (stages, measured) == (["simcse"], 1)
    assert rows["supervised"] == "supervised 3 of mntp 1 of tiny"


def test_weights_that_were_changed_in_their_folder_are_not_taken_for_the_stage(trained, tmp_path):
    trained.again(pipeline(tmp_path))
    (tmp_path / "mntp" / "version_0" / "encoder" / "model.safetensors").write_text("another")
    rows, stages, _ = trained.again(pipeline(tmp_path))
    assert stages == ALL
    assert "another" not in str(rows)


def test_a_run_of_ones_own_in_a_stages_folder_is_not_the_pipelines(trained, tmp_path):
    rows = trained.again(pipeline(tmp_path))[0]
    shutil.copytree(tmp_path / "mntp" / "version_0", tmp_path / "mntp" / "version_7")
    (tmp_path / "mntp" / "version_7" / "encoder" / "model.safetensors").write_text("mine")
    assert trained.again(pipeline(tmp_path)) == (rows, [], 0)


def test_another_decoder_in_the_same_folder_is_another_start(trained, tmp_path):
    decoder = tmp_path / "decoder"
    decoder.mkdir()
    (decoder / "model.safetensors").write_text("first")
    build = lambda: pipeline(tmp_path / "out", model_name=str(decoder))  # noqa: E731
    trained.again(build())
    (decoder / "model.safetensors").write_text("second")
    rows, stages, measured = trained.again(build())
    assert (stages, measured) == (ALL, 5)
    assert all(of.endswith("second") for of in rows.values())


@pytest.mark.parametrize("changed", ["mntp.yaml", "texts.txt", "folder"])
def test_files_that_changed_since_a_stage_was_trained_are_an_error(changed, trained, tmp_path):
    configs = tmp_path / "configs"
    shutil.copytree(RECIPES / "configs" / "tiny", configs)
    (configs / "folder").mkdir()
    for name in ("texts.txt", "folder/texts.txt"):
        (configs / name).write_text("some text")
    path = configs / ("folder" if changed == "folder" else "texts.txt")
    flags = ["--mntp.data.path", str(path), "--mntp.data", "Wikipedia"]
    build = lambda: Pipeline(RECIPES, configs, tmp_path / "out", flags=flags)  # noqa: E731
    trained.again(build())
    file = configs / (changed if changed != "folder" else "folder/texts.txt")
    file.write_text(file.read_text() + "\n# other")
    with pytest.raises(UserError, match=f"{changed} has changed since .*mntp was trained"):
        build().run()
    assert trained.stages == ALL


def test_an_interrupted_run_goes_on_only_from_what_it_was_made_from(trained, tmp_path):
    trained.fails = {"simcse"}
    for _ in range(2):
        with pytest.raises(UserError, match="simcse did not finish"):
            trained.again(pipeline(tmp_path))
    assert trained.resumed == [True]
    shutil.rmtree(tmp_path / "mntp")
    trained.fails = set()
    rows, stages, _ = trained.again(pipeline(tmp_path))
    assert stages == ALL
    assert trained.resumed == [False, False, False]
    assert rows["+ SimCSE"] == "simcse 3 of mntp 2 of tiny"


def test_what_is_measured_in_addition_is_measured_alone(trained, tmp_path):
    rows, _, measured = trained.again(pipeline(tmp_path))
    lengths = Measure("lengths", {"file": 1}, lambda name: {"length": len(trained.measure(name))})
    both = [*trained.measures, lengths]
    again = trained.again(pipeline(tmp_path, measures=both))
    assert again == (rows, [], measured)
    assert trained.again(pipeline(tmp_path, measures=both)) == (rows, [], 0)
    other = Measure("lengths", {"file": 2}, lengths.run)
    assert trained.again(pipeline(tmp_path, measures=[*trained.measures, other]))[2] == measured
    shutil.rmtree(tmp_path / "simcse")
    assert trained.again(pipeline(tmp_path, measures=both))[1:] == (["simcse"], measured + 1)


def test_what_an_earlier_version_has_finished_stays_so_unless_its_start_is_newer(trained, tmp_path):
    trained.again(pipeline(tmp_path))
    for stage in ALL:
        file = tmp_path / stage / "done.json"
        done = json.loads(file.read_text())
        file.write_text(json.dumps({key: done[key] for key in ("command", "minutes")}))
        (tmp_path / stage / "begun.json").unlink(missing_ok=True)
        os.utime(file, (2e9, 2e9))
    assert trained.again(pipeline(tmp_path))[1] == []
    weights = tmp_path / "mntp" / "version_0" / "encoder" / "model.safetensors"
    os.utime(weights, (3e9, 3e9))
    assert trained.again(pipeline(tmp_path))[1] == ["simcse", "supervised"]


@pytest.mark.slow
def test_a_pipeline_that_failed_goes_on_where_it_was(tmp_path, monkeypatch):
    """Every recipe really runs, for two steps; what is measured is not under test here."""
    measured = []

    def measure(encoder):
        measured.append((encoder.bidirectional, len(encoder.adapters)))
        return {"ndcg@10": 0.5}

    def run(command, **_):
        return run_recipe(Path(command[1]).name, *command[2:], cwd=tmp_path)

    monkeypatch.setattr("llm2vec_pl.training.pipeline.run.subprocess.run", run)
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
    measures = [Measure("docs", {}, measure)]
    broken = pipeline(
        out, measures=measures, flags=[*flags, "--simcse.data.path", str(tmp_path / "nothing.txt")]
    )
    with pytest.raises(UserError, match="simcse did not finish"):
        broken.run()
    mntp = (out / "mntp" / "done.json").stat().st_mtime_ns
    whole = pipeline(out, measures=measures, flags=[*flags, "--simcse.data.path", str(texts)])
    result = whole.run()
    assert (out / "mntp" / "done.json").stat().st_mtime_ns == mntp
    assert list(result) == ["causal", "bidirectional", "+ MNTP", "+ SimCSE", "supervised"]
    assert measured == [(False, 0), (True, 0), (True, 1), (True, 2), (True, 2)]
    assert all(row["minutes"] > 0 for row in list(result.values())[2:])
    measured.clear()
    assert whole.run() == result
    assert not measured
