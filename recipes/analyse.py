"""Why the method works: the analyses of the paper's section 4, each with a table and a figure.

python recipes/analyse.py                                    the embedded decoder, causal and not
python recipes/analyse.py --encoders mntp=runs/mntp simcse=runs/simcse
python recipes/analyse.py --encoder.model_name smollm2-135m --analyses similarity,attention
python recipes/analyse.py --encoders mntp=runs/mntp --texts articles.jsonl --column body

The decoder is opened twice, as `causal` and as `bidirectional`; trained encoders are compared with
both.

  future      does an embedding use the future? sentences that begin alike and end differently
  similarity  cosine of hidden states with the causal ones, by layer and position
  geometry    alignment, uniformity, anisotropy and effective rank, by layer
  layers      STS and retrieval, by layer and pooling
  attention   how much attention goes to later tokens, by layer
"""

from functools import partial
from pathlib import Path
from typing import Any

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import user_errors
from llm2vec_pl.evaluation.analysis import (
    ANALYSES,
    analyse,
    chosen_analyses,
    named_encoders,
    read_material,
)
from llm2vec_pl.training import Help, Parser, silence_noise, still_at

# These matter only in training, or are what the analyses vary themselves.
SET = {"lora_rank", "lora_alpha", "lora_dropout", "dora", "rslora", "lora_targets"}
SET |= {"attention_dropout", "gradient_checkpointing", "random_weights", "bidirectional"}
SET |= {"attention", "fingerprint"}


def run(
    encoder: dict[str, Any],
    encoders: list[str],
    analyses: str = ",".join(ANALYSES),
    out: Path = Path("runs/analysis"),
    triples: Path | None = None,
    texts: str | None = None,
    column: str = "text",
    sts: Path | None = None,
    retrieval: Path | None = None,
    limit: int = 200,
    length: int = 64,
) -> None:
    """Measures, prints, draws.

    Args:
        encoder: the arguments of `Encoder` for all of them. Here texts are cut at 128 tokens, and
            the weights are in float32, unless a flag says otherwise. The decoder is that of the
            trained encoders, or else tiny.
        encoders: trained encoders, each NAME=FOLDER.
        analyses: some of future, similarity, geometry, layers and attention, separated by commas.
        out: the folder for ANALYSIS.json and ANALYSIS.png.
        triples: for future: a file with query, positive and negative, of which those that begin
            alike are used; by default 48 that were written for it.
        texts: for similarity and attention: a file or folder of long texts (txt, jsonl, csv,
            parquet); by default held-out documentation of the installed Python packages.
        column: the column of texts with the text.
        sts: a file of pairs with scores for layers; geometry takes its most similar pairs.
        retrieval: a folder in BEIR's layout for layers; the documentation without one and without
            sts.
        limit: most triples, pairs, and queries.
        length: tokens of each text for similarity and attention.
    """
    chosen = chosen_analyses(analyses)
    opened = named_encoders(encoders, encoder)
    material = read_material(chosen, triples, texts, column, sts, retrieval, limit, length)
    with still_at("analysing"):
        analyse(opened, chosen, material, out, partial(print, flush=True))


if __name__ == "__main__":
    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_class_arguments(Encoder, "encoder", instantiate=False, skip=SET)
    parser.add_function_arguments(run, skip={"encoder", "encoders"})
    parser.add_argument(
        "--encoders", nargs="+", type=str, default=[], help="trained encoders, each NAME=FOLDER"
    )
    with user_errors():
        given, values = parser.parse_beside_encoder()
        try:
            run(given, **values)
        except KeyboardInterrupt:
            print("Stopped. What the encoders before gave is written.")
            raise SystemExit(130) from None
