"""`recipes/serve.py FLAGS` whose encoder runs in a forked process, which need not import anything.

LitServe asks for spawned ones.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
from pathlib import Path

import torch

context_for = multiprocessing.get_context

if __name__ == "__main__":
    multiprocessing.get_context = lambda method=None: context_for(
        "fork" if method == "spawn" else method
    )
    # The first thread that computes after a fork makes torch's pool of threads anew. When several
    # begin at once, as when transformers reads weights, one of them may find none.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
    os.setpgrp()  # so that a test finds all its processes
    recipe = Path(__file__).parents[1] / "recipes" / "serve.py"
    runpy.run_path(str(recipe), run_name="__main__")
