"""``checkpoint.v1``: the checkpoint's own order, cut to the rank, unpadded.

For rank r with lanes [i0, i1) of i: gate_up rows [2*i0, 2*i1), down blocks
[i0/32, i1/32), down bias whole (the consumer adds 1/tp of it). Dtypes as in the
checkpoint. At tp=1, ep=1 the prepared bytes are the checkpoint's bytes.
"""

from __future__ import annotations

from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.index_map import Constant
from mxmoe.reference.layouts.layout import Chains
from mxmoe.reference.layouts.layout import Layout
from mxmoe.reference.layouts.steps import cut
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


def checkpoint_order_chains(config: MoEConfig, shard: Shard) -> Chains:
    """The prepared tensors are called like the fields of `ExpertWeights`."""
    i = shard.intermediate_range(config)
    rows = cut("rank's rows", 0, 2 * config.intermediate, 2 * i.start, 2 * i.stop)
    groups = config.intermediate // BLOCK
    blocks = cut("rank's blocks", 1, groups, i.start // BLOCK, i.stop // BLOCK)
    chains: dict[str, Chain | Constant] = {
        "gate_up_blocks": Chain(
            source="gate_up_blocks", steps=(rows,), width=BLOCK_BYTES
        ),
        "gate_up_scales": Chain(source="gate_up_scales", steps=(rows,)),
        "down_blocks": Chain(source="down_blocks", steps=(blocks,), width=BLOCK_BYTES),
        "down_scales": Chain(source="down_scales", steps=(blocks,)),
    }
    if config.has_bias:
        chains["gate_up_bias"] = Chain(source="gate_up_bias", steps=(rows,))
        chains["down_bias"] = Chain(source="down_bias", steps=())
    return chains


CHECKPOINT_ORDER = Layout(name="checkpoint.v1", chains=checkpoint_order_chains)
