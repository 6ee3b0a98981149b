"""Texts -> tokens -> hidden states -> embeddings."""

from llm2vec_pl.encoder.embedding_cache import EmbeddingCache, text_key
from llm2vec_pl.encoder.encoder import Dtype, Encoder
from llm2vec_pl.encoder.encoding import whole_batch_size
from llm2vec_pl.encoder.folder import save_encoder, saved_weights
from llm2vec_pl.encoder.int8_dynamic import INT8_DYNAMIC, Int8Linear
from llm2vec_pl.encoder.lengths import lengths_of, pinned, require, send, text_lengths
from llm2vec_pl.encoder.maxsim import max_sim
from llm2vec_pl.encoder.multi_vector import MultiVectorEncoder, padded, token_vectors
from llm2vec_pl.encoder.origin import pinned_flags, recorded_origin, require_same_origin
from llm2vec_pl.encoder.output import require_output
from llm2vec_pl.encoder.packed_attention import PACKED, install_packing, packed_states
from llm2vec_pl.encoder.packing import PackedTexts, batches_by_length
from llm2vec_pl.encoder.pool_of_processes import EncoderPool, known_device
from llm2vec_pl.encoder.pooling import pool
from llm2vec_pl.encoder.projection import new_projection, read_projection, save_projection
from llm2vec_pl.encoder.prompts import DOCUMENT, QUERY, chosen_prompt, first_of
from llm2vec_pl.encoder.short_attention import attention_as_on_a_gpu
from llm2vec_pl.encoder.soup import average_encoders
from llm2vec_pl.encoder.tokenizer import (
    TextTokenizer,
    TokenBatch,
    each_instruction,
    join,
    take,
    well_formed,
)
from llm2vec_pl.encoder.tokenizer_fingerprint import tokenizer_content
from llm2vec_pl.encoder.weights import cast_weights
from llm2vec_pl.encoder.words import (
    WordTokens,
    pad_token,
    pad_words,
    tokenize_words,
    word_count,
    word_places,
    word_states,
    word_tokens,
)

__all__ = [
    "DOCUMENT",
    "INT8_DYNAMIC",
    "PACKED",
    "QUERY",
    "Dtype",
    "EmbeddingCache",
    "Encoder",
    "EncoderPool",
    "Int8Linear",
    "MultiVectorEncoder",
    "PackedTexts",
    "TextTokenizer",
    "TokenBatch",
    "WordTokens",
    "attention_as_on_a_gpu",
    "average_encoders",
    "batches_by_length",
    "cast_weights",
    "chosen_prompt",
    "each_instruction",
    "first_of",
    "install_packing",
    "join",
    "known_device",
    "lengths_of",
    "max_sim",
    "new_projection",
    "packed_states",
    "pad_token",
    "pad_words",
    "padded",
    "pinned",
    "pinned_flags",
    "pool",
    "read_projection",
    "recorded_origin",
    "require",
    "require_output",
    "require_same_origin",
    "save_encoder",
    "save_projection",
    "saved_weights",
    "send",
    "take",
    "text_key",
    "text_lengths",
    "token_vectors",
    "tokenize_words",
    "tokenizer_content",
    "well_formed",
    "whole_batch_size",
    "word_count",
    "word_places",
    "word_states",
    "word_tokens",
]
