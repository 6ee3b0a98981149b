"""Word-level tasks: a linear layer on a frozen encoder tells parts of speech, chunks or entities.

python recipes/word_task.py --data.path conll2003 --data.task ner     the newest run of mntp.py
python recipes/word_task.py --data.path conll2000 --data.task chunk --seeds 3
python recipes/word_task.py --encoder.model_name org/name --data.path UD_English-EWT --data.task pos
"""

from pathlib import Path

from llm2vec_pl.data import WordTask
from llm2vec_pl.objectives import TokenClassification
from llm2vec_pl.training import SeededCommand, measure_tagger, report_seeds

if __name__ == "__main__":
    command = SeededCommand(
        "word_task",
        TokenClassification,
        WordTask,
        {"trainer.max_steps": 4000},
        demo=Path(__file__).parent / "configs" / "tiny" / "word_task.yaml",
        reader=WordTask,
    )
    results = []
    for seed in command.runs():
        command.fit()
        if isinstance(command.model, TokenClassification):
            measured = measure_tagger(command.trainer, command.model, command.datamodule)
            results.append({"seed": seed, **measured})
    if results:
        report_seeds(results, command.trainer, command.root)
