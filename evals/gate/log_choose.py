"""The logarithm of the binomial coefficient, which overflows as a float."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from numpy.typing import NDArray
from scipy.special import gammaln


def log_choose(n: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """ln C(n, k) for whole n >= 0, elementwise and broadcast; -inf outside 0..n.

    float64: at n = 1319 the terms are below 1e4, so the error is about 1e-12.
    """
    n, k = np.asarray(n), np.asarray(k)
    log_factorial = _log_factorials(int(n.max()).bit_length())
    inside = (k >= 0) & (k <= n)
    within = np.where(inside, k, 0)
    value = log_factorial[n] - log_factorial[within] - log_factorial[n - within]
    return np.where(inside, value, -np.inf)


@cache
def _log_factorials(bits: int) -> NDArray[np.float64]:
    """ln 0!, ln 1!, ... for whole numbers of so many bits: a decision asks for many."""
    return np.asarray(gammaln(np.arange(1 << bits) + 1.0))
