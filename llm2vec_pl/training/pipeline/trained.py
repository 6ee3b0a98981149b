"""What a pipeline has trained, read from its folder."""

from __future__ import annotations

from pathlib import Path

from llm2vec_pl.decoder import LINEAGE
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json
from llm2vec_pl.training.pipeline.stage_record import StageRecord
from llm2vec_pl.training.pipeline.stages import ROWS, row_of


def trained_encoders(folder: Path) -> tuple[str, dict[str, str]]:
    """The decoder that a pipeline started from, and the encoder of each finished stage.

    Args:
        folder: of `recipes/pipeline.py`.

    Returns:
        Any `--encoder.model_name` of the decoder; and those of the stages, in the method's order,
        by their rows in the pipeline's table.

    Raises:
        UserError: if no stage is finished there.
    """
    records = {stage: StageRecord(folder / stage) for stage in ROWS}
    encoders = {stage: record.encoder for stage, record in records.items() if record.done}
    if not encoders:
        raise UserError(
            f"{folder} has no finished stage of a pipeline. Expected the folder of "
            f"recipes/pipeline.py, with {', '.join(ROWS)} or some of them (looked for "
            f"{folder / next(iter(ROWS)) / 'done.json'})."
        )
    first = Path(next(iter(encoders.values())))
    decoder = read_json(first / LINEAGE).get("base_model")
    if not decoder:
        raise UserError(f"{first / LINEAGE} does not name the decoder. Name it: --decoder.")
    return str(decoder), {row_of(stage): encoder for stage, encoder in encoders.items()}
