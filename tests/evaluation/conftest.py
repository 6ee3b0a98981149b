"""A small STS file and a small retrieval task in BEIR's layout."""

import json

import pytest
from evaluation_texts import TEXTS


@pytest.fixture(scope="session")
def sts_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("sts") / "pairs_dev.jsonl"
    rows = [
        {"sentence1": a, "sentence2": b, "score": i * j % 7}
        for i, a in enumerate(TEXTS[:5])
        for j, b in enumerate(TEXTS[4:9])
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="session")
def retrieval_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("beir") / "numbers"
    (folder / "qrels").mkdir(parents=True)
    texts = [json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(texts))
    (folder / "queries.jsonl").write_text("\n".join(texts[:7]))
    qrels = [f"{i}\t{j}\t{2 - j}" for i in range(7) for j in range(2)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels))
    return str(folder)
