"""``checkpoint.v1``: the checkpoint's own order, cut to the rank, unpadded.

For rank r with lanes [i0, i1) of i: gate_up rows [2*i0, 2*i1), down blocks
[i0/32, i1/32), down bias whole (the consumer adds 1/tp of it). Dtypes as in the
checkpoint. At tp=1, ep=1 the prepared bytes are the checkpoint's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mxmoe.reference.layouts.index_map import IndexMap
from mxmoe.reference.layouts.index_map import Layout
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard


def checkpoint_order_names(config: MoEConfig) -> tuple[str, ...]:
    """The prepared tensors are called like the fields of `ExpertWeights`."""
    matrices = ("gate_up_blocks", "gate_up_scales", "down_blocks", "down_scales")
    return (*matrices, "gate_up_bias", "down_bias") if config.has_bias else matrices


def checkpoint_order_maps(config: MoEConfig, shard: Shard) -> Mapping[str, IndexMap]:
    """One map a tensor; each row and block keeps its place."""
    i = shard.intermediate_range(config)
    rows = torch.arange(2 * i.start, 2 * i.stop)
    groups_h, groups_i = config.hidden // BLOCK, config.intermediate // BLOCK
    blocks = torch.arange(i.start // BLOCK, i.stop // BLOCK)
    b = torch.arange(BLOCK_BYTES)
    g = torch.arange(groups_h)
    h = torch.arange(config.hidden)
    gate_up_scales = rows[:, None] * groups_h + g
    down_scales = h[:, None] * groups_i + blocks
    maps = {
        "gate_up_blocks": gate_up_scales[..., None] * BLOCK_BYTES + b,
        "gate_up_scales": gate_up_scales,
        "down_blocks": down_scales[..., None] * BLOCK_BYTES + b,
        "down_scales": down_scales,
    }
    if config.has_bias:
        maps |= {"gate_up_bias": rows, "down_bias": h}
    return {name: IndexMap(source=name, index=index) for name, index in maps.items()}


def restore_checkpoint_order(prepared: PreparedWeights) -> ExpertWeights:
    """The rank's tensors are its part already; the router is not prepared."""
    tensors = {
        name: value
        for name, value in prepared.items()
        if isinstance(value, torch.Tensor)
    }
    experts = len(prepared.shard.expert_range(prepared.config))
    return ExpertWeights(
        gate_up_blocks=tensors["gate_up_blocks"],
        gate_up_scales=tensors["gate_up_scales"],
        gate_up_bias=tensors.get("gate_up_bias"),
        down_blocks=tensors["down_blocks"],
        down_scales=tensors["down_scales"],
        down_bias=tensors.get("down_bias"),
        router_weight=torch.zeros(experts, prepared.config.hidden),
        router_bias=None,
    )


CHECKPOINT_ORDER = Layout(
    name="checkpoint.v1",
    names=checkpoint_order_names,
    maps=checkpoint_order_maps,
    restore=restore_checkpoint_order,
)
