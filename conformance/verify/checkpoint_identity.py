"""Which checkpoint this is, told from a few kilobytes of each of its files."""

from __future__ import annotations

import hashlib
import json
from typing import BinaryIO

from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.errors import BadInput

# safetensors refuses longer headers itself.
_LARGEST_HEADER_BYTES = 100_000_000

# Of each tensor, the first bytes: two checkpoints of one shape differ there, and all of
# gpt-oss-120b is identified without reading its 60 GB.
_SAMPLE_BYTES = 4096


def checkpoint_identity(checkpoint: Checkpoint) -> str:
    """SHA-256 of the configuration, the headers and the beginning of every tensor.

    Where the folder lies and when it was written has no part in it; a change in the
    middle of a tensor is not seen.
    """
    sha = hashlib.sha256(f"{checkpoint.config!r} {checkpoint.layers}".encode())
    for path in sorted(set(checkpoint.files.values())):
        sha.update(path.name.encode())
        try:
            with path.open("rb") as file:
                _add_file(sha, file)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(
                f"{path}: expected a whole safetensors file, found {error}"
            ) from error
    return sha.hexdigest()


def _add_file(sha: hashlib._Hash, file: BinaryIO) -> None:
    """One safetensors file: a length in 8 bytes, a header in JSON, the tensors."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= _LARGEST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    header = file.read(length)
    sha.update(header)
    for name, entry in json.loads(header).items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            file.seek(8 + length + start)
            sha.update(file.read(min(stop - start, _SAMPLE_BYTES)))
