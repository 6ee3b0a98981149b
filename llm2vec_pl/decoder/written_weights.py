"""Writes a model that this process holds whole to a folder, whichever rank the process is."""

from __future__ import annotations

import errno
from pathlib import Path

from transformers import PreTrainedModel


def write_weights(model: PreTrainedModel, folder: Path) -> None:
    """Saves the configuration and the weights as safetensors.

    Args:
        model: with real weights, in any mix of dtypes.
        folder: an existing one.

    Raises:
        OSError: if they cannot be written.
    """
    from safetensors import SafetensorError

    # transformers writes on rank 0 only, but whichever rank of a node is first writes a cache.
    vars(model)["should_save_on_this_rank"] = lambda is_main_process: True
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, "No space left", str(folder)) from error
        raise
