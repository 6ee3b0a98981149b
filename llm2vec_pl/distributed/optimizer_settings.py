"""What a resumed run takes over of the settings that a checkpoint's optimizer had."""

from __future__ import annotations

from typing import Any

IMPLEMENTATION = ("fused", "foreach", "capturable")
"""Settings of an optimizer that say how it computes: a resumed run keeps its own."""


def resumed_settings(saved: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group of parameters that a run goes on with.

    Args:
        saved: the group as a checkpoint has it, its learning rate and `params` among the rest.

    >>> resumed_settings({"params": [0], "lr": 0.1, "fused": True})
    {'lr': 0.1}
    """
    own = ("params", *IMPLEMENTATION)
    return {key: value for key, value in saved.items() if key not in own}
