import json

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.word_probe import (
    Probed,
    ProbeTask,
    Results,
    Training,
    compare,
    comparison,
    probe,
)
from llm2vec_pl.evaluation.word_probe.frozen import open_frozen
from llm2vec_pl.evaluation.word_probe.results import Value
from llm2vec_pl.evaluation.word_probe.task import ProbedSplits

MODELS = [Probed("causal", "tiny", False), Probed("bidirectional", "tiny", True)]


@pytest.fixture(scope="module")
def task(sentences_folder):
    return ProbeTask(str(sentences_folder), "pos")


@pytest.fixture(scope="module")
def splits(task):
    model = open_frozen("tiny", True)
    return ProbedSplits(task.read(model), model, [1, 4], "tiny")


@pytest.fixture
def probes(monkeypatch):
    """The probes that are trained, as (layer, seed)."""
    trained = []

    def counted(splits, layer, seed, training):
        trained.append((layer, seed))
        return probe(splits, layer, seed, training)

    monkeypatch.setattr(comparison, "probe", counted)
    return trained


def test_a_probe_tells_words_that_their_states_tell_and_not_those_of_the_next_word(splits):
    found = probe(splits, 1, 0, Training(120))
    assert found["0"]["validation"]["accuracy"] > 0.9
    assert found["0"]["test"]["accuracy"] > 0.9
    assert 0 <= found["1"]["test"]["accuracy"] < found["0"]["test"]["accuracy"]


def test_a_seed_repeats_a_probe_and_another_one_does_not(splits):
    first, again, other = (probe(splits, 4, seed, Training(5)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_what_is_measured_is_not_measured_again(task, tmp_path, probes):
    file = tmp_path / "out" / "results.json"
    first = compare(MODELS, [task], Results(file), seeds=2, training=Training(3))
    assert len(probes) == 4
    again = compare(MODELS, [task], Results(file), seeds=2, training=Training(3))
    assert len(probes) == 4
    assert first == again
    compare(MODELS, [task], Results(file), layers=["1", "last"], seeds=3, training=Training(3))
    assert sorted(probes[4:]) == sorted([(1, 0), (1, 1), (1, 2), (4, 2)] * 2)


def test_an_interrupted_comparison_goes_on(task, tmp_path, monkeypatch):
    def interrupted(splits, layer, seed, training):
        if seed == 1:
            raise KeyboardInterrupt
        return probe(splits, layer, seed, training)

    file = tmp_path / "results.json"
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "probe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(MODELS[:1], [task], Results(file), seeds=2, training=Training(3))
    assert [each["seed"] for each in json.loads(file.read_text())["results"]] == [0]
    (summary,) = compare(MODELS[:1], [task], Results(file), seeds=2, training=Training(3))
    assert summary.value().seeds == 2


def test_changed_data_and_other_steps_are_measured_again(sentences_folder, tmp_path, probes):
    folder = tmp_path / "lakes"
    folder.mkdir()
    for path in sentences_folder.iterdir():
        (folder / path.name).write_text(path.read_text())
    results = Results(tmp_path / "results.json")
    compare(MODELS[:1], [ProbeTask(str(folder), "pos")], results, seeds=1, training=Training(3))
    compare(MODELS[:1], [ProbeTask(str(folder), "pos")], results, seeds=1, training=Training(4))
    lines = (folder / "test.jsonl").read_text().splitlines()
    (folder / "test.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    compare(MODELS[:1], [ProbeTask(str(folder), "pos")], results, seeds=1, training=Training(4))
    assert len(probes) == 3


def test_all_layers_are_those_from_the_embeddings_to_the_last():
    model = open_frozen("tiny")
    assert comparison.layers_of(model, ["all"]) == [0, 1, 2, 3, 4]
    assert comparison.layers_of(model, ["2", "last", 4]) == [2, 4]
    for wrong in ("5", "-1", "middle"):
        with pytest.raises(UserError, match=r"--layer expects last, all, or numbers .* to 4"):
            comparison.layers_of(model, [wrong])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ewt:pos", ProbeTask("ewt", "pos")),
        ("ewt:pos:xpos", ProbeTask("ewt", "pos", "xpos")),
        ("org/name:ner", ProbeTask("org/name", "ner")),
        ("a:b:chunk", ProbeTask("a:b", "chunk")),
    ],
)
def test_data_is_a_path_and_a_task(text, expected):
    assert ProbeTask.parse(text) == expected


@pytest.mark.parametrize("text", ["ewt", "ewt:parsing", ":pos", "pos"])
def test_data_without_a_task_is_refused(text):
    with pytest.raises(UserError, match="--data expects PATH:TASK"):
        ProbeTask.parse(text)


def test_a_task_that_is_not_there_is_found_before_another_is_measured(task, tmp_path, probes):
    with pytest.raises(UserError, match="seas"):
        compare(MODELS, [task, ProbeTask("./seas", "pos")], Results(tmp_path / "results.json"))
    assert not probes


def test_results_of_another_kind_are_not_replaced(tmp_path):
    file = tmp_path / "results.json"
    file.write_text('{"mean": {}, "runs": []}')
    with pytest.raises(UserError, match="Choose another folder"):
        Results(file)


def test_two_of_one_name_are_refused(task, tmp_path):
    with pytest.raises(UserError, match="two are called 'causal'"):
        compare([MODELS[0], MODELS[0]], [task], Results(tmp_path / "results.json"))


def test_a_value_is_the_mean_and_the_sample_deviation_in_percent():
    assert str(Value.of([0.5, 0.6])) == "55.00 ± 7.07"
    assert str(Value.of([0.5])) == "50.00"
