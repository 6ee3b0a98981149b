"""All steps in one command: causal, bidirectional, MNTP, SimCSE, supervised, each evaluated.

python recipes/pipeline.py                   the embedded decoder, Python's documentation
python recipes/pipeline.py --causal true     the same without step 1 and MNTP, for comparison
python recipes/pipeline.py --stages mntp,supervised --sts stsb_test.jsonl sick_test.jsonl
python recipes/pipeline.py --configs recipes/configs/mistral-7b --trainer.devices 8
"""

import argparse
from pathlib import Path

from llm2vec_pl.errors import user_errors
from llm2vec_pl.evaluation import report
from llm2vec_pl.training.pipeline import (
    STAGES,
    Measure,
    Pipeline,
    classification,
    documentation,
    retrieval,
    sts,
)

RECIPES = Path(__file__).parent


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any other flag is passed to every recipe, or to one: --mntp.trainer.max_steps 100.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--configs",
        type=Path,
        default=RECIPES / "configs" / "tiny",
        help="a folder with a configuration for each stage, such as mntp.yaml",
    )
    parser.add_argument("--out", type=Path, help="for runs and results; runs/pipeline by default")
    parser.add_argument("--model_name", help="the decoder to start from, in place of mntp.yaml's")
    parser.add_argument(
        "--stages",
        default=",".join(STAGES),
        help="recipes to run, in this order; mntp,simcse,supervised by default",
    )
    parser.add_argument(
        "--causal",
        choices=("true", "false"),
        default="false",
        help="leave out step 1 and MNTP",
    )
    parser.add_argument(
        "--supervised_from",
        metavar="STAGE",
        help="what supervised training starts from: any stage before it; mntp by default",
    )
    add_measures(parser.add_argument_group("what each row is measured on"))
    return parser


def add_measures(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--docs",
        choices=("true", "false"),
        default="true",
        help="retrieval of the installed packages' documentation",
    )
    group.add_argument(
        "--sts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="sentence pairs with scores, such as stsb_test.jsonl",
    )
    group.add_argument(
        "--retrieval", nargs="+", default=[], metavar="FOLDER", help="folders in BEIR's layout"
    )
    group.add_argument(
        "--classification",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders with train.jsonl and test.jsonl, of `text` and `label`",
    )
    limits = {"queries": 500, "documents": 2000, "texts": 2000}
    of = {"queries": "of each retrieval", "documents": "of each retrieval", "texts": "to classify"}
    for what, limit in limits.items():
        group.add_argument(
            f"--limit_{what}",
            type=count,
            default=limit,
            metavar="N",
            help=f"the most {what} {of[what]}; {limit:,} by default, 0 for all",
        )


def count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def measures(known: argparse.Namespace) -> list[Measure]:
    limits = known.limit_queries or None, known.limit_documents or None
    return [
        *([documentation()] if known.docs == "true" else []),
        *(sts(path) for path in known.sts),
        *(retrieval(path, *limits) for path in known.retrieval),
        *(classification(path, known.limit_texts or None) for path in known.classification),
    ]


if __name__ == "__main__":
    known, flags = command_line().parse_known_args()
    causal = known.causal == "true"
    out = known.out or Path("runs") / ("pipeline-causal" if causal else "pipeline")
    with user_errors():
        pipeline = Pipeline(
            recipes=RECIPES,
            configs=known.configs,
            out=out,
            stages=[stage.strip() for stage in known.stages.split(",") if stage.strip()],
            model_name=known.model_name,
            causal=causal,
            supervised_from=known.supervised_from,
            measures=measures(known),
            flags=flags,
        )
        notes = [measure.note for measure in pipeline.measures if measure.note]
        report(pipeline.run(), out, notes)
