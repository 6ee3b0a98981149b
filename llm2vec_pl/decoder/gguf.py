"""A decoder in a GGUF file, the format of llama.cpp: unpacked once, then a folder like any other.

Its weights are read by transformers in float32 and kept in the package's cache as safetensors, each
in the smallest dtype that holds all of its values exactly: bfloat16 or float16 where the file has
that, float32 where it is quantized. Merging, quantization, sharding and streaming then read the
folder. What names the weights, and tells whether they are the same, is the file itself.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llm2vec_pl.decoder.gguf_header import Header, read_header, require_magic
from llm2vec_pl.decoder.gguf_tokenizer import read_gguf_tokenizer
from llm2vec_pl.decoder.written_weights import write_weights
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import cached_folder, read_json, write_json

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_NOTES = "notes.json"
_NOT_OURS = ("quantization_config", "_pre_quantization_dtype", "_model_name_or_path")
"""Entries of a configuration that transformers leaves there when it has read a GGUF."""


class Original(NamedTuple):
    """The file that weights in the cache come from.

    Args:
        name: as a user writes it: a path, `org/name:FILE.gguf`, or a short name.
        file: the name of the file.
        sha256: of the whole file, in hexadecimal digits.
    """

    name: str
    file: str
    sha256: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its weights, whatever transformers makes of them."""
        return self.sha256[:16]


def unpacked(parts: Sequence[Path], name: str) -> tuple[Path, Original]:
    """The folder of a GGUF's configuration, tokenizer and weights, and where they come from.

    The first time, this takes the memory of the weights in float32 and of twice the largest of
    them; later it takes the time to read the file once. If several processes want the same file at
    once, one unpacks it while the others wait.

    Args:
        parts: the file, or the files that make one when they are put together.
        name: what the user calls it.

    Raises:
        UserError: if it is not a whole GGUF of an architecture that transformers knows, gguf is not
            installed, or the disk has no room.
    """
    from transformers import __version__

    refuse_part(parts[0].name, name)
    require_magic(parts[0], name)
    original = Original(name, _whole_name(parts[0]), _sha256(tuple(_state(part) for part in parts)))
    recipe = {"gguf": original.sha256, "transformers": __version__, "written": 1}
    folder = cached_folder("gguf", recipe, lambda new: _unpack(parts, name, new))
    for note in read_json(folder / _NOTES).get("warnings", []):
        warnings.warn(f"{name}: {note}", stacklevel=2)
    return folder, original


def refuse_part(file: str, name: str) -> None:
    """Checks that a file's name is not that of one part of a split GGUF.

    Raises:
        UserError: if it is.
    """
    if match := _PART.search(file):
        raise UserError(
            f"`model_name`: {name} is part {int(match[1])} of a GGUF that is split into "
            f"{int(match[2])} files. Join them first, with llama.cpp's tool: llama-gguf-split "
            f"--merge {file.replace(match[1], '00001', 1)} {_PART.sub('.gguf', file)}"
        )


def _unpack(parts: Sequence[Path], name: str, folder: Path) -> None:
    _require_gguf(name)
    joined = folder / "joined.gguf"
    file = parts[0].absolute()
    try:
        if len(parts) > 1:
            file = _joined(parts, joined)
        header = read_header(file, name)
        if (count := header.metadata.get("split.count", 1)) > 1:
            raise UserError(
                f"`model_name`: {name} is one of {count} files that a GGUF is split into. Join "
                "them first, with llama.cpp's tool: llama-gguf-split --merge FIRST-FILE OUT.gguf"
            )
        print(f"{name}: unpacking this GGUF into the cache, once", file=sys.stderr)
        notes = _convert(file, header, name, folder)
    finally:
        joined.unlink(missing_ok=True)
    write_json(folder / _NOTES, {"warnings": notes})


def _convert(file: Path, header: Header, name: str, folder: Path) -> list[str]:
    """Writes configuration, weights and tokenizer; returns what the user should be warned of."""
    try:
        model = _plain(_read(file, name))
        tokenizer, notes = read_gguf_tokenizer(file, header)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever transformers stumbles over in a file that is not for it
        from transformers import __version__

        raise UserError(
            f"`model_name`: {name} is a GGUF of the architecture {header.architecture!r}, which "
            f"transformers {__version__} cannot open as a decoder ({_first_line(error)}). Use the "
            "model in safetensors, or a version of transformers that can."
        ) from error
    for parameter in model.parameters():
        parameter.data = _smallest(parameter.data)
    write_weights(model, folder)
    tokenizer.save_pretrained(folder)
    return notes + _of_rotation(model, header)


def _read(file: Path, name: str) -> PreTrainedModel:
    """The causal language model with its weights unpacked, in float32."""
    import transformers

    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # newer versions may keep weights packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    # An absolute path, since transformers would prefer a file of that name in the current folder.
    opened: Any = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=str(file),
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    model: PreTrainedModel = opened[0]
    found = opened[1]
    if lacking := sorted({*found["missing_keys"], *map(str, found["mismatched_keys"])}):
        raise UserError(
            f"`model_name`: {name} lacks weights that its architecture needs, or has them in other "
            f"shapes: {', '.join(lacking[:3])}{', …' if len(lacking) > 3 else ''}. Use the model "
            "in safetensors."
        )
    return model


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that transformers agrees to save."""
    from accelerate import init_empty_weights

    config = copy.deepcopy(model.config)
    for entry in _NOT_OURS:
        if hasattr(config, entry):
            delattr(config, entry)
    with init_empty_weights():
        plain: PreTrainedModel = type(model)._from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def _smallest(weights: Tensor) -> Tensor:
    """The same values in the smallest dtype that holds them exactly."""
    for dtype in (torch.bfloat16, torch.float16):
        rounded = weights.to(dtype)
        if torch.equal(rounded.float(), weights):
            return rounded
    return weights


def _of_rotation(model: PreTrainedModel, header: Header) -> list[str]:
    """A warning if the file scales rotary angles and the configuration does not."""
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    rope = getattr(model.config, "rope_parameters", None) or {}
    if scaling == "none" and "rope_freqs.weight" not in header.tensors:
        return []
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        return []
    return [
        "This GGUF scales its rotary angles for long texts, which transformers does not read from "
        "it: embeddings differ a little from the original's. The model in safetensors has them."
    ]


def _require_gguf(name: str) -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"`model_name`: {name} is a GGUF, which is read with the package gguf, and that cannot "
            f"be imported ({error}). Install it: pip install llm2vec_pl[gguf]."
        ) from error


def _joined(parts: Sequence[Path], whole: Path) -> Path:
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 2**24)
    return whole


def _whole_name(file: Path) -> str:
    """The name of a file without the number of its part: `x.gguf` for `x.gguf.part00`."""
    return re.sub(r"(?<=\.gguf)\..*$", "", file.name)


def _state(file: Path) -> tuple[Path, int, int]:
    state = file.stat()
    return file.resolve(), state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _sha256(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The SHA-256 of files put together, computed once for each state of them."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
