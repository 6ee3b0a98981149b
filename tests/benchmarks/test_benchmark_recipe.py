"""The recipe's commands, on little text: who measures has an interpreter of its own, as always."""

import json
import re
import runpy
from pathlib import Path

import pytest
from first_cases import slow_and_exhaustive
from forked import Done, run_recipe, spawn

RECIPE = Path(__file__).parents[2] / "recipes" / "benchmark.py"
TINY = ["--encoder.model_name", "tiny", "--rounds", "1"]


@pytest.fixture
def benchmark(standard_library_docs, tmp_path):
    def run(*flags: str) -> Done:
        cache = {"LLM2VEC_PL_CACHE": str(standard_library_docs)}
        return run_recipe("benchmark.py", *flags, cwd=tmp_path, environment=cache)

    return run


@pytest.mark.parametrize(
    "flags",
    slow_and_exhaustive(
        [
            ["mntp", "--batch_size", "2", "--length", "64", "--precision", "32-true"],
            ["contrastive", "--objective", "simcse", "--batch_size", "4", "--precision", "32-true"],
            ["contrastive", "--batch_size", "4", "--chunk_size", "4", "--precision", "32-true"],
            ["encode", "--count", "20"],
        ]
    ),
    ids=lambda flags: " ".join(flags[:3]),
)
def test_a_benchmark_prints_a_table_and_writes_its_figures(flags, benchmark, tmp_path):
    file = tmp_path / "figures.json"
    done = benchmark(*flags, *TINY, "--json", str(file))
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    (ours,) = figures["results"]
    assert ours["name"] == "llm2vec_pl"
    assert len(ours["seconds"]) == 1
    assert figures["tokens"] > 0
    assert figures["flops"] > 0
    assert f"{figures['tokens']:,} real tokens" in done.stdout


@pytest.mark.exhaustive
def test_sentence_transformers_runs_beside_it_with_nearly_the_same_embeddings(benchmark):
    done = benchmark("encode", *TINY, "--count", "10", "--against", "sentence-transformers")
    assert done.returncode == 0, done.stderr
    median = re.search(r"cosine of their embeddings: median ([\d.]+)", done.stdout)
    assert float(median[1]) > 0.99  # it pools BOS as well
    assert "times faster than sentence-transformers" in done.stdout


@pytest.mark.exhaustive
@pytest.mark.usefixtures("standard_library_docs")
def test_two_processes_are_compared_with_one_for_each_objective(monkeypatch, capsys):
    recipe = runpy.run_path(str(RECIPE))
    flags = ["scaling", "--rounds", "1", "--steps", "1"]
    arguments = recipe["command_line"]().parse_args(flags).as_dict()["scaling"]
    monkeypatch.setattr("torch.multiprocessing.spawn", spawn)
    recipe["JOBS"]["scaling"](**arguments)
    printed = capsys.readouterr().out
    for objective in ("mntp", "contrastive"):
        rates = re.search(rf"{objective}: ([\d,]+) and ([\d,]+) tokens per second", printed)
        alone, together = (int(rate.replace(",", "")) for rate in rates.groups())
        ratio = re.search(rf"{objective}: 2 processes are ([\d.]+) times as fast as one", printed)
        assert float(ratio[1]) == pytest.approx(together / alone, abs=0.01)


def test_what_does_not_go_together_is_refused_before_anything_runs(benchmark):
    done = benchmark("mntp", *TINY, "--against", "sentence-transformers")
    assert done.returncode == 2
    assert "does not train with MNTP" in done.stderr
    assert "Traceback" not in done.stderr
