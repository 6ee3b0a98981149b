"""What is measured: a training step of MNTP or contrastive learning, encoding, start-up."""

from __future__ import annotations

import json as json_format
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.contest import SENTENCE_TRANSFORMERS, Result, contest, ratios
from benchmarks.old_folder import copy_as_of_old
from benchmarks.shapes import Shape, save_random_model
from benchmarks.texts import PASSAGES, QUERIES, SENTENCES, TEXTS, blocks, pieces
from llm2vec_pl.decoder import locate
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import require_writable

Precision = Literal["32-true", "bf16-mixed"]
Options = dict[str, Any]


def mntp(
    encoder: Options,
    shape: Shape = "135M",
    vocabulary: int | None = None,
    batch_size: int = 4,
    length: int = 512,
    precision: Precision = "bf16-mixed",
    rounds: int = 3,
    against: str | None = None,
    json: Path | None = None,
) -> None:
    """A step of masked next token prediction, with a fifth of the tokens hidden.

    Args:
        encoder: arguments of `Encoder`.
        shape: shape of a Llama with random weights; `--encoder.model_name` measures a real model.
        vocabulary: vocabulary size of that Llama, instead of the shape's own.
        batch_size: number of blocks.
        length: tokens per block.
        precision: precision of the computation; weights are in `--encoder.dtype`.
        rounds: number of measurements of each contestant.
        against: an interpreter that has llm2vec 0.2.3, to compare with, in turns.
        json: file for the results.
    """
    if against == SENTENCE_TRANSFORMERS:
        raise UserError(
            "sentence-transformers does not train with MNTP: --against expects an interpreter that "
            "has llm2vec."
        )
    with _Job("mntp", encoder, shape, vocabulary, precision) as job:
        text = Encoder(job.model)
        ids = torch.tensor(blocks(text.tokenizer, batch_size, length))
        job.save_masked(ids, text)
        job.compete(f"MNTP step, {batch_size} x {length} tokens", against, rounds, json)


def contrastive(
    encoder: Options,
    shape: Shape = "135M",
    vocabulary: int | None = None,
    objective: Literal["simcse", "supervised"] = "supervised",
    batch_size: int = 32,
    chunk_size: int | None = None,
    precision: Precision = "bf16-mixed",
    rounds: int = 3,
    against: str | None = None,
    json: Path | None = None,
) -> None:
    """A step of contrastive training: sentences twice, or queries, positives and hard negatives.

    Args:
        encoder: arguments of `Encoder`.
        shape: shape of a Llama with random weights; `--encoder.model_name` measures a real model.
        vocabulary: vocabulary size of that Llama, instead of the shape's own.
        objective: "simcse", with sentences of 25 tokens on average; or "supervised", with queries
            of 15 and passages of 100 tokens on average, at most 512.
        batch_size: number of sentences or triplets.
        chunk_size: number of texts whose activations exist at once, only for ours; null for all.
        precision: precision of the computation; weights are in `--encoder.dtype`.
        rounds: number of measurements of each contestant.
        against: an interpreter that has llm2vec 0.2.3, or "sentence-transformers".
        json: file for the results.
    """
    if objective == "simcse" and encoder["attention_dropout"] is None:
        encoder = {**encoder, "attention_dropout": 0.3}  # the paper's: it makes the two views
    with _Job(objective, encoder, shape, vocabulary, precision) as job:
        tokenizer = Encoder(job.model).tokenizer
        if objective == "simcse":
            (sentences,) = pieces(tokenizer, SENTENCES.draw(batch_size, seed=0))
            texts = [sentences, sentences, []]
        else:
            kinds = (QUERIES, PASSAGES, PASSAGES)
            texts = pieces(tokenizer, *(k.draw(batch_size, seed=i) for i, k in enumerate(kinds)))
        job.add(**dict(zip(("queries", "positives", "negatives"), texts, strict=True)))
        job.add(model_options={"temperature": 0.05, "chunk_size": chunk_size})
        kind = "sentences" if objective == "simcse" else "triplets"
        job.compete(f"{objective} step, {batch_size} {kind}", against, rounds, json)


def encode(
    encoder: Options,
    shape: Shape = "135M",
    vocabulary: int | None = None,
    count: int = 2000,
    batch_size: int = 32,
    rounds: int = 3,
    against: str | None = None,
    json: Path | None = None,
) -> None:
    """Encoding texts of 60 tokens on average, and at most 512.

    Args:
        encoder: arguments of `Encoder`.
        shape: shape of a Llama with random weights; `--encoder.model_name` measures a real model.
        vocabulary: vocabulary size of that Llama, instead of the shape's own.
        count: number of texts.
        batch_size: batch size of `encode`.
        rounds: number of measurements of each contestant.
        against: an interpreter that has llm2vec 0.2.3, or "sentence-transformers".
        json: file for the results.
    """
    with _Job("encode", encoder, shape, vocabulary, "32-true") as job:
        (texts,) = pieces(Encoder(job.model).tokenizer, TEXTS.draw(count, seed=0))
        job.add(texts=texts, batch_size=batch_size)
        job.compete(f"encode, {count:,} texts", against, rounds, json)


def startup(rounds: int = 5) -> None:
    """Seconds until several things are ready, each in its own process, in turn.

    Args:
        rounds: number of measurements; the median counts.
    """
    recipe = Path(sys.argv[0]).with_name("mntp.py")
    commands = {
        "import llm2vec_pl": ["-c", "import llm2vec_pl"],
        "import lightning.pytorch.cli": ["-c", "import lightning.pytorch.cli"],
        "recipes/mntp.py --help": [str(recipe), "--help"],
        "encode a text": [
            "-c",
            "from llm2vec_pl import Encoder; Encoder.from_pretrained('tiny').encode('a text')",
        ],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    for name, each in seconds.items():
        print(f"{name:30} {statistics.median(each):6.2f} s")
    cli, recipe_help = list(seconds.values())[1:3]
    ratio = statistics.median(b / a for a, b in zip(cli, recipe_help, strict=True))
    print(
        f"the recipe's help takes {ratio:.2f} times as long as importing Lightning's command line"
    )


class _Job:
    """The work to measure, as it is put together, and the folder with its files."""

    def __init__(
        self,
        work: str,
        encoder: Options,
        shape: Shape,
        vocabulary: int | None,
        precision: Precision,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        encoder = {**encoder}
        name = encoder.pop("model_name")
        self.model = locate(name, encoder["revision"]).base if name else f"{self.folder}/model"
        other = f", vocabulary {vocabulary:,}" if vocabulary else ""
        self.title = name or f"{shape} shape{other}"
        if not name:
            save_random_model(shape, vocabulary, self.folder / "model")
        self.content: Options = {
            "work": work,
            "model": self.model,
            "encoder": encoder,
            "precision": precision,
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "facts": str(self.folder / "facts.json"),
            "lora_rank": encoder.get("lora_rank", 16),
            "lora_dropout": encoder.get("lora_dropout", 0.05),
        }

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def add(self, **content: Any) -> None:
        """Adds to what the contestants are told."""
        self.content.update(content)

    def save_masked(self, ids: torch.Tensor, encoder: Encoder) -> None:
        """Hides a fifth of the tokens and saves the batch for all contestants.

        Args:
            ids: (B, L).
            encoder: the encoder whose tokenizer decides what is hidden, and by what.
        """
        from llm2vec_pl.objectives import MNTP

        torch.manual_seed(0)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        masked = MNTP(encoder).labelled(batch)
        file = self.folder / "batch.pt"
        torch.save({key: masked[key] for key in (*batch, "labels")}, file)
        self.add(batch=str(file))

    def compete(self, what: str, against: str | None, rounds: int, json: Path | None) -> None:
        """Runs the contestants, and prints and writes their time and memory."""
        if json:
            require_writable(json)
        if against and against != SENTENCE_TRANSFORMERS:
            old = self.folder / "old"
            copy_as_of_old(self.model, old, self.content["encoder"].get("revision"))
            self.add(old_model=str(old))
        results = contest(self.content, against, rounds)
        facts = json_format.loads(Path(self.content["facts"]).read_text())
        report(f"{what}, {self.title}", results, facts)
        if json:
            figures = {"work": what, "job": self.title, **facts}
            figures["results"] = [result._asdict() for result in results]
            json.write_text(json_format.dumps(figures, indent=2) + "\n")


def report(title: str, results: list[Result], facts: dict[str, Any]) -> None:
    """Prints a row for each contestant, and how they compare."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", title=title)
    for name in ("seconds", "tokens/s", "FLOP utilisation", "peak MiB", "over the model"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            result.name,
            f"{result.median:.2f}",
            f"{facts['tokens'] / result.median:,.0f}",
            f"{facts['flops'] / result.median / facts['rate']:.0%}",
            f"{result.peak:,.0f}",
            f"{result.peak - result.loaded:,.0f}",
        )
    console = Console()
    console.print(table)
    padding = 1 - facts["tokens"] / facts["padded"]
    console.print(
        f"{facts['tokens']:,} real tokens, {facts['flops'] / 1e12:.3g} TFLOP at "
        f"{facts['rate'] / 1e12:.3g} TFLOP/s; batched as they come, {padding:.0%} would be padding"
    )
    if quantization := facts.get("quantization"):
        console.print(quantization)
    if compared := ratios(results):
        median, least, most = compared
        ours, theirs = results
        memory = ours.peak / theirs.peak
        console.print(
            f"{median:.2f} times faster than {theirs.name} ({least:.2f} to {most:.2f}); "
            f"{memory:.2f} of its memory"
        )
