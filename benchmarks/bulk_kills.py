"""Embeds a corpus with SIGKILLs on the way, and compares it with one that nothing disturbed.

python benchmarks/bulk_kills.py TEXTS.txt --documents 200000 --model tiny

TEXTS.txt has a text per line. If there are too few, they are repeated, with the number of the row
behind each. Other flags, such as `--batch_size 256`, go to `recipes/embed.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
KILLS = (0.2, 0.45, 0.7)
"""Shares of the files after which a run is killed."""


def main() -> None:
    """Prints a line for each way to embed the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    asked, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place, "corpus.jsonl")
        write_corpus(asked.texts, asked.documents, corpus)
        flags = ["--encoder.model_name", asked.model, "--corpus", str(corpus), *more]
        whole = Path(place, "whole")
        seconds = embed(flags, whole, 1, [])
        print(f"1 process, no kill: {asked.documents / seconds:,.0f} rows/s ({seconds:.0f} s)")
        files = len(parts(whole))
        for processes in asked.processes:
            out = Path(place, f"killed-{processes}")
            moments = [max(1, int(files * share)) for share in KILLS]
            seconds = embed(flags, out, processes, moments)
            difference = largest_difference(out, whole, asked.documents)
            print(
                f"{processes} process{'es' * (processes > 1)}, {len(moments)} kills: "
                f"the same {asked.documents:,} rows, "
                f"{asked.documents / seconds:,.0f} rows/s ({seconds:.0f} s with the starts), "
                f"largest difference {difference:.1e}",
                flush=True,
            )


def write_corpus(texts: Path, documents: int, corpus: Path) -> None:
    """Writes so many rows with an id and a text; no two are the same."""
    lines = [line.strip() for line in texts.open(encoding="utf-8") if line.strip()]
    with corpus.open("w", encoding="utf-8") as file:
        for i, line in enumerate(islice(cycle(lines), documents)):
            text = line if i < len(lines) else f"{line} {i}"
            file.write(json.dumps({"_id": f"d{i}", "text": text}) + "\n")


def embed(flags: Sequence[str], out: Path, processes: int, moments: Sequence[int]) -> float:
    """Runs `recipes/embed.py` to its end, killed whenever so many files are there; the seconds."""
    command = [sys.executable, str(ROOT / "recipes" / "embed.py"), *flags, "--out", str(out)]
    command += ["--accelerator", "cpu", "--devices", str(processes)]
    start = time.monotonic()
    for moment in [*moments, None]:
        run = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while run.poll() is None and (moment is None or len(parts(out)) < moment):
            time.sleep(0.05)
        if moment is None:
            if run.returncode:
                raise SystemExit(f"recipes/embed.py ended with code {run.returncode}")
        else:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            print(f"killed after {len(parts(out))} files", flush=True)
    return time.monotonic() - start


def parts(out: Path) -> list[Path]:
    """The files that are there, in order."""
    return sorted(out.glob("part-*.parquet"))


def largest_difference(out: Path, whole: Path, documents: int) -> float:
    """Between the embeddings in two folders, which have to hold the same rows in the same order."""
    row, largest = 0, 0.0
    for one, other in zip(parts(out), parts(whole), strict=True):
        found, expected = pq.read_table(one), pq.read_table(other)
        rows = list(range(row, row + len(expected)))
        if found["row"].to_pylist() != rows or not found["id"].equals(expected["id"]):
            raise SystemExit(f"{one.name} does not hold the rows from {row:,} on")
        vectors = [np.stack(table["embedding"].to_numpy()) for table in (found, expected)]
        largest = max(largest, float(np.abs(vectors[0] - vectors[1]).max()))
        row += len(rows)
    if row != documents:
        raise SystemExit(f"{row:,} rows in place of {documents:,}")
    return largest


if __name__ == "__main__":
    main()
