"""All steps in one command: causal, bidirectional, MNTP, SimCSE, supervised, and what each brought.

python recipes/pipeline.py                   the embedded decoder, Python's documentation
python recipes/pipeline.py --causal true     the same without step 1 and MNTP, to compare
python recipes/pipeline.py --configs recipes/configs/mistral-7b --trainer.devices 8
"""

import argparse
from pathlib import Path

from llm2vec_pl.errors import user_errors
from llm2vec_pl.evaluation import report
from llm2vec_pl.training.pipeline import Pipeline

RECIPES = Path(__file__).parent

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any other flag goes to every recipe, or to one: --mntp.trainer.max_steps 100.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--configs",
        type=Path,
        default=RECIPES / "configs" / "tiny",
        help="a folder with mntp.yaml, simcse.yaml and supervised.yaml",
    )
    parser.add_argument("--out", type=Path, help="for runs and results; runs/pipeline")
    parser.add_argument("--model_name", help="the decoder to start from, instead of mntp.yaml's")
    parser.add_argument(
        "--causal",
        choices=("true", "false"),
        default="false",
        help="leave out step 1 and MNTP",
    )
    parser.add_argument("--supervised_from", choices=("mntp", "simcse"), default="mntp")
    parser.add_argument("--sts", help="sentence pairs with scores, such as stsb_test.jsonl")
    known, flags = parser.parse_known_args()
    causal = known.causal == "true"
    out = known.out or Path("runs") / ("pipeline-causal" if causal else "pipeline")
    with user_errors():
        pipeline = Pipeline(
            recipes=RECIPES,
            configs=known.configs,
            out=out,
            model_name=known.model_name,
            causal=causal,
            supervised_from=known.supervised_from,
            sts=known.sts,
            flags=flags,
        )
        report(pipeline.run(), out)
