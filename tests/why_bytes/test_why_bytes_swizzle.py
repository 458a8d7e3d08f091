"""Scales that are swizzled with a K that is padded too little are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mxmoe.conformance.cases.designed import any_bytes
from mxmoe.conformance.why_bytes.describe import why_lines
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts.steps import scale_swizzle
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig

pytestmark = pytest.mark.usefixtures("one_thread")
SWIZZLE = scale_swizzle()
# 3 columns of scales in 16.
CONFIG = MoEConfig(hidden=96, intermediate=224, experts=4, top_k=3)

Tensor = torch.Tensor


def behind_all(tiles: Tensor, columns: int) -> Tensor:
    rows = tiles.shape[0]
    rest = tiles.new_zeros(rows * columns - tiles.numel())
    return torch.cat((tiles.flatten(), rest)).reshape(rows, columns)


def behind_each(tiles: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(tiles, (0, columns - tiles.shape[1]))


@pytest.mark.parametrize("columns", [4, 8])
@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (behind_all, "rows of tiles begin too early"),
        (behind_each, "more padding behind each row"),
    ],
)
def test_a_swizzle_of_fewer_columns_is_named(
    columns: int, fill: Callable[[Tensor, int], Tensor], words: str
) -> None:
    weights, name = any_bytes(CONFIG, 0), "fc1_scales"
    prepared = dict(TRTLLM_GEN.expected(weights, CONFIG, WHOLE))
    prepared[name] = torch.stack(
        [
            fill(SWIZZLE.apply(SWIZZLE.undo(x)[:, :columns]), x.shape[1])
            for x in prepared[name]
        ]
    )
    said, *_ = why_lines(name, prepared, TRTLLM_GEN, weights, CONFIG, WHOLE, 0)
    as_if = f"as if K were padded to a multiple of {32 * columns} only"
    assert f"scale swizzle 128x4 {as_if}" in said
    assert words in said
