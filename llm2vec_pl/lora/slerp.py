"""Spherical interpolation between two tensors (Shoemake 1985)."""

from __future__ import annotations

import math

NEARLY_PARALLEL = 0.9995
"""The cosine from which on a straight line is taken in place of the arc, as mergekit does. They are
less than 0.1 % apart there, and the arc between opposite tensors is not defined."""


def slerp_coefficients(dot: float, first: float, second: float, t: float) -> tuple[float, float]:
    """What two tensors are multiplied by before they are added: sin((1-t)θ)/sin θ, sin(tθ)/sin θ.

    The angle θ is the one between the tensors, whose lengths stay as they are. Without an angle,
    where one of them is zero, or where they are almost parallel or opposite, the coefficients are
    1 - t and t.

    Args:
        dot: the tensors' inner product.
        first: the first tensor's norm.
        second: the second tensor's norm.
        t: how far to go from the first to the second, in [0, 1].

    >>> [round(c, 4) for c in slerp_coefficients(0.0, 1.0, 1.0, 0.5)]  # at a right angle
    [0.7071, 0.7071]
    """
    cosine = dot / (first * second) if first and second else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
