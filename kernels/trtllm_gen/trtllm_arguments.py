"""What TensorRT-LLM's MXFP4 MoE op and its runner are called with, slot by slot.

Each dataclass names the slots of one call *in their order*, `positional` makes the
call's arguments. Confusing two of these integers is how an autotuner once found no
tactic at all (NVIDIA/TensorRT-LLM#13867: ``valid_*`` in the places of
``num_local_experts`` and ``num_tokens``).

Sources, NVIDIA/TensorRT-LLM: the op in
``tensorrt_llm/_torch/custom_ops/trtllm_gen_custom_ops.py`` (with the ``valid_*``
arguments, that is since 86cfb3e); ``run_moe`` and ``get_valid_configs`` in
``cpp/tensorrt_llm/thop/mxFp4BlockScaleMoe.cpp`` at 03853d11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields
from dataclasses import replace
from typing import Any

import torch

from mxmoe.kernels.trtllm_gen.addressing import FC1_HIDDEN_ALIGNMENT
from mxmoe.kernels.trtllm_gen.addressing import WEIGHT_ALIGNMENT
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

# RoutingMethodType.Renormalize: top-k on the logits, softmax over the chosen
# (``fused_moe/routing.py``); ActType 0 is SwiGLU.
RENORMALIZE = 1
SWIGLU = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class MoEArguments:
    """``torch.ops.trtllm.bf16_mxe2m1_block_scale_moe_runner``, without the output.

    hidden_states bf16 [t, H1], zero behind h; weights, scales, biases and the SwiGLU
    parameters as prepared; intermediate_size is P. num_experts, local_expert_offset
    and topk_ids count all experts of the layer. Either routing_logits [t, e] or
    topk_weights bf16 and topk_ids int32 [t, k].
    """

    routing_logits: torch.Tensor | None
    routing_bias: torch.Tensor | None
    hidden_states: torch.Tensor
    gemm1_weights: torch.Tensor
    gemm1_weights_scale: torch.Tensor
    gemm1_bias: torch.Tensor | None
    gemm1_alpha: torch.Tensor | None
    gemm1_beta: torch.Tensor | None
    gemm1_clamp_limit: torch.Tensor | None
    gemm2_weights: torch.Tensor
    gemm2_weights_scale: torch.Tensor
    gemm2_bias: torch.Tensor | None
    num_experts: int
    top_k: int
    n_group: int | None
    topk_group: int | None
    intermediate_size: int
    valid_hidden_size: int
    valid_intermediate_size: int
    local_expert_offset: int
    local_num_experts: int
    routed_scaling_factor: float | None
    routing_method_type: int
    act_type: int
    topk_weights: torch.Tensor | None
    topk_ids: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class TacticQuery:
    """``Bf16MxE2m1BlockScaleMoERunner.get_valid_configs``.

    hidden_size is H1 and intermediate_size P, as the op gets them.
    """

    top_k: int
    hidden_size: int
    intermediate_size: int
    num_local_experts: int
    num_tokens: int
    valid_hidden_size: int
    valid_intermediate_size: int


def positional(arguments: MoEArguments | TacticQuery) -> tuple[Any, ...]:
    """The values of all slots, in the order of the call."""
    return tuple(getattr(arguments, slot.name) for slot in fields(arguments))


def run_moe_positional(
    arguments: MoEArguments, tactic: Sequence[int]
) -> tuple[Any, ...]:
    """The call of ``run_moe``, which takes a tactic and whose runner has the act_type.

    The last slot is the output: the binding has no default for it.
    """
    *head, _, topk_weights, topk_ids = positional(arguments)
    return (*head, list(tactic), topk_weights, topk_ids, None)


def moe_arguments(
    prepared: PreparedWeights, padded: torch.Tensor, routing: Routing
) -> MoEArguments:
    """The call for one rank, routed by the caller; `padded` is [t, H1].

    The op takes routing weights in bfloat16 only: they are rounded here.
    """
    return _arguments(
        prepared,
        padded,
        top_k=routing.ids.shape[1],
        topk_weights=routing.weights.to(torch.bfloat16).contiguous(),
        topk_ids=routing.ids.to(torch.int32).contiguous(),
        routing_logits=None,
    )


def fused_arguments(
    prepared: PreparedWeights, padded: torch.Tensor, logits: torch.Tensor, top_k: int
) -> MoEArguments:
    """The call for one rank with the routing inside; logits bf16 or fp32 [t, e]."""
    return _arguments(
        prepared,
        padded,
        top_k=top_k,
        topk_weights=None,
        topk_ids=None,
        routing_logits=logits.contiguous(),
    )


def tactic_query(config: MoEConfig, tokens: int, shard: Shard) -> TacticQuery:
    """The query for one rank, before anything is prepared.

    As in the op's own wrapper, no valid lanes at all counts as nothing said.
    """
    shard = replace(shard, alignment=WEIGHT_ALIGNMENT)
    intermediate = shard.padded_intermediate(config)
    hidden = -(-config.hidden // FC1_HIDDEN_ALIGNMENT) * FC1_HIDDEN_ALIGNMENT
    return TacticQuery(
        top_k=config.top_k,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_local_experts=len(shard.expert_range(config)),
        num_tokens=tokens,
        valid_hidden_size=config.hidden,
        valid_intermediate_size=len(shard.intermediate_range(config)) or intermediate,
    )


def fc1_width(prepared: PreparedWeights) -> int:
    """H1: two elements for each byte of a row of fc1 (3072 for gpt-oss)."""
    return 2 * _tensor(prepared, "fc1_weights").shape[2]


def _arguments(
    prepared: PreparedWeights,
    padded: torch.Tensor,
    *,
    top_k: int,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor | None,
    routing_logits: torch.Tensor | None,
) -> MoEArguments:
    config, local = prepared.config, prepared.shard.expert_range(prepared.config)
    has_bias = "fc1_bias" in prepared
    return MoEArguments(
        routing_logits=routing_logits,
        routing_bias=None,
        hidden_states=padded,
        gemm1_weights=_tensor(prepared, "fc1_weights"),
        gemm1_weights_scale=_tensor(prepared, "fc1_scales"),
        gemm1_bias=_tensor(prepared, "fc1_bias") if has_bias else None,
        gemm1_alpha=_tensor(prepared, "swiglu_alpha"),
        gemm1_beta=_tensor(prepared, "swiglu_beta"),
        gemm1_clamp_limit=_tensor(prepared, "swiglu_limit"),
        gemm2_weights=_tensor(prepared, "fc2_weights"),
        gemm2_weights_scale=_tensor(prepared, "fc2_scales"),
        gemm2_bias=_tensor(prepared, "fc2_bias") if has_bias else None,
        num_experts=config.experts,
        top_k=top_k,
        n_group=None,
        topk_group=None,
        intermediate_size=_tensor(prepared, "fc1_weights").shape[1] // 2,
        valid_hidden_size=prepared.valid_hidden,
        valid_intermediate_size=prepared.valid_intermediate,
        local_expert_offset=local.start,
        local_num_experts=len(local),
        routed_scaling_factor=None,
        routing_method_type=RENORMALIZE,
        act_type=SWIGLU,
        topk_weights=topk_weights,
        topk_ids=topk_ids,
    )


def _tensor(prepared: PreparedWeights, name: str) -> torch.Tensor:
    tensor = prepared[name]
    assert isinstance(tensor, torch.Tensor)
    return tensor
