"""Step 3, graded pairs: pairs of texts with scores, which cosines must order as the scores do.

python recipes/graded.py --data.path pairs.jsonl    starts from the newest run of recipes/mntp.py
python recipes/graded.py --data.path sentence-transformers/stsb --model AnglE
python recipes/graded.py --config recipes/configs/smollm2-135m/graded.yaml --data.path pairs.jsonl
"""

from pathlib import Path

from llm2vec_pl.data import GradedPairs
from llm2vec_pl.objectives import CoSENT
from llm2vec_pl.training import Command

if __name__ == "__main__":
    Command(
        "graded",
        CoSENT,
        GradedPairs,
        {"encoder.max_length": 128, "trainer.max_steps": 500},
        demo=Path(__file__).parent / "configs" / "tiny" / "graded.yaml",
        reader=GradedPairs,
    ).fit()
