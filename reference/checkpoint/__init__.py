"""Reading a gpt-oss MXFP4 folder lazily, one layer in memory at a time."""

from mxmoe.reference.checkpoint.read import Checkpoint
from mxmoe.reference.checkpoint.read import open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
