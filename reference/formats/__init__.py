"""MXFP4: 32 E2M1 elements (4 bits each) that share one E8M0 scale (8 bits).

Two decoders written differently (`decode_table`, `decode_arithmetic`) test each
other; `encode` follows a *named* scale rule. What the edges do is decided, with
sources, in `e8m0` and `encode`.
"""

from mxmoe.reference.formats.decode import decode
from mxmoe.reference.formats.decode import decode_arithmetic
from mxmoe.reference.formats.decode import decode_table
from mxmoe.reference.formats.encode import SCALE_RULES
from mxmoe.reference.formats.encode import encode
from mxmoe.reference.formats.nibbles import pack_nibbles
from mxmoe.reference.formats.nibbles import unpack_nibbles

__all__ = [
    "SCALE_RULES",
    "decode",
    "decode_arithmetic",
    "decode_table",
    "encode",
    "pack_nibbles",
    "unpack_nibbles",
]
