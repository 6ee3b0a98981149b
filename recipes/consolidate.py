"""Makes an encoder's folder from a checkpoint, of a stopped run or one that was saved in shards.

python recipes/consolidate.py runs/mntp/version_0
python recipes/consolidate.py runs/mntp/version_0/checkpoints/best.ckpt --out my-encoder
"""

from jsonargparse import CLI

from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import consolidate

if __name__ == "__main__":
    with user_errors():
        CLI(consolidate, as_positional=True)
