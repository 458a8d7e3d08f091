"""Prepared layouts, each a set of index maps from a checkpoint's bytes.

`LAYOUTS` lists them by name with a version: a new upstream layout is a new
entry, never an edit of an old one.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mxmoe.reference.layouts.checkpoint_order import CHECKPOINT_ORDER
from mxmoe.reference.layouts.index_map import IndexMap
from mxmoe.reference.layouts.index_map import Layout

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.name: layout for layout in (CHECKPOINT_ORDER,)}
)

__all__ = ["CHECKPOINT_ORDER", "LAYOUTS", "IndexMap", "Layout"]
