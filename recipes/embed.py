"""Embeds a corpus into Parquet files; after a kill, the same command goes on where it was.

python recipes/embed.py --corpus articles.jsonl --columns body --out runs/articles
python recipes/embed.py --encoder.model_name runs/simcse --corpus texts.txt --out runs/texts
python recipes/embed.py --corpus corpus.jsonl --columns title text --keep text --out runs/corpus
torchrun --nproc_per_node 8 recipes/embed.py --corpus org/name --streaming true --out runs/hub
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only

from llm2vec_pl.data.files import OnBadRow
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import Help, Parser, silence_noise
from llm2vec_pl.use.bulk import (
    Documents,
    Embedding,
    StoppedError,
    choose_columns,
    embed_corpus,
    embed_corpus_on_ray,
    open_corpus,
)

# These matter only in training.
TRAINING = {"lora_rank", "lora_alpha", "lora_dropout", "dora", "rslora", "lora_targets"}
TRAINING |= {"gradient_checkpointing", "random_weights", "attention_dropout"}

Engine = Literal["lightning", "ray"]


def run(
    encoder: dict[str, Any],
    how: Embedding,
    corpus: str,
    out: Path,
    columns: list[str],
    keep: list[str],
    id_column: str | None = None,
    subset: str | None = None,
    split: str = "train",
    streaming: bool = False,
    on_bad_row: OnBadRow = "error",
    rows_per_file: int = 10_000,
    accelerator: str = "auto",
    devices: str | int = "auto",
    num_nodes: int = 1,
    engine: Engine = "lightning",
) -> None:
    """Reads, embeds, writes, and says what was left out.

    Args:
        encoder: the arguments of `Encoder` that override the folder's own settings.
        how: what becomes of the embeddings.
        corpus: a txt, jsonl, csv, tsv or parquet file (also .gz), a folder with files of one such
            kind, or a data set of the hub.
        out: the folder to write; if an earlier run began it, what is missing is added.
        columns: with the text; those of several are joined by a blank.
        keep: columns to copy into the files.
        id_column: with the ids; `_id` or `id` if there is one, else the rows are numbered.
        subset: of a data set of the hub.
        split: of a data set of the hub.
        streaming: read a data set of the hub while it is downloaded, without keeping it.
        on_bad_row: stop at a row without a text or an id, or leave such rows out.
        rows_per_file: a kill loses the work on one file per device.
        accelerator: cpu, gpu, …; auto takes a GPU if there is one.
        devices: how many of them on each machine, or which.
        num_nodes: machines; all see the same corpus and write to the same folder.
        engine: lightning runs on the devices of named machines; ray on a cluster that may grow,
            shrink and lose workers, with at most `devices` actors.
    """
    opened = open_corpus(corpus, subset, split, streaming)
    chosen = choose_columns(opened, columns, id_column, keep)
    documents = Documents(opened, chosen, rows_per_file, on_bad_row)
    opened_by = partial(Encoder.from_pretrained, encoder.pop("model_name", "tiny"), **encoder)
    if engine == "ray":
        done = embed_corpus_on_ray(opened_by, documents, out, how, devices)
    else:
        options = (accelerator, devices, num_nodes)
        done = embed_corpus(opened_by(), documents, out, how, *options)
    say = rank_zero_only(print)
    if done.left_out:
        say(f"{done.left_out:,} rows without a text or an id were left out")
    rate = f"; {done.rate:,.0f} rows/s" if done.rate else ""
    say(f"{done.rows:,} rows in {done.files:,} files in {out}{rate}")


if __name__ == "__main__":
    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_class_arguments(Encoder, "encoder", instantiate=False, skip=TRAINING)
    parser.add_class_arguments(Embedding)
    parser.add_function_arguments(run, skip={"encoder", "how", "columns", "keep"})
    several: dict[str, Any] = {"nargs": "+", "type": str}
    parser.add_argument(
        "--columns",
        **several,
        default=["text"],
        help="with the text; several are joined by a blank",
    )
    parser.add_argument("--keep", **several, default=[], help="columns to copy into the files")
    with user_errors():
        given, values = parser.parse_beside_encoder()
        how = Embedding(**{name: values.pop(name) for name in Embedding.__dataclass_fields__})
        try:
            run(given, how, **values)
        except (StoppedError, KeyboardInterrupt) as stop:
            code = stop.code if isinstance(stop, StoppedError) else 130
            if code:
                print(
                    f"Stopped by {str(stop) or 'SIGINT'}. The files in {values['out']} are whole; "
                    "give the same command again to go on.",
                    file=sys.stderr,
                )
            raise SystemExit(code) from None
