"""Evaluates an encoder on tasks of MTEB, and prints the scores beside the paper's.

python recipes/evaluate.py --encoder.model_name runs/simcse --tasks STSBenchmark,SciFact
python recipes/evaluate.py --encoder.model_name runs/simcse --tasks eng-v1  # all 56 tasks
python recipes/evaluate.py --encoder.model_name runs/simcse --data_dir my_data  # local files
"""

from pathlib import Path
from typing import Any

import torch

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import Help, Parser, silence_noise, still_at

# These matter only in training.
TRAINING = {"lora_rank", "lora_alpha", "lora_dropout", "dora", "rslora", "attention_dropout"}
TRAINING |= {"gradient_checkpointing", "random_weights"}


def run(
    encoder: dict[str, Any],
    tasks: str | None = None,
    data_dir: Path | None = None,
    out: Path = Path("runs/mteb"),
    instructions: str = "paper",
    batch_size: int = 32,
    devices: str = "auto",
    keep_embeddings: bool = True,
    name: str | None = None,
) -> None:
    """Evaluates on each task that has no results yet, and prints the results of all models.

    Args:
        encoder: the arguments of `Encoder` that override the folder's own settings.
        tasks: names of tasks, separated by commas, or lists of them: paper (the 15 of the paper's
            ablations), eng-v1 (56 tasks), eng-v2 (41 tasks), local (all tasks in data_dir). By
            default local if there is a data_dir, otherwise paper.
        data_dir: a folder with local data, KIND/TASK; see docs/use.md. Its tasks come before those
            of the hub with the same name.
        out: the folder for results, in MTEB's layout, and for table.md. The table has a column for
            each model with results there.
        instructions: what is written before the texts: paper (MTEB's own for tasks that the paper
            does not have), model (the encoder's own prompts), none, or a YAML file of
            `TASK: "instruction "`.
        batch_size: most texts that go through the decoder at once.
        devices: cpu, cuda, cuda:1, …, or several, separated by commas, each with a process of its
            own; auto takes all GPUs, or the CPU.
        keep_embeddings: keep embeddings on disk (LLM2VEC_PL_CACHE), for tasks that share texts and
            for later runs: 4 bytes for each element.
        name: the model's name in results; its path by default.
    """
    # Here, because importing mteb takes seconds, and it may not be installed.
    from llm2vec_pl.evaluation.mteb import (
        chosen_tasks,
        evaluate_tasks,
        local_tasks,
        open_for_mteb,
        print_results,
        results_in,
    )

    local = local_tasks(data_dir) if data_dir else {}
    names = (tasks or ("local" if local else "paper")).split(",")
    chosen = chosen_tasks([each.strip() for each in names if each.strip()], local)
    automatic = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    model = open_for_mteb(
        encoder.pop("model_name", "tiny"),
        automatic if devices == "auto" else devices.split(","),
        instructions,
        keep_embeddings,
        name,
        **encoder,
    )
    try:
        with still_at("evaluating"):
            evaluate_tasks(model, chosen, out, batch_size)
    finally:  # also of those that are there if data of others is missing
        if scores := results_in(out, list(chosen)):
            print_results(scores, chosen, out)


if __name__ == "__main__":
    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_class_arguments(Encoder, "encoder", instantiate=False, skip=TRAINING)
    parser.add_function_arguments(run, skip={"encoder"})
    with user_errors():
        given, values = parser.parse_beside_encoder()
        try:
            run(given, **values)
        except KeyboardInterrupt:
            print("Stopped. Tasks with results are kept; the same command goes on.")
            raise SystemExit(130) from None
