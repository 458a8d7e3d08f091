"""What the layouts of OpenAI's triton_kernels have in common, around its swizzles.

    gate_up_weights  uint8    gate_up_scales  uint8    gate_up_bias  float32 [e, 2P]
    down_weights     uint8    down_scales     uint8    down_bias     float32 [e, h]

Both GEMMs multiply by a matrix [K, N] whose K is packed two elements a byte. The
package is handed the checkpoint's own [e, N, K/2] bytes as a transposed view, so rows
of the checkpoint are its columns n, and what it makes is again a transposed view: the
tensors here have the order of its *memory*, the order in which bytes are compared.
``tensor.mT`` is what the package holds.

The rows keep the checkpoint's order, gate, up, gate, up: its SwiGLU takes
neighbouring columns. The biases become float32 and are not padded. The alpha and limit
of SwiGLU are arguments of its call, not tensors.

Ranks: the package knows none. Lanes of i are shared out as vLLM's gpt-oss loader does,
blocks of 32 divided by tp and rounded up: P lanes a rank, and a rank with fewer is
filled up with zeros, so that all have one shape. The down bias is divided by tp (vLLM:
whole on rank 0, zero elsewhere; the same sum).

Source: PyPI ``tokenspeed-triton-kernels`` 1.0.0.post20260510 (module
``triton_kernels``), ``tensor_details/layout_details``; called as tokenspeed-kernel
does, with float32 biases, num_warps 8. Other versions pad and pack otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.layout import Chains
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.layouts.steps import cut
from mxmoe.reference.layouts.steps import pad
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Swizzle = Callable[[str, tuple[Step, ...], int, int], Chain]
"""(source, steps to the rank's part, its rows, its blocks a row) -> the whole chain."""


def triton_kernels_chains(
    config: MoEConfig, shard: Shard, *, weights: Swizzle, scales: Swizzle
) -> Chains:
    """The six tensors, with the swizzles of one kind of device."""
    padded = shard.padded_intermediate(config)
    rows = rank_part("rows", 0, 2 * config.intermediate, 2 * padded, shard)
    blocks = rank_part("K", 1, config.intermediate // BLOCK, padded // BLOCK, shard)
    gate_up = (rows, 2 * padded, config.hidden // BLOCK)
    down = (blocks, config.hidden, padded // BLOCK)
    chains: dict[str, Chain] = {
        "gate_up_weights": weights("gate_up_blocks", *gate_up),
        "gate_up_scales": scales("gate_up_scales", *gate_up),
        "down_weights": weights("down_blocks", *down),
        "down_scales": scales("down_scales", *down),
    }
    if config.has_bias:
        chains["gate_up_bias"] = Chain(
            source="gate_up_bias", steps=rows, dtype=torch.float32
        )
        chains["down_bias"] = Chain(
            source="down_bias", steps=(), dtype=torch.float32, divisor=shard.tp_size
        )
    return chains


def pad_to(what: str, axis: int, size: int, multiple: int) -> Step:
    """Lengthen `axis` from `size` to the next multiple of `multiple`."""
    return pad(what, axis, size, -(-size // multiple) * multiple)


def rank_part(
    what: str, axis: int, size: int, padded: int, shard: Shard
) -> tuple[Step, ...]:
    """Pad to the `padded` entries of every rank, then cut out this rank's."""
    total, start = shard.tp_size * padded, shard.tp_rank * padded
    return (
        pad(f"{what} of all ranks", axis, size, total),
        cut("rank", axis, total, start, start + padded),
    )
