"""Whole stages beside the reference: what is tested is the comparison, on little work."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from forked import run_recipe

from benchmarks.contest import Worker
from benchmarks.stages import compare
from benchmarks.stages.data import Size, write_blocks, write_pairs, write_sentences
from benchmarks.stages.report import Side, StageResult
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import STSTask

SIDE = """
def run(job, turns):
    print("what a library says must not be taken for an answer")
    turns.ready(5.0)
    for loss in job["losses"]:
        turns.wait()
        turns.done(loss)
    turns.wait()
    turns.end(4.0)
"""
REFERENCE = "LLM2VEC_PYTHON"  # names an interpreter that has llm2vec 0.2.3


def lines(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


@pytest.fixture
def pair_files(tmp_path):
    def row(task, i):
        texts = {part: f"{part} {i} of {task}" for part in ("query", "positive")}
        return {**texts, "negative": [f"negative {i} of {task}", "another"]}

    return [lines(tmp_path / f"{t}.jsonl", [row(t, i) for i in range(20)]) for t in ("a", "b")]


def test_a_side_takes_a_step_when_it_is_asked(tmp_path):
    file = tmp_path / "side.py"
    file.write_text(SIDE)
    side = Worker("s", sys.executable, file, {"losses": [3, 2]}, tmp_path, "stages/turns.py")
    try:
        steps = [side.measure() for _ in range(2)]
        last = side.measure()
    finally:
        side.close()
    assert side.first["held_out"] == 5.0
    assert [step["loss"] for step in steps] == [3, 2]
    assert all(step["seconds"] >= 0 and step["peak"] > 0 for step in steps)
    assert last == {"held_out": 4.0}


def test_pairs_come_from_one_file_a_batch_and_no_text_comes_twice(pair_files, tmp_path):
    with open(pair_files[0], "a") as file:
        file.write("\n" + json.dumps({"query": "query 3 of a", "positive": "new", "negative": "n"}))
    files = write_pairs(tmp_path, pair_files, Size(steps=4, batch=5, held_out=2))
    batches, held_out = (json.loads(Path(files[name]).read_text()) for name in files)
    assert (len(batches), len(held_out)) == (4, 2)
    for batch in batches + held_out:
        assert len(batch["queries"]) == len(batch["positives"]) == len(batch["negatives"]) == 5
        assert len({text[-1] for text in batch["queries"]}) == 1
        for query, positive, negative in zip(*batch.values(), strict=True):
            assert query.split()[1] == positive.split()[1] == negative.split()[1]
    texts = [text for batch in batches + held_out for part in batch.values() for text in part]
    assert len(texts) == len(set(texts))
    with pytest.raises(UserError, match="5 batches of 5 are needed.*fewer steps"):
        write_pairs(tmp_path, pair_files, Size(steps=9, batch=5, held_out=1))


def test_a_row_without_two_texts_is_an_error(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"query": "a", "positive": ""}])
    with pytest.raises(UserError, match=r"a.jsonl line 1: expected two texts, but got empty"):
        write_pairs(tmp_path, [path], Size(1, 1, 1))


def test_a_file_whose_rows_lack_a_negative_gives_none(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(4)]
    files = write_pairs(tmp_path, [lines(tmp_path / "a.jsonl", rows)], Size(1, 2, 1))
    assert json.loads(Path(files["batches"]).read_text())[0]["negatives"] == []


def test_a_sentence_is_its_own_positive_and_held_out_ones_are_others(tmp_path):
    (tmp_path / "sentences.txt").write_text("\n".join(f"Sentence number {i}." for i in range(30)))
    files = write_sentences(tmp_path, str(tmp_path / "sentences.txt"), Size(3, 5, 2))
    batches, held_out = (json.loads(Path(files[name]).read_text()) for name in files)
    assert all(batch["queries"] == batch["positives"] for batch in batches + held_out)
    sentences = [text for batch in batches + held_out for text in batch["queries"]]
    assert len(sentences) == len(set(sentences)) == 25


def test_blocks_are_masked_only_where_they_are_held_out(tmp_path):
    texts = [f"Text number {i} is about {i} lakes, and {'rivers ' * (i % 5)}" for i in range(300)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    encoder = Encoder("tiny", max_length=16)
    files = write_blocks(tmp_path, encoder, str(tmp_path / "texts.txt"), Size(3, 2, 1), 0.3)
    batches, held_out = (torch.load(files[name], weights_only=True) for name in files)
    assert [batch["input_ids"].shape for batch in batches] == [(2, 16)] * 3
    assert "labels" not in batches[0]
    assert 0 < (held_out[0]["labels"] >= 0).sum() < 16
    with pytest.raises(UserError, match=r"1,000 blocks of 16 tokens are needed, but"):
        write_blocks(tmp_path, encoder, str(tmp_path / "texts.txt"), Size(500, 2, 1), 0.3)


def side(tmp_path, before, seconds):
    return Side(before, 1.0, [2.0] * len(seconds), seconds, 1024.0, tmp_path / "e.npy", ["a", "b"])


def test_a_ratio_is_the_median_over_steps_without_the_first(tmp_path):
    sides = {
        "ours": side(tmp_path, 5.0, [9, 1, 2, 4]),
        "theirs": side(tmp_path, 5.0, [1, 2, 6, 8]),
    }
    result = StageResult({"stage": "mntp"}, sides, from_decoder=False)
    assert result.ratio == 2
    assert result.lines() == ["mntp: 2.00 times the other's speed, 1.00 of its memory"]


@pytest.mark.parametrize(("theirs", "said"), [(5.004, "are alike"), (5.006, "are NOT ALIKE")])
def test_sides_that_start_from_the_decoder_must_have_the_same_loss(theirs, said, tmp_path):
    sides = {"ours": side(tmp_path, 5.0, [1]), "theirs": side(tmp_path, theirs, [1])}
    _, line = StageResult({"stage": "mntp"}, sides, from_decoder=True).lines()
    assert said in line


def test_the_cosines_of_a_sides_embeddings_are_compared_with_the_scores(tmp_path):
    import numpy as np

    one = side(tmp_path, 5.0, [1])
    np.save(one.embeddings, np.array([[1.0, 0.0], [0.9, 0.1]]))
    one.measure(STSTask("t", ["a", "a"], ["a", "b"], [5.0, 1.0]))
    assert one.sts == pytest.approx(1.0)


def test_a_stage_that_fails_leaves_what_the_earlier_ones_brought(tmp_path, monkeypatch):
    def stage(contest, job, data):
        if job["stage"] == "simcse":
            raise MemoryError
        return StageResult(job, {"ours": side(tmp_path, 5.0, [1, 2])}, from_decoder=True)

    monkeypatch.setattr(compare._Contest, "stage", stage)
    file = tmp_path / "new" / "stages.json"
    with pytest.raises(MemoryError):
        compare.stages("tiny", json=file)
    (left,) = json.loads(file.read_text())["stages"]
    assert left["stage"] == "mntp"
    assert left["sides"]["ours"]["seconds"] == [1, 2]


def test_a_file_that_cannot_be_written_is_an_error_before_the_first_step(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        compare.stages("tiny", json=tmp_path)


def flags(place, decoder, *more):
    small = {"steps": 2, "batch_size": 2, "max_length": 16, "held_out": 1}
    stages = ("mntp", "simcse", "supervised")
    sized = [w for s in stages for k, v in small.items() for w in (f"--{s}.{k}", str(v))]
    texts = [f"Text number {i} is about {i} lakes and {'rivers ' * (i % 5)}" for i in range(2000)]
    (place / "texts.txt").write_text("\n".join(texts))
    rows = [{"query": text[:14], "positive": text, "negative": f"no {i}"} for i, text in enumerate(texts)]  # fmt: skip
    scored = [{"sentence1": text, "sentence2": texts[-1], "score": i} for i, text in enumerate(texts[:5])]  # fmt: skip
    paths = {
        "--model": str(decoder),
        "--texts": str(place / "texts.txt"),
        "--sentences": str(place / "texts.txt"),
        "--pairs+": lines(place / "pairs.jsonl", rows),
        "--sts": lines(place / "stsb.jsonl", scored),
        "--json": str(place / "stages.json"),
    }
    return ["stages", *sized, *(w for item in paths.items() for w in item), *more]


@pytest.mark.exhaustive
def test_our_stages_run_alone(tmp_path):
    done = run_recipe("benchmark.py", *flags(tmp_path, "tiny"), cwd=tmp_path)
    assert done.returncode == 0, done.printed
    stages = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["mntp", "simcse", "supervised"]
    for stage in stages:
        (ours,) = stage["sides"].values()
        assert len(ours["losses"]) == len(ours["seconds"]) == 2
        assert -1 <= ours["sts"] <= 1


@pytest.mark.slow
@pytest.mark.skipif(REFERENCE not in os.environ, reason=f"{REFERENCE} names no interpreter")
def test_the_reference_begins_with_the_same_losses(tmp_path):
    asked = flags(tmp_path, "tiny", "--against", os.environ[REFERENCE], "--chain", "false")
    done = run_recipe("benchmark.py", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.printed
    assert done.stdout.count("are alike") >= 3
    for stage in json.loads((tmp_path / "stages.json").read_text())["stages"]:
        ours, theirs = stage["sides"].values()
        assert ours["held_out_before"] == pytest.approx(theirs["held_out_before"], rel=1e-3)
        if stage["stage"] == "supervised":  # a new LoRA adds nothing, whatever its dropout
            assert ours["losses"][0] == pytest.approx(theirs["losses"][0], rel=1e-3)
