"""The row order of an epilogue tile, as views: no index tensor, nothing to cache.

Rows n of a prepared tensor, in blocks of 32 (16 for small tiles), lanes = block / 8:

    fc2:  n = block b + 8 q + s                reads row  block b + lanes s + q
    fc1:  n = block b + 16 q + 8 half + s      reads the checkpoint's row
                                               block b + lanes s + 2 q + 1 - half

with s < 8, half 0 for the ups, 1 for the gates (the checkpoint's odd and even rows).
Both are permutations of the axes of [b, ...]. Source: TensorRT-LLM 002366a4,
``quantization/utils/fp4_utils.py``: ``srcToDstBlk32RowMap``, ``srcToDstBlk16RowMap``
and ``get_reorder_rows_for_gated_act_gemm_row_indices``, composed.
"""

from __future__ import annotations

import torch

from mxmoe.kernels.trtllm_gen.geometry import ROW_RUN
from mxmoe.kernels.trtllm_gen.words import in_words

# Rows come in whole row maps of 32 (two of 16): h is a multiple of 32, and so are the
# lanes of a rank, each of which is two rows of fc1.
ROW_GROUP = 32


def place_rows(
    destination: torch.Tensor, source: torch.Tensor, *, block: int, gated: bool
) -> None:
    """Write all of `destination`: `source` in the kernel's row order, then zeros.

    destination : [e, R, C]. source : [e, r, c], r <= R and c <= C, r a multiple of
    32, of the same dtype on the same device; rows interleaved gate, up if `gated`.
    """
    _, rows, columns = source.shape
    for padding in (destination[:, :rows, columns:], destination[:, rows:]):
        if padding.numel():
            words, _ = in_words(padding, padding)
            words.zero_()
    permute_rows(
        destination[:, :rows, :columns].unflatten(1, (-1, ROW_GROUP)),
        source.unflatten(1, (-1, ROW_GROUP)),
        block=block,
        gated=gated,
    )


def permute_rows(
    destination: torch.Tensor, source: torch.Tensor, *, block: int, gated: bool
) -> None:
    """`source` [e, b, 32, c] -> `destination` of that shape, rows of 32 permuted."""
    if source.numel() == 0:
        return
    destination, source = in_words(destination, source)
    maps, lanes = ROW_GROUP // block, block // ROW_RUN
    if not gated:
        to = destination.unflatten(2, (maps, lanes, ROW_RUN))
        to.copy_(source.unflatten(2, (maps, ROW_RUN, lanes)).transpose(3, 4))
        return
    to = destination.unflatten(2, (maps, lanes // 2, 2, ROW_RUN))
    of = source.unflatten(2, (maps, ROW_RUN, lanes // 2, 2)).transpose(3, 4)
    # A view cannot run backwards, and the two halves change places: two copies.
    for half in (0, 1):
        to[:, :, :, :, half].copy_(of[:, :, :, :, :, 1 - half])
