"""FlashInfer's trtllm-gen MXFP4 MoE as a candidate. Unexecuted: nobody had a B200.

The same kernels as TensorRT-LLM's, with another contract: one hidden size for both
GEMMs, a multiple of 128, so fc1's K axis is as long as fc2 has rows (layout
``flashinfer.v1``); no valid sizes, so the zeros of the padding are multiplied; scales
viewed as float8_e4m3fn, whatever their bytes mean; ids and weights of the routing
packed in one int32. Its public functions take no tactic.

Arithmetic as `trtllm_op`: slots and routing weights in bfloat16.

Source: flashinfer-ai/flashinfer 003eddfe, ``flashinfer/fused_moe/core.py``,
``trtllm_fp4_block_scale_routed_moe``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from typing import Any

import torch

from mxmoe.kernels.trtllm_gen import blackwell
from mxmoe.kernels.trtllm_gen.addressing import WEIGHT_ALIGNMENT
from mxmoe.kernels.trtllm_gen.hidden_pad import PadBuffer
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

LIBRARY = "flashinfer"

# RoutingMethodType.Renormalize, the same number as in TensorRT-LLM. With packed ids the
# kernel only reads what is packed.
_RENORMALIZE = 1

_WEIGHT_BITS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedMoEArguments:
    """``flashinfer.fused_moe.trtllm_fp4_block_scale_routed_moe``, by keyword.

    topk_ids int32 [t, k]: global expert id << 16 | bits of the bfloat16 weight.
    hidden_states bf16 [t, H2]; weights uint8; scales float8_e4m3fn by view; the three
    output scalars are for NVFP4. intermediate_size is P. Names that changed between
    versions (activation_type, tile_tokens_dim) are left at their defaults.
    """

    topk_ids: torch.Tensor
    routing_bias: torch.Tensor | None
    hidden_states: torch.Tensor
    hidden_states_scale: torch.Tensor | None
    gemm1_weights: torch.Tensor
    gemm1_weights_scale: torch.Tensor
    gemm1_bias: torch.Tensor | None
    gemm1_alpha: torch.Tensor | None
    gemm1_beta: torch.Tensor | None
    gemm1_clamp_limit: torch.Tensor | None
    gemm2_weights: torch.Tensor
    gemm2_weights_scale: torch.Tensor
    gemm2_bias: torch.Tensor | None
    output1_scale_scalar: torch.Tensor | None
    output1_scale_gate_scalar: torch.Tensor | None
    output2_scale_scalar: torch.Tensor | None
    num_experts: int
    top_k: int
    n_group: int | None
    topk_group: int | None
    intermediate_size: int
    local_expert_offset: int
    local_num_experts: int
    routed_scaling_factor: float | None
    routing_method_type: int
    do_finalize: bool

    def keywords(self) -> dict[str, Any]:
        """The arguments of the call."""
        return {slot.name: getattr(self, slot.name) for slot in fields(self)}


def pack_routing(routing: Routing) -> torch.Tensor:
    """int32 [t, k]: the id in the high half, the bfloat16 weight's bits in the low.

    Id -1 is of no rank, and the kernel passes over it as over experts elsewhere.
    """
    bits = routing.weights.to(torch.bfloat16).contiguous().view(torch.int16).int()
    low = bits & ((1 << _WEIGHT_BITS) - 1)
    return (routing.ids.int() << _WEIGHT_BITS) | low


def routed_arguments(
    prepared: PreparedWeights, padded: torch.Tensor, routing: Routing
) -> RoutedMoEArguments:
    """The call for one rank; `padded` is as wide as fc1's K axis."""
    config, local = prepared.config, prepared.shard.expert_range(prepared.config)
    tensors: dict[str, Any] = dict(prepared)
    return RoutedMoEArguments(
        topk_ids=pack_routing(routing),
        routing_bias=None,
        hidden_states=padded,
        hidden_states_scale=None,
        gemm1_weights=tensors["fc1_weights"],
        gemm1_weights_scale=tensors["fc1_scales"].view(torch.float8_e4m3fn),
        gemm1_bias=tensors.get("fc1_bias"),
        gemm1_alpha=tensors["swiglu_alpha"],
        gemm1_beta=tensors["swiglu_beta"],
        gemm1_clamp_limit=tensors["swiglu_limit"],
        gemm2_weights=tensors["fc2_weights"],
        gemm2_weights_scale=tensors["fc2_scales"].view(torch.float8_e4m3fn),
        gemm2_bias=tensors.get("fc2_bias"),
        output1_scale_scalar=None,
        output1_scale_gate_scalar=None,
        output2_scale_scalar=None,
        num_experts=config.experts,
        top_k=routing.ids.shape[1],
        n_group=None,
        topk_group=None,
        intermediate_size=tensors["fc1_weights"].shape[1] // 2,
        local_expert_offset=local.start,
        local_num_experts=len(local),
        routed_scaling_factor=None,
        routing_method_type=_RENORMALIZE,
        do_finalize=True,
    )


@dataclass(eq=False)
class FlashinferOp:
    """``flashinfer.fused_moe.trtllm_fp4_block_scale_routed_moe``.

    op : a stand-in with the function's signature; None takes FlashInfer's.
    """

    op: Callable[..., Any] | None = None
    name: str = "flashinfer_op"
    _buffer: PadBuffer = field(default_factory=PadBuffer)

    @property
    def capabilities(self) -> dict[str, Any]:
        """Any shard: the padding of each rank is zero and adds nothing."""
        return {
            "arithmetic": "w4a16_fp32acc_bf16slots",
            "routing_weights": "bfloat16",
            "layout": "flashinfer.v1",
            "devices": ("cuda",),
            "shapes": blackwell.takes_shape,
            "shards": "any",
            "execution": "unexecuted",
        }

    def unavailable(self) -> str | None:
        """An sm_100 GPU and FlashInfer are needed, unless there is a stand-in."""
        return blackwell.missing(LIBRARY) if self.op is None else None

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """Layout ``flashinfer.v1``: both GEMMs have the same padded hidden size."""
        both = (WEIGHT_ALIGNMENT, WEIGHT_ALIGNMENT)
        return prepare(weights, config, shard, device, hidden_alignment=both)

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        routing: Routing,
        *,
        tactic: object = None,
    ) -> torch.Tensor:
        """[t, h] -> [t, h], cut from the padded hidden size that the op returns."""
        if hidden_states.shape[0] == 0:
            return torch.empty_like(hidden_states)
        fc1 = prepared["fc1_weights"]
        assert isinstance(fc1, torch.Tensor)
        padded = self._buffer.pad(hidden_states, 2 * fc1.shape[2])
        arguments = routed_arguments(prepared, padded, routing)
        returned = self._op()(**arguments.keywords())
        out: torch.Tensor = returned[0] if isinstance(returned, list) else returned
        return out[:, : prepared.valid_hidden]

    def _op(self) -> Callable[..., Any]:
        if self.op is not None:
            return self.op
        module = importlib.import_module(f"{LIBRARY}.fused_moe")
        found: Callable[..., Any] = module.trtllm_fp4_block_scale_routed_moe
        return found


candidate = FlashinferOp()
