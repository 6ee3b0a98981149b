"""Strategy x precision x quantization x objective x ranks: each trains as one process does.

The table of the largest differences is printed, and written to `LLM2VEC_PL_MATRIX` where that names
a file: `LLM2VEC_PL_MATRIX=matrix.md pytest --exhaustive -s tests/distributed/test_matrix.py`.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from matrix_runs import launch
from saved_models import save_model, small_llama

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
QUANTIZATIONS = (None, "nf4", "int8")
OBJECTIVES = ("mntp", "contrastive", "chunks")

# Of a loss, relative. In bfloat16 a sum has other roundings where a batch has other texts, and
# Adam's first steps are as large for a gradient that is all rounding as for any other: 2.3e-2 was
# seen in the third loss, on a CPU that multiplies in bfloat16.
TOLERANCES = {"32-true": 1e-5, "bf16-mixed": 4e-2, "bf16-true": 4e-2}

PLAIN = {"precision": "32-true", "quantization": None}
WAYS_OF_TRAINING = [
    {"accumulate": 2, "sgd": 0.5},
    {"accumulate": 2, "sgd": 5.0, "clip": 0.05},
    {"gradient_checkpointing": True},
    {"lora_rank": 0, "clip": 0.05},
    {"lora_rank": 0, "model": "tied"},
    {"model": "tied"},
]
Case = dict[str, Any]


def cases() -> list[Case]:
    """What is trained, by whatever strategy."""
    crossed = [
        {"precision": p, "quantization": q, "objective": o}
        for p, q, o in product(PRECISIONS, QUANTIZATIONS, OBJECTIVES)
        if (p, o) != ("bf16-mixed", "contrastive") or q is None  # a case takes a second or two
    ]
    ways = [{**PLAIN, "objective": o, **w} for o, w in product(OBJECTIVES[::2], WAYS_OF_TRAINING)]
    # Its own optimizer differs: Muon wants whole matrices.
    causal = {**PLAIN, "objective": "causal language model", "lora_rank": 0, "sgd": 0.5}
    return [*crossed, *ways, causal]


def sample() -> list[Case]:
    """Cases of each kind: on four ranks, and in `make test`, only these."""
    return [case for case in cases() if case["objective"] != "contrastive"][::6]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    return {
        "untied": str(save_model(small_llama(**sizes), folder / "untied")),
        "tied": str(save_model(small_llama(tie_word_embeddings=True, **sizes), folder / "tied")),
    }


@pytest.fixture(scope="module")
def run(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Losses of cases, by one launch of that many processes."""

    def losses(strategy: str, ranks: int, chosen: list[Case]) -> list[list[float]]:
        folder = tmp_path_factory.mktemp("run")
        todo = [
            {**case, "strategy": strategy, "model": models[case.get("model", "untied")]}
            for case in chosen
        ]
        return launch(ranks, todo, models["untied"], folder)

    return losses


@pytest.fixture(scope="module")
def alone(run: Any) -> Any:
    """Losses of cases in one process."""
    known: dict[str, list[float]] = {}

    def losses(chosen: list[Case]) -> list[list[float]]:
        new = [case for case in chosen if str(case) not in known]
        if new:
            known.update(zip(map(str, new), run("auto", 1, new), strict=True))
        return [known[str(case)] for case in chosen]

    return losses


@pytest.fixture(scope="module")
def table() -> Any:
    rows = [
        "| strategy | ranks | precision | quantization | objective | with | largest difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    yield rows
    print("\n" + "\n".join(rows))
    if target := os.environ.get("LLM2VEC_PL_MATRIX"):
        Path(target).write_text("\n".join(rows) + "\n")


@pytest.mark.exhaustive
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_as_one_process_does(strategy, run, alone, table):
    assert_as_one_process(strategy, 2, cases(), run, alone, table)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [
        ("fsdp2", 4),
        pytest.param("fsdp2", 1, marks=pytest.mark.exhaustive),
        pytest.param("ddp", 4, marks=pytest.mark.exhaustive),
    ],
)
def test_any_number_of_ranks_trains_a_sample_as_one_process_does(
    strategy, ranks, run, alone, table
):
    assert_as_one_process(strategy, ranks, sample(), run, alone, table)


def assert_as_one_process(
    strategy: str, ranks: int, chosen: list[Case], run: Any, alone: Any, table: list[str]
) -> None:
    faults = []
    for case, got, right in zip(chosen, run(strategy, ranks, chosen), alone(chosen), strict=True):
        difference = largest_difference(got, right)
        table.append(row(strategy, ranks, case, difference))
        if not difference <= TOLERANCES[case["precision"]]:
            faults.append(table[-1])
    assert not faults, "\n".join(faults)


@pytest.mark.exhaustive
def test_the_losses_of_a_case_change_from_step_to_step(alone):
    """Otherwise equal losses would say nothing about the weights."""
    for losses in alone(cases()):
        assert abs(losses[0] - losses[-1]) > 1e-3


def largest_difference(got: list[float], expected: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(got, expected, strict=True))


def row(strategy: str, ranks: int, case: Case, difference: float) -> str:
    known = ("precision", "quantization", "objective")
    rest = ", ".join(f"{k} {v}" for k, v in case.items() if k not in known)
    cells = [strategy, ranks, *(case[k] or "none" for k in known), rest, f"{difference:.1e}"]
    return f"| {' | '.join(str(cell) for cell in cells)} |"
