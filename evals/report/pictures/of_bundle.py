"""The pictures of a bundle's tensors, whichever it holds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mxmoe.evals.report.document import Picture
from mxmoe.evals.report.pictures.of_bytes import byte_pictures
from mxmoe.evals.report.pictures.of_numbers import number_pictures

# A layer of gpt-oss-120b would take longer to draw than to judge.
LARGEST = 2**27


def pictures_of(bundle: Path) -> tuple[Picture, ...]:
    """Empty for a bundle without tensors, with too many, or with a damaged file."""
    tensors: dict[str, torch.Tensor] = {}
    try:
        for name in ("inputs.safetensors", "tensors.safetensors"):
            path = bundle / name
            if path.exists() and path.stat().st_size <= LARGEST:
                tensors |= load_file(path)
    except (OSError, SafetensorError):
        return ()
    return number_pictures(tensors) or byte_pictures(tensors)
