"""The suite's designed data as layers, with logits that the routing follows from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.evals.peer_rules.layer import Layer
from mxmoe.reference.routing import route

# The kinds of the suite's hot sets: sizes around tiles and blocks, a square W2, many
# experts, token counts that kernels treat apart, silu, and each hot spot.
CASES = (
    "e8k4h160i224/tp1r0/t33",
    "e4k2h96i64/tp1r0/t1",
    "e4k2h64i96/tp1r0/t3",
    "e4k2h96i64/tp1r0/t67",
    "e2k2h64i64/tp1r0/t17",
    "e72k4h64i32/tp1r0/t33",
    "e2k2h96i64/tp1r0/t260",
    "e8k2h160i96-silu-nobias/tp1r0/t33",
    "e8k4h160i224/tp1r0/t33/strided",
    "e8k4h160i224/tp1r0/t33/no_expert",
    "e8k2h160i224/tp1r0/t5/silent_expert",
    "e8k2h160i224/tp1r0/t33/zero_scale",
    "e4k2h160i224/tp1r0/t33/cancellation",
    "e4k2h160i224/tp1r0/t33/wide_hidden",
    "e4k2h160i224/tp1r0/t33/saturated",
)


def designed_layers(seed: int) -> list[Layer]:
    """One layer for each of `CASES`."""
    return [_layer(word, seed) for word in CASES]


def _layer(word: str, seed: int) -> Layer:
    shape, shard, tokens, *hot = word.split("/")
    case = parse_case("/".join((shape, shard, tokens, f"s{seed}", *hot)))
    # Unrounded: a candidate of class fp32 sees more than bfloat16.
    data = make_case_data(case, hidden_dtype=torch.float32)
    logits = None if "no_expert" in case.hot else _logits(data, seed)
    if logits is not None:
        data = replace(data, routing=route(logits, data.config.top_k))
    return Layer(name=str(case), data=data, logits=logits, case=case)


def _logits(data: CaseData, seed: int) -> torch.Tensor:
    """float32 [t, e]: softmax of the top k gives the case's routing.

    The others are below, some closely; each token has an offset, so that some have
    negative logits only.
    """
    ids, weights = data.routing.ids.long(), data.routing.weights
    t, e = len(ids), data.config.experts
    random = np.random.default_rng((seed, 14))
    below = torch.from_numpy(random.exponential(size=(t, e)) + 0.05).float()
    chosen = weights.log()
    logits = chosen.amin(dim=1, keepdim=True) - below
    logits.scatter_(1, ids, chosen)
    return logits + torch.from_numpy(random.standard_normal((t, 1)) * 3).float()
