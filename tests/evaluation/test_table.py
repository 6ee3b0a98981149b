import json

import pytest

from llm2vec_pl.evaluation.table import columns, plot, print_table, report

NAMES = [
    "ndcg@10", "recall@1", "recall@10", "alignment", "uniformity", "stsb_test", "sick_test",
    "boolq_dev/ndcg@10", "boolq_dev/recall@1", "boolq_dev/mrr@10", "xquad_en/ndcg@10", "clinc150",
    "snips", "minutes",
]  # fmt: skip
SHOWN = [name for name in NAMES if name not in ("recall@10", "boolq_dev/recall@1", "boolq_dev/mrr@10")]  # fmt: skip
STEPS = ["causal", "bidirectional", "+ MNTP", "+ distillation", "supervised"]
WIDE = {step: dict.fromkeys(NAMES, 0.125 + i) for i, step in enumerate(STEPS)}


def test_the_report_has_a_row_a_step_a_plot_and_notes(tmp_path, capsys):
    rows = {"causal": {"ndcg@10": 0.1}, "+ MNTP": {"ndcg@10": 0.2, "minutes": 5.04}}
    report(rows, tmp_path, ["boolq_dev: 500 of 3,270 queries [half]."])
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("causal", "0.100", "+ MNTP", "0.200", "5.0"))
    assert "boolq_dev: 500 of 3,270 queries [half]." in printed
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert (tmp_path / "table.png").stat().st_size > 1000


def test_a_metric_that_a_row_lacks_leaves_a_gap(tmp_path):
    plot({"a": {"x": 1.0}, "b": {"y": 2.0}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").is_file()


def test_one_metric_of_each_of_many_tasks_is_shown():
    assert columns(WIDE) == SHOWN
    own = {"step": {"loss": 1.0, "mine/a": 2.0, "mine/b": 3.0}}
    assert columns(own) == ["loss", "mine/a", "mine/b"]


@pytest.mark.parametrize(("width", "tables"), [(60, 4), (80, 3), (200, 1)])
def test_a_wide_table_is_printed_as_several_that_fit(width, tables, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(WIDE, "Title")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("Title") == 1
    assert text.count("supervised") == tables
    assert "…" not in text
    assert all(part in text for name in SHOWN for part in name.split("/"))
    assert text.count("4.125") == len(SHOWN) - 1
    assert text.count("4.1 ") == 1  # minutes


def test_a_plot_of_many_metrics_has_rows_of_panels(tmp_path):
    from matplotlib.image import imread

    plot(WIDE, tmp_path / "many.png", ["a note"])
    few = {step: {name: row[name] for name in NAMES[:2]} for step, row in WIDE.items()}
    plot(few, tmp_path / "few.png")
    height, width, _ = imread(tmp_path / "many.png").shape
    assert width == 5 * 2.1 * 150 + 1.2 * 150
    assert height > width / 2
    assert imread(tmp_path / "few.png").shape[0] < height / 2
