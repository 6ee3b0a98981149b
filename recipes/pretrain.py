"""Step 0: pre-trains a small decoder from scratch, as the embedded one was.

python recipes/pretrain.py --config recipes/configs/tiny/pretrain.yaml
"""

from llm2vec_pl.data import PythonDocs
from llm2vec_pl.objectives import CausalLM
from llm2vec_pl.training import Command

if __name__ == "__main__":
    Command(
        "pretrain",
        CausalLM,
        PythonDocs,
        {
            "encoder.bidirectional": False,
            "encoder.random_weights": True,
            "encoder.lora_rank": 0,
        },
    ).fit()
