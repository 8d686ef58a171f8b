"""Learning rates over a training: from its progress, 0 to 1, to a share of the peak.

:func:`~lightning_nas.nn.training.one_cycle` is another.
"""

from __future__ import annotations

import math


def cosine(progress: float) -> float:
    """From the peak to 0 along half a cosine (Loshchilov & Hutter, arXiv 1608.03983, without restarts).

    Example:
        >>> [round(cosine(x), 2) for x in (0, 0.25, 0.5, 1)]
        [1.0, 0.85, 0.5, 0.0]
    """
    return 0.5 + 0.5 * math.cos(math.pi * progress)


def constant(progress: float) -> float:
    """The peak throughout."""
    return 1.0
