"""A trained encoder as a teacher: frozen, no part of any module, and asked once for each text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from llm2vec_pl.decoder import SETTINGS, Source, encoder_contents, fetch, locate
from llm2vec_pl.encoder import EmbeddingCache, Encoder, text_key, well_formed
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import cached_folder

_FORMAT = 1  # of what is cached

Embed = Callable[[list[str], torch.device], Tensor]  # texts -> (T, Dt)


class Teacher:
    """A frozen encoder in evaluation mode, whose embeddings are kept on disk by their text.

    Its weights are read when it is asked for a text that is not in the cache. They are not
    registered anywhere: no optimizer, checkpoint or saved encoder sees them.

    Args:
        name: a folder or a hub name (`org/name` or `org/name@revision`), of a model of
            sentence-transformers (with a `modules.json`) or of any encoder (`model_name`).
        instruction: written before each text.
        batch_size: most texts that it embeds at once.
        argument: the objective's argument that names it, for errors.

    Raises:
        UserError: if there is no such model, or sentence-transformers is needed and absent.
    """

    def __init__(
        self, name: str, instruction: str = "", batch_size: int = 64, argument: str = "teacher"
    ) -> None:
        self.name = name
        self.argument = argument
        self.instruction = instruction
        self.batch_size = batch_size
        self._embed: Embed | None = None
        with _errors_about(argument):
            self.source = locate(name)
            contents = encoder_contents(name)
        recipe = {"format": _FORMAT, "teacher": contents, "instruction": instruction}
        folder = cached_folder("teacher", recipe, self._begin)
        self.size: int = json.loads((folder / "teacher.json").read_text())["size"]
        self.cache = EmbeddingCache(folder, self.size, np.float16, whose="the teacher")

    def __call__(self, texts: Sequence[str], device: torch.device | None = None) -> Tensor:
        """The embeddings of texts, (T, Dt), of length 1, in float32 on the CPU.

        Args:
            texts: T texts; equal ones are embedded once.
            device: where the teacher embeds those that are not in the cache; the CPU if None.

        Raises:
            UserError: if an embedding is not finite: it would stay in the cache.
        """
        keys = [text_key(text) for text in texts]
        kept = self.cache.get(list(dict.fromkeys(keys)))
        found = {key: vector for key, vector in kept.items() if np.isfinite(vector).all()}
        missing = {key: t for key, t in zip(keys, texts, strict=True) if key not in found}
        if missing:
            asked = list(missing.values())
            new = self._embeddings(asked, device or torch.device("cpu"))
            self._require_finite(asked, new)
            # Rounded at once: a text has the same embedding now and when it is read again.
            vectors = dict(zip(missing, new.numpy().astype(np.float16), strict=True))
            self.cache.put(vectors)
            found |= vectors
        rows = np.stack([found[key] for key in keys])
        return F.normalize(torch.from_numpy(rows).float(), dim=-1)

    def _require_finite(self, texts: Sequence[str], embeddings: Tensor) -> None:
        finite = embeddings.isfinite().all(dim=1).tolist()
        bad = [text for text, is_finite in zip(texts, finite, strict=True) if not is_finite]
        if bad:
            raise UserError(
                f"`{self.argument}` {self.name} gives embeddings that are not finite for "
                f"{len(bad)} of {len(texts)} texts, first for {bad[0][:80]!r}. Check its weights, "
                "or name another one."
            )

    def __getstate__(self) -> dict[str, Any]:  # another process opens it by itself, if it must
        return {**self.__dict__, "_embed": None}

    def _begin(self, folder: Path) -> None:
        """Writes the size of the embeddings into a new cache."""
        size = self._embeddings(["a text"], torch.device("cpu")).shape[1]
        (folder / "teacher.json").write_text(json.dumps({"name": self.name, "size": size}))

    def _embeddings(self, texts: list[str], device: torch.device) -> Tensor:
        """Embeddings of length 1, (T, Dt), in float32 on the CPU; leaves random states alone."""
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # `bf16-true` sets another
        try:
            with (
                _errors_about(self.argument),
                torch.random.fork_rng(devices=[]),
                torch.device("cpu"),  # Lightning may have made another one the default
                torch.autocast(device.type, enabled=False),
                torch.inference_mode(False),
                torch.no_grad(),
            ):
                self._embed = self._embed or self._opened()
                embeddings = self._embed([well_formed(text) for text in texts], device)
                return F.normalize(embeddings.float().cpu(), dim=-1)
        finally:
            torch.set_default_dtype(dtype)

    def _opened(self) -> Embed:
        rank_zero_info(f"Opening the teacher {self.name}")
        name, revision = _named(self.source)
        if fetch(name, SETTINGS, revision) is None and fetch(name, "modules.json", revision):
            return self._sentence_transformer(name, revision)
        if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
            raise UserError(
                f"`{self.argument}`: expected a folder with an encoder (*.safetensors) or a model "
                f"of sentence-transformers (modules.json), but {name} has neither. Check the path."
            )
        encoder = _frozen(Encoder.from_pretrained(name, revision=revision))

        def embed(texts: list[str], device: torch.device) -> Tensor:
            embeddings: Tensor = encoder.to(device).encode(texts, self.instruction, self.batch_size)
            return embeddings

        return embed

    def _sentence_transformer(self, name: str, revision: str | None) -> Embed:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                f"`{self.argument}` {self.name} is a model of sentence-transformers, which is not "
                'installed. Run pip install "sentence-transformers>=5".'
            ) from error
        try:
            model = _frozen(SentenceTransformer(name, revision=revision, device="cpu"))
        except Exception as error:  # whatever a broken or missing file leads to
            raise UserError(
                f"`{self.argument}`: sentence-transformers cannot open {self.name} ({error}). Copy "
                "or download it again."
            ) from error

        def embed(texts: list[str], device: torch.device) -> Tensor:
            embeddings: Tensor = model.to(device).encode(
                texts,
                prompt=self.instruction or None,
                batch_size=self.batch_size,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
            return embeddings

        return embed


def _frozen(model: Any) -> Any:
    """A module in evaluation mode that asks for no gradient."""
    assert isinstance(model, nn.Module)
    return model.eval().requires_grad_(False)


@contextmanager
def _errors_about(argument: str) -> Iterator[None]:
    """Has errors name this argument, as an encoder is `model_name` elsewhere."""
    try:
        yield
    except UserError as error:
        name = f"`{argument}`"
        message = str(error).replace("`model_name`", name)
        raise UserError(message if name in message else f"{name}: {message}") from error


def _named(source: Source) -> tuple[str, str | None]:
    """Folder or hub name, and its commit, of what the user named."""
    return source.named or (source.tokenizer, source.tokenizer_revision)
