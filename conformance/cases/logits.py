"""Router logits that make each class of routing fault visible."""

from __future__ import annotations

import numpy as np
import torch

LOGIT_KINDS = (
    "distinct",
    "ties",
    "near_ties",
    "all_negative",
    "wide",
    "all_equal",
    "nan",
    "inf",
)


def make_logits(kind: str, *, tokens: int, experts: int, seed: int = 0) -> torch.Tensor:
    """float32 [t, e] of one kind, deterministic.

    distinct : normal. ties : on a grid of 1/4, so that most rows tie. near_ties :
    differences of a few units in the last place of float32 around 4, which vanish
    in bfloat16. all_negative : -1 and below. wide : from -200 to 200, where exp
    overflows. all_equal : one value. nan : some rows hold NaN, one only NaN. inf :
    +Inf and -Inf.
    """
    random = np.random.default_rng((seed, LOGIT_KINDS.index(kind), experts))
    values = random.standard_normal((tokens, experts)) * 2
    if kind == "ties":
        values = np.round(values * 4) / 4
    elif kind == "near_ties":
        values = (
            4
            + random.permuted(np.tile(np.arange(experts), (tokens, 1)), axis=1) * 2**-20
        )
    elif kind == "all_negative":
        values = -1 - np.abs(values)
    elif kind == "wide":
        values = random.uniform(-200, 200, (tokens, experts))
    elif kind == "all_equal":
        values = np.full((tokens, experts), 0.5)
    elif kind == "nan":
        values[random.random((tokens, experts)) < 0.1] = np.nan
        values[0] = np.nan
    elif kind == "inf":
        values[random.random((tokens, experts)) < 0.05] = np.inf
        values[random.random((tokens, experts)) < 0.05] = -np.inf
    return torch.from_numpy(values).float()
