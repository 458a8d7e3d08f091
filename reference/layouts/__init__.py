"""Prepared layouts, each a set of chains of named steps from a checkpoint's bytes.

`LAYOUTS` lists them by name with a version: a new upstream layout is a new
entry, never an edit of an old one.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.checkpoint_order import CHECKPOINT_ORDER
from mxmoe.reference.layouts.index_map import PADDING
from mxmoe.reference.layouts.index_map import Constant
from mxmoe.reference.layouts.index_map import IndexMap
from mxmoe.reference.layouts.layout import Layout
from mxmoe.reference.layouts.trtllm_gen import FLASHINFER
from mxmoe.reference.layouts.trtllm_gen import TRTLLM_GEN
from mxmoe.reference.layouts.trtllm_gen import TRTLLM_GEN_TILE64

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (CHECKPOINT_ORDER, TRTLLM_GEN, TRTLLM_GEN_TILE64, FLASHINFER)
    }
)

__all__ = [
    "CHECKPOINT_ORDER",
    "FLASHINFER",
    "LAYOUTS",
    "PADDING",
    "TRTLLM_GEN",
    "TRTLLM_GEN_TILE64",
    "Chain",
    "Constant",
    "IndexMap",
    "Layout",
]
