"""One rank's part of a layer, still in checkpoint order."""

from __future__ import annotations

from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


def shard_weights(
    weights: ExpertWeights, config: MoEConfig, shard: Shard
) -> ExpertWeights:
    """The experts and lanes of i that `shard` owns, unpadded views.

    gate_up is cut along its rows, down along its packed columns. The down bias
    stays whole: each rank adds 1/tp of it, so that the sum over ranks adds it
    once. The router stays whole: every rank routes every token.
    """
    e = shard.expert_range(config)
    i = shard.intermediate_range(config)
    experts = slice(e.start, e.stop)
    rows = slice(2 * i.start, 2 * i.stop)
    # A rank's lanes end on a block border: i and the padded part are multiples of 32.
    blocks = slice(i.start // BLOCK, i.stop // BLOCK)
    gate_up_bias, down_bias = weights.gate_up_bias, weights.down_bias
    return ExpertWeights(
        gate_up_blocks=weights.gate_up_blocks[experts, rows],
        gate_up_scales=weights.gate_up_scales[experts, rows],
        gate_up_bias=None if gate_up_bias is None else gate_up_bias[experts, rows],
        down_blocks=weights.down_blocks[experts, :, blocks],
        down_scales=weights.down_scales[experts, :, blocks],
        down_bias=None if down_bias is None else down_bias[experts],
        router_weight=weights.router_weight,
        router_bias=weights.router_bias,
    )
