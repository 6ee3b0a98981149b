"""Step 1 and the head on every decoder-only architecture that transformers has.

`python tests/bidirectional/test_architectures.py > ARCHITECTURES.md` writes down what these tests prove.
A new architecture is expected to pass in full, until a table below says otherwise and why.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from architecture_properties import properties
from architecture_sample import marks
from tiny_models import tiny_causal_lm, tiny_config, words
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llm2vec_pl.bidirectional.probe import influence_fault, token_influence
from llm2vec_pl.bidirectional.switch import (
    accepts_position_ids,
    check_bidirectional,
    is_causal_module,
    make_bidirectional,
    position_ids,
    probe_inputs,
)
from llm2vec_pl.decoder.architectures import REFUSED, WINDOW_SIZES
from llm2vec_pl.decoder.head import head_logits, split_causal_lm
from llm2vec_pl.decoder.layers import decoder_layers

NOT_DECODERS = words(
    """bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small camembert
    data2vec-text electra ernie marian mbart megatron-bert musicgen musicgen_melody mvp pegasus
    plbart prophetnet rembert roberta roberta-prelayernorm roc_bert roformer trocr whisper xlm
    xlm-roberta xlm-roberta-xl xlnet xmod
    gemma4_assistant gemma4_unified_assistant"""
)
"""Encoders, decoders of encoder-decoder models, and draft models that read another's cache."""

HYBRIDS = words(
    """bailing_hybrid bamba falcon_h1 granitemoehybrid inkling2_text inkling_text jamba kimi_linear
    lfm2 lfm2_moe lfm3 minimax nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text
    qwen3_5_text qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma zamba zamba2 zaya"""
)
"""Attention beside a convolution or a recurrence that stays causal."""

LEFT_PADDING_NEEDS_POSITIONS = words(
    """beam biogpt ctrl git gpt-sw3 gpt2 gpt_bigcode gpt_neo openai-gpt recurrent_gemma
    xglm"""
)
"""Count positions from the start of the row, padding included, unless told otherwise."""

TELLING = {
    "logit_scale": 0.5,
    "lm_head_multiplier": 0.5,
    "logits_scaling": 2.0,
    "logits_mup_width_multiplier": 2.0,
    "final_logit_softcapping": 0.5,
    "logits_soft_cap": 0.5,
    "unpadded_vocab_size": 100,
}
"""Values of what scales, bounds and cuts logits, chosen so that leaving them out would show."""

ARCHITECTURES = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - NOT_DECODERS)
PADS = words(
    """axk2 bloom codegen deepseek_v32 doge dots3_note dots3_note_text falcon flint gemma2 git
    glm_moe_dsa gpt_neo gpt_neox_japanese gpt_oss gptj granite_swa granitemoe_swa hy_v4
    mimo_v2_flash mpt openai-gpt vaultgemma xglm"""
)
"""Cannot run texts end to end with their best attention; nor can hybrids."""

ATTENTIONS = ("eager", "sdpa")
LENGTH, PADDING, WINDOW = 8, 3, 4
EXACT = 3e-5  # of states up to 3, in float32; a padding token that is seen moves them by 0.1
SHIFTED = 5e-5  # the same when rotary angles start elsewhere, which float32 resolves less well


def for_each(*attentions: str) -> pytest.MarkDecorator:
    """Run a test on each architecture with these attentions; all but a sample are exhaustive.

    By the scope, all tests of one architecture follow each other, and share its model.
    """
    parameters = [
        pytest.param(model_type, attention, marks=marks(model_type))
        for model_type in ARCHITECTURES
        for attention in attentions
    ]
    return pytest.mark.parametrize(("model_type", "attention"), parameters, scope="module")


every_architecture = for_each(*ATTENTIONS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices are ten times slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.lru_cache(maxsize=4)
def bidirectional_lm(model_type: str, attention: str, **overrides: object) -> PreTrainedModel:
    """A tiny causal model after step 1; skips what is refused and what lacks this attention.

    The same one each time, which nobody may change.
    """
    try:
        if is_refused(model_type):
            pytest.skip("refused")
        model = tiny_causal_lm(model_type, attention, **overrides)
    except ValueError as error:
        if "does not support an attention implementation" not in str(error):
            raise
        pytest.skip(f"no {attention} attention")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_bidirectional(model)


@functools.cache
def is_refused(model_type: str) -> bool:
    return model_type in REFUSED or tiny_config(model_type).model_type in REFUSED


@torch.no_grad()
def states(decoder: PreTrainedModel, ids: Tensor, mask: Tensor, positions: bool = True) -> Tensor:
    """Last hidden states (B, L, D), called as the encoder calls it."""
    extra = {"position_ids": position_ids(mask)}
    if not positions or not accepts_position_ids(decoder):
        extra = {}
    return decoder(input_ids=ids, attention_mask=mask, use_cache=False, **extra).last_hidden_state


def random_text(rows: int, length: int = LENGTH) -> Tensor:
    return torch.randint(5, 100, (rows, length), generator=torch.Generator().manual_seed(1))


def padding_error(decoder: PreTrainedModel, side: str, positions: bool = True) -> float:
    """How much padding, and a longer text beside it, change the states of a text at most."""
    text, longer = random_text(1), random_text(1, LENGTH + PADDING)
    real, pads = torch.ones_like(text), torch.zeros(1, PADDING, dtype=torch.long)
    alone = states(decoder, text, real, positions)
    if side == "right":
        parts, kept = ([text, pads], [real, pads]), slice(None, LENGTH)
    else:
        parts, kept = ([pads, text], [pads, real]), slice(PADDING, None)
    ids, mask = (torch.cat(part, dim=1) for part in parts)
    batch = torch.cat([ids, longer]), torch.cat([mask, torch.ones_like(longer)])
    padded = states(decoder, *batch, positions)[:1, kept]  # (1, L, D)
    return (padded - alone).abs().max().item()


def stays_causal(decoder: PreTrainedModel) -> set[str]:
    """Classes of all modules, however deep, through which a token sees only those before it."""
    mask = torch.ones(LENGTH, dtype=torch.long)
    by_depth: dict[int, dict[str, torch.nn.Module]] = {}
    for name, module in list(decoder.named_modules())[1:]:
        by_depth.setdefault(name.count("."), {})[name] = module
    found = set()
    for modules in by_depth.values():
        influences = token_influence(
            lambda: decoder(**probe_inputs(decoder, mask), use_cache=False), modules, LENGTH
        )
        found |= {
            type(modules[name]).__name__
            for name, influence in influences.items()
            if influence_fault(influence, mask.bool())
        }
    return found


def excused(decoder: PreTrainedModel) -> set[str]:
    """Classes of the known causal modules, of all around them and of all inside them."""
    classes = set()
    for module in decoder.modules():
        if any(is_causal_module(part) for part in module.modules()):
            classes.add(type(module).__name__)
        if is_causal_module(module):
            classes |= {type(part).__name__ for part in module.modules()}
    return classes


@every_architecture
def test_each_token_sees_each_other_in_every_layer(model_type: str, attention: str) -> None:
    decoder, _ = split_causal_lm(bidirectional_lm(model_type, attention))
    check_bidirectional(decoder)
    assert stays_causal(decoder) <= excused(decoder)


@every_architecture
def test_padding_and_batch_size_change_nothing(model_type: str, attention: str) -> None:
    decoder, _ = split_causal_lm(bidirectional_lm(model_type, attention))
    text = random_text(3)
    together = states(decoder, text, torch.ones_like(text))[:1]
    alone = states(decoder, text[:1], torch.ones_like(text[:1]))
    torch.testing.assert_close(together, alone, atol=EXACT, rtol=0)
    assert padding_error(decoder, "right") < EXACT
    assert padding_error(decoder, "left") < EXACT
    left_is_safe = padding_error(decoder, "left", positions=False) < SHIFTED
    assert left_is_safe == (model_type not in LEFT_PADDING_NEEDS_POSITIONS)


@every_architecture
def test_windows_are_symmetric(model_type: str, attention: str) -> None:
    decoder, _ = split_causal_lm(bidirectional_lm(model_type, attention, window=WINDOW))
    layers, mask = decoder_layers(decoder), torch.ones(4 * WINDOW, dtype=torch.long)
    influences = token_influence(
        lambda: decoder(**probe_inputs(decoder, mask), use_cache=False), layers, len(mask)
    )
    i = torch.arange(len(mask))
    band, chunk = (i[:, None] - i).abs() < WINDOW, i[:, None] // WINDOW == i // WINDOW
    wide, alone = torch.ones_like(band), torch.eye(len(i), dtype=torch.bool)
    for name, influence in influences.items():
        if not any(is_causal_module(module) for module in layers[name].modules()):
            assert any(influence.equal(pattern) for pattern in (band, chunk, wide, alone)), name


@every_architecture
def test_switch_survives_saving(model_type: str, attention: str, tmp_path: Path) -> None:
    decoder, _ = split_causal_lm(bidirectional_lm(model_type, attention, window=WINDOW))
    decoder.save_pretrained(tmp_path)
    again = type(decoder).from_pretrained(tmp_path, attn_implementation=attention)
    assert again.config.is_causal is False
    for size in WINDOW_SIZES:
        assert getattr(again.config, size, None) == getattr(decoder.config, size, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_bidirectional(again)
    text = random_text(1)
    inputs = text, torch.ones_like(text)
    torch.testing.assert_close(states(again, *inputs), states(decoder, *inputs))


@for_each("eager")
def test_head_gives_the_logits_of_the_causal_model(model_type: str, attention: str) -> None:
    if not is_refused(model_type):
        config = tiny_config(model_type)
        telling = {k: v for k, v in TELLING.items() if hasattr(config, k)}
        if isinstance(getattr(type(config), "logits_scaling", None), property):
            del telling["logits_scaling"]  # minicpm3 derives it from its hidden size
    else:
        telling = {}
    model = bidirectional_lm(model_type, attention, **telling)
    decoder, lm_head = split_causal_lm(model)
    text = random_text(2)
    mask = torch.ones_like(text)
    with torch.no_grad():
        expected = model(input_ids=text, attention_mask=mask, use_cache=False).logits  # (B, L, V)
        logits = head_logits(states(decoder, text, mask).flatten(0, 1), lm_head, decoder.config)
    torch.testing.assert_close(logits, expected.flatten(0, 1), atol=1e-4, rtol=1e-4)


@for_each("eager")
def test_step_one_refuses_or_warns_as_documented(model_type: str, attention: str) -> None:
    if is_refused(model_type):
        reason = re.escape(REFUSED[tiny_config(model_type).model_type])
        with torch.device("meta"), pytest.raises(ValueError, match=reason):
            make_bidirectional(tiny_causal_lm(model_type))
    elif model_type in HYBRIDS:
        with pytest.warns(UserWarning, match="still read from left to right"):
            make_bidirectional(tiny_causal_lm(model_type, attention))
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*still read from left to right")
            make_bidirectional(tiny_causal_lm(model_type, attention))


@for_each("best")
def test_it_trains_with_default_arguments_and_reopens(model_type: str, attention: str) -> None:
    if is_refused(model_type):
        pytest.skip("refused")
    found = properties(model_type)
    assert found.lora_trains is None
    assert found.full_trains is None
    assert found.reopens is None
    assert found.packs == (model_type not in PADS | HYBRIDS)


def test_a_model_without_head_cannot_be_split() -> None:
    decoder, _ = split_causal_lm(tiny_causal_lm("llama"))
    with pytest.raises(ValueError, match="LlamaModel"):
        split_causal_lm(decoder)


def test_tables_name_only_what_exists() -> None:
    assert set(REFUSED) | HYBRIDS | LEFT_PADDING_NEEDS_POSITIONS | PADS <= set(ARCHITECTURES)


# The table --------------------------------------------------------------------------------------


def attention_that_passes(model_type: str) -> Iterator[tuple[str, PreTrainedModel]]:
    """The attention implementations on which the decoder passes, and that decoder."""
    for attention in ATTENTIONS:
        try:
            decoder, _ = split_causal_lm(bidirectional_lm(model_type, attention))
        except pytest.skip.Exception:
            continue
        check_bidirectional(decoder)
        assert stays_causal(decoder) <= excused(decoder)
        assert max(padding_error(decoder, side) for side in ("left", "right")) < EXACT
        yield attention, decoder


def row(model_type: str) -> dict[str, str]:
    """One line of the table, measured."""
    if is_refused(model_type):
        reason = REFUSED[tiny_config(model_type).model_type]
        return {"architecture": model_type, "bidirectional": "refused", "notes": reason}
    passing = dict(attention_that_passes(model_type))
    decoder = next(iter(passing.values()))
    causal = sorted({type(m).__name__ for m in decoder.modules() if is_causal_module(m)})
    notes = [f"causal: {', '.join(causal)}"] if causal else []
    left_is_safe = padding_error(decoder, "left", positions=False) < SHIFTED
    if not left_is_safe:
        notes.append("left padding only with `position_ids`")
    found = properties(model_type)
    notes += [f"no LoRA on {found.left_out}"] if found.left_out else []
    notes += [e for e in (found.lora_trains, found.full_trains, found.reopens) if e]
    return {
        "architecture": model_type,
        "bidirectional": "hybrid" if causal else "full",
        "packs": yes(found.packs),
        "LoRA trains": yes(not found.lora_trains),
        "full trains": yes(not found.full_trains),
        "saves and reopens": yes(not found.reopens),
        "attention": ", ".join(passing),
        "padding-safe": "both" if left_is_safe else "right",
        "notes": "; ".join(notes),
    }


def yes(fact: bool) -> str:
    return "yes" if fact else "no"


COLUMNS = (
    "architecture",
    "bidirectional",
    "packs",
    "LoRA trains",
    "full trains",
    "saves and reopens",
    "attention",
    "padding-safe",
    "notes",
)


def table() -> str:
    """The whole of ARCHITECTURES.md."""
    rows = [row(model_type) for model_type in ARCHITECTURES]
    count = Counter(row["bidirectional"] for row in rows)
    sdpa = Counter(row["bidirectional"] for row in rows if "sdpa" in row.get("attention", ""))
    learn = [row for row in rows if all(row.get(name) == "yes" for name in COLUMNS[3:6])]
    trained = Counter(row["bidirectional"] for row in learn)
    packing = Counter(row["bidirectional"] for row in learn if row["packs"] == "yes")
    lines = [
        "# Architectures",
        "",
        f"transformers {transformers.__version__} has {len(rows)} entries for decoder-only "
        f"language models. After `make_bidirectional`:",
        "",
        f"- **{count['full']} are bidirectional in full**, in every layer and every sub-module "
        f"({sdpa['full']} of them with sdpa attention too);",
        f"- {count['hybrid']} are hybrids ({sdpa['hybrid']} with sdpa): their attention is "
        f"bidirectional, but a convolution or recurrence stays causal, as a warning says;",
        f"- {count['refused']} are refused, with the reason.",
        "",
        f"**With default arguments, {trained['full']} of the {count['full']} and "
        f"{trained['hybrid']} of the {count['hybrid']} hybrids train a LoRA, train all weights, "
        f"and open again** with the same embeddings. {packing['full']} of the {count['full']} also "
        "pack, so they have all five properties. The others pad their batches, with the same "
        "results.",
        "",
        "- *packs*: texts are laid end to end, without padding, with the architecture's best "
        "attention.",
        "- *LoRA trains*: with `Encoder`'s default arguments, one step of MNTP and one of "
        "contrastive learning give each trainable weight a gradient and change the loss.",
        "- *full trains*: the same with `lora_rank=0`. Weights that no text reaches are frozen.",
        "- *saves and reopens*: what `save_encoder` writes gives the same embeddings in "
        "`Encoder.from_pretrained`. A LoRA also does so in peft alone.",
        "- *attention*: the attention implementations on which step 1 passes its checks.",
        "- *padding-safe*: padding on the right never changes a result, and neither does the size "
        "of the batch. Padding on the left does not either if `position_ids` are given, as the "
        "encoder does wherever `forward` takes them; `right` marks the decoders that need them.",
        "",
        "## Where a LoRA goes",
        "",
        "On all linear layers, except:",
        "",
        "- routers, and layers that get no gradient or that text does not pass through: indexers "
        "of sparse attention, towers for images and audio;",
        "- dense layers and shared experts of the mixtures below whose notes say so: peft 0.21 "
        "opens every adapter as if it had been trained with transformers 4, and takes `gate_proj`, "
        "`up_proj` and `down_proj` for parts of all experts. There the LoRA goes on attention;",
        "- `out_proj` of mamba mixers, whose CUDA kernels bypass an adapter, and layers that "
        "share their weight (zamba).",
        "",
        "The experts themselves, which transformers keeps as one tensor, get no LoRA: peft has no "
        "dropout for them. `--encoder.lora_targets` chooses fewer layers, by the ends of their "
        "names or by regular expressions.",
        "",
        "## The table",
        "",
        "Measured on tiny models with random weights, on a CPU in float32, by "
        "`python tests/bidirectional/test_architectures.py > ARCHITECTURES.md`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| {' | '.join('---' for _ in COLUMNS)} |",
        *(f"| {' | '.join(row.get(name, '') for name in COLUMNS)} |" for row in rows),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(table())
