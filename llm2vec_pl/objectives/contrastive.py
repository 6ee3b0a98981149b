"""STEP 3: contrastive learning. Texts that belong together come close, others move apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from llm2vec_pl.distributed import world
from llm2vec_pl.encoder import Encoder, TokenBatch, join
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import Objective, Schedule
from llm2vec_pl.objectives.chunks import EMBEDDED, cat_rows, embed_rows, require_chunk_size
from llm2vec_pl.objectives.gathered_texts import Texts, gather
from llm2vec_pl.objectives.info_nce import EachText, cosines, info_nce, similarities
from llm2vec_pl.objectives.spread_out import spread_out
from llm2vec_pl.objectives.views import check_views, random_state

# `query` and `positive`, B rows each, and `negative`, N rows, if there are negatives. Besides a
# token batch's keys they may hold `text_id`, equal for equal texts; `negative` holds
# `query_index`.
ContrastiveBatch = dict[str, TokenBatch]

LOWEST_TEMPERATURE = 0.01  # a learned one goes no lower (CLIP, Radford et al. 2021, section 2.5)


class Contrastive(Objective):
    """SimCSE and supervised contrastive learning (LLM2Vec, sections 2.1 and 4.1).

    The two differ only in their data. In SimCSE (Gao et al. 2021) a sentence is its own positive,
    seen through a different dropout mask; supervised data has positives and hard negatives. The
    negatives of all ranks count, with exact gradients.

    Args:
        encoder: the encoder to train.
        temperature: divides the cosine similarities; 0.05 for SimCSE, 0.02 for E5 data.
        learn_temperature: also train the temperature, starting at `temperature`; it stays at 0.01
            or above.
        in_batch_negatives: also compare each query with the other queries' texts.
        symmetric: also train each positive to find its query.
        margin: ignore candidates more similar than the positive's similarity minus this, as false
            negatives; null ignores none. Candidates with the same text are always ignored.
        chunk_size: number of texts whose activations exist at once. The backward pass computes them
            again: the same gradient, the memory of one chunk, a third more time. Null: all texts.
        matryoshka_dims: sizes, such as [64, 256]; for each, that many leading dimensions are
            trained as an embedding of their own (Kusupati et al. 2022).
        projection_dim: size of a linear layer with tanh between the embedding and the loss, as in
            SimCSE's training; it is not saved with the encoder. Null: no such layer.
        spread_out_weight: weight of a regulariser that wants cosines between different queries, and
            between different positives or negatives, to be those of random directions (Zhang et al.
            2017); 0 leaves it out.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up.
        weight_decay: AdamW's weight decay.

    Raises:
        UserError: if an argument is out of range, or two contradict each other.
    """

    def __init__(
        self,
        encoder: Encoder,
        temperature: float = 0.05,
        learn_temperature: bool = False,
        in_batch_negatives: bool = True,
        symmetric: bool = False,
        margin: float | None = None,
        chunk_size: int | None = None,
        matryoshka_dims: list[int] | None = None,
        projection_dim: int | None = None,
        spread_out_weight: float = 0.0,
        learning_rate: float = 5e-5,
        warmup_steps: float = 0.1,
        schedule: Schedule = "linear",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(encoder, learning_rate, warmup_steps, schedule, weight_decay)
        self.in_batch_negatives = in_batch_negatives
        self.symmetric = symmetric
        self.margin = margin
        self.chunk_size = chunk_size
        self.spread_out_weight = spread_out_weight
        size = projection_dim or encoder.embedding_size
        self.dims = matryoshka_dims or [size]
        self._check(temperature, learn_temperature, size)
        self._views_checked = False
        self.log_temperature = nn.Parameter(
            torch.tensor(temperature).log(), requires_grad=learn_temperature
        )
        self.projection: nn.Module = nn.Identity()
        if projection_dim:
            self.projection = nn.Sequential(
                nn.Linear(encoder.embedding_size, projection_dim), nn.Tanh()
            )

    @property
    def temperature(self) -> Tensor:
        """The number that similarities are divided by; a learned one is at least 0.01."""
        if not self.log_temperature.requires_grad:
            return self.log_temperature.exp()
        # Bounds the value only: `clamp` would have no gradient below, and never come back.
        missing = (math.log(LOWEST_TEMPERATURE) - self.log_temperature.detach()).clamp(min=0)
        return (self.log_temperature + missing).exp()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """As for any objective; after each step a learned temperature is moved up to its bound.

        Otherwise it would have to climb all the way back before it has an effect again.
        """
        configured = super().configure_optimizers()
        optimizer: Any = configured["optimizer"]
        optimizer.register_step_post_hook(lambda *_: self._bound_temperature())
        return configured

    @torch.no_grad()
    def _bound_temperature(self) -> None:
        if self.log_temperature.requires_grad:
            self.log_temperature.clamp_(min=math.log(LOWEST_TEMPERATURE))

    def begin_training(self) -> None:
        """Begins training mode, and has the two views of a sentence compared once more."""
        super().begin_training()
        self._views_checked = False

    def loss(self, batch: ContrastiveBatch) -> Tensor:
        """InfoNCE over the texts of all ranks, the mean over this rank's queries, in nats.

        On several ranks it is weighted by this rank's share of the queries, so that the
        averaged gradient is that of one process with the whole batch.

        Raises:
            UserError: if `in_batch_negatives` is off and no rank has a hard negative.
        """
        texts, rows, share = gather(self.embed(batch))
        if not self.in_batch_negatives and not len(texts.negatives):
            raise UserError(
                "`in_batch_negatives=False` compares a query only with its own hard negatives, "
                "but this batch has none. Set `in_batch_negatives=True`, or give data whose rows "
                "have a negative (`max_negatives` above 0)."
            )
        options = {**self._options(texts), "symmetric": self.symmetric, "rows": rows}
        losses = [info_nce(*texts.parts(dim), self.temperature, **options) for dim in self.dims]
        if self._trainer is not None:
            self._log(texts, rows)
        loss = torch.stack(losses).mean() * (share if torch.is_grad_enabled() else 1.0)
        if self.spread_out_weight:
            loss = loss + self.spread_out_weight * self.spread_out(texts)
        return loss

    def spread_out(self, texts: Texts) -> Tensor:
        """The regulariser over the texts of all ranks, the same on each of them, a scalar.

        Each rank computes all of it: `gather` adds up what the mean over ranks divides.
        """
        kinds = 3 if len(texts.negatives) else 2
        ids = None if texts.ids is None else list(texts.ids)[:kinds]
        losses = [spread_out(texts.parts(dim)[:kinds], ids) for dim in self.dims]
        loss = torch.stack(losses).mean()
        if self._trainer is not None:
            self.log_mean("spread_out", loss, len(texts.queries))
        return loss

    def embed(self, batch: ContrastiveBatch) -> Texts:
        """The embeddings that the loss compares, all texts in one pass through the decoder."""
        parts = [
            {key: batch[part][key] for key in EMBEDDED if key in batch[part]}
            for part in ("query", "positive", "negative")
            if part in batch
        ]
        checks = self.training and not self._views_checked
        device = parts[0]["input_ids"].device
        before = random_state(device) if checks else None
        if self.encoder.packs or self.chunk_size or world()[1] > 1:
            embeddings = self.embed_rows(join(parts))
        else:  # short queries should not be padded to the length of documents
            embeddings = cat_rows([self.embed_rows(part) for part in parts])
        rows = [len(part["input_ids"]) for part in parts]
        queries, positives, *negatives = self.projection(embeddings).split(rows)
        if before is not None:
            self._views_checked = True
            drew = not torch.equal(before, random_state(device))
            check_views(self.encoder, batch, queries, positives, drew)
        index = torch.empty(0, dtype=torch.long, device=device)
        return Texts(
            queries=queries,
            positives=positives,
            negatives=negatives[0] if negatives else queries[:0],
            query_index=batch["negative"]["query_index"] if negatives else index,
            ids=self._each(batch, "text_id"),
            guide=self._each(batch, "guide"),
        )

    def score(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Cosine of each query with each candidate, (R, D) and (C, D) -> (R, C)."""
        return cosines(queries, candidates)

    def embed_rows(self, batch: TokenBatch) -> Tensor:
        """The embeddings of a token batch, (B, D), with the activations of one chunk at a time."""
        return embed_rows(self, batch, self.chunk_size)

    def notes(self) -> dict[str, Any]:
        """The temperature, and the instruction of each task's queries."""
        instructions = task_instructions(self)
        return {"temperature": self.temperature.item(), "instructions": instructions}

    def _each(self, batch: ContrastiveBatch, key: str) -> EachText | None:
        """What the batch holds of each text under a key; None if it holds nothing."""
        if key not in batch["query"]:
            return None
        query, positive = batch["query"][key], batch["positive"][key]
        negative = batch["negative"][key] if "negative" in batch else query[:0]
        return EachText(query, positive, negative)

    def _options(self, texts: Texts) -> dict[str, Any]:
        return {
            "in_batch": self.in_batch_negatives,
            "query_index": texts.query_index,
            "ids": texts.ids,
            "margin": self.margin,
            "guide": texts.guide,
            "score": self.score,
        }

    @torch.no_grad()
    def _log(self, texts: Texts, rows: slice) -> None:
        scores = similarities(
            texts.queries, texts.positives, texts.negatives, rows=rows, **self._options(texts)
        )
        own = torch.arange(len(texts.queries), device=scores.device)[rows]
        found = (scores.argmax(dim=-1) == own).float().mean()
        negatives = scores.isfinite().sum(dim=-1).float().mean() - 1
        self.log_mean("accuracy", found, len(own))
        self.log_mean("negatives", negatives, len(own))
        if self.log_temperature.requires_grad and self.training:
            self.log("train/temperature", self.temperature)

    def _check(self, temperature: float, learn_temperature: bool, size: int) -> None:
        if not temperature > 0.0:
            raise UserError(f"`temperature` is above 0, but got {temperature}.")
        if learn_temperature and temperature < LOWEST_TEMPERATURE:
            raise UserError(
                "`learn_temperature=True` starts from a `temperature` of at least "
                f"{LOWEST_TEMPERATURE}, but got {temperature}. Raise it, or keep it fixed with "
                "`learn_temperature=False`."
            )
        require_chunk_size(self.chunk_size)
        if self.spread_out_weight < 0:
            raise UserError(f"`spread_out_weight` is at least 0, but got {self.spread_out_weight}.")
        if self.symmetric and not self.in_batch_negatives:
            raise UserError(
                "`symmetric=True` compares each positive with the other queries of the batch: it "
                "needs `in_batch_negatives=True`."
            )
        if not all(1 <= dim <= size for dim in self.dims):
            raise UserError(
                f"`matryoshka_dims` lie between 1 and the embedding's size, {size}, "
                f"but got {self.dims}."
            )


def task_instructions(module: Objective) -> dict[str, list[str]]:
    """Task -> the instructions of its queries, of the data that a module is trained on."""
    data = getattr(module._trainer, "datamodule", None)
    return {task.name: list(task.instruction.texts) for task in getattr(data, "tasks", [])}
