"""Step 3, unsupervised: each sentence is to find itself, seen through another dropout (SimCSE).

python recipes/simcse.py    starts from the newest run of recipes/mntp.py
python recipes/simcse.py --config recipes/configs/mistral-7b/simcse.yaml --trainer.devices 8
"""

from pathlib import Path

from llm2vec_pl.data import PythonDocsSentences, WikipediaSentences
from llm2vec_pl.objectives import Contrastive
from llm2vec_pl.training import Command

if __name__ == "__main__":
    Command(
        "simcse",
        Contrastive,
        PythonDocsSentences,
        {"encoder.attention_dropout": 0.3, "encoder.max_length": 128, "trainer.max_steps": 1000},
        demo=Path(__file__).parent / "configs" / "tiny" / "simcse.yaml",
        reader=WikipediaSentences,
    ).fit()
