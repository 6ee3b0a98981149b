"""Tasks by name, their instructions, and the paper's numbers."""

from statistics import fmean

import mteb
import pytest
from mteb.types import PromptType

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.mteb import Instructions, chosen_tasks
from llm2vec_pl.evaluation.mteb.instructions import written
from llm2vec_pl.evaluation.mteb.paper import (
    CATEGORIES,
    MODELS,
    SUBSET,
    TRAINING,
    category_means,
    task_scores,
)


@pytest.mark.parametrize(("name", "count"), [("paper", 15), ("eng-v1", 56), ("eng-v2", 41)])
def test_a_list_has_its_tasks_in_english(name, count):
    tasks = chosen_tasks([name])
    assert len(tasks) == count
    assert all(task.hf_subsets in (["default"], ["en"], ["en-en"]) for task in tasks.values())


def test_the_papers_subset_is_a_part_of_its_benchmark():
    assert set(SUBSET) < set(chosen_tasks(["eng-v1"]))


def test_a_task_that_is_named_twice_is_evaluated_once():
    assert list(chosen_tasks(["SciFact", "SciFact"])) == ["SciFact"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("STSBenchmrk", "no task 'STSBenchmrk'. Did you mean STSBenchmark"),
        ("scifact", "no task 'scifact'. Did you mean SciFact"),
        ("eng-v3", "Did you mean eng-v"),
        ("qqqqqqqq", "The lists are paper, eng-v1, eng-v2 and local"),
        ("local", "Name a folder there"),
        ("CIFAR10", "CIFAR10 is about image, not about text"),
    ],
)
def test_an_unknown_task_is_an_error_with_similar_names(name, message):
    with pytest.raises(UserError, match=message):
        chosen_tasks([name])


def test_no_task_is_an_error():
    with pytest.raises(UserError, match="at least one name"):
        chosen_tasks([])


# Instructions ---------------------------------------------------------------------------------


def metadata(name):
    return mteb.get_task(name).metadata


def test_each_task_of_the_english_benchmarks_has_the_papers_words():
    words = Instructions()
    for name in ("eng-v1", "eng-v2"):
        for task in chosen_tasks([name]).values():
            assert words(task.metadata, PromptType.query).endswith(": ")
            if task.metadata.name in task_scores("supervised", "Mistral-7B"):
                own = task.metadata.prompt
                own = own.get("query") if isinstance(own, dict) else own
                if own:  # MTEB took them from the same source
                    assert words(task.metadata, PromptType.query) == f"{own}: "


def test_queries_have_an_instruction_and_documents_have_none():
    words = Instructions()
    scifact = metadata("SciFact")
    claim = "Given a scientific claim, retrieve documents that support or refute the claim: "
    assert words(scifact, PromptType.query) == claim
    assert words(scifact, PromptType.document) == ""
    assert words(metadata("STSBenchmark"), None) == "Retrieve semantically similar text: "


def test_a_task_that_the_paper_does_not_know_has_mtebs_words():
    words = Instructions()(metadata("AILAStatutes"), PromptType.query)
    assert words == "Retrieve text based on user query: "


def test_none_leaves_texts_bare():
    assert Instructions("none")(metadata("STSBenchmark"), None) == ""


def test_a_file_comes_before_the_paper_and_is_taken_as_it_is(tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text('SciFact: "prove"\n')
    words = Instructions(str(file))
    assert words(metadata("SciFact"), PromptType.query) == "prove"
    assert words(metadata("SciFact"), PromptType.document) == ""
    assert words(metadata("STSBenchmark"), None) == "Retrieve semantically similar text: "
    assert words.fingerprint() != Instructions().fingerprint()


def test_the_encoders_own_prompts_are_found_by_task_type_and_side():
    prompts = {"query": "q: ", "document": "d: ", "STS": "s: ", "SICK-R": "r: "}
    words = Instructions("model", prompts)
    assert words(metadata("SciFact"), PromptType.query) == "q: "
    assert words(metadata("SciFact"), PromptType.document) == "d: "
    assert words(metadata("STSBenchmark"), None) == "s: "
    assert words(metadata("SICK-R"), None) == "r: "
    assert words(metadata("Banking77Classification"), None) == ""


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("model", None, "expects an encoder with `prompts`"),
        ("gone.yaml", None, "there is no gone.yaml"),
        ("words.yaml", "- a list", "one line for each task"),
        ("words.yaml", "SciFact: 3", "one line for each task"),
        ("words.yaml", "SciFact: [", "not valid YAML"),
    ],
)
def test_instructions_that_cannot_be_read_are_an_error(
    source, content, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / source).write_text(content)
    with pytest.raises(UserError, match=message):
        Instructions(source)


def test_an_instruction_ends_in_a_colon_and_a_blank():
    assert written("Find it.") == written(" Find it:") == "Find it: "
    assert written("") == ""


# The paper's numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("training", TRAINING)
@pytest.mark.parametrize("model", MODELS)
def test_the_papers_tables_agree_with_each_other(training, model):
    """The means of Tables 11 and 12 are the rows of Tables 1 and 2: no number is mistyped."""
    scores, means = task_scores(training, model), category_means(training)[model]
    types = {name: task.metadata.type for name, task in chosen_tasks(["eng-v1"]).items()}
    assert scores.keys() == types.keys()
    for kind in CATEGORIES:
        found = fmean(score for task, score in scores.items() if types[task] == kind)
        assert found == pytest.approx(means[kind], abs=0.011)
    assert fmean(scores.values()) == pytest.approx(means["all"], abs=0.006)


@pytest.mark.parametrize("training", TRAINING)
def test_the_papers_mean_of_all_tasks_is_that_of_its_categories(training):
    sizes = (15, 4, 11, 3, 12, 10, 1)
    for means in category_means(training).values():
        total = sum(size * means[kind] for size, kind in zip(sizes, CATEGORIES, strict=True))
        assert total / 56 == pytest.approx(means["all"], abs=0.011)
