"""SHA-256 of prepared tensors, and the file in which they are kept.

A digest is taken of the raw bytes of one tensor in C order, so that any tool can
repeat it. Only bytes that were compared with the index maps are ever written down.

    {"schema": 1, "layout": "trtllm_gen.v1", "config": "e128k4h2880i2880",
     "layers": 36, "checkpoint": "<sha256>", "tp": 8, "ep": 1,
     "digests": {"0": {"tp8r0": {"fc1_weights": "<sha256>", ...}, ...}, ...}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch

from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.reference.errors import BadInput

SCHEMA = 1

# Digests of a layer by rank label and tensor, and of a checkpoint by layer number.
LayerDigests = Mapping[str, Mapping[str, str]]

# 36 layers x 128 ranks x 9 tensors x 64 digits are 3 MB; past this a file is not one.
_LARGEST_BYTES = 2**26


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the bytes in C order, hexadecimal; one expert is copied at a time."""
    sha = hashlib.sha256()
    for expert in tensor if tensor.dim() else (tensor,):
        sha.update(as_bytes(expert).reshape(-1).numpy().data)
    return sha.hexdigest()


def digest_all(pool: Executor, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The digest of each tensor, side by side: hashlib lets other threads run."""
    # The largest first: it is two thirds of a layer, the others fit beside it.
    names = sorted(tensors, key=lambda name: -tensors[name].nbytes)
    words = pool.map(digest, [tensors[name] for name in names])
    found = dict(zip(names, words, strict=True))
    return {name: found[name] for name in tensors}


def write_digests(
    path: Path, facts: Mapping[str, Any], digests: Mapping[int, LayerDigests]
) -> None:
    """Write the file, whole, through a rename."""
    content = {"schema": SCHEMA, **facts, "digests": digests}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise BadInput(
            f"{path}: expected a file that can be written, {error.strerror}"
        ) from error


def read_digests(path: Path, facts: Mapping[str, Any]) -> dict[int, LayerDigests]:
    """Digests by layer; `BadInput` if the file was made of anything else than `facts`.

    facts : layout, shape, checkpoint identity, tp and ep, as `write_digests` got them.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        stored = {int(n): _layer(ranks) for n, ranks in found["digests"].items()}
    except OSError as error:
        raise BadInput(
            f"{path}: expected a file of digests, {error.strerror}"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{path}: expected a file of digests, found {type(error).__name__}: {error}"
        ) from error
    for name, expected in {"schema": SCHEMA, **facts}.items():
        if found.get(name) != expected:
            raise BadInput(
                f"{path}: {name}: expected {expected!r}, found {found.get(name)!r:.80}"
            )
    return stored


def _layer(ranks: dict[str, dict[str, str]]) -> LayerDigests:
    return {
        shard: {name: str(word) for name, word in tensors.items()}
        for shard, tensors in ranks.items()
    }
