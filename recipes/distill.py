"""Step 3, distillation: the encoder learns how similar texts are from one that is trained already.

python recipes/distill.py    from runs/mntp, with runs/supervised as the teacher: to try it out
python recipes/distill.py --config recipes/configs/smollm2-135m/distill.yaml
python recipes/distill.py --model.teacher org/name --data E5 --data.path echo-data
"""

from pathlib import Path

from llm2vec_pl.data import PythonDocsSentences, WikipediaSentences
from llm2vec_pl.objectives import Distillation
from llm2vec_pl.training import Command

if __name__ == "__main__":
    Command(
        "distill",
        Distillation,
        PythonDocsSentences,
        {"encoder.max_length": 128, "trainer.max_steps": 1000},
        demo=Path(__file__).parent / "configs" / "tiny" / "distill.yaml",
        reader=WikipediaSentences,
    ).fit()
