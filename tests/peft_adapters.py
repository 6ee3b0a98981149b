"""LoRAs as others train them with peft, saved to folders, with peft's own merge to compare with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from llm2vec_pl.decoder.source import TINY


def train_lora(model: nn.Module, base: str, folder: Path, **options: Any) -> Path:
    """Saves a LoRA with random weights on a causal language model or its decoder, as peft does."""
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    adapted = get_peft_model(model, LoraConfig(base_model_name_or_path=base, **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


def peft_states(base: str, folder: Path, ids: Tensor, part: str = "model") -> Tensor:
    """The last states that peft gives, with the adapter on the causal language model itself."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
    root = model if part == "model" else model.get_decoder()
    adapted = PeftModel.from_pretrained(copy.deepcopy(root), folder).eval()
    with torch.no_grad():
        output = adapted(input_ids=ids, output_hidden_states=True)
    states: Tensor = output.hidden_states[-1]
    return states
