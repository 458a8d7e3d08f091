"""Which trained weights these are: the hash that cards, records and protocols name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mxmoe.reference.errors import BadInput

_READ_AT_ONCE = 2**24  # 16 MB: a checkpoint can be larger than the memory


def weights_sha256(folder: Path) -> str:
    """SHA-256 of all weight files of a checkpoint folder, in the order of their names.

    Raises `BadInput` for a folder without weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadInput(f"{folder}: expected a model, found no *.safetensors")
    sha = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_READ_AT_ONCE):
                sha.update(block)
    return sha.hexdigest()
