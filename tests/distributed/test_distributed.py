"""Several processes: together they have the loss and the gradient of one with the whole batch."""

import gc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from contrastive_texts import (
    NEGATIVES,
    POSITIVES,
    QUERIES,
    assert_same_gradients,
    contrastive_batch,
)
from forked import spawn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import (
    MNTP,
    AnglE,
    Contrastive,
    Distillation,
    GISTEmbed,
    LateInteraction,
    Objective,
)

TEXTS = [
    "one two three four five six seven eight nine ten",
    "short",
    "a text of middling length",
    "and the last of the four texts, which is rather longer than the others are",
]
TWO_NEGATIVES = [[f"{query} of wood", f"no {query}"] for query in QUERIES]


class Loss(torch.nn.Module):
    """An objective's loss as a forward pass, which is what DDP wraps."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch):
        return self.objective.loss(batch)


def loaded(objective: Objective) -> Objective:
    """The same weights in each process; a LoRA that is not the identity."""
    torch.manual_seed(0)
    objective.configure_model()
    for name, parameter in objective.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return objective


def mntp(folder: str, rows: slice):
    """With other numbers of hidden tokens on each rank."""
    objective = loaded(MNTP(Encoder(folder, lora_rank=4, lora_dropout=0.0), mask_probability=0.5))
    batch = {k: v for k, v in objective.encoder.tokenize(TEXTS).items() if k != "pooling_mask"}
    batch = objective.masked(batch, torch.Generator().manual_seed(0))
    return objective, {k: v[rows] for k, v in batch.items()}


def contrastive(folder: str, rows: slice, negatives=TWO_NEGATIVES, **options):
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0)
    objective = loaded(Contrastive(encoder, learn_temperature=True, symmetric=True, **options))
    return objective, contrastive_batch(encoder, rows, negatives)


def own_negatives_only(folder: str, rows: slice):
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0)
    objective = loaded(Contrastive(encoder, in_batch_negatives=False))
    return objective, contrastive_batch(encoder, rows, TWO_NEGATIVES)


def ragged(folder: str, rows: slice):
    """With 0 to 3 negatives a query, and none at all on a rank that has only query 2 or 6."""
    return contrastive(folder, rows, NEGATIVES, margin=0.3)


def chunked(folder: str, rows: slice):
    return contrastive(folder, rows, chunk_size=3)


def distillation(folder: str, rows: slice, **options):
    """With a text that each rank has, and that counts once."""
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0)
    objective = loaded(Distillation(encoder, "tiny", temperature=0.1, **options))
    queries = [*QUERIES[rows], "the same on each rank", *QUERIES[rows][:1]]
    parts = {"query": queries, "positive": POSITIVES[rows]}
    batch = {part: {**encoder.tokenize(texts), "texts": texts} for part, texts in parts.items()}
    return objective, objective.taught(batch)


def chunked_distillation(folder: str, rows: slice):
    return distillation(folder, rows, chunk_size=3)


def spread_out(folder: str, rows: slice):
    return contrastive(folder, rows, NEGATIVES, spread_out_weight=0.5, matryoshka_dims=[8, 32])


def angles(folder: str, rows: slice):
    """With pairs of pairs that lie on two ranks, and scores that are equal on both."""
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0)
    batch = contrastive_batch(encoder, rows, [[]] * len(QUERIES))
    batch["positive"]["score"] = torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0, 0.0, 1.0, 4.0])[rows]
    return loaded(AnglE(encoder, chunk_size=3)), batch


def guided(folder: str, rows: slice):
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0)
    objective = loaded(GISTEmbed(encoder, "tiny", margin=0.1, symmetric=True))
    batch = contrastive_batch(encoder, rows, NEGATIVES)
    batch["query"]["texts"], batch["positive"]["texts"] = QUERIES[rows], POSITIVES[rows]
    batch["negative"]["texts"] = [text for texts in NEGATIVES[rows] for text in texts]
    return objective, objective.guided(batch)


def late(folder: str, rows: slice, **options):
    """With another longest text on each rank."""
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0)
    torch.manual_seed(0)  # for the projection
    objective = loaded(LateInteraction(encoder, 8, symmetric=True, margin=0.3, **options))
    return objective, contrastive_batch(encoder, rows, NEGATIVES)


def chunked_late(folder: str, rows: slice):
    return late(folder, rows, chunk_size=3)


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad.clone()
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def train_on_share(
    rank: int, cases: list[Callable], folder: str, shares: list[slice], result: str
) -> None:
    """Loss and gradients of each case, written by rank 0."""
    dist.init_process_group("gloo")
    found = {case.__name__: trained_on(case, folder, shares[rank]) for case in cases}
    if rank == 0:
        torch.save(found, result)
    end()


def trained_on(case: Callable, folder: str, rows: slice) -> dict:
    objective, batch = case(folder, rows)
    parallel = DistributedDataParallel(Loss(objective))
    loss = parallel(batch)
    loss.backward()
    loss = loss.detach()
    dist.all_reduce(loss)
    return {"loss": loss / dist.get_world_size(), "gradients": gradients(objective)}


def end() -> None:
    # A DDP module that outlives the group ends it while it holds the interpreter's lock, for which
    # the group's own thread may be waiting.
    gc.collect()
    dist.destroy_process_group()


def cut(*borders: int) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(borders)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cases", "shares"),
    [
        ([contrastive, own_negatives_only, chunked], cut(0, 4, 8)),
        ([distillation, chunked_distillation], cut(0, 3, 8)),
        ([spread_out, angles, guided, late, chunked_late], cut(0, 3, 8)),
        ([contrastive], cut(0, 2, 4, 6, 8)),
        ([mntp, ragged], cut(0, 2, 3, 8)),
    ],
)
def test_ranks_give_the_loss_and_gradient_of_one(cases, shares, llama_folder, tmp_path: Path):
    """The processes run all of their cases: it is their start that takes time."""
    result = tmp_path / "result.pt"
    arguments = (cases, llama_folder, shares, str(result))
    spawn(train_on_share, arguments, nprocs=len(shares))
    together = torch.load(result, weights_only=True)
    for case in cases:
        objective, batch = case(llama_folder, slice(None))
        loss = objective.loss(batch)
        loss.backward()
        found = together[case.__name__]
        torch.testing.assert_close(found["loss"], loss.detach(), atol=0, rtol=1e-6)
        assert_same_gradients(found["gradients"], gradients(objective))


def compare_chunks(rank: int, folder: str, result: str) -> None:
    """Gradients with the chunks computed again, and with the same chunks kept in memory."""
    dist.init_process_group("gloo")
    found = {}
    for wrap in (ddp, fsdp2):
        for layers_too in (False, True):
            objective = with_dropout(folder, gradient_checkpointing=layers_too)
            wrapped = wrap(objective)
            batch = contrastive_batch(objective.encoder, slice(4 * rank, 4 * rank + 4))
            case = f"{wrap.__name__} {layers_too}"
            found[case] = [train(objective, wrapped, batch, rank)]
            keep = mock.patch(
                "llm2vec_pl.objectives.chunks.checkpoint",
                lambda function, chunk, use_reentrant: function(chunk),
            )
            with keep:
                found[case].append(train(objective, wrapped, batch, rank))
    if rank == 0:
        torch.save(found, result)
    end()


def with_dropout(folder: str, **options: bool) -> Contrastive:
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.2, attention_dropout=0.2, **options)
    return loaded(Contrastive(encoder, chunk_size=3))


def train(objective, wrapped, batch, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)  # the same dropout each time
    objective.zero_grad()
    wrapped(batch).backward()
    return gradients(objective)


def ddp(objective: Objective) -> torch.nn.Module:
    return DistributedDataParallel(Loss(objective))


def fsdp2(objective: Objective) -> torch.nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    decoder = objective.encoder.decoder
    for layer in decoder.get_base_model().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    return Loss(objective)


@pytest.mark.slow
def test_chunks_are_exact_with_dropout_under_ddp_and_fsdp2(llama_folder, tmp_path: Path):
    result = tmp_path / "result.pt"
    spawn(compare_chunks, (llama_folder, str(result)), nprocs=2)
    found = torch.load(result, weights_only=True)
    assert found.keys() == {"ddp False", "ddp True", "fsdp2 False", "fsdp2 True"}
    for again, kept in found.values():
        assert_same_gradients(again, kept)
