"""How many files of the package a batch passes through in a training step."""

import importlib.util
from pathlib import Path

import pytest

from llm2vec_pl.data import PythonDocs, PythonDocsPairs
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import MNTP, Contrastive

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "step_files.py"
CASES = {
    "MNTP": (MNTP, lambda: PythonDocs(batch_size=2), "mntp.py", 16),
    "supervised": (Contrastive, lambda: PythonDocsPairs(batch_size=2), "contrastive.py", 17),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_read_in_a_few_files(case):
    objective, data, own, most = CASES[case]
    spec = importlib.util.spec_from_file_location("step_files", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    making, step = script.files_of(objective(Encoder("tiny", max_length=32)), data())
    assert any(file.endswith(own) for file in step)
    assert len(step) <= most, sorted(step)
    assert making
