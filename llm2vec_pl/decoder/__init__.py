"""A causal language model: where it is, how it is read, and what is special about it."""

from llm2vec_pl.decoder.architectures import (
    ATTENTION_DROPOUTS,
    BIDIRECTIONAL_ATTENTION_FLAG,
    CAUSAL_MODULES,
    FIXED_ATTENTION_DROPOUT,
    FUSED_OUT_PROJ,
    LEARNED_POSITIONS,
    REFUSED,
    TRIANGULAR_BUFFERS,
    WINDOW_SIZES,
)
from llm2vec_pl.decoder.contents import encoder_contents, file_contents
from llm2vec_pl.decoder.cpu import limit_threads, multiplies_in_bfloat16, multiplies_in_int8
from llm2vec_pl.decoder.fingerprint import Origin, adapter_fingerprint, weights_fingerprint
from llm2vec_pl.decoder.head import head_logits, split_causal_lm
from llm2vec_pl.decoder.hub import display_name, fetch
from llm2vec_pl.decoder.layers import decoder_layers, evaluating
from llm2vec_pl.decoder.quantization import (
    BITSANDBYTES,
    Quantization,
    keep_unpacked,
    quantization_config,
)
from llm2vec_pl.decoder.rope import use_own_lengths
from llm2vec_pl.decoder.source import (
    EARLIER,
    ENCODER,
    LINEAGE,
    SETTINGS,
    TINY,
    Source,
    adapter_settings,
    locate,
    locate_adapter,
    newest_run,
    read_config,
    read_settings,
    read_tokenizer,
    rendered_template,
    require_weights,
    weight_files,
)
from llm2vec_pl.decoder.streamed_weights import WeightFiles, slots_of
from llm2vec_pl.decoder.written_weights import write_weights

__all__ = [
    "ATTENTION_DROPOUTS",
    "BIDIRECTIONAL_ATTENTION_FLAG",
    "BITSANDBYTES",
    "CAUSAL_MODULES",
    "EARLIER",
    "ENCODER",
    "FIXED_ATTENTION_DROPOUT",
    "FUSED_OUT_PROJ",
    "LEARNED_POSITIONS",
    "LINEAGE",
    "REFUSED",
    "SETTINGS",
    "TINY",
    "TRIANGULAR_BUFFERS",
    "WINDOW_SIZES",
    "Origin",
    "Quantization",
    "Source",
    "WeightFiles",
    "adapter_fingerprint",
    "adapter_settings",
    "decoder_layers",
    "display_name",
    "encoder_contents",
    "evaluating",
    "fetch",
    "file_contents",
    "head_logits",
    "keep_unpacked",
    "limit_threads",
    "locate",
    "locate_adapter",
    "multiplies_in_bfloat16",
    "multiplies_in_int8",
    "newest_run",
    "quantization_config",
    "read_config",
    "read_settings",
    "read_tokenizer",
    "rendered_template",
    "require_weights",
    "slots_of",
    "split_causal_lm",
    "use_own_lengths",
    "weight_files",
    "weights_fingerprint",
    "write_weights",
]
