"""Hard negatives: texts that an encoder mistakes for answers to a query."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm2vec_pl.data.examples import Candidates
from llm2vec_pl.data.files import text_id
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import Nearest, search_device
from llm2vec_pl.mining.rules import Rules


@dataclass
class Mined:
    """What was mined, in the order of the rows.

    Args:
        negatives: the negatives of each row, the nearest first.
        scores: the scores of the negatives.
        positive_scores: for each row, the lowest score of its query's positives.
        counts: numbers of texts, and of those that each rule left out, for the summary.
    """

    negatives: list[list[str]] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    positive_scores: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def summary(self, rules: Rules) -> list[str]:
        """What was found and what was left out, one line each."""
        found = [score for scores in self.scores for score in scores]
        fewer = sum(len(texts) < rules.num_negatives for texts in self.negatives)
        none = sum(not texts for texts in self.negatives)
        lines = [f"{count:,} {what}" for what, count in self.counts.items()]
        lines.append(
            f"{len(found):,} negatives for {len(self.negatives):,} rows; {fewer:,} rows have fewer "
            f"than {rules.num_negatives}, and {none:,} of these have none"
        )
        if fewer:
            lines.append(
                f"to find more, raise `range_max`, now {rules.depth}, or loosen the rules on scores"
            )
        if found:
            pairs = zip(self.positive_scores, self.scores, strict=True)
            positives = [score for score, negatives in pairs if negatives]
            lines.append(
                f"mean score in rows with negatives: {_mean(positives):.3f} of the positives, "
                f"{_mean(found):.3f} of the negatives"
            )
        return lines


def mine(
    encoder: Encoder,
    rows: Sequence[Candidates],
    rules: Rules | None = None,
    corpus: Iterable[str] = (),
    query_instruction: str = "",
    document_instruction: str = "",
    batch_size: int = 64,
    chunk_size: int = 8192,
    report: Callable[[str], object] = lambda line: None,
) -> Mined:
    """Finds negatives for each row among the positives of all rows and the corpus.

    A query's own positives, from all of its rows, are never its negatives, nor is the query itself.
    Texts that differ only in white space are one text. The texts and the queries' embeddings are
    held in memory; the candidates' embeddings, one chunk at a time.

    Args:
        encoder: embeds the texts.
        rows: queries with their positives; negatives that they have already are ignored.
        rules: decides which candidates become negatives.
        corpus: further candidates.
        query_instruction: written directly before each query, and not pooled.
        document_instruction: the same for positives and candidates.
        batch_size: number of texts that go through the decoder at once.
        chunk_size: number of candidates that are embedded and compared at a time.
        report: called with a line on progress after each chunk.

    Raises:
        UserError: if there are no rows, or an embedding is not finite.
    """
    rules = rules or Rules()
    if not rows:
        raise UserError("There are no rows to mine negatives for. Give at least one.")
    queries = _unlike(row.query for row in rows)
    texts = [*(text for row in rows for text in row.positives), *corpus]
    candidates = _unlike(texts)
    pairs, are_positive = _own(rows, queries, candidates)

    def embedded(texts: list[str], instruction: str, kind: str) -> Iterator[Tensor]:
        for start in range(0, len(texts), chunk_size):
            chunk = encoder.encode(texts[start : start + chunk_size], instruction, batch_size)
            if not chunk.isfinite().all():
                raise UserError(
                    "The encoder gives embeddings that are not finite. Use another encoder, or "
                    '`dtype="float32"`.'
                )
            report(f"embedded {min(start + chunk_size, len(texts)):,} of {len(texts):,} {kind}")
            yield chunk

    embeddings = torch.cat(list(embedded([*queries.values()], query_instruction, "queries")))
    nearest = Nearest(embeddings.to(search_device(encoder)), rules.depth, own=pairs)
    for chunk in embedded([*candidates.values()], document_instruction, "candidates"):
        nearest.add(chunk)

    counts = Counter({"queries": len(queries), "candidates": len(candidates)})
    counts["duplicate texts left out"] = len(texts) - len(candidates)
    lowest = torch.full((len(queries),), torch.inf).scatter_reduce(
        0, pairs[are_positive, 0], nearest.own_scores.cpu()[are_positive], "amin"
    )
    chosen = choose(rules, nearest, lowest, list(queries), counts)
    return _row_by_row(rows, queries, chosen, [*candidates.values()], lowest.tolist(), counts)


def choose(
    rules: Rules, nearest: Nearest, positive: Tensor, keys: Sequence[int], counts: Counter[str]
) -> list[list[tuple[int, float]]]:
    """The candidates that the rules make each query's negatives, with their scores.

    Args:
        rules: the rules.
        nearest: the candidates of each query.
        positive: the lowest score of each query's positives, (Q,).
        keys: what the draw for a query depends on, besides the seed.
        counts: gets the number of candidates that each rule left out.
    """
    scores, indices = nearest.scores.cpu(), nearest.indices.cpu()
    kept = scores > -torch.inf
    for rule, broken in rules.broken(scores, positive).items():
        counts[f"near candidates left out by {rule}"] += int((kept & broken).sum())
        kept &= ~broken
    chosen = []
    for row, key in enumerate(keys):
        places = kept[row].nonzero().flatten().tolist()[rules.range_min :]
        if rules.sampling == "random" and len(places) > rules.num_negatives:
            draw = random.Random(f"{rules.seed} {key}")
            places = sorted(draw.sample(places, rules.num_negatives))
        places = places[: rules.num_negatives]
        chosen.append(
            list(zip(indices[row, places].tolist(), scores[row, places].tolist(), strict=True))
        )
    return chosen


def _unlike(texts: Iterable[str]) -> dict[int, str]:
    """Id -> text; of equal texts, the first."""
    unlike: dict[int, str] = {}
    for text in texts:
        unlike.setdefault(text_id(text), text)
    return unlike


def _own(
    rows: Sequence[Candidates], queries: dict[int, str], candidates: dict[int, str]
) -> tuple[Tensor, Tensor]:
    """(query, candidate) pairs that are not negatives, (P, 2), and which are positives, (P,)."""
    query_rows = {key: row for row, key in enumerate(queries)}
    places = {key: place for place, key in enumerate(candidates)}
    pairs = {
        (query_rows[text_id(row.query)], places[text_id(text)]): True
        for row in rows
        for text in row.positives
    }
    for key, row in query_rows.items():  # the query itself
        if key in places:
            pairs.setdefault((row, places[key]), False)
    return torch.tensor(list(pairs)), torch.tensor(list(pairs.values()))


def _row_by_row(
    rows: Sequence[Candidates],
    queries: dict[int, str],
    chosen: list[list[tuple[int, float]]],
    texts: list[str],
    positive_scores: list[float],
    counts: Counter[str],
) -> Mined:
    """Rows with the same query have the same negatives."""
    numbers = {key: number for number, key in enumerate(queries)}
    mined = Mined(counts=counts)
    for row in rows:
        query = numbers[text_id(row.query)]
        mined.negatives.append([texts[place] for place, _ in chosen[query]])
        mined.scores.append([score for _, score in chosen[query]])
        mined.positive_scores.append(positive_scores[query])
    return mined


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
