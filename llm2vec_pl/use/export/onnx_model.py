"""An encoder as one ONNX graph, pooling included, and its run in onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm2vec_pl.encoder import Encoder, TextTokenizer, pool
from llm2vec_pl.errors import UserError

INPUTS = ("input_ids", "attention_mask", "pooling_mask")
OUTPUT = "sentence_embedding"
OPSET = 20
LARGEST_FILE = 1_800_000_000
"""Bytes of weights in one file: protobuf ends at 2 GiB. Larger models get a second file."""


def require_onnx() -> None:
    """Checks that ONNX models can be written and run.

    Raises:
        UserError: names what is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"`format='onnx'` needs onnx, onnxruntime and onnxscript ({error}). Run "
            'pip install "llm2vec_pl[onnx]".'
        ) from error


class Graph(nn.Module):
    """Tokens and masks (B, L) in, embeddings (B, D) of length 1 out.

    Args:
        encoder: with its weights, in float32.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.decoder, self.pooling = encoder.decoder, encoder.pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pooling_mask: Tensor) -> Tensor:
        """The mask of what is pooled is 0 on an instruction, a template and control tokens."""
        states = self.decoder(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return nn.functional.normalize(pool(states, pooling_mask, self.pooling), dim=-1)


def write_graph(encoder: Encoder, file: Path) -> None:
    """Traces the encoder and writes the graph, for any number of texts of any length.

    Args:
        encoder: with its weights, in float32.
        file: `model.onnx`.

    Raises:
        UserError: if the architecture cannot be traced.
        OSError: if the file cannot be written.
    """
    batch = encoder.tokenize(["Two texts,", "of which one is longer than the other."])
    example = tuple(batch[name] for name in INPUTS)
    any_size = torch.export.Dim.DYNAMIC
    size = sum(p.numel() * p.element_size() for p in encoder.decoder.parameters())
    try:
        with _quietly():
            program: Any = torch.onnx.export(
                Graph(encoder).eval(),
                example,
                dynamo=True,
                input_names=INPUTS,
                output_names=[OUTPUT],
                dynamic_shapes=tuple({0: any_size, 1: any_size} for _ in INPUTS),
                opset_version=OPSET,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"torch.onnx cannot write {encoder.config.model_type} as a graph: {cause}. Export with "
            "`format='sentence-transformers'`, or serve the encoder with recipes/serve.py."
        ) from error
    program.save(file, external_data=size > LARGEST_FILE)


def round_to_int8(file: Path) -> None:
    """Rounds the weights of a graph's matrix products to 8 bits, in place.

    Each block of 32 weights has a scale of its own, and so have the activations that it meets. With
    one scale for all activations of a text, as in onnxruntime's dynamic quantization, a few large
    ones drown the others: embeddings of SmolLM2-135M fell to a cosine of 0.97 on average and 0.89
    at worst, against 0.9995 and 0.99.

    Raises:
        OSError: if the file cannot be written.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _quietly():
        quantizer: Any = MatMulNBitsQuantizer(
            onnx.load(file), bits=8, block_size=32, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
    rounded = quantizer.model.model
    for part in (file, file.with_name(file.name + ".data")):
        part.unlink(missing_ok=True)
    onnx.save(
        rounded,
        file,
        save_as_external_data=rounded.ByteSize() > LARGEST_FILE,
        location=file.name + ".data",
    )


class Runtime:
    """A graph in onnxruntime, on as many threads as torch has.

    Args:
        file: `model.onnx`.
        tokenize: gives its inputs.
        batch_size: most texts at once.
    """

    def __init__(self, file: Path, tokenize: TextTokenizer, batch_size: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self.tokenize, self.batch_size = tokenize, batch_size

    def embed(self, texts: Sequence[str], prompt: str) -> Tensor:
        """Texts and prompt -> (N, D), of length 1, in batches of like length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        rows = torch.cat([self._run([texts[i] for i in part], prompt) for part in parts])
        embeddings = torch.empty_like(rows)
        embeddings[order] = rows
        return embeddings

    def _run(self, texts: list[str], prompt: str) -> Tensor:
        batch = self.tokenize(texts, prompt)
        (rows,) = self.session.run([OUTPUT], {name: batch[name].numpy() for name in INPUTS})
        return torch.from_numpy(rows)


def seconds(run: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the progress of torch.onnx and onnxruntime's advice to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
