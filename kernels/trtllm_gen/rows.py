"""The row order of an epilogue tile, as views: no index tensor, nothing to cache.

Rows n of a prepared tensor, in blocks of 32 (16 for small tiles), lanes = block / 8,
n = block b + 8 r + s with s < 8:

    fc2 reads the row               block b + lanes s + r
    fc1 reads the checkpoint's row  block b + lanes s + (r XOR 1)

The checkpoint has a gate in its even rows and an up in its odd ones; the runs r of the
output take turns, ups first. Both are permutations of the axes of [b, ...].

Source: TensorRT-LLM 002366a4, ``quantization/utils/fp4_utils.py``:
``srcToDstBlk32RowMap``, ``srcToDstBlk16RowMap`` and
``get_reorder_rows_for_gated_act_gemm_row_indices``, composed.
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


# Which runs of 8 output rows read which lanes, as slices that belong to each other.
# Gated, run r reads lane r XOR 1. A view cannot run backwards, so that takes two
# copies; of the ways to pair the runs of a block of 32, this one reads lanes that are
# neighbours in memory: (0, 3) from (1, 2), then (1, 2) from (0, 3), where 3 is followed
# by the next 0. One pass over the gates and one over the ups waits longer for memory.
_ALL = slice(None)
_RUNS = {
    (4, False): ((_ALL, _ALL),),
    (2, False): ((_ALL, _ALL),),
    (4, True): ((slice(0, 4, 3), slice(1, 3)), (slice(1, 3), slice(0, 4, 3))),
    (2, True): ((slice(0, 1), slice(1, 2)), (slice(1, 2), slice(0, 1))),
}


def permute_rows(
    destination: torch.Tensor, source: torch.Tensor, *, block: int, gated: bool
) -> None:
    """`source` [e, b, 32, c] -> `destination` of that shape, rows of 32 permuted."""
    if source.numel() == 0:
        return
    destination, source = in_words(destination, source)
    maps, lanes = ROW_GROUP // block, block // ROW_RUN
    runs = destination.unflatten(2, (maps, lanes, ROW_RUN))
    read = source.unflatten(2, (maps, ROW_RUN, lanes)).transpose(3, 4)
    for to, of in _RUNS[lanes, gated]:
        runs[:, :, :, to].copy_(read[:, :, :, of])
