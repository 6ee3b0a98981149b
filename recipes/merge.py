"""Averages the weights of encoders that were trained from the same ones: a model soup.

python recipes/merge.py runs/a/encoder runs/b/encoder --out runs/soup
python recipes/merge.py runs/a/encoder runs/b/encoder --weights 0.7 0.3 --rank 16 --out runs/soup
python recipes/merge.py runs/a/encoder runs/b/encoder --slerp --out runs/soup
"""

from llm2vec_pl.encoder import average_encoders
from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import Help, Parser, silence_noise

if __name__ == "__main__":
    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_argument(
        "folders", nargs="+", type=str, help="two encoders or more: folders or names on the hub"
    )
    parser.add_argument("--out", type=str, required=True, help="the folder to write")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        help="of each encoder; only their ratios count; equal by default",
    )
    parser.add_argument(
        "--rank",
        type=int,
        help="reduce the averaged LoRA to this rank; by default it is exact, of the summed rank",
    )
    parser.add_argument(
        "--slerp",
        action="store_true",
        help="interpolate between two encoders on the sphere, in place of the line",
    )
    with user_errors():
        flags = parser.parse_args()
        average_encoders(
            flags.folders, flags.out, flags.weights, flags.rank, flags.slerp, report=print
        )
