"""A step that neither logs nor draws the progress bar asks the device nothing."""

from pathlib import Path

import pytest
import torch
from contrastive_texts import POSITIVES, QUERIES, contrastive_batch, tokens
from forked import spawn
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from torch.utils.data import DataLoader
from waits import DEVICE, Waits, Watched

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import (
    MNTP,
    AnglE,
    CausalLM,
    Contrastive,
    Distillation,
    GISTEmbed,
    LateInteraction,
)
from llm2vec_pl.training.checkpoint_files import CheckpointFiles
from llm2vec_pl.training.checkpoints import Checkpoints
from llm2vec_pl.training.console import RunProgressBar
from llm2vec_pl.training.finite import FiniteGradients
from llm2vec_pl.training.memory_check import MemoryCheck
from llm2vec_pl.training.progress_lines import ProgressLines
from llm2vec_pl.training.resume import run_loggers
from llm2vec_pl.training.self_check import SelfCheck

STEPS = 8
QUIET = (2, 3, 6, 7)  # of batches: the first has its checks, each fourth step logs


class Bar(RunProgressBar):
    """Never asks for the loss."""

    seconds_between_losses = 1e9


def mntp(folder, **options):
    module = MNTP(Encoder(folder, **options), mask_probability=0.5)
    return module, without_pooling(module.encoder)


def causal_lm(folder):
    module = CausalLM(Encoder(folder, bidirectional=False, lora_rank=0))
    return module, without_pooling(module.encoder)


def simcse(folder, **options):
    encoder = Encoder(folder, lora_dropout=0.1)
    batch = {"query": tokens(encoder, QUERIES), "positive": tokens(encoder, QUERIES)}
    return Contrastive(encoder, **options), batch


def supervised(folder, **options):
    encoder = Encoder(folder, lora_rank=4)
    return Contrastive(encoder, **options), contrastive_batch(encoder)


def distillation(folder, **options):
    encoder = Encoder(folder, lora_rank=4)
    batch = {"query": {**tokens(encoder, QUERIES), "texts": QUERIES}}
    return Distillation(encoder, "tiny", **options), batch


def graded(folder):
    encoder = Encoder(folder, lora_rank=4)
    batch = {"query": tokens(encoder, QUERIES), "positive": tokens(encoder, POSITIVES)}
    batch["positive"]["score"] = torch.arange(float(len(QUERIES)))
    return AnglE(encoder), batch


def guided(folder):
    encoder = Encoder(folder, lora_rank=4)
    parts = {"query": QUERIES, "positive": POSITIVES}
    batch = {part: {**tokens(encoder, texts), "texts": texts} for part, texts in parts.items()}
    return GISTEmbed(encoder, "tiny"), batch


def late(folder):
    encoder = Encoder(folder, lora_rank=4)
    return LateInteraction(encoder, 8, chunk_size=6), contrastive_batch(encoder)


def without_pooling(encoder):
    return {k: v for k, v in encoder.tokenize(QUERIES).items() if k != "pooling_mask"}


CASES = {
    "MNTP": lambda folder: mntp(folder),
    "MNTP, all weights, layers again": lambda folder: mntp(
        folder, lora_rank=0, gradient_checkpointing=True
    ),
    "causal language model": causal_lm,
    "SimCSE": simcse,
    "supervised": supervised,
    "supervised in chunks": lambda folder: supervised(folder, chunk_size=6),
    "distillation": distillation,
    "distillation in chunks": lambda folder: distillation(folder, chunk_size=3),
    "supervised with everything": lambda folder: supervised(
        folder,
        learn_temperature=True,
        symmetric=True,
        margin=0.1,
        matryoshka_dims=[8, 32],
        spread_out_weight=0.1,
    ),
    "with graded pairs": graded,
    "with a guide": guided,
    "with late interaction in chunks": late,
}

SLOW = {case: pytest.mark.slow for case in CASES if "with" in case.split() or "again" in case}


def fit(module, batch, tmp_path, bar=None, **options):
    """A fit as a recipe makes it; what it waited for."""
    watched = Watched()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS // options.get("accumulate_grad_batches", 1),
        log_every_n_steps=4,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        logger=run_loggers(str(tmp_path), None),
        plugins=[CheckpointFiles()],
        callbacks=[
            watched,
            SelfCheck(),
            MemoryCheck(),
            FiniteGradients(),
            Checkpoints(),
            LearningRateMonitor("step"),
            bar or Bar(),
        ],
        **options,
    )
    loader = DataLoader([batch] * STEPS, batch_size=None)
    trainer.fit(module, loader)
    return watched.waits


@pytest.mark.parametrize("case", [pytest.param(c, marks=SLOW.get(c, ())) for c in CASES])
def test_a_step_asks_the_device_nothing(case, llama_folder, tmp_path):
    waits = fit(*CASES[case](llama_folder), tmp_path)
    assert waits.in_steps(QUIET) == []
    assert waits.in_steps([4, 8])  # what is logged


def test_lines_on_the_progress_ask_for_the_loss_only_when_they_are_due(llama_folder, tmp_path):
    lines: list[str] = []
    waits = fit(*mntp(llama_folder), tmp_path, ProgressLines(write=lines.append))
    assert waits.in_steps(QUIET) == []
    assert [line.split(",")[0] for line in lines] == ["step 1 of 8", "step 8 of 8"]


@pytest.mark.parametrize(
    ("case", "precision"), [("MNTP", "bf16-mixed"), ("supervised in chunks", "32-true")]
)
def test_nor_does_one_of_clipped_and_accumulated_gradients(case, precision, llama_folder, tmp_path):
    options = {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2, "precision": precision}
    waits = fit(*CASES[case](llama_folder), tmp_path, **options)
    assert waits.in_steps(range(2, 7)) == []


def test_nor_does_one_of_padded_batches(llama_folder, tmp_path):
    waits = fit(*mntp(llama_folder, padding_free=False, attention="eager"), tmp_path)
    assert waits.in_steps(QUIET) == []


def test_an_encoder_that_is_opened_within_a_step_is_whole(llama_folder):
    """A teacher is. Its frequencies once were whatever lay in memory, NaN among it."""
    outside = Encoder.from_pretrained(llama_folder)
    with Waits():
        within = Encoder.from_pretrained(llama_folder)
    for name, buffer in outside.named_buffers():
        assert torch.equal(buffer, within.get_buffer(name)), name


def test_a_fit_that_fails_is_no_longer_watched(llama_folder, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no batch")

    module, batch = mntp(llama_folder)
    monkeypatch.setattr(module, "on_train_batch_start", fail)
    with pytest.raises(RuntimeError, match="no batch"):
        fit(module, batch, tmp_path)
    assert torch.ones(1).to(DEVICE).device != DEVICE  # as the watch would say


def test_a_batch_of_which_nothing_is_known_is_asked(llama_folder):
    module, batch = supervised(llama_folder, chunk_size=3)
    module.configure_model()
    waits = Waits()
    waits.send(*module.parameters(), *module.buffers())
    with waits:
        sent = {part: {k: v.to(DEVICE) for k, v in b.items()} for part, b in batch.items()}
        waits.found.clear()
        module.loss(sent).backward()
    assert {wait.what for wait in waits.found} == {"tolist"}


def watch_rank(rank: int, folder: str, strategy: str, result: str) -> None:
    """What rank 0 waits for in a fit of two ranks."""
    module, batch = supervised(folder, chunk_size=3)
    waits = fit(module, batch, Path(result).parent, strategy=strategy, devices=2)
    if rank == 0:
        found = [wait for wait in waits.found if "with a tensor of the host" not in wait.what]
        Path(result).write_text("\n".join(waits.in_steps(QUIET, found)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_ranks_ask_their_devices_nothing(strategy, llama_folder, tmp_path):
    """What C++ gathers, weights and gradients, is not known to lie on the device."""
    result = tmp_path / "waits.txt"
    spawn(watch_rank, (llama_folder, strategy, str(result)), nprocs=2)
    assert result.read_text() == ""


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: int(x[0]),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: torch.equal(x, x),
        lambda x: x.repeat_interleave(x),
        lambda x: x.__setitem__(x > 0, 0),
        lambda x: torch.tensor([1], device=x.device),
        lambda x: torch.ones(1).to(x.device),
        lambda x: x + torch.ones(2),
    ],
)
def test_the_tool_finds_each_kind_of_question(ask):
    with Waits() as waits:
        ask(torch.ones(2, dtype=torch.long, device=DEVICE))
    assert len(waits.found) == 1


@pytest.mark.parametrize(
    "tell",
    [
        lambda x: torch.ones(2).to(x.device, non_blocking=True) * x,
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: x.masked_fill(x > 0, 0).sum() + torch.arange(2, device=x.device)[x],
        lambda x: torch.ones(2).sum().item(),
        lambda x: x * torch.ones(()),  # a kernel's argument
    ],
)
def test_the_tool_lets_pass_what_need_not_wait(tell):
    with Waits() as waits:
        tell(torch.ones(2, dtype=torch.long, device=DEVICE))
    assert waits.found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_cuda_agrees(case, llama_folder):
    """torch warns of each synchronisation that it knows of."""
    module, batch = CASES[case](llama_folder)
    module.on_train_batch_start = lambda *_: torch.cuda.set_sync_debug_mode(
        "error" if module.global_step > 2 else "default"
    )
    module.on_train_batch_end = lambda *_: torch.cuda.set_sync_debug_mode("default")
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        max_steps=5,
        log_every_n_steps=100,
        callbacks=[FiniteGradients()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([batch] * STEPS, batch_size=None, pin_memory=True))
