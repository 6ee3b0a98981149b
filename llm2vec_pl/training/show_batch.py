"""A batch, text by text: the tokens that the model sees, and those that are pooled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from rich.console import Console
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm2vec_pl.data import ContrastiveData, TextBlocks
from llm2vec_pl.data.examples import TextBatch, Tokenised
from llm2vec_pl.data.files import Split
from llm2vec_pl.encoder import Encoder, TokenBatch
from llm2vec_pl.errors import UserError


class ShowBatch:
    """Prints batches.

    On a terminal, pooled tokens are bold, in two alternating colours, and the others dim.
    Elsewhere, pooled tokens are in brackets, and the others are separated by bars.

    Args:
        encoder: the encoder whose tokenizer is used; its weights are not loaded.
        max_rows: the most rows to show of each batch.
        max_tokens: the most tokens to show of each text.
        console: where to print.
    """

    def __init__(
        self,
        encoder: Encoder,
        max_rows: int = 4,
        max_tokens: int = 60,
        console: Console | None = None,
    ) -> None:
        self.encoder = encoder
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self.console = console or Console(highlight=False, soft_wrap=True)

    def show(
        self,
        data: LightningDataModule,
        split: Literal["train", "validation"] = "train",
        batches: int = 1,
        task: str | None = None,
    ) -> None:
        """Prints the first batches of an epoch.

        Args:
            data: contrastive data, or text blocks.
            split: the split to show.
            batches: number of batches to show of each task, or in all if there are no tasks.
            task: show only batches of this task.

        Raises:
            UserError: if there is no such task, or the data is of another kind.
        """
        if isinstance(data, ContrastiveData):
            data.attach(self.encoder).prepare_data()
            data.setup()
            self._show_contrastive(data, split, batches, task)
        elif isinstance(data, TextBlocks):
            data.attach(self.encoder).prepare_data()
            data.setup()
            loader = data.train_dataloader() if split == "train" else data.val_dataloader()
            for number, batch in enumerate(islice(loader, batches)):
                self._line(f"{split} batch {number}", style="bold underline")
                self._part("blocks", batch)
        else:
            raise UserError(
                f"--data expects contrastive data or text blocks, but got {type(data).__name__}."
            )

    def _show_contrastive(
        self, data: ContrastiveData, split: Split, batches: int, task: str | None
    ) -> None:
        names = [t.name for t in data.tasks]
        if task is not None and task not in names:
            raise UserError(f"--task: there is no task {task!r}; there are: {', '.join(names)}.")
        left = Counter(dict.fromkeys(names if task is None else [task], batches))
        for texts in data.text_batches(split):
            if left[texts.task] > 0:
                left[texts.task] -= 1
                self._texts(texts, split)
            if not any(left.values()):
                break

    def _texts(self, texts: TextBatch, split: Split) -> None:
        batch = Tokenised(self.encoder.tokenize)(texts)
        self._line(f"{texts.task}, {split}", style="bold underline")
        self._line(f"instruction of queries: {texts.query_instruction!r}")
        self._line(f"instruction of positives and negatives: {texts.text_instruction!r}")
        self._line(_equal_texts(batch))
        for name, part in batch.items():
            self._part(name, part)

    def _part(self, name: str, batch: TokenBatch) -> None:
        mask = batch["attention_mask"]  # (B, L)
        lengths = mask.sum(dim=1)
        padding = 1 - lengths.sum().item() / mask.numel()
        self._line(
            f"{name}: {len(mask)} rows of {lengths.min().item()} to {lengths.max().item()} tokens, "
            f"{padding:.0%} padding",
            style="bold",
        )
        rows = range(min(self.max_rows, len(mask)))
        owners, scores = batch.get("query_index"), batch.get("score")
        for row in rows:
            owner = "" if owners is None else f" (of query {owners[row].item()})"
            owner += "" if scores is None else f" (score {scores[row].item():g})"
            self.console.print(f"  {row}{owner}: ", self._tokens(batch, row), sep="")
        if len(mask) > len(rows):
            self._line(f"  and {len(mask) - len(rows)} more rows")

    def _tokens(self, batch: TokenBatch, row: int) -> Text:
        count = int(batch["attention_mask"][row].sum())
        ids = batch["input_ids"][row, : min(count, self.max_tokens)]
        pooling = batch.get("pooling_mask")
        pooled = [False] * len(ids) if pooling is None else pooling[row].bool().tolist()
        text = Text()
        for i, token in enumerate(_pieces(self.encoder.tokenizer, ids)):
            if self.console.is_terminal:
                style = ("bold cyan", "bold green")[i % 2] if pooled[i] else "dim"
                text.append(token, style=style)
            elif pooled[i]:
                text.append(f"[{token}]")
            else:
                text.append(f"{token}|")
        if count > len(ids):
            text.append(f" ... {count - len(ids)} more tokens, {count} in all")
        return text

    def _line(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style=style))


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Iterator[str]:
    """Each token as text, with line ends made visible."""
    for token in ids.tolist():
        piece: Any = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        yield str(piece).replace("\n", "↵").replace("\r", "↵")


def _equal_texts(batch: dict[str, TokenBatch]) -> str:
    """How many queries and candidates repeat in the batch, which the loss must know."""
    queries = batch["query"]["text_id"].tolist()
    candidates = [
        i
        for part in ("positive", "negative")
        if part in batch
        for i in batch[part]["text_id"].tolist()
    ]
    own = sum(q == p for q, p in zip(queries, batch["positive"]["text_id"].tolist(), strict=True))
    return (
        f"equal texts: {len(queries) - len(set(queries))} of {len(queries)} queries, "
        f"{len(candidates) - len(set(candidates))} of {len(candidates)} positives and negatives; "
        f"{own} queries are their own positive"
    )
