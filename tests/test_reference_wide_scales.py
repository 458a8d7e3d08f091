"""``wide_scales`` of ``triton_moe.v1``: of the rank's own scales, on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.cases.designed import any_bytes
from mxmoe.reference.layouts import TRITON_MOE
from mxmoe.reference.layouts.triton_moe import wide_scales
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

ODD = MoEConfig(hidden=96, intermediate=160, experts=2, top_k=1)


@pytest.mark.parametrize("name", ["gate_up_scales", "down_scales"])
@pytest.mark.parametrize("scale", [0, 128, 129, 255])
def test_wide_scales_says_whether_a_scale_is_above_128(name, scale) -> None:
    weights = any_bytes(ODD, 0)
    narrow = {n: t.clamp(max=128) for n, t in weights.tensors().items() if "scal" in n}
    narrow[name][1, -1, -1] = scale
    found = TRITON_MOE.expected(replace(weights, **narrow), ODD, WHOLE)["wide_scales"]
    assert (found.dtype, found.shape, found.device.type) == (torch.bool, (1,), "cpu")
    assert found.tolist() == [scale > 128]


def narrow_but_for(name: str, e: int, row: int, block: int) -> ExpertWeights:
    """A layer with one scale above 128."""
    weights = any_bytes(ODD, 0)
    scales = {n: t.clamp(max=99) for n, t in weights.tensors().items() if "scal" in n}
    scales[name][e, row, block] = 200
    return replace(weights, **scales)


@pytest.mark.parametrize(
    ("place", "owner"),
    [
        (("gate_up_scales", 0, 2 * 63, 2), (0, 0)),
        (("gate_up_scales", 1, 2 * 64, 0), (1, 1)),
        (("down_scales", 1, 95, 1), (0, 1)),
        (("down_scales", 0, 0, 4), (2, 0)),
    ],
)
def test_wide_scales_is_that_of_the_rank_s_own_part(place, owner) -> None:
    """i = 160 in ranks of 64: 64, 64, 32 and none."""
    weights = narrow_but_for(*place)
    for tp_rank in range(3):
        for ep_rank in range(2):
            shard = Shard(tp_size=3, tp_rank=tp_rank, ep_size=2, ep_rank=ep_rank)
            found = TRITON_MOE.expected(weights, ODD, shard)["wide_scales"]
            assert found.tolist() == [(tp_rank, ep_rank) == owner]


def test_a_rank_without_lanes_has_no_wide_scale() -> None:
    weights, shard = any_bytes(ODD, 0), Shard(tp_size=8, tp_rank=7)
    assert not wide_scales(shard_weights(weights, ODD, shard))
