"""Estimates the memory that training needs on each device, from a model's configuration alone.

python recipes/memory.py                # some models and settings
python recipes/memory.py --model llama-3-8b --tokens 4096 --quantization nf4
python recipes/memory.py --model Qwen/Qwen3-4B --lora_rank 0 --devices 8 --sharded true
"""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from jsonargparse import DefaultHelpFormatter
from transformers import LlamaConfig, MistralConfig, PretrainedConfig

from llm2vec_pl.decoder import locate, read_config
from llm2vec_pl.encoder import Dtype
from llm2vec_pl.errors import UserError, user_errors
from llm2vec_pl.training import Parser, silence_noise
from llm2vec_pl.training.memory import Memory, Step, WeightQuantization, estimate, gib

# Shapes of models whose configurations the hub keeps behind a licence.
LLAMA_3: dict[str, Any] = {
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
SHAPES: dict[str, PretrainedConfig] = {
    "s-llama-1.3b": LlamaConfig(
        hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16
    ),
    "mistral-7b": MistralConfig(),
    "llama-3-8b": LlamaConfig(**LLAMA_3, hidden_size=4096, intermediate_size=14336),
    "llama-3-70b": LlamaConfig(
        **LLAMA_3,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
    ),
}

FULL = {"lora_rank": 0, "dtype": "float32"}
NF4 = {"quantization": "nf4"}
BATCH = Step(32 * 512)  # the paper's for MNTP, on one device
SHARE: dict[str, Any] = {"tokens": 4 * 512}
CASES: list[tuple[str, dict[str, Any], Step]] = [
    ("s-llama-1.3b", {}, BATCH),
    ("mistral-7b", {}, BATCH),
    ("llama-3-8b", {}, BATCH),
    ("llama-3-8b", {}, Step(**SHARE, devices=8)),
    ("llama-3-8b", {}, Step(**SHARE, devices=8, sharded=True)),
    ("llama-3-8b", NF4, Step(**SHARE)),
    ("llama-3-8b", NF4, BATCH),
    ("llama-3-8b", FULL, Step(**SHARE, devices=8, sharded=True)),
    ("llama-3-8b", FULL, Step(**SHARE, devices=16, sharded=True)),
    ("llama-3-70b", {}, Step(**SHARE, devices=8, sharded=True)),
    ("llama-3-70b", {}, Step(**SHARE, devices=16, sharded=True)),
    ("llama-3-70b", NF4, Step(**SHARE)),
    ("llama-3-70b", NF4, Step(**SHARE, devices=8, sharded=True)),
]
COLUMNS = (
    *("model", "trained", "devices", "texts x tokens"),
    *("weights", "optimizer, gradients", "activations, transient", "GiB a device"),
)


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


def run(
    step: Step,
    model: str | None = None,
    dtype: Dtype = "bfloat16",
    lora_rank: int = 16,
    quantization: WeightQuantization | None = None,
    gradient_checkpointing: bool = True,
) -> None:
    """Prints a table.

    Args:
        step: what a device does.
        model: s-llama-1.3b, mistral-7b, llama-3-8b, llama-3-70b, a folder or a name on the hub;
            null prints a table of examples, whatever the other flags say.
        dtype: of the weights; a LoRA's is float32.
        lora_rank: 0 trains all weights.
        quantization: of the frozen linear layers.
        gradient_checkpointing: keep the layers' inputs only.
    """
    cases = CASES
    if model is not None:
        how: dict[str, Any] = {"dtype": dtype, "lora_rank": lora_rank, "quantization": quantization}
        cases = [(model, how, step)]
    print(f"| {' | '.join(COLUMNS)} |", "|".join(["", *["---"] * len(COLUMNS), ""]), sep="\n")
    for name, how, each in cases:
        config = SHAPES.get(name) or read_config(locate(name))
        memory = estimate(config, each, **how, gradient_checkpointing=gradient_checkpointing)
        if memory is None:
            raise UserError(f"--model {name}: transformers cannot build {config.model_type}.")
        print(f"| {' | '.join([name, *row(how, each, memory)])} |")


def row(how: dict[str, Any], step: Step, memory: Memory) -> list[str]:
    """The cells of a case."""
    trained = f"LoRA {how.get('lora_rank', 16)}" if how.get("lora_rank", 16) else "all"
    weights = how.get("quantization") or how.get("dtype", "bfloat16")
    several = f", {'FSDP2' if step.sharded else 'DDP'}" if step.devices > 1 else ""
    known = memory.activations is not None
    passing = gib((memory.activations or 0) + memory.transient) if known else "unknown"
    return [
        f"{trained}, {weights}",
        f"{step.devices}{several}",
        f"{step.rows} x {step.width}",
        gib(memory.frozen + memory.trained),
        gib(memory.optimizer + memory.gradients),
        passing,
        gib(memory.total) if known else f"{gib(memory.total)} and the activations",
    ]


if __name__ == "__main__":
    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_class_arguments(Step)
    parser.add_function_arguments(run, skip={"step"})
    parser.set_defaults({"tokens": 4 * 512})
    with user_errors():
        values = parser.parse_args().as_dict()
        step = Step(**{name: values.pop(name) for name in Step.__dataclass_fields__})
        run(step, **values)
