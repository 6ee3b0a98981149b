"""Which settings of its checkpoint's optimizer a resumed run takes over."""

from __future__ import annotations

from typing import Any

IMPLEMENTATION = ("fused", "foreach", "capturable")
"""Settings of an optimizer that say how it computes: a resumed run keeps its own."""


def resumed_settings(saved: dict[str, Any]) -> dict[str, Any]:
    """The settings that a resumed run takes over for a group of parameters.

    Args:
        saved: the group from the checkpoint, with its learning rate and `params`.

    >>> resumed_settings({"params": [0], "lr": 0.1, "fused": True})
    {'lr': 0.1}
    """
    own = ("params", *IMPLEMENTATION)
    return {key: value for key, value in saved.items() if key not in own}
