"""``trtllm_gen.v1``: what ``bf16_mxe2m1_block_scale_moe_runner`` reads on a B200.

    fc1_weights  uint8    [e, 2P, H1/2]     swiglu_alpha  float32 [e]
    fc1_scales   uint8    [e, 2P, H1/32]    swiglu_beta   float32 [e]
    fc1_bias     float32  [e, 2P]           swiglu_limit  float32 [e]
    fc2_weights  uint8    [e, H2, P/2]
    fc2_scales   uint8    [e, H2, P/32]     P = padded lanes of i of each rank
    fc2_bias     float32  [e, H2]           H1 = up(h, 512), H2 = up(h, 128)

fc1: each half is padded to P * tp lanes *before* the rank's P are cut out, the ups
are stacked over the gates, then the same row order for weights, scales and bias.
The scales' bytes are in 128x4 tiles; their shape is nominal. fc2 bias: bias / tp on
every rank, so that the sum over ranks adds it once. All padding is 0x00.

Source: NVIDIA/TensorRT-LLM 002366a4, ``fused_moe/quantization.py``,
``MXFP4WeightTRTLLMGenFusedMoEMethod``; the golden bytes were made by that code.
"""

from __future__ import annotations

from functools import partial

import torch

from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.index_map import Constant
from mxmoe.reference.layouts.layout import Chains
from mxmoe.reference.layouts.layout import Layout
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.layouts.steps import cut
from mxmoe.reference.layouts.steps import deinterleave
from mxmoe.reference.layouts.steps import flatten_blocks
from mxmoe.reference.layouts.steps import gated_interleave
from mxmoe.reference.layouts.steps import pad
from mxmoe.reference.layouts.steps import row_shuffle
from mxmoe.reference.layouts.steps import scale_swizzle
from mxmoe.reference.layouts.steps import shuffle_block
from mxmoe.reference.layouts.steps import stack_up_gate
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# Constants of the same class: `weight_alignment`, `input_hidden_alignment` and the
# epilogue tile that its loader passes to the permutation helpers.
WEIGHT_ALIGNMENT = 128
FC1_HIDDEN_ALIGNMENT = 512
EPILOGUE_TILE = 128


def trtllm_gen_chains(
    config: MoEConfig,
    shard: Shard,
    *,
    fc1_hidden_alignment: int = FC1_HIDDEN_ALIGNMENT,
    epilogue_tile: int = EPILOGUE_TILE,
) -> Chains:
    """The six tensors and the three SwiGLU parameters."""
    h1 = up(config.hidden, fc1_hidden_alignment)
    shuffle = row_shuffle(shuffle_block(epilogue_tile))
    fc1 = (*_rank_rows(config, shard), stack_up_gate(), gated_interleave(), shuffle)
    pad_k = pad("K", 1, config.hidden // BLOCK, h1 // BLOCK)
    h2 = up(config.hidden, WEIGHT_ALIGNMENT)
    fc2_rows = (pad("rows", 0, config.hidden, h2), shuffle)
    fc2 = (*_rank_columns(config, shard), *fc2_rows)
    swizzle = scale_swizzle()
    chains: dict[str, Chain | Constant] = {
        "fc1_weights": Chain(
            source="gate_up_blocks",
            steps=(flatten_blocks(), *fc1, pad_k),
            width=BLOCK_BYTES,
        ),
        "fc1_scales": Chain(source="gate_up_scales", steps=(*fc1, pad_k, swizzle)),
        "fc2_weights": Chain(
            source="down_blocks", steps=(flatten_blocks(), *fc2), width=BLOCK_BYTES
        ),
        "fc2_scales": Chain(source="down_scales", steps=(*fc2, swizzle)),
    }
    if config.has_bias:
        chains["fc1_bias"] = Chain(
            source="gate_up_bias", steps=fc1, dtype=torch.float32
        )
        chains["fc2_bias"] = Chain(
            source="down_bias",
            steps=fc2_rows,
            dtype=torch.float32,
            divisor=shard.tp_size,
        )
    return chains | {
        "swiglu_alpha": Constant(value=config.activation.alpha),
        "swiglu_beta": Constant(value=config.activation.beta),
        "swiglu_limit": Constant(value=config.activation.limit),
    }


def up(value: int, multiple: int) -> int:
    """`value` rounded up to a multiple of `multiple`."""
    return -(-value // multiple) * multiple


def _rank_rows(config: MoEConfig, shard: Shard) -> tuple[Step, ...]:
    """Pad each half to the lanes of all ranks, then cut out this rank's."""
    padded = shard.padded_intermediate(config)
    start, total = shard.tp_rank * padded, shard.tp_size * padded
    return (
        deinterleave(),
        pad("each half", 1, config.intermediate, total),
        cut("rank", 1, total, start, start + padded),
    )


def _rank_columns(config: MoEConfig, shard: Shard) -> tuple[Step, ...]:
    padded = shard.padded_intermediate(config) // BLOCK
    start, total = shard.tp_rank * padded, shard.tp_size * padded
    return (
        pad("K", 1, config.intermediate // BLOCK, total),
        cut("rank", 1, total, start, start + padded),
    )


TRTLLM_GEN = Layout(
    name="trtllm_gen.v1", chains=trtllm_gen_chains, alignment=WEIGHT_ALIGNMENT
)

TRTLLM_GEN_TILE64 = Layout(
    name="trtllm_gen_tile64.v1",
    chains=partial(trtllm_gen_chains, epilogue_tile=64),
    alignment=WEIGHT_ALIGNMENT,
)
"""For kernels with a smaller epilogue tile: rows shuffled in blocks of 16."""

FLASHINFER = Layout(
    name="flashinfer.v1",
    chains=partial(trtllm_gen_chains, fc1_hidden_alignment=WEIGHT_ALIGNMENT),
    alignment=WEIGHT_ALIGNMENT,
)
"""FlashInfer's op has one hidden size for both GEMMs: fc1's K is fc2's rows."""
