"""What decides the embeddings of a folder, recorded in each of its files."""

from __future__ import annotations

from typing import Any

from llm2vec_pl.encoder import Encoder, tokenizer_content
from llm2vec_pl.use.bulk.documents import Documents
from llm2vec_pl.use.bulk.embedding import Embedding


def settings_of(encoder: Encoder, how: Embedding, documents: Documents) -> dict[str, Any]:
    """Everything that rows and embeddings depend on, as JSON: equal for the parts of one corpus.

    Weights and files count by their content, so a folder may be moved.

    Args:
        encoder: a loaded one.
        how: what becomes of its embeddings.
        documents: what is embedded.
    """
    return {
        **encoder_settings(encoder),
        "prompt": how.prompt,
        "normalize": how.normalize,
        "truncate_dim": how.truncate_dim,
        "precision": how.precision,
        "corpus": documents.corpus.identity(),
        "columns": list(documents.columns.text),
        "id_column": documents.columns.id,
        "keep": list(documents.columns.keep),
        "rows_per_file": documents.size,
    }


def encoder_settings(encoder: Encoder) -> dict[str, Any]:
    """What the embeddings of a loaded encoder depend on."""
    return {
        "weights": str(encoder.origin) if encoder.origin else None,
        "tokenizer": tokenizer_content(encoder.tokenizer),
        "bidirectional": encoder.bidirectional,
        "pooling": encoder.pooling,
        **encoder.tokenize.rules,
        "dtype": encoder.dtype,
        "quantization": encoder.quantization,
    }
