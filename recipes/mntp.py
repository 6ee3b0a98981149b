"""Steps 1 and 2: makes a decoder bidirectional and trains it with masked next token prediction.

python recipes/mntp.py
python recipes/mntp.py --config recipes/configs/mistral-7b/mntp.yaml --trainer.devices 8
python recipes/mntp.py --encoder.model_name Qwen/Qwen3-0.6B --data Wikipedia
"""

from pathlib import Path

from llm2vec_pl.data import PythonDocs, Wikipedia
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training import Command, Comparison

if __name__ == "__main__":
    demo = Path(__file__).parent / "configs" / "tiny" / "mntp.yaml"
    command = Command("mntp", MNTP, PythonDocs, {"trainer.max_steps": 1000}, demo, Wikipedia)
    comparison = Comparison(command.trainer, command.datamodule)
    if isinstance(command.datamodule, PythonDocs):
        comparison.measure("causal", command.causal_model())
    comparison.measure("bidirectional", command.model)
    command.fit()
    comparison.measure("+ MNTP", command.model)
    comparison.print()
