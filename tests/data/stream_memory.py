"""Streams a file to its end and prints the most memory it took: `stream_memory.py FILE TOKENIZER`.

Run by a test, and by hand on as many rows as one likes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from llm2vec_pl.data import Wikipedia


def peak_kb() -> int:
    # Not getrusage's ru_maxrss: it begins with the memory of the process that started this one.
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def main(path: str, tokenizer_file: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_file)
    data = Wikipedia(path, streaming=True, max_length=128, batch_size=64, shuffle_buffer=1000)
    data.attach(tokenizer).setup()
    before = peak_kb()
    start = time.monotonic()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in data.train_dataloader())
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps({"tokens": tokens, "seconds": seconds, "kb": peak_kb(), "kb_before": before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
