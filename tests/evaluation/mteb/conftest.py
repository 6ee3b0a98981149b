"""Small tasks of each kind in local files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from word_counts import WordCounts

from llm2vec_pl.evaluation.mteb import MTEBEncoder

TOPICS = {"sea": "wave ship salt coast", "sky": "cloud star wing rain", "bread": "oven flour crust"}


def about(topic: str, i: int) -> str:
    words = TOPICS[topic].split()
    return f"{topic} {words[i % len(words)]} {words[(i + 1) % len(words)]} number {i}"


@pytest.fixture
def counts() -> WordCounts:
    return WordCounts()


@pytest.fixture
def model(counts: WordCounts) -> MTEBEncoder:
    return MTEBEncoder(counts, "local/counts", "1")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="session")
def local_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task of each kind."""
    folder = tmp_path_factory.mktemp("local")
    texts = [(topic, about(topic, i)) for i in range(12) for topic in TOPICS]
    others = [texts[(i + 3 + i % 2) % len(texts)] for i in range(len(texts))]
    both = [(a, b, s == t) for (s, a), (t, b) in zip(texts, others, strict=True)]
    pairs = [
        {"sentence1": a, "sentence2": b, "score": 3 * same + i % 3}
        for i, (a, b, same) in enumerate(both)
    ]
    write_rows(folder / "sts" / "pairs.jsonl", pairs)
    labelled = [{"sentence1": a, "sentence2": b, "label": int(same)} for a, b, same in both]
    write_rows(folder / "pair_classification" / "same_topic.jsonl", labelled)
    rows = [{"text": text, "label": topic} for topic, text in texts]
    write_rows(folder / "classification" / "topics" / "train.jsonl", rows[:24])
    write_rows(folder / "classification" / "topics" / "test.jsonl", rows[24:])
    write_rows(folder / "clustering" / "topic_clusters.jsonl", rows)
    documents = [{"_id": f"d{i}", "text": text} for i, (_, text) in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": f"{topic} {i}"} for i, topic in enumerate(TOPICS)]
    beir = folder / "retrieval" / "topic_search"
    write_rows(beir / "corpus.jsonl", documents)
    write_rows(beir / "queries.jsonl", queries)
    judged = [f"q{i % 3}\td{i}\t1" for i in range(len(texts))]
    (beir / "qrels").mkdir()
    (beir / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    candidates = [
        {"query": f"{topic} {i}", "positive": about(topic, i), "negative": [other, "nothing"]}
        for i, (topic, other) in enumerate(zip(TOPICS, ["cloud", "oven", "ship"], strict=True))
    ]
    write_rows(folder / "reranking" / "topic_ranking.jsonl", candidates)
    (folder / "sts" / ".hidden.jsonl").write_text("{}")
    (folder / "sts" / "README.md").write_text("notes")
    (folder / "other").mkdir()
    return folder
