"""Laws of block scales: what they and an input or a bias make up for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.laws.pairs import DOWN_BIAS
from mxmoe.conformance.laws.pairs import HIDDEN_STATES
from mxmoe.conformance.laws.pairs import Pair
from mxmoe.conformance.laws.pairs import edited
from mxmoe.conformance.laws.questions import gate_up_scales_at
from mxmoe.conformance.laws.questions import scales_at
from mxmoe.conformance.laws.questions import with_gate_up_scales
from mxmoe.reference.formats import e8m0
from mxmoe.reference.types import Shard

# Scale bytes of models lie around 120. 14 more is past 127 for the suite's weights; 20
# less brings products of W2 below 2**-24, the smallest number of float16.
_W1_HIGHER, _W2_LOWER = 14, 20
# Weights of a scale of 2**17 are past 65504, the largest number of float16; of one of
# 2**-26 they are 0 in it.
W1_BEYOND = 21


def down_doubles(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    """W2 and its bias doubled, by the scales' exponents."""
    weights = edited(
        data.weights, down_scales=lambda x: x + 1, down_bias=lambda x: x * 2
    )
    after = replace(data, weights=weights)
    scaled = {DOWN_BIAS: 2.0}
    return Pair(before=data, after=after, expect=lambda out: out * 2, scaled=scaled)


def scales_far(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    """Beyond float16 on both sides, and beyond a signed byte where W1 goes."""
    up = 2.0**_W1_HIGHER
    down = min(_W2_LOWER, int(data.weights.down_scales.min()))
    weights = edited(
        data.weights,
        gate_up_scales=lambda x: x + _W1_HIGHER,
        down_scales=lambda x: x - down,
        down_bias=lambda x: x * 2.0**-down,
    )
    after = replace(data, weights=weights, hidden_states=data.hidden_states / up)
    return Pair(
        before=data,
        after=after,
        expect=lambda out: out * 2.0**-down,
        scaled={HIDDEN_STATES: 1 / up, DOWN_BIAS: 2.0**-down},
        questions=lambda: scales_at(data, _W1_HIGHER, down),
    )


def gate_up_scales_far(
    data: CaseData, shard: Shard, random: np.random.Generator, *, by: int
) -> Pair:
    """W1's scale bytes `by` higher, or as near to it as bytes go; the input lower."""
    least, most = (int(x) for x in data.weights.gate_up_scales.aminmax())
    by = max(min(by, e8m0.MAX_BYTE - most), -least)
    return replace(
        with_gate_up_scales(data, by),
        scaled={HIDDEN_STATES: 2.0**-by},
        questions=lambda: gate_up_scales_at(data, by),
    )


def input_halves(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    """W1 doubled by its scales' exponents, for half the input."""
    weights = edited(data.weights, gate_up_scales=lambda x: x + 1)
    after = replace(data, weights=weights, hidden_states=data.hidden_states / 2)
    return Pair(before=data, after=after, scaled={HIDDEN_STATES: 0.5})
