import csv
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import LearningRateMonitor
from trained import quiet_trainer, small_data, small_mntp

from llm2vec_pl.training.resume import MetricsFile, run_loggers


def log(root: Path, steps: range, first_step: int = 0) -> list[str]:
    logger = MetricsFile(str(root), version=0, first_step=first_step)
    for step in steps:
        logger.log_metrics(
            {"train/loss": 10.0 * step, **({"extra": 1.0} if step > 6 else {})}, step
        )
        logger.save()
    return (root / "version_0" / "metrics.csv").read_text().splitlines()


def test_a_resumed_run_appends_to_its_metrics_from_the_checkpoint_on(tmp_path):
    log(tmp_path, range(5))
    lines = log(tmp_path, range(3, 6), first_step=3)  # killed after step 4, saved after step 2
    assert lines == ["step,train/loss", "0,0.0", "1,10.0", "2,20.0", "3,30.0", "4,40.0", "5,50.0"]


def test_a_metric_that_comes_later_keeps_the_rows_before_it(tmp_path):
    log(tmp_path, range(5))
    lines = log(tmp_path, range(5, 8), first_step=5)
    assert lines[0] == "extra,step,train/loss"
    assert lines[1] == ",0,0.0"
    assert lines[-1] == "1.0,7,70.0"


def test_what_was_logged_before_the_checkpoint_is_not_written_twice(tmp_path):
    log(tmp_path, range(5))
    assert len(log(tmp_path, range(0, 6), first_step=5)) == 7


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(opened)]


def test_a_step_is_one_row_with_its_learning_rate_its_losses_and_its_validation(
    llama_folder, tmp_path
):
    loggers = run_loggers(str(tmp_path / "runs"), None)
    trainer = quiet_trainer(
        tmp_path, LearningRateMonitor("step"), val_check_interval=2, enable_checkpointing=False,
        accumulate_grad_batches=2,
    )  # fmt: skip
    trainer.loggers = loggers
    trainer.fit(small_mntp(llama_folder), small_data(tmp_path))
    rows = rows_of(tmp_path / "runs" / "version_0" / "metrics.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    rates = [name for name in rows[0] if name.startswith("lr-")]
    assert all({"train/loss", "train/perplexity", *rates} <= row.keys() for row in rows)
    assert rates
    assert any("val/loss" in row for row in rows)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", "c"]), st.integers(1, 99)),
        min_size=1,
    )
)
def test_nothing_that_is_logged_is_lost(tmp_path_factory, entries):
    """Whatever the order of steps and names; of a value that comes again the last one stays."""
    folder = tmp_path_factory.mktemp("run")
    logger = MetricsFile(str(folder), version=0)
    entries = sorted(entries, key=lambda entry: entry[0])
    for step, name, value in entries:
        logger.log_metrics({name: value}, step)
    expected: dict[str, dict[str, str]] = {}
    for step, name, value in entries:
        expected.setdefault(str(step), {"step": str(step)})[name] = str(value)
    assert rows_of(folder / "version_0" / "metrics.csv") == list(expected.values())


def test_a_run_that_goes_back_a_step_keeps_its_rows(tmp_path):
    """As a metric that is logged as `step` may make it."""
    logger = MetricsFile(str(tmp_path), version=0)
    for step in (3, 1, 3):
        logger.log_metrics({"a": step}, step)
    rows = rows_of(tmp_path / "version_0" / "metrics.csv")
    assert [row["step"] for row in rows] == ["3", "1", "3"]


def test_a_second_validation_of_a_step_does_not_replace_the_first(tmp_path):
    """As before training and after step 0, or of the end and of the best that is kept."""
    logger = MetricsFile(str(tmp_path), version=0)
    for metrics in ({"val/loss": 8.0}, {"lr": 0.1}, {"train/loss": 7.0}, {"val/loss": 6.0}):
        logger.log_metrics(metrics, 0)
        logger.save()
    rows = rows_of(tmp_path / "version_0" / "metrics.csv")
    assert [row["val/loss"] for row in rows] == ["8.0", "6.0"]
    assert rows[0]["train/loss"] == "7.0"
