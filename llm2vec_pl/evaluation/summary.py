"""One row of numbers on how good an encoder is, for comparison with others."""

from __future__ import annotations

from pathlib import Path

import torch

from llm2vec_pl.data import RetrievalTask
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.evaluation.embedding import embedder
from llm2vec_pl.evaluation.geometry import alignment, uniformity
from llm2vec_pl.evaluation.retrieval import search
from llm2vec_pl.evaluation.sts import STSTask, evaluate_sts


def evaluate(
    encoder: Encoder,
    task: RetrievalTask | None = None,
    sts: STSTask | str | Path | None = None,
    batch_size: int = 64,
    query_instruction: str = "",
    document_instruction: str = "",
    sts_instruction: str = "",
    on_all_ranks: bool = False,
) -> dict[str, float]:
    """Retrieval, the geometry of its positive pairs, and STS if pairs are given.

    All embeddings of the retrieval task are in memory; `evaluate_retrieval` keeps only a part.

    Args:
        encoder: the encoder to measure.
        task: what to retrieve; the held-out documentation of `PythonDocs` by default.
        sts: pairs with gold scores, or the path of a file of them.
        batch_size: number of texts that go through the decoder at once.
        query_instruction: written directly before each query, and not pooled.
        document_instruction: the same for documents.
        sts_instruction: the same for both sentences of an STS pair.
        on_all_ranks: divide the work among all ranks, each of which must call this.

    Returns:
        The metrics of `evaluate_retrieval`; `alignment` of queries and their relevant documents;
        `uniformity`, the mean of the queries' and the documents', as in Wang and Isola's code; and
        Spearman's correlation under the STS task's name.

    Raises:
        UserError: if the STS file cannot be read.
    """
    if isinstance(sts, (str, Path)):
        sts = STSTask.read(sts)
    if task is None:
        from llm2vec_pl.data import PythonDocs  # imports Lightning, which takes seconds

        task = PythonDocs().retrieval()
    embed = embedder(encoder, batch_size, on_all_ranks)
    queries = embed(list(task.queries.values()), query_instruction)
    documents = embed(list(task.corpus.values()), document_instruction)
    row = search(task, queries, [documents])
    first, second = _positive_pairs(task)
    row["alignment"] = alignment(queries[first], documents[second]).item()
    sides = [uniformity(side) for side in (queries, documents) if len(side) > 1]
    if sides:
        row["uniformity"] = torch.stack(sides).mean().item()
    if sts is not None:
        row[sts.name] = evaluate_sts(encoder, sts, batch_size, sts_instruction, on_all_ranks)
    return row


def _positive_pairs(task: RetrievalTask) -> tuple[list[int], list[int]]:
    """The rows of queries and of their relevant documents in the corpus, pair by pair."""
    rows = {name: row for row, name in enumerate(task.corpus)}
    pairs = [
        (row, rows[name])
        for row, query in enumerate(task.queries)
        for name, gain in task.relevant.get(query, {}).items()
        if gain > 0 and name in rows
    ]
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)
