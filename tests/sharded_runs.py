"""What ranks of a sharded encoder measure, as ranks of torchrun: `sharded_runs.py CASE FOLDER`."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from contrastive_texts import QUERIES
from torch.distributed.device_mesh import init_device_mesh

from llm2vec_pl.distributed.sharding import gathered_state
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.evaluation.embedding import encode_on_all_ranks


class PeakMemory:
    """The most anonymous memory that this process has had inside, above that before, in bytes.

    Pages of files that are mapped, which the system drops when it needs room, do not count.
    """

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = anonymous_memory()
        self.running = True
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()
        self.growth = self.peak - self.before

    def _sample(self) -> None:
        while self.running:
            self.peak = max(self.peak, anonymous_memory())
            time.sleep(0.001)


def anonymous_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def memory(folder: str, mesh) -> dict:
    """Of loading; a first model is loaded before, so that what is imported does not count."""
    load(Encoder("tiny", lora_rank=2), mesh)
    encoder = Encoder(folder, lora_rank=2)
    with PeakMemory() as measured:
        load(encoder, mesh)
    own = sum(
        p.to_local().nbytes if hasattr(p, "to_local") else p.nbytes for p in encoder.parameters()
    )
    return {"peak": measured.growth, "own": own}


def load(encoder: Encoder, mesh) -> Encoder:
    torch.manual_seed(0)
    return encoder.load(mesh)


def embeddings(folder: str, mesh) -> dict:
    """Of a LoRA's fresh start, in evaluation, by all ranks; the weights too."""
    found = {}
    for quantization in (None, "nf4", "int8"):
        encoder = load(Encoder(folder, lora_rank=2, quantization=quantization), mesh)
        found[str(quantization)] = encode_on_all_ranks(encoder, QUERIES, batch_size=3).tolist()
        if quantization is None:
            state = gathered_state(encoder.causal_lm)
            torch.save(state, f"{sys.argv[2]}/state_{dist.get_rank()}.pt")
    return found


if __name__ == "__main__":
    case, folder, *models = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,))
    found = [globals()[case](model, mesh) for model in models]
    Path(folder, f"rank_{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
