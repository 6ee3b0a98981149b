"""Opens an exported folder as anybody would: in sentence-transformers, without this package."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm2vec_pl.bidirectional import BidirectionalityError, check_bidirectional, plain_transformers
from llm2vec_pl.errors import UserError


def require_sentence_transformers() -> None:
    """Checks that what was written can be compared.

    Raises:
        UserError: if sentence-transformers is not installed.
    """
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            "An export is opened again with sentence-transformers to compare its embeddings, but "
            'that is not installed. Run pip install "sentence-transformers>=5".'
        ) from error


class Reopened:
    """An exported folder in sentence-transformers.

    Args:
        model: a `SentenceTransformer`.
        start: of the template, which precedes each prompt.
        batch_size: most texts at once.
    """

    def __init__(self, model: Any, start: str, batch_size: int) -> None:
        self.model, self.start, self.batch_size = model, start, batch_size

    def embed(self, texts: Sequence[str], prompt: str) -> Tensor:
        """Texts and prompt -> (N, D), of length 1."""
        # Without a prompt, the folder's own default has to bring the template.
        how = {"prompt": self.start + prompt} if prompt else {}
        embeddings: Tensor = self.model.encode(
            list(texts),
            batch_size=self.batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
            **how,
        )
        return embeddings.cpu()

    def embed_pooling_all(self, texts: Sequence[str], prompt: str) -> Tensor:
        """The same as a program gives that pools every token that it reads, prompt included."""
        from sentence_transformers import SentenceTransformer

        modules = [copy.copy(m) for m in self.model if type(m).__name__ != "WordWeights"]
        for module in modules:
            if hasattr(module, "include_prompt"):
                module.include_prompt = True
        program = SentenceTransformer(
            modules=modules,
            device=str(self.model.device),
            prompts=self.model.prompts,
            default_prompt_name=self.model.default_prompt_name,
        )
        return Reopened(program, self.start, self.batch_size).embed(texts, prompt)


@contextmanager
def reopened(folder: Path, bidirectional: bool, start: str, batch_size: int) -> Iterator[Reopened]:
    """Opens an exported folder in transformers as it is without this package.

    Args:
        folder: what was exported.
        bidirectional: whether each token has to see every other.
        start: of the template, which precedes each prompt.
        batch_size: most texts at once.

    Raises:
        UserError: if transformers alone reads a text from left to right.
    """
    from sentence_transformers import SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with plain_transformers():
        model = SentenceTransformer(
            str(folder), device=device, model_kwargs={"dtype": torch.float32}
        ).eval()
        if bidirectional:
            _require_bidirectional(model[0].auto_model)
        yield Reopened(model, start, batch_size)


def _require_bidirectional(model: Any) -> None:
    try:
        check_bidirectional(model)
    except BidirectionalityError as error:
        raise UserError(
            f"{model.config.model_type} reads both ways only with this package: in transformers "
            f"alone, {str(error).partition('but: ')[2].partition('. Call')[0]}. Its export would "
            "give other embeddings. Export with `format='onnx'`, or serve the encoder with "
            "recipes/serve.py."
        ) from error
