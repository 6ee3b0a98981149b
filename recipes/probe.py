"""Compares encoders on word-level tasks, by a linear probe on their frozen hidden states.

python recipes/probe.py --decoder tiny --data ud_english_ewt:pos wnut17:ner
python recipes/probe.py --pipeline runs/pipeline --data conll2003:pos conll2003:chunk conll2003:ner
python recipes/probe.py --decoder smollm2-135m --encoders mntp=runs/mntp bert=bert-base-uncased \
    --data ud_english_ewt:pos --layer all
"""

from pathlib import Path

from llm2vec_pl.errors import UserError, user_errors
from llm2vec_pl.evaluation.word_probe import Probed, ProbeTask, Results, Training, compare, report
from llm2vec_pl.training import Help, Parser, silence_noise
from llm2vec_pl.training.pipeline import trained_encoders


def command_line() -> Parser:
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_argument(
        "--data",
        nargs="+",
        type=str,
        required=True,
        metavar="PATH:TASK",
        help="folders, files or data sets of the hub, each with pos, chunk or ner; and with the "
        "tags' column, if it is not the usual one: ud_english_ewt:pos:xpos",
    )
    parser.add_argument(
        "--decoder", type=str, help="a decoder to probe twice: causal, and bidirectional"
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        metavar="FOLDER",
        help="of recipes/pipeline.py: its decoder, causal and bidirectional, and all its stages",
    )
    parser.add_argument(
        "--encoders",
        nargs="+",
        type=str,
        default=[],
        metavar="NAME=MODEL",
        help="trained encoders, opened as they were saved, or encoder-only models such as BERT: "
        "folders or names on the hub",
    )
    parser.add_argument(
        "--layer",
        nargs="+",
        type=str,
        default=["last"],
        help="whose states to read: last, all, or numbers from 0, the embeddings",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="probes of each encoder, task and layer"
    )
    parser.add_argument(
        "--max_steps", type=int, default=Training.steps, help="of each probe, of 8 sentences"
    )
    parser.add_argument(
        "--learning_rate",
        type=float,
        default=Training.learning_rate,
        help="of a probe's first step; it falls to 0",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/probe"), help="the folder for results and figures"
    )
    return parser


def models(decoder: str | None, pipeline: Path | None, encoders: list[str]) -> list[Probed]:
    """What to compare, in the order of the figure."""
    if decoder and pipeline:
        raise UserError(
            f"--decoder {decoder} and --pipeline {pipeline} both name a decoder to probe. Leave "
            "out one of them."
        )
    stages: dict[str, str] = {}
    if pipeline:
        decoder, stages = trained_encoders(pipeline)
    found = []
    if decoder:
        found += [Probed("causal", decoder, False), Probed("bidirectional", decoder, True)]
    found += [Probed(row, encoder) for row, encoder in stages.items()]
    for each in encoders:
        name, _, model = each.partition("=")
        if not name or not model:
            raise UserError(
                f"--encoders expects NAME=MODEL, such as mntp=runs/mntp, but got {each!r}."
            )
        found.append(Probed(name, model))
    if not found:
        raise UserError("Name what to probe: --decoder, --pipeline or --encoders.")
    return found


if __name__ == "__main__":
    silence_noise()
    with user_errors():
        flags = command_line().parse_args()
        for flag in ("seeds", "max_steps"):
            if flags[flag] < 1:
                raise UserError(f"--{flag} expects at least 1, but got {flags[flag]}.")
        if not flags.learning_rate > 0:
            raise UserError(f"--learning_rate expects more than 0, but got {flags.learning_rate}.")
        probed = models(flags.decoder, flags.pipeline, flags.encoders)
        tasks = [ProbeTask.parse(text) for text in flags.data]
        training = Training(flags.max_steps, flags.learning_rate)
        results = Results(flags.out / "results.json")
        try:
            found = compare(probed, tasks, results, flags.layer, flags.seeds, training)
        except KeyboardInterrupt:
            print("Stopped. What is measured is kept; the same command goes on.")
            raise SystemExit(130) from None
        report(found, flags.out)
