"""`recipes/serve.py FLAGS` whose encoder runs in a forked process, which need not import anything.

LitServe asks for spawned ones.
"""

import multiprocessing
import os
import runpy
from pathlib import Path

context_for = multiprocessing.get_context

if __name__ == "__main__":
    multiprocessing.get_context = lambda method=None: context_for(
        "fork" if method == "spawn" else method
    )
    os.setpgrp()  # so that a test finds all its processes
    recipe = Path(__file__).parents[1] / "recipes" / "serve.py"
    runpy.run_path(str(recipe), run_name="__main__")
