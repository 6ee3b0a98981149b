"""Searches documents by meaning: the documentation of installed Python packages, or your own.

python recipes/search.py "pad sequences to the same length"
python recipes/search.py --encoder smollm2-135m-encoder --corpus docs "continue a killed run"
python recipes/search.py --corpus articles.jsonl --column body --json "rivers and lakes"
python recipes/search.py --corpus docs                    asks for one query after the other
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from llm2vec_pl.errors import UserError, print_errors_with, user_errors
from llm2vec_pl.training.flag_errors import with_flags


def say(line: str) -> None:
    """Prints what is no result, beside the results."""
    print(line, file=sys.stderr, flush=True)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("query", nargs="*", help="without one, queries are asked for, a line each")
    parser.add_argument("--encoder", default="tiny", help="any --encoder.model_name")
    parser.add_argument(
        "--corpus",
        help="a txt, md, rst, jsonl, csv, tsv or parquet file, or a folder of them, or one that "
        "recipes/embed.py has filled; by default the documentation of installed Python packages",
    )
    parser.add_argument("--column", default="text", help="with the text, in jsonl, csv and parquet")
    parser.add_argument("--top", type=int, default=5, help="how many passages to print")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each query")
    parser.add_argument("--passage_tokens", type=int, default=128, help="tokens of a passage")
    parser.add_argument(
        "--backend",
        choices=("auto", "numpy", "faiss"),
        default="auto",
        help="numpy compares all passages; faiss looks at a part of them, and auto uses it from "
        "200,000 passages on, if it is installed",
    )
    return parser


def asked() -> Iterator[str]:
    """The lines that are typed, or that another program writes."""
    while True:
        if sys.stdin.isatty():
            print("query> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def answer(flags: argparse.Namespace, started: float) -> None:
    # Only now: these imports take seconds, and wrong flags are told at once.
    from llm2vec_pl.use.search import Searcher, as_json, as_text, open_corpus

    corpus = open_corpus(flags.corpus, flags.column)
    searcher = Searcher(corpus, flags.encoder, flags.passage_tokens, flags.backend, say)
    ready = time.perf_counter() - started
    show = as_json if flags.json else as_text
    for query in [" ".join(flags.query)] if flags.query else asked():
        found = searcher(query, flags.top)
        print(show(found, corpus), flush=True)
        say(
            f"{len(found.hits)} of {len(searcher.index):,} passages, found in "
            f"{found.seconds:.3f} s; opened in {ready:.1f} s"
        )


if __name__ == "__main__":
    started = time.perf_counter()
    parser = command_line()
    flags = parser.parse_args()
    names = {name: f"--{name}" for name in vars(flags)} | {"model_name": "--encoder"}
    print_errors_with(lambda message: with_flags(message, names))
    try:
        with user_errors():
            if flags.top < 1:
                raise UserError(f"`top` is at least 1, but got {flags.top}.")
            answer(flags, started)
    except KeyboardInterrupt:
        say("\nStopped. What has been embedded is kept; the same command continues.")
        sys.exit(130)
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
