"""The encoder under MTEB's own checks."""

import json

import mteb
import numpy as np
import pytest
from mteb.types import PromptType
from torch.utils.data import DataLoader

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.evaluation import STSTask, evaluate_sts
from llm2vec_pl.evaluation.mteb import (
    MTEBEncoder,
    chosen_tasks,
    evaluate_tasks,
    local_tasks,
    open_for_mteb,
    results_in,
)


def texts(*each):
    return DataLoader([{"text": text} for text in each], batch_size=2)


def test_queries_are_embedded_with_the_instruction_and_documents_without(model, counts):
    claim = mteb.get_task("SciFact").metadata
    how = {"task_metadata": claim, "hf_split": "test", "hf_subset": "default"}
    model.encode(texts("a", "b", "c"), prompt_type=PromptType.query, **how)
    model.encode(texts("d"), prompt_type=PromptType.document, **how)
    written = "Given a scientific claim, retrieve documents that support or refute the claim: "
    assert counts.asked == [(written, "a"), (written, "b"), (written, "c"), ("", "d")]


def test_embeddings_come_in_the_order_of_the_texts(llama_folder):
    encoder = Encoder.from_pretrained(llama_folder)
    sts = mteb.get_task("STSBenchmark").metadata
    each = ["a long text about ships", "b", "", "b"]
    found = MTEBEncoder(encoder).encode(
        texts(*each), task_metadata=sts, hf_split="test", hf_subset="default", show_progress_bar=0
    )
    expected = encoder.encode(each, "Retrieve semantically similar text: ").numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_mteb_records_of_the_model(llama_folder, tmp_path, local_data, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    how = {"bidirectional": False, "name": "small", "instructions": "none"}
    model = open_for_mteb(llama_folder, **how)
    tasks = chosen_tasks(["pairs"], local_tasks(local_data))
    scores = evaluate_tasks(model, tasks, tmp_path, report=str)
    (file,) = tmp_path.rglob("model_meta.json")
    meta = json.loads(file.read_text())
    assert meta["name"] == "local/small"
    assert meta["experiment_kwargs"] == {"bidirectional": False, "instructions": "none"}
    assert meta["embed_dim"] == model.model.embedding_size
    (row,) = results_in(tmp_path, ["pairs"]).items()
    label = "small bidirectional=False instructions=none"
    assert row == (label, {"pairs": pytest.approx(100 * scores["pairs"], abs=1e-3)})
    other = [open_for_mteb(llama_folder, **how | change) for change in ({}, {"pooling": "last"})]
    revisions = [each.mteb_model_meta.revision for each in (model, *other)]
    assert revisions[0] == revisions[1] != revisions[2]


def test_the_score_of_an_encoder_is_that_of_this_package(llama_folder, tmp_path, local_data):
    encoder = Encoder.from_pretrained(llama_folder)
    tasks = chosen_tasks(["pairs"], local_tasks(local_data))
    scores = evaluate_tasks(MTEBEncoder(encoder), tasks, tmp_path, report=str)
    task = STSTask.read(local_data / "sts" / "pairs.jsonl")
    instruction = "Retrieve semantically similar text: "
    found = evaluate_sts(encoder, task, instruction=instruction)
    assert scores["pairs"] == pytest.approx(found, abs=1e-3)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_mtebs_mock_tasks_pass(llama_folder):
    """All that a dummy encoder passes: MTEB's own check that a model does what its tasks ask."""
    found = mteb.mock_run(MTEBEncoder(Encoder.from_pretrained(llama_folder)))
    assert found.all_passed
    assert sum(result is not None for _, result in found.items()) == 28


MOCKS = ["MockRetrievalTask", "MockInstructionReranking", "MockBitextMiningTask", "MockSTSTask"]


def test_some_of_mtebs_mock_tasks_pass(counts):
    from mteb.mocks import ALL_MOCK_TASK_TEST_GRID as GRID

    tasks = [task for task in GRID if task.metadata.name in MOCKS]
    found = mteb.evaluate(MTEBEncoder(counts), tasks, cache=None, show_progress_bar=False)
    assert sorted(result.task_name for result in found.task_results) == sorted(MOCKS)
