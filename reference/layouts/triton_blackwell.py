"""``triton_kernels_blackwell.v1``: MXFP4 as triton_kernels reads it on a B200.

    gate_up_weights  uint8 [e, 2P, C]   C = up(h/2, 128), rows are not padded
    gate_up_scales   uint8 [e, R, C]    R = up(2P, 128), C = up(h/32, 8)
    down_weights, down_scales           the same with h rows and P elements a row

The weights keep their order; the scales' bytes are in the 128x4 tiles of trtllm-gen.
Their shape is nominal: the package views all experts' as [1, e R/128, C/4, 2, 256].

``triton_kernels_blackwell_shuffled.v1``, the package's option
``allow_blackwell_value_shuffle`` with its default tile of 256 rows x 128 elements:
weights uint8 [e, C/64, R/256, 256, 64], one tile after the other, tiles along N first;
R = up(2P, 256), no transposed view.

Defined for all h and i that are multiples of 32. All padding is 0x00 here; the package
leaves that of the weights in v1 (K beyond h/2 or P/2) as it finds the memory. Biases,
ranks, source: see `triton_kernels`.
"""

from __future__ import annotations

from functools import partial

from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.layout import Layout
from mxmoe.reference.layouts.steps import SWIZZLE_ROWS
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.layouts.steps import flatten_blocks
from mxmoe.reference.layouts.steps import scale_swizzle
from mxmoe.reference.layouts.triton_kernels import pad_to
from mxmoe.reference.layouts.triton_kernels import triton_kernels_chains
from mxmoe.reference.types import BLOCK_BYTES

# `BlackwellMXValueLayoutTransformation`: the 128 bytes that TMA wants of 4-bit types,
# also a multiple of the shuffled tile's 64.
_K_BLOCKS = 128 // BLOCK_BYTES
# `BlackwellMXScaleLayoutTransformation.ALIGN_K`.
_SCALE_COLUMNS = 8
# Defaults of `make_default_matmul_mxfp4_w_layout`: block_n, block_k.
TILE_ROWS, TILE_ELEMENTS = 256, 128
_TILE_BLOCKS = TILE_ELEMENTS // 2 // BLOCK_BYTES


def value_tiles() -> Step:
    """[R, g] blocks -> [g/4, R/256, 256, 4]; R % 256 == 0, g % 4 == 0."""
    return Step(
        f"tiles of {TILE_ROWS}x{TILE_ELEMENTS}",
        lambda x: (
            x.unflatten(1, (-1, _TILE_BLOCKS))
            .unflatten(0, (-1, TILE_ROWS))
            .permute(2, 0, 1, 3)
        ),
        lambda x: x.permute(1, 2, 0, 3).flatten(2).flatten(0, 1),
    )


def blackwell_weights(
    source: str, rank: tuple[Step, ...], rows: int, blocks: int
) -> Chain:
    """The value layout: K padded."""
    steps = (*rank, flatten_blocks(), pad_to("K", 1, blocks, _K_BLOCKS))
    return Chain(source=source, steps=steps, width=BLOCK_BYTES)


def blackwell_shuffled_weights(
    source: str, rank: tuple[Step, ...], rows: int, blocks: int
) -> Chain:
    """The shuffled value layout: both axes padded, tile by tile."""
    plain = blackwell_weights(source, rank, rows, blocks)
    steps = (*plain.steps, pad_to("rows", 0, rows, TILE_ROWS), value_tiles())
    return Chain(source=source, steps=steps, width=BLOCK_BYTES)


def blackwell_scales(
    source: str, rank: tuple[Step, ...], rows: int, blocks: int
) -> Chain:
    """The scale layout: 128x4 tiles."""
    steps = (
        *rank,
        pad_to("rows", 0, rows, SWIZZLE_ROWS),
        pad_to("K", 1, blocks, _SCALE_COLUMNS),
        scale_swizzle(),
    )
    return Chain(source=source, steps=steps)


TRITON_BLACKWELL = Layout(
    name="triton_kernels_blackwell.v1",
    chains=partial(
        triton_kernels_chains, weights=blackwell_weights, scales=blackwell_scales
    ),
)

TRITON_BLACKWELL_SHUFFLED = Layout(
    name="triton_kernels_blackwell_shuffled.v1",
    chains=partial(
        triton_kernels_chains,
        weights=blackwell_shuffled_weights,
        scales=blackwell_scales,
    ),
)
