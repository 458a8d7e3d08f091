"""Prepared layouts, each a set of chains of named steps from a checkpoint's bytes.

`LAYOUTS` lists them by name with a version: a new upstream layout is a new
entry, never an edit of an old one. Of triton_kernels not done: the scales of AMD
devices, the scales of MXFP8 activations, values for matrix units older than Hopper's.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mxmoe.reference.layouts.bit_order import BitOrder
from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.checkpoint_order import CHECKPOINT_ORDER
from mxmoe.reference.layouts.derived import Derived
from mxmoe.reference.layouts.index_map import PADDING
from mxmoe.reference.layouts.index_map import Constant
from mxmoe.reference.layouts.index_map import IndexMap
from mxmoe.reference.layouts.layout import Layout
from mxmoe.reference.layouts.triton_blackwell import TRITON_BLACKWELL
from mxmoe.reference.layouts.triton_blackwell import TRITON_BLACKWELL_SHUFFLED
from mxmoe.reference.layouts.triton_hopper import TRITON_HOPPER
from mxmoe.reference.layouts.triton_hopper import TRITON_HOPPER_WARPS4
from mxmoe.reference.layouts.triton_moe import TRITON_MOE
from mxmoe.reference.layouts.trtllm_gen import FLASHINFER
from mxmoe.reference.layouts.trtllm_gen import TRTLLM_GEN
from mxmoe.reference.layouts.trtllm_gen import TRTLLM_GEN_TILE64

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            CHECKPOINT_ORDER,
            TRTLLM_GEN,
            TRTLLM_GEN_TILE64,
            FLASHINFER,
            TRITON_HOPPER,
            TRITON_HOPPER_WARPS4,
            TRITON_BLACKWELL,
            TRITON_BLACKWELL_SHUFFLED,
            TRITON_MOE,
        )
    }
)

__all__ = [
    "CHECKPOINT_ORDER",
    "FLASHINFER",
    "LAYOUTS",
    "PADDING",
    "TRITON_BLACKWELL",
    "TRITON_BLACKWELL_SHUFFLED",
    "TRITON_HOPPER",
    "TRITON_HOPPER_WARPS4",
    "TRITON_MOE",
    "TRTLLM_GEN",
    "TRTLLM_GEN_TILE64",
    "BitOrder",
    "Chain",
    "Constant",
    "Derived",
    "IndexMap",
    "Layout",
]
