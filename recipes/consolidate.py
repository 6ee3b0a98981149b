"""Makes an encoder's folder of a checkpoint: of a run that was stopped, or one saved in shards.

python recipes/consolidate.py runs/mntp/version_0
python recipes/consolidate.py runs/mntp/version_0/checkpoints/best.ckpt --out my-encoder
"""

from jsonargparse import CLI

from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import consolidate

if __name__ == "__main__":
    with user_errors():
        CLI(consolidate, as_positional=True)
