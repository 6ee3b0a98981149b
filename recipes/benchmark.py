"""Measures training, as ratios of two ways in the same run: machines differ, and are shared.

python recipes/benchmark.py scaling          two processes against one, a thread each, on the CPU
"""

from jsonargparse import CLI

from llm2vec_pl.benchmark.scaling import scaling

if __name__ == "__main__":
    CLI({"scaling": scaling}, as_positional=False)
