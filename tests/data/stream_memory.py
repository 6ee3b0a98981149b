"""Streams a file to its end and prints the most memory it took: `stream_memory.py FILE TOKENIZER`.

Run by a test, and by hand on as many rows as one likes.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from transformers import PreTrainedTokenizerFast

from llm2vec_pl.data import Wikipedia


def main(path: str, tokenizer_file: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_file)
    data = Wikipedia(path, streaming=True, max_length=128, batch_size=64, shuffle_buffer=1000)
    data.attach(tokenizer).setup()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in data.train_dataloader())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps({"tokens": tokens, "seconds": seconds, "kb": peak, "kb_before": before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
