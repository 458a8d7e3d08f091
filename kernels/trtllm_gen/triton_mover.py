"""The moves of preparation as Triton kernels: each output entry is written once.

For CUDA tensors, instead of the strided copies of `mover.VIEWS`; the row order is
that of `rows`, the tiles are those of `scales`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.trtllm_gen.mover import Mover
from mxmoe.kernels.trtllm_gen.words import in_words

# Eight rows are one run of the row map; 256 words of 8 bytes hold a gpt-oss row.
_ROWS, _MOST_COLUMNS = 8, 256
# Column words of 4 bytes that one step of the scale kernel takes: 2 KB of output.
_COLUMN_WORDS = 4


def place_rows(
    destination: torch.Tensor, source: torch.Tensor, *, block: int, gated: bool
) -> None:
    """As `rows.place_rows`, in one launch without any scratch."""
    experts, rows, _ = destination.shape
    if destination.numel() == 0:
        return
    # complex128, the widest word, is not known to Triton.
    to, of = in_words(destination, source, widest=8)
    columns = min(_MOST_COLUMNS, triton.next_power_of_2(to.shape[2]))
    with torch.cuda.device_of(destination):
        _rows_kernel[(rows // _ROWS, experts)](
            *(to, of, rows, to.shape[2], *of.shape[1:], *of.stride()[:2]),
            BLOCK=block,
            GATED=gated,
            ROWS=_ROWS,
            COLUMNS=columns,
        )


def place_scales(
    destination: torch.Tensor, source: torch.Tensor, *, block: int, gated: bool
) -> None:
    """As `scales.place_scales`, in one launch without any scratch."""
    experts, rows, columns = destination.shape
    if destination.numel() == 0:
        return
    sizes = (rows, columns, *source.shape[1:], *source.stride()[:2])
    with torch.cuda.device_of(destination):
        _scales_kernel[(rows // 128, experts)](
            *(destination, source, *sizes),
            BLOCK=block,
            GATED=gated,
            WORDS=_COLUMN_WORDS,
        )


@triton.jit
def _source_row(n, BLOCK: tl.constexpr, GATED: tl.constexpr):  # noqa: N803
    lane = n % 8
    run = (n % BLOCK) // 8
    start = n // BLOCK * BLOCK + lane * (BLOCK // 8)
    if GATED:
        run = run ^ 1
    return (start + run).to(tl.int64)


@triton.jit
def _rows_kernel(
    to,
    of,
    rows,
    columns,
    filled_rows,
    filled_columns,
    of_expert,
    of_row,
    BLOCK: tl.constexpr,  # noqa: N803
    GATED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    expert = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    reads = of + expert * of_expert + _source_row(n, BLOCK, GATED)[:, None] * of_row
    writes = to + (expert * rows + n[:, None]) * columns
    for first in range(0, columns, COLUMNS):
        c = first + tl.arange(0, COLUMNS)[None, :]
        filled = (n[:, None] < filled_rows) & (c < filled_columns)
        words = tl.load(reads + c, mask=filled, other=0)
        tl.store(writes + c, words, mask=(n[:, None] < rows) & (c < columns))


@triton.jit
def _scales_kernel(
    to,
    of,
    rows,
    columns,
    filled_rows,
    filled_columns,
    of_expert,
    of_row,
    BLOCK: tl.constexpr,  # noqa: N803
    GATED: tl.constexpr,  # noqa: N803
    WORDS: tl.constexpr,  # noqa: N803
):
    tile = tl.program_id(0)
    expert = tl.program_id(1).to(tl.int64)
    at = tl.arange(0, 512 * WORDS)
    # In the order of the output: word column, row mod 32, row div 32, byte of the word.
    n = tile * 128 + at // 4 % 4 * 32 + at // 16 % 32
    reads = of + expert * of_expert + _source_row(n, BLOCK, GATED) * of_row
    writes = to + (expert * rows + tile * 128) * columns
    for first in range(0, columns, 4 * WORDS):
        c = first + at // 512 * 4 + at % 4
        filled = (n < filled_rows) & (c < filled_columns)
        scales = tl.load(reads + c, mask=filled, other=0)
        tl.store(writes + first * 128 + at, scales, mask=c < columns)


TRITON = Mover(place_rows, place_scales)
"""Triton kernels; CUDA only."""
