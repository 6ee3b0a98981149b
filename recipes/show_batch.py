"""Prints what a batch is, text by text, with the tokens that are pooled marked.

python recipes/show_batch.py --data E5 --data.path ../shared/data/echo-data
python recipes/show_batch.py --data PythonDocsPairs --encoder.model_name Qwen/Qwen3-0.6B
python recipes/show_batch.py --config runs/supervised/version_0/config.yaml --task nq --batches 3
"""

import os
import sys
import warnings
from argparse import SUPPRESS

from jsonargparse import ActionConfigFile
from lightning.pytorch import LightningDataModule

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import Parser, ShowBatch, silence_noise

if __name__ == "__main__":
    silence_noise()
    warnings.simplefilter("ignore", DeprecationWarning)  # between libraries
    sys.path.insert(0, os.getcwd())  # for --data my_module.MyData
    parser = Parser(description=__doc__)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="read flags from YAML")
    parser.add_class_arguments(Encoder, "encoder")
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    parser.add_class_arguments(ShowBatch, skip={"encoder", "console"})
    parser.add_method_arguments(ShowBatch, "show", skip={"data"})
    for other in ("model", "trainer", "seed_everything", "resume"):  # of a run's config.yaml
        parser.add_argument(f"--{other}", type=dict | int | str | None, help=SUPPRESS)
    parser.set_defaults({"data": "llm2vec_pl.data.PythonDocsPairs"})
    with user_errors():
        flags = parser.instantiate_classes(parser.parse_args())
        printer = ShowBatch(flags.encoder, flags.max_rows, flags.max_tokens)
        printer.show(flags.data, flags.split, flags.batches, flags.task)
