import pytest

from llm2vec_pl.evaluation.word_probe.plots import plot_encoders, plot_layers
from llm2vec_pl.evaluation.word_probe.results import Result, summaries
from llm2vec_pl.evaluation.word_probe.tables import notes_on, report, table


def result(encoder, layer, seed, own, earlier=None, validation=None):
    def scores(value):
        return {"accuracy": value, "micro_precision": value + 0.01, "loss": 1.0}

    shifts = {"0": {"validation": scores(own), "test": scores(own)}}
    if earlier is not None:
        held_out = earlier if validation is None else validation
        shifts["1"] = {"validation": scores(held_out), "test": scores(earlier)}
    last = 4 if earlier is not None else 6
    return Result(encoder, "lakes pos", "accuracy", layer, last, seed, "", shifts)


RESULTS = [
    result("causal", 4, 0, 0.5, 0.7, validation=0.4),
    result("causal", 4, 1, 0.6, 0.7, validation=0.4),
    result("mntp", 4, 0, 0.7, 0.8),
    result("mntp", 4, 1, 0.7, 0.82),
    result("bert", 6, 0, 0.9),
    result("bert", 6, 1, 0.9),
]


def test_the_validation_split_chooses_the_shift_and_the_test_split_is_shown():
    causal, mntp, bert = summaries(RESULTS)
    assert (causal.shift, mntp.shift, bert.shift) == ("0", "1", "0")
    assert causal.value().mean == pytest.approx(0.55)
    assert mntp.value().mean == pytest.approx(0.81)


def test_a_row_has_each_shift_and_marks_the_chosen_one():
    headings, rows = table(summaries(RESULTS))
    assert [each.replace("\n", " ") for each in headings] == [
        "encoder", "accuracy, shift 0", "accuracy, shift 1", "micro precision",
    ]  # fmt: skip
    assert rows == [
        ["causal", "55.00 ± 7.07*", "70.00 ± 0.00", "56.00 ± 7.07"],
        ["mntp", "70.00 ± 0.00", "81.00 ± 1.41*", "82.00 ± 1.41"],
        ["bert", "90.00 ± 0.00", "", "91.00 ± 0.00"],
    ]


def test_several_layers_have_a_column():
    found = summaries([*RESULTS, result("causal", 2, 0, 0.3, 0.2)])
    headings, rows = table(found)
    assert headings[1] == "layer"
    assert [row[1] for row in rows] == ["4", "4", "6", "2"]


def test_without_a_test_split_the_validation_split_is_shown():
    one = result("bert", 6, 0, 0.9)
    del one.shifts["0"]["test"]
    assert "on the validation split; one seed" in notes_on(summaries([one]))[0]


def test_the_report_is_printed_and_written(tmp_path, capsys):
    report(summaries([*RESULTS, result("causal", 2, 0, 0.3, 0.2)]), tmp_path)
    printed = capsys.readouterr().out
    assert "lakes pos" in printed
    assert "| mntp | 4 | 70.00 ± 0.00 | 81.00 ± 1.41* | 82.00 ± 1.41 |" in (
        tmp_path / "table.md"
    ).read_text(encoding="utf-8")


def test_pictures_have_a_bar_for_each_encoder_and_a_line_only_for_several_layers(
    tmp_path, monkeypatch
):
    pytest.importorskip("matplotlib")
    from llm2vec_pl.evaluation.word_probe import plots

    figures = []
    saved = plots._saved
    monkeypatch.setattr(plots, "_saved", lambda f, file: figures.append(f) or saved(f, file))
    found = summaries(RESULTS)
    (file,) = plot_encoders(found, tmp_path / "words.png")
    assert file.read_bytes().startswith(b"\x89PNG")
    (panel,) = figures[0].axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["causal", "mntp", "bert"]
    heights = [bar.get_height() for bar in panel.patches]
    assert heights == pytest.approx([55, 81, 90])
    assert plot_layers(found, tmp_path / "layers.png") == []
    more = summaries([*RESULTS, result("causal", 2, 0, 0.3, 0.2)])
    assert plot_layers(more, tmp_path / "layers.png") == [tmp_path / "layers.png"]
