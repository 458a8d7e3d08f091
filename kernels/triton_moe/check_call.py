"""Bad calls: every error is raised before anything is launched.

The ids are not looked at, which would wait for the GPU: one that is out of range is an
expert of another rank to the kernels, and never an address.
"""

from __future__ import annotations

import torch

from mxmoe.kernels.triton_moe.layer import Layer
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import Routing

_IDS = (torch.int32, torch.int64)
_WEIGHTS = (torch.float32, torch.bfloat16)


def check_hidden_states(hidden_states: torch.Tensor, layer: Layer) -> torch.Tensor:
    """`hidden_states` with its columns side by side, or `BadInput`."""
    if hidden_states.ndim != 2 or hidden_states.shape[1] != layer.hidden:
        raise BadInput(
            f"hidden_states: expected [t, {layer.hidden}], "
            f"found {list(hidden_states.shape)}"
        )
    wanted = layer.dtype
    if hidden_states.dtype != wanted:
        raise BadInput(f"hidden_states: expected {wanted}, found {hidden_states.dtype}")
    _check_device("hidden_states", hidden_states, layer)
    if hidden_states.stride(1) != 1:
        return hidden_states.contiguous()
    return hidden_states


def check_routing(routing: Routing, tokens: int, layer: Layer) -> None:
    """`BadInput` unless ids and weights are [t, k] of the right kind."""
    ids, weights = routing.ids, routing.weights
    if ids.ndim != 2 or len(ids) != tokens or ids.shape[1] < 1:
        raise BadInput(f"ids: expected [{tokens}, top_k], found {list(ids.shape)}")
    if weights.shape != ids.shape:
        raise BadInput(
            f"weights: expected the shape of the ids, {list(ids.shape)}, "
            f"found {list(weights.shape)}"
        )
    _check_dtype("ids", ids, _IDS)
    _check_dtype("weights", weights, _WEIGHTS)
    _check_device("ids", ids, layer)
    _check_device("weights", weights, layer)


def check_router(
    router_weight: torch.Tensor,
    router_bias: torch.Tensor | None,
    top_k: int,
    layer: Layer,
) -> None:
    """`BadInput` unless the router fits the layer and has `top_k` experts."""
    if router_weight.ndim != 2 or router_weight.shape[1] != layer.hidden:
        raise BadInput(
            f"router_weight: expected [experts, {layer.hidden}], "
            f"found {list(router_weight.shape)}"
        )
    experts = len(router_weight)
    if not 1 <= top_k <= experts:
        raise BadInput(f"top_k: expected 1 to {experts}, found {top_k}")
    tensors = {"router_weight": router_weight}
    if router_bias is not None:
        if router_bias.shape != (experts,):
            raise BadInput(
                f"router_bias: expected [{experts}], found {list(router_bias.shape)}"
            )
        tensors["router_bias"] = router_bias
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadInput(f"{name}: expected a floating dtype, found {tensor.dtype}")
        _check_device(name, tensor, layer)


def _check_dtype(
    name: str, tensor: torch.Tensor, known: tuple[torch.dtype, ...]
) -> None:
    if tensor.dtype not in known:
        names = " or ".join(str(dtype) for dtype in known)
        raise BadInput(f"{name}: expected {names}, found {tensor.dtype}")


def _check_device(name: str, tensor: torch.Tensor, layer: Layer) -> None:
    if tensor.device != layer.gate_up.words.device:
        raise BadInput(
            f"{name}: expected on {layer.gate_up.words.device} like the weights, "
            f"found on {tensor.device}"
        )
