"""How large each prepared tensor of one rank is, and which part of it holds data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# TensorRT-LLM 002366a4, ``fused_moe/quantization.py``,
# ``MXFP4WeightTRTLLMGenFusedMoEMethod``: `weight_alignment`, the lanes of i of every
# rank and the rows of fc2; `input_hidden_alignment`, the K axis of fc1 alone.
WEIGHT_ALIGNMENT = 128
FC1_HIDDEN_ALIGNMENT = 512
HIDDEN_ALIGNMENT = (FC1_HIDDEN_ALIGNMENT, WEIGHT_ALIGNMENT)
EPILOGUE_TILE = 128

# A row map permutes runs of 8 rows, so no tile is finer; the row map is that of 32
# rows for tiles that are multiples of 128, else of 16 (``get_shuffle_block_size``).
ROW_RUN = 8


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of one rank; `experts` are global ids, `lanes` the lanes of i it owns.

    padded : P, lanes of i with padding. fc1_hidden, fc2_hidden : h with the padding
    of the K axis of fc1, of the rows of fc2. shuffle_block : rows permuted together.
    """

    config: MoEConfig
    tp_size: int
    experts: range
    lanes: range
    padded: int
    fc1_hidden: int
    fc2_hidden: int
    shuffle_block: int

    def outputs(self) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every prepared tensor, by name, in order."""
        e, fc1_rows, fc2_rows = len(self.experts), 2 * self.padded, self.fc2_hidden
        u8, f32 = torch.uint8, torch.float32
        found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "fc1_weights": ((e, fc1_rows, self.fc1_hidden // 2), u8),
            "fc1_scales": ((e, fc1_rows, self.fc1_hidden // BLOCK), u8),
            "fc2_weights": ((e, fc2_rows, self.padded // 2), u8),
            "fc2_scales": ((e, fc2_rows, self.padded // BLOCK), u8),
        }
        if self.config.has_bias:
            found["fc1_bias"] = ((e, fc1_rows), f32)
            found["fc2_bias"] = ((e, fc2_rows), f32)
        parameters = ("swiglu_alpha", "swiglu_beta", "swiglu_limit")
        return found | dict.fromkeys(parameters, ((e,), f32))

    @property
    def gate_up_rows(self) -> slice:
        """The rank's rows of the interleaved gate_up tensors."""
        return slice(2 * self.lanes.start, 2 * self.lanes.stop)

    @property
    def down_groups(self) -> slice:
        """The rank's blocks of 32 along the K axis of the down tensors."""
        return slice(self.lanes.start // BLOCK, self.lanes.stop // BLOCK)


def geometry(
    config: MoEConfig,
    shard: Shard,
    *,
    epilogue_tile: int = EPILOGUE_TILE,
    hidden_alignment: tuple[int, int] = HIDDEN_ALIGNMENT,
) -> Geometry:
    """Sizes of `shard` whatever its own alignment says; `BadInput` for the options.

    hidden_alignment : of fc1's K axis and of fc2's rows; (512, 128) for TensorRT-LLM,
    (128, 128) for FlashInfer. Both are multiples of 128, the rows of a scale tile.
    """
    if type(epilogue_tile) is not int or epilogue_tile < 1 or epilogue_tile % ROW_RUN:
        raise BadInput(
            f"epilogue_tile: expected a positive multiple of {ROW_RUN}, "
            f"found {epilogue_tile!r}"
        )
    if (
        not isinstance(hidden_alignment, tuple)
        or len(hidden_alignment) != 2
        or any(type(a) is not int or a < 1 or a % 128 for a in hidden_alignment)
    ):
        raise BadInput(
            "hidden_alignment: expected two positive multiples of 128, "
            f"found {hidden_alignment!r}"
        )
    aligned = replace(shard, alignment=WEIGHT_ALIGNMENT)
    for_fc1, for_fc2 = hidden_alignment
    return Geometry(
        config=config,
        tp_size=shard.tp_size,
        experts=aligned.expert_range(config),
        lanes=aligned.intermediate_range(config),
        padded=aligned.padded_intermediate(config),
        fc1_hidden=_up(config.hidden, for_fc1),
        fc2_hidden=_up(config.hidden, for_fc2),
        shuffle_block=32 if epilogue_tile % 128 == 0 else 16,
    )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
