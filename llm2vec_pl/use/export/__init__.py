"""An encoder for other programs: sentence-transformers, serving stacks, onnxruntime, the hub."""

from llm2vec_pl.use.export.export import Format, export_encoder

__all__ = ["Format", "export_encoder"]
