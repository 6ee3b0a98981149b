"""Mines hard negatives for pairs of a query and its positive, and writes triplets that E5 reads.

python recipes/mine.py --data pairs.jsonl --out triplets.jsonl --relative_margin 0.05
python recipes/mine.py --encoder.model_name runs/simcse --data pairs.parquet --out triplets.jsonl
python recipes/mine.py --data pairs.jsonl --corpus passages.txt --sampling random --out out.jsonl
python recipes/supervised.py --data E5 --data.path triplets.jsonl
"""

import time
from pathlib import Path
from typing import Any

import torch

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import user_errors
from llm2vec_pl.files import require_writable
from llm2vec_pl.mining import Rules, mine, read_pairs, read_texts, write_triplets
from llm2vec_pl.training import Help, Parser, silence_noise, still_at

# These matter only in training.
TRAINING = {"lora_rank", "lora_alpha", "lora_dropout", "dora", "rslora", "attention_dropout"}
TRAINING |= {"gradient_checkpointing", "random_weights"}


def run(
    encoder: dict[str, Any],
    rules: Rules,
    data: Path,
    out: Path,
    corpus: Path | None = None,
    query_column: str = "query",
    positive_column: str = "positive",
    corpus_column: str = "text",
    query_instruction: str = "",
    document_instruction: str = "",
    drop_incomplete: bool = False,
    batch_size: int = 64,
    chunk_size: int = 8192,
    device: str = "auto",
    show: int = 3,
) -> None:
    """Reads, mines, writes, and prints what was left out.

    Args:
        encoder: the arguments of `Encoder` that override the folder's own settings.
        rules: which candidates become negatives.
        data: a jsonl, csv, tsv or parquet file with one row per query; the positive is a text or
            a list of texts.
        out: the JSON lines file to write: query, positive, negative (a list).
        corpus: a file with further candidates, one text per row, or per line of a txt file.
            Without it the candidates are the positives of all rows.
        query_column: of the data file.
        positive_column: of the data file.
        corpus_column: of the corpus file.
        query_instruction: written directly before each query, such as "Retrieve the answer: ".
        document_instruction: the same for positives and candidates.
        drop_incomplete: leave out rows with fewer than num_negatives negatives.
        batch_size: how many texts go through the decoder at once.
        chunk_size: how many candidates are embedded and compared at a time.
        device: cpu, cuda, cuda:1, …; auto takes a GPU if there is one.
        show: how many rows to print at the end.
    """
    require_writable(out)
    rows = read_pairs(data, query_column, positive_column)
    texts = list(read_texts(corpus, corpus_column)) if corpus else []
    print(f"{len(rows):,} rows in {data}")
    if replaced := sum(bool(row.negatives) for row in rows):
        print(f"{replaced:,} rows have negatives already, which the mined ones replace")
    model = Encoder.from_pretrained(encoder.pop("model_name", "tiny"), **encoder)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(automatic if device == "auto" else device)
    start = time.monotonic()
    instructions = (query_instruction, document_instruction)
    with still_at("mining"):
        mined = mine(model, rows, rules, texts, *instructions, batch_size, chunk_size, report=print)
    print(*mined.summary(rules), f"{time.monotonic() - start:.0f} s", sep="\n")

    kept = [
        i
        for i, negatives in enumerate(mined.negatives)
        if len(negatives) == rules.num_negatives or not drop_incomplete
    ]
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept):,} rows dropped: --drop_incomplete true")
    write_triplets(out, [rows[i] for i in kept], [mined.negatives[i] for i in kept])
    print(f"Wrote {len(kept):,} rows to {out}: --data E5 --data.path {out}")
    for i in kept[:show]:
        print(f"\nquery           {_short(rows[i].query)}")
        print(f"positive  {mined.positive_scores[i]:.3f} {_short(rows[i].positives[0])}")
        for score, text in zip(mined.scores[i], mined.negatives[i], strict=True):
            print(f"negative  {score:.3f} {_short(text)}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:99] + "…"


if __name__ == "__main__":
    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_class_arguments(Encoder, "encoder", instantiate=False, skip=TRAINING)
    parser.add_class_arguments(Rules)
    parser.add_function_arguments(run, skip={"encoder", "rules"})
    with user_errors():
        given, values = parser.parse_beside_encoder()
        rules = Rules(**{name: values.pop(name) for name in Rules.__dataclass_fields__})
        run(given, rules, **values)
