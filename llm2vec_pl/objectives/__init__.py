"""STEPS 2 and 3: the LightningModules that train an encoder."""

from llm2vec_pl.objectives.base import Objective
from llm2vec_pl.objectives.causal_lm import CausalLM
from llm2vec_pl.objectives.contrastive import Contrastive
from llm2vec_pl.objectives.cosent import AnglE, CoSENT
from llm2vec_pl.objectives.distillation import Distillation
from llm2vec_pl.objectives.gist import GISTEmbed
from llm2vec_pl.objectives.late_interaction import LateInteraction
from llm2vec_pl.objectives.masking import IGNORED
from llm2vec_pl.objectives.mntp import MNTP
from llm2vec_pl.objectives.token_classification import TokenClassification
from llm2vec_pl.objectives.word_objective import WordObjective
from llm2vec_pl.objectives.word_scores import WordScores

__all__ = [
    "IGNORED",
    "MNTP",
    "AnglE",
    "CausalLM",
    "CoSENT",
    "Contrastive",
    "Distillation",
    "GISTEmbed",
    "LateInteraction",
    "Objective",
    "TokenClassification",
    "WordObjective",
    "WordScores",
]
