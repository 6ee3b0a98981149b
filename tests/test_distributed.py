"""Several processes: the gradient of two ranks is that of one with the whole batch."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.objectives import MNTP

TEXTS = [
    "one two three four five six seven eight nine ten",
    "short",
    "a text of middling length",
    "and the last of the four texts, which is rather longer than the others are",
]


class Loss(torch.nn.Module):
    """MNTP's loss as a forward pass, which is what DDP wraps."""

    def __init__(self, mntp: MNTP) -> None:
        super().__init__()
        self.mntp = mntp

    def forward(self, batch):
        return self.mntp.loss(batch)


def module_and_batch(folder: str):
    """The same weights and hidden tokens in each process; a LoRA that is not the identity."""
    torch.manual_seed(0)
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0)
    mntp = MNTP(encoder, mask_probability=0.5)
    mntp.configure_model()
    for name, parameter in mntp.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = {k: v for k, v in encoder.text(TEXTS).items() if k != "pooling_mask"}
    return mntp, mntp.masked(batch, torch.Generator().manual_seed(0))


def gradient(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def train_on_half(rank: int, folder: str, port: int, result: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mntp, batch = module_and_batch(folder)
    parallel = DistributedDataParallel(Loss(mntp))
    loss = parallel({k: v[2 * rank : 2 * rank + 2] for k, v in batch.items()})
    loss.backward()
    dist.all_reduce(loss)
    if rank == 0:
        torch.save({"loss": loss.detach() / 2, "gradient": gradient(mntp)}, result)
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
def test_two_ranks_give_the_gradient_of_one(llama_folder, tmp_path: Path):
    """With unequal numbers of hidden tokens on the two ranks."""
    mntp, batch = module_and_batch(llama_folder)
    hidden = (batch["labels"] != -100).sum(1)
    assert hidden[:2].sum() != hidden[2:].sum()
    loss = mntp.loss(batch)
    loss.backward()
    result = tmp_path / "result.pt"
    mp.spawn(train_on_half, (llama_folder, free_port(), str(result)), nprocs=2)
    two = torch.load(result, weights_only=True)
    torch.testing.assert_close(two["loss"], loss.detach(), atol=1e-6, rtol=1e-6)
    assert gradient(mntp).keys() == two["gradient"].keys()
    for name, expected in gradient(mntp).items():
        torch.testing.assert_close(two["gradient"][name], expected, atol=1e-6, rtol=1e-5)
