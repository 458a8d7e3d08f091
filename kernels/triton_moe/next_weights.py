"""The second GEMM's first weights, fetched while the first GEMM ends.

Between two kernels of a few microseconds each the memory would idle: the first one's
last programs add bias and store, the second one's first ones wait for addresses. So
every program of the first, once it has its sums, asks for the beginning of one row of
tiles of the second. It is a hint: nothing waits for it, and no result depends on it.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Of each split of a row of tiles: what a program of `down` loads before it multiplies
# for the first time, four stages of 2 KB.
PREFETCHED_BYTES = tl.constexpr(8192)
# The unit of the L2 cache.
_LINE = tl.constexpr(128)


@triton.jit
def prefetch_weights(
    words,  # *uint32, the second GEMM's
    expert,
    row,  # of tiles, of this expert
    row_tiles,
    k_tiles,
    split_tiles,
    SPLITS: tl.constexpr,  # noqa: N803
):
    """Ask for the beginning of each split of one row of tiles, if there is that row."""
    if row < row_tiles:
        first = words + (expert.to(tl.int64) * row_tiles + row) * k_tiles * 512
        line = tl.arange(0, PREFETCHED_BYTES // _LINE)
        # Beyond the end of the row: its last line once more.
        most = k_tiles * (2048 // _LINE) - 1
        for split in tl.static_range(SPLITS):
            at = tl.minimum(split * split_tiles * (2048 // _LINE) + line, most)
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
                "=r,l",
                [first.to(tl.int64) + at.to(tl.int64) * _LINE],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )
