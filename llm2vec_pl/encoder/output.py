"""What becomes of embeddings before they are handed out: cut, normalised, quantised, converted."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.errors import UserError

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


def require_output(
    embedding_size: int, count: int, precision: str, truncate_dim: int | None
) -> None:
    """Finds mistakes before anything is embedded.

    Args:
        embedding_size: D.
        count: N, of the texts.
        precision: of the numbers.
        truncate_dim: how many numbers to keep of each embedding; all if None.

    Raises:
        UserError: if the precision is unknown or cannot be had for these, or the embeddings do not
            have so many numbers.
    """
    if precision not in get_args(Precision):
        raise UserError(
            f"`precision` is one of {', '.join(get_args(Precision))}, but got {precision!r}."
        )
    size = embedding_size if truncate_dim is None else truncate_dim
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    if not whole or not 1 <= size <= embedding_size:
        raise UserError(
            f"`truncate_dim` is a whole number from 1 to {embedding_size}, the size of the "
            f"embeddings, but got {truncate_dim!r}."
        )
    if precision in ("binary", "ubinary") and size % 8:
        raise UserError(
            f"`precision={precision!r}` packs eight numbers into a byte, but an embedding has "
            f"{size}. Set `truncate_dim` to a multiple of eight."
        )
    if precision in ("int8", "uint8") and count == 1:
        raise UserError(
            f"`precision={precision!r}` takes the range of each dimension from the texts, so it "
            "needs several, better hundreds, but got one. Embed it in float32, and quantise it "
            "with the ranges of the others by sentence-transformers' quantize_embeddings."
        )


def finished(
    embeddings: Tensor, precision: Precision, truncate_dim: int | None, normalize_embeddings: bool
) -> Tensor:
    """Embeddings as asked for: first cut, then normalised, then quantised.

    Args:
        embeddings: (N, D), float32.
        precision: of the numbers.
        truncate_dim: how many numbers to keep, the first ones; all if None.
        normalize_embeddings: to length 1.

    Returns:
        (N, `truncate_dim` or D); in `binary` and `ubinary`, an eighth of that.
    """
    if truncate_dim is not None:
        embeddings = embeddings[:, : int(truncate_dim)].contiguous()
    if normalize_embeddings:
        embeddings = F.normalize(embeddings, dim=-1)
    return embeddings if precision == "float32" else _quantised(embeddings, precision)


def converted(embeddings: Tensor, convert_to_numpy: bool, convert_to_tensor: bool) -> Any:
    """One tensor, a numpy array, or a list of tensors, one for each text."""
    if convert_to_numpy:
        return embeddings.numpy()
    return embeddings if convert_to_tensor else list(embeddings)


def cosine_similarity(embeddings: Any, others: Any) -> Tensor:
    """Cosines of all embeddings (N, D) with all others (M, D): (N, M). One embedding may be (D,).

    Raises:
        UserError: if the embeddings differ in size.
    """
    rows, columns = _matrix(embeddings), _matrix(others)
    if rows.shape[1] != columns.shape[1]:
        raise UserError(
            f"Embeddings of {rows.shape[1]} and of {columns.shape[1]} numbers cannot be compared. "
            "Embed both with the same encoder and the same `truncate_dim`."
        )
    return F.normalize(rows, dim=1) @ F.normalize(columns, dim=1).T


def _matrix(embeddings: Any) -> Tensor:
    if isinstance(embeddings, list | tuple) and embeddings:
        embeddings = torch.stack([torch.as_tensor(each) for each in embeddings])
    matrix = torch.atleast_2d(torch.as_tensor(embeddings))
    if matrix.dtype in (torch.int8, torch.uint8):
        raise UserError(
            f"The cosine needs embeddings in floating point, but got {matrix.dtype}. Embed without "
            "`precision`, or search the quantised ones with a library made for them, such as FAISS."
        )
    floats: Tensor = matrix.float()
    return floats


def _quantised(embeddings: Tensor, precision: Precision) -> Tensor:
    try:
        from sentence_transformers.util.quantization import quantize_embeddings
    except ImportError as error:
        raise UserError(
            f"`precision={precision!r}` needs sentence-transformers, which quantises the "
            "embeddings: pip install sentence-transformers."
        ) from error
    return torch.from_numpy(quantize_embeddings(embeddings.numpy(), precision))
