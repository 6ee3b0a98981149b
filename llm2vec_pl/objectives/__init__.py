"""Objectives: LightningModules that train an encoder."""

from llm2vec_pl.objectives.base import Objective
from llm2vec_pl.objectives.causal_lm import CausalLM
from llm2vec_pl.objectives.contrastive import Contrastive
from llm2vec_pl.objectives.mntp import MNTP

__all__ = ["MNTP", "CausalLM", "Contrastive", "Objective"]
