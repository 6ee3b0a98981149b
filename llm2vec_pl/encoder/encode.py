"""Texts -> embeddings as a user asks for them, in the words of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from llm2vec_pl.encoder.encoding import encode, whole_batch_size
from llm2vec_pl.encoder.output import (
    Precision,
    converted,
    cosine_similarity,
    finished,
    require_output,
)
from llm2vec_pl.encoder.pool_of_processes import EncoderPool, known_device
from llm2vec_pl.encoder.prompts import DOCUMENT, QUERY, chosen_prompt, first_of
from llm2vec_pl.encoder.tokenizer import each_instruction, strings
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder

Device = str | torch.device | Sequence[str | torch.device] | EncoderPool


class TextEncoder(nn.Module):
    """What an encoder is asked for: embeddings of texts, and how similar they are."""

    prompts: dict[str, str]

    def encode(
        self,
        texts: str | Sequence[str],
        instruction: str | Sequence[str] = "",
        batch_size: int = 32,
        *,
        prompt: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        show_progress_bar: bool = False,
        precision: Precision = "float32",
        convert_to_numpy: bool = False,
        convert_to_tensor: bool = True,
        device: Device | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Embeds texts in evaluation mode, whatever mode the encoder is in.

        Several threads may encode at once; none may train meanwhile, or name a `device`.

        Args:
            texts: N texts, or one: any sequence, or an array of strings.
            instruction: written right before each text and not pooled, such as
                "Retrieve the answer to the question: "; or N of them, one for each text.
            batch_size: most texts that go through the decoder at once; fewer on a CPU if they are
                long.
            prompt: the same as `instruction`, under the name that sentence-transformers gives it.
            prompt_name: the instruction is the one of `prompts` that has this name.
            show_progress_bar: count the texts on stderr.
            precision: of the embeddings' numbers. `int8` and `uint8` take the range of each
                dimension from these texts; `binary` and `ubinary` pack eight signs into a byte.
            convert_to_numpy: a numpy array in place of a tensor.
            convert_to_tensor: false for a list of N tensors.
            device: moves the encoder there first. Several, such as `["cuda:0", "cuda:1"]`, have a
                process each, which takes seconds to start: `start_pool` keeps them.
            normalize_embeddings: to length 1.
            truncate_dim: keep the first numbers of an embedding, so many. What an encoder gives
                away by that depends on its training.

        Returns:
            (N, D) in float32 on the CPU, in the order of the texts; (D,) for one.

        Raises:
            UserError: if a text is not a string, an instruction leaves no room for it, or an
                argument cannot be used.
        """
        written = chosen_prompt(self.prompts, instruction, prompt, prompt_name)
        one = isinstance(texts, str)
        listed = _listed([cast(str, texts)] if one else texts)
        instructions = each_instruction(written, len(listed))
        batch_size = whole_batch_size(batch_size)
        encoder = cast("Encoder", self)
        require_output(encoder.embedding_size, len(listed), precision, truncate_dim)
        with tqdm(total=len(listed), unit="text", disable=not show_progress_bar) as bar:
            embeddings = _embed(encoder, listed, instructions, batch_size, device, bar)
        embeddings = finished(embeddings, precision, truncate_dim, normalize_embeddings)
        output = converted(embeddings, convert_to_numpy, convert_to_tensor)
        return output[0] if one else output

    def encode_query(self, texts: str | Sequence[str], **how: Any) -> Any:
        """`encode` with the prompt named `query`, if there is one and no other is given."""
        return self.encode(texts, **_with_prompt(self.prompts, QUERY, how))

    def encode_document(self, texts: str | Sequence[str], **how: Any) -> Any:
        """`encode` with the prompt named `document`, `passage` or `corpus`, if there is one."""
        return self.encode(texts, **_with_prompt(self.prompts, DOCUMENT, how))

    def similarity(self, embeddings: Any, others: Any) -> Tensor:
        """Cosines of all embeddings (N, D) with all others (M, D): (N, M). One may be (D,).

        Raises:
            UserError: if the embeddings differ in size, or are quantised.
        """
        return cosine_similarity(embeddings, others)

    def start_pool(self, devices: Sequence[str | torch.device]) -> EncoderPool:
        """A process for each of several devices, for many calls: pass it as `device`.

        >>> with encoder.start_pool(["cuda:0", "cuda:1"]) as pool:  # doctest: +SKIP
        ...     encoder.encode(texts, device=pool)
        """
        return EncoderPool(cast("Encoder", self), devices)


def _listed(texts: Any) -> list[str]:
    if isinstance(texts, Mapping):
        raise UserError("Expected a list of texts, but got a dictionary. Pass the texts in it.")
    if getattr(texts, "shape", None) == ():
        raise UserError(f"Expected a list of texts, but got an array of no dimensions: {texts!r}.")
    return strings(texts)


def _with_prompt(
    prompts: Mapping[str, str], names: Sequence[str], how: dict[str, Any]
) -> dict[str, Any]:
    if {"prompt", "prompt_name", "instruction"} & how.keys():
        return how
    return {**how, "prompt_name": first_of(names, prompts)}


def _embed(
    encoder: Encoder,
    texts: list[str],
    instructions: list[str],
    batch_size: int,
    device: Device | None,
    bar: tqdm[Any],
) -> Tensor:
    if isinstance(device, EncoderPool):
        if device.encoder is not encoder:
            raise UserError(
                "The pool in `device` holds another encoder, so the embeddings would be those of "
                "that one. Start one with this encoder's own `start_pool`."
            )
        embeddings = torch.empty(len(texts), encoder.embedding_size, dtype=torch.float32)
        start = 0
        for chunk in device.encode(texts, instructions, batch_size):
            embeddings[start : start + len(chunk)] = chunk
            start += len(chunk)
            bar.update(len(chunk))
        return embeddings
    if isinstance(device, list | tuple):
        with EncoderPool(encoder, device) as pool:
            return _embed(encoder, texts, instructions, batch_size, pool, bar)
    if device is not None:
        encoder.load().to(known_device(cast(str, device)))
    return encode(encoder, texts, instructions, batch_size, bar.update)
