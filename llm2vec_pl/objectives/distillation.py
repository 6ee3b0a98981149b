"""Distillation: an encoder learns how similar texts are from one that is trained already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm2vec_pl.distributed import Repeated, gather_rows, row_counts, world
from llm2vec_pl.encoder import Encoder, TokenBatch, join, send, take, text_key
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import Objective, Schedule
from llm2vec_pl.objectives.chunks import EMBEDDED, embed_rows, require_chunk_size
from llm2vec_pl.objectives.contrastive import task_instructions
from llm2vec_pl.objectives.distillation_losses import (
    correlation,
    cosine_distance,
    cosines,
    in_batch_kl,
    other_texts,
)
from llm2vec_pl.objectives.teacher import Teacher


class Distillation(Objective):
    """The encoder, as the student, learns a teacher's similarities and embeddings.

    Each text of a batch is compared with all others, of all ranks, whether it is a query, a
    positive or a negative; one that occurs several times counts once. The teacher reads the texts
    themselves, cut to its own length, without the student's template and instructions. It embeds a
    text once: its embeddings are kept in the cache folder, in float16, for all later epochs, runs
    and ranks.

    Args:
        encoder: the student.
        teacher: the encoder to learn from; required. A folder or hub name of any encoder (such as
            `runs/supervised`) or of a model of sentence-transformers. It is frozen.
        teacher_instruction: written before each text for the teacher, such as "query: ".
        teacher_batch_size: most texts that the teacher embeds at once.
        temperature: divides the cosine similarities of both before the softmax over the batch.
        similarity_weight: weight of the similarities' loss: the KL divergence of the student's
            softmax from the teacher's. 0 leaves it out.
        embedding_weight: weight of the embeddings' loss: 1 - the cosine of the two embeddings of a
            text, the student's mapped to the teacher's size by a linear layer if that is another.
            The layer is not saved with the encoder. 0 leaves the loss out.
        chunk_size: number of texts whose activations exist at once. The backward pass computes them
            again: the same gradient, the memory of one chunk, a third more time. Null: all texts.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up.
        weight_decay: AdamW's weight decay.

    Raises:
        UserError: if an argument is missing or out of range.
    """

    reads_texts = True

    def __init__(
        self,
        encoder: Encoder,
        teacher: str | None = None,
        teacher_instruction: str = "",
        teacher_batch_size: int = 64,
        temperature: float = 0.05,
        similarity_weight: float = 1.0,
        embedding_weight: float = 1.0,
        chunk_size: int | None = None,
        learning_rate: float = 5e-5,
        warmup_steps: float = 0.1,
        schedule: Schedule = "linear",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(encoder, learning_rate, warmup_steps, schedule, weight_decay)
        self.teacher_name = _required(teacher)
        self.teacher_instruction = teacher_instruction
        self.teacher_batch_size = teacher_batch_size
        self.temperature = temperature
        self.similarity_weight = similarity_weight
        self.embedding_weight = embedding_weight
        self.chunk_size = chunk_size
        self._check()
        self.teacher: Teacher | None = None
        self.to_teacher: nn.Module = nn.Identity()

    def configure_model(self) -> None:
        """Opens the teacher's cache, makes the map to its size, and loads the student."""
        if self.teacher is None:
            self.teacher = Teacher(
                self.teacher_name, self.teacher_instruction, self.teacher_batch_size
            )
            sizes = self.encoder.embedding_size, self.teacher.size
            if self.embedding_weight and sizes[0] != sizes[1]:
                layer = nn.Linear(*sizes, bias=False, dtype=torch.float32)
                nn.init.orthogonal_(layer.weight)  # at first, no direction counts more
                self.to_teacher = layer
        super().configure_model()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The distinct texts of a batch with the teacher's embeddings, ready for the device."""
        return super().on_before_batch_transfer(self.taught(batch), dataloader_idx)

    def taught(self, batch: Any) -> TokenBatch:
        """The distinct texts of a batch as one token batch, with what the teacher says of them.

        Args:
            batch: token batches, or a dictionary of them such as `query` and `positive`, each with
                its `texts`, on the host.

        Returns:
            A token batch of T texts with `teacher`, (T, Dt), and `text_id`, (T,).

        Raises:
            UserError: if it does not hold the texts.
        """
        if "teacher" in batch:
            return batch  # type: ignore[no-any-return]
        tokens, texts = distinct_texts(batch)
        if self.teacher is None:
            self.configure_model()
        assert self.teacher is not None
        tokens["teacher"] = self.teacher(texts, self.device)
        ids = [int.from_bytes(text_key(text)[:8], "big", signed=True) for text in texts]
        tokens["text_id"] = torch.tensor(ids, dtype=torch.int64)
        return Repeated(tokens) if isinstance(batch, Repeated) else tokens

    def loss(self, batch: Any) -> Tensor:
        """The weighted sum of both losses, the mean over this rank's texts.

        On several ranks it is weighted by this rank's share of the texts, so that the averaged
        gradient is that of one process with the whole batch.
        """
        batch = self.taught(batch)  # if a data module's own hook has replaced the objective's
        student = embed_rows(self, {k: batch[k] for k in EMBEDDED if k in batch}, self.chunk_size)
        counts = [count for (count,) in row_counts(student)]
        rank, ranks = world()
        rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        taught = (send(batch[key], student.device) for key in ("teacher", "text_id"))
        student, teacher, ids = (gather_rows(part, counts) for part in (student, *taught))
        first, ignored = other_texts(ids, rows)
        own = first[rows].sum()

        losses = {}
        if self.similarity_weight:
            kl = in_batch_kl(student, teacher, self.temperature, ignored, rows)
            losses["similarity"] = (kl * first[rows]).sum() / own.clamp(min=1)
        if self.embedding_weight:
            with torch.autocast(student.device.type, enabled=False):
                distance = cosine_distance(self.to_teacher(student[rows]), teacher[rows])
            losses["embedding"] = (distance * first[rows]).sum() / own.clamp(min=1)
        if self._trainer is not None:
            self._log(losses, student, teacher, ignored, rows)
        weights = {"similarity": self.similarity_weight, "embedding": self.embedding_weight}
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return loss * (own * ranks / first.sum()) if torch.is_grad_enabled() else loss

    def notes(self) -> dict[str, Any]:
        """The teacher, and the instruction of each task's queries."""
        return {"teacher": self.teacher_name, "instructions": task_instructions(self)}

    @torch.no_grad()
    def _log(
        self,
        losses: dict[str, Tensor],
        student: Tensor,
        teacher: Tensor,
        ignored: Tensor,
        rows: slice,
    ) -> None:
        count = rows.stop - rows.start
        for name, value in losses.items() if len(losses) > 1 else ():
            self.log_mean(f"{name}_loss", value, count)
        agreement = correlation(cosines(student, rows), cosines(teacher, rows), ~ignored)
        self.log_mean("correlation", agreement, count)

    def _check(self) -> None:
        if not self.temperature > 0.0:
            raise UserError(f"`temperature` is above 0, but got {self.temperature}.")
        require_chunk_size(self.chunk_size)
        if self.teacher_batch_size < 1:
            raise UserError(
                f"`teacher_batch_size` is at least 1 text, but got {self.teacher_batch_size}."
            )
        weights = (self.similarity_weight, self.embedding_weight)
        if min(weights) < 0 or not any(weights):
            raise UserError(
                "`similarity_weight` and `embedding_weight` are at least 0, and one of them above "
                f"0, but got {weights[0]} and {weights[1]}."
            )


def distinct_texts(batch: Any) -> tuple[TokenBatch, list[str]]:
    """The texts of a batch, each once, and their tokens.

    Raises:
        UserError: if the batch does not hold its texts.
    """
    parts = [batch] if "input_ids" in batch else list(batch.values())
    if not all("texts" in part for part in parts):
        raise UserError(
            "`teacher` reads the texts of a batch, but this data gives tokens only. Use a data "
            "module for contrastive training, such as WikipediaSentences, PythonDocsSentences, "
            "PythonDocsPairs or E5; a batch of your own needs the key `texts`, a list of strings, "
            "beside each `input_ids`."
        )
    tokens = join([{key: part[key] for key in EMBEDDED if key in part} for part in parts])
    first: dict[str, int] = {}
    for row, text in enumerate(text for part in parts for text in part["texts"]):
        first.setdefault(text, row)
    rows = list(first.values())
    lengths = tokens["attention_mask"].sum(dim=1)[rows]
    return take(tokens, rows, int(lengths.max())), list(first)


def _required(teacher: str | None) -> str:
    if not teacher:
        raise UserError(
            "`teacher` is missing: name the encoder to learn from, such as `runs/supervised` or "
            "`sentence-transformers/all-MiniLM-L6-v2`."
        )
    return teacher
