"""What every preparation of weights refuses, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig

_DEVICES = ("cpu", "cuda")

# The checkpoint's fields have other names than blocks that were prepared.
_PREPARED = "_weights"


def check_weights(weights: object, config: MoEConfig) -> ExpertWeights:
    """`weights` itself, if it is one raw layer of `config` on one device."""
    if isinstance(weights, Mapping):
        prepared = next((n for n in weights if str(n).endswith(_PREPARED)), None)
        if prepared is not None:
            raise BadInput(
                "weights: expected one layer in checkpoint order, found tensors that "
                f"are prepared already ({prepared})"
            )
    if not isinstance(weights, ExpertWeights):
        raise BadInput(
            "weights: expected one layer as ExpertWeights, "
            f"found {type(weights).__name__}"
        )
    weights.check(config)
    tensors = weights.tensors()
    home = weights.gate_up_blocks.device
    for name, tensor in tensors.items():
        if tensor.device != home:
            raise BadInput(
                f"{name}: expected all weights on one device, here {home}, "
                f"found {tensor.device}"
            )
    if home.type not in _DEVICES:
        raise BadInput(f"weights: expected them on a CPU or CUDA device, found {home}")
    return weights


def check_device(device: torch.device | str) -> torch.device:
    """A device that is there, with its index; `BadInput` otherwise."""
    try:
        found = torch.device(device)
        if found.type not in _DEVICES:
            raise BadInput(f"device: expected a CPU or CUDA device, found {found}")
        return torch.empty(0, device=found).device
    except (RuntimeError, TypeError, AssertionError) as error:
        # torch without CUDA raises AssertionError.
        reason = str(error).partition("\n")[0]
        raise BadInput(
            f"device: expected one that is there, found {device!r} ({reason})"
        ) from error
