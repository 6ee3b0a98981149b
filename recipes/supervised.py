"""Step 3, supervised: each query is to find its positive among those of the batch and negatives.

python recipes/supervised.py    starts from the newest run of recipes/mntp.py
python recipes/supervised.py --encoder.model_name runs/simcse    from that of recipes/simcse.py
python recipes/supervised.py --config recipes/configs/mistral-7b/supervised.yaml --trainer.devices 8
"""

from pathlib import Path

from llm2vec_pl.data import E5, PythonDocsPairs
from llm2vec_pl.objectives import Contrastive
from llm2vec_pl.training import Command

if __name__ == "__main__":
    Command(
        "supervised",
        Contrastive,
        PythonDocsPairs,
        {"model.temperature": 0.02, "model.warmup_steps": 300, "trainer.max_steps": 1000},
        demo=Path(__file__).parent / "configs" / "tiny" / "supervised.yaml",
        reader=E5,
    ).fit()
