"""Measures training and encoding as ratios within one run, since machines differ and are shared.

python recipes/benchmark.py mntp --against reference/bin/python           the authors' llm2vec 0.2.3
python recipes/benchmark.py contrastive --objective simcse --batch_size 64
python recipes/benchmark.py encode --against sentence-transformers
python recipes/benchmark.py mntp --shape 8B --encoder.dtype bfloat16      on a GPU
python recipes/benchmark.py startup
python recipes/benchmark.py scaling                                       two processes against one
python recipes/benchmark.py serve                                         a server under load
python recipes/benchmark.py stages --model FOLDER --against reference/bin/python   whole stages
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is no part of the package

from benchmarks import works
from benchmarks.scaling import scaling
from benchmarks.server_load import serve
from benchmarks.stages.compare import stages
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import Help, Parser, silence_noise

OF_AN_ENCODER = (works.mntp, works.contrastive, works.encode)
JOBS = {job.__name__: job for job in (*OF_AN_ENCODER, works.startup, scaling, serve, stages)}


def command_line() -> Parser:
    parser = Parser(description=__doc__, formatter_class=Help)
    commands = parser.add_subcommands()
    for name, job in JOBS.items():
        flags = Parser(description=(job.__doc__ or "").splitlines()[0])
        flags.add_function_arguments(job, skip={"encoder"})
        if job in OF_AN_ENCODER:
            flags.add_class_arguments(Encoder, "encoder", skip={"model_name"}, instantiate=False)
            flags.add_argument(
                "--encoder.model_name", type=str | None, default=None, help="instead of a shape"
            )
        commands.add_subcommand(name, flags)
    return parser


if __name__ == "__main__":
    silence_noise()
    arguments = command_line().parse_args().as_dict()
    name = arguments.pop("subcommand")
    with user_errors():
        JOBS[name](**arguments[name])
