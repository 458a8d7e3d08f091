"""TensorRT-LLM's op and runner by schema, with the emulation behind them.

`candidate` is the adapter `TrtllmOp` on these stand-ins: what a B200 will be asked, on
any machine. Argument order, checks and the bfloat16 of the second GEMM are written
from NVIDIA/TensorRT-LLM (the op in ``trtllm_gen_custom_ops.py``, the runner in
``mxFp4BlockScaleMoe.cpp`` at 03853d11), not from the adapter.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import torch

from mxmoe.kernels.trtllm_gen import emulated
from mxmoe.kernels.trtllm_gen.trtllm_op import TrtllmOp
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

SCHEMA = (
    "bf16_mxe2m1_block_scale_moe_runner(Tensor? routing_logits, Tensor? routing_bias, "
    "Tensor hidden_states, Tensor gemm1_weights, Tensor gemm1_weights_scale, "
    "Tensor? gemm1_bias, Tensor? gemm1_alpha, Tensor? gemm1_beta, "
    "Tensor? gemm1_clamp_limit, Tensor gemm2_weights, Tensor gemm2_weights_scale, "
    "Tensor? gemm2_bias, SymInt num_experts, SymInt top_k, SymInt? n_group, "
    "SymInt? topk_group, SymInt intermediate_size, SymInt? valid_hidden_size, "
    "SymInt? valid_intermediate_size, SymInt local_expert_offset, "
    "SymInt local_num_experts, float? routed_scaling_factor, "
    "SymInt routing_method_type, SymInt act_type, Tensor? topk_weights=None, "
    "Tensor? topk_ids=None, Tensor? output=None, SymInt tune_max_num_tokens=8192, "
    "bool use_dp=False) -> Tensor"
)
SLOTS = tuple(
    argument.split("=")[0].split()[-1]
    for argument in SCHEMA[SCHEMA.index("(") + 1 : SCHEMA.index(")")].split(",")
)

# `mSupportedTileN` of the bfloat16 runner: tokens in a tile.
_TILES = (8, 16, 32, 64)

# H1 is the hidden size rounded up to this: a wider gap means confused arguments.
_FC1_HIDDEN_ALIGNMENT = 512

_TENSORS = {
    "fc1_weights": "gemm1_weights",
    "fc1_scales": "gemm1_weights_scale",
    "fc1_bias": "gemm1_bias",
    "fc2_weights": "gemm2_weights",
    "fc2_scales": "gemm2_weights_scale",
    "fc2_bias": "gemm2_bias",
    "swiglu_alpha": "gemm1_alpha",
    "swiglu_beta": "gemm1_beta",
    "swiglu_limit": "gemm1_clamp_limit",
}


@dataclass(eq=False)
class StandInOp:
    """Called like the op; keeps the last call, by the names of its slots."""

    calls: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *values: Any) -> torch.Tensor:
        """[t, valid_hidden] bfloat16."""
        self.calls += 1
        self.last = dict(itertools.zip_longest(SLOTS, values))
        return compute(self.last)


@dataclass(eq=False)
class StandInRunner:
    """The runner class's two methods; the query finds nothing for impossible sizes."""

    queries: list[tuple[int, ...]] = field(default_factory=list)
    tactics: list[list[int]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def get_valid_configs(
        self,
        top_k: int,
        hidden_size: int,
        intermediate_size: int,
        num_local_experts: int,
        num_tokens: int,
        valid_hidden_size: int,
        valid_intermediate_size: int,
    ) -> list[list[int]]:
        """[tile, configuration]: the tile for an expert's tokens, and the larger ones.

        Two configurations a tile; the library has more, by its list of kernels.
        """
        sizes = (top_k, hidden_size, intermediate_size, num_local_experts, num_tokens)
        self.queries.append((*sizes, valid_hidden_size, valid_intermediate_size))
        gap = hidden_size - valid_hidden_size
        if not 0 <= gap < _FC1_HIDDEN_ALIGNMENT:
            return []
        if not 0 < valid_intermediate_size <= intermediate_size:
            return []
        average = min(num_tokens * top_k / num_local_experts, _TILES[-1])
        return [[tile, n] for tile in _TILES if tile >= average for n in (0, 1)]

    def run_moe(self, *values: Any) -> torch.Tensor:
        """The op's slots without act_type, a tactic before the routing, an output."""
        *head, tactic, topk_weights, topk_ids, output = values
        slots = SLOTS[: SLOTS.index("act_type")]
        self.tactics.append(tactic)
        self.last = dict(zip(slots, head, strict=True)) | {
            "act_type": 0,
            "topk_weights": topk_weights,
            "topk_ids": topk_ids,
            "output": output,
        }
        return compute(self.last)


def compute(call: dict[str, Any]) -> torch.Tensor:
    """What the kernel would make of a call, [t, valid_hidden] bfloat16."""
    _check(call)
    weights = _prepared(call)
    if call["topk_ids"] is None:
        ids, chosen = emulated.route(call["routing_logits"], call["top_k"])
    else:
        ids, chosen = call["topk_ids"], call["topk_weights"]
    mix = torch.where(ids < 0, 0, chosen.bfloat16().float())
    stages = emulated.trace(weights, call["hidden_states"], Routing(ids, mix))
    # Slots that are not served here are 0.
    down = stages["down"].bfloat16().float()
    return torch.einsum("tk,tkh->th", mix, down).bfloat16()


def _check(call: dict[str, Any]) -> None:
    """The op's own checks that an adapter can violate."""
    p, h1 = call["intermediate_size"], call["hidden_states"].shape[1]
    ids, weights = call["topk_ids"], call["topk_weights"]
    checks = {
        "fc1 has 2P rows": call["gemm1_weights"].shape[1] == 2 * p,
        "fc1 is as wide as the hidden states": call["gemm1_weights"].shape[2] * 2 == h1,
        "fc2 is P wide": call["gemm2_weights"].shape[2] * 2 == p,
        "there are more experts than top_k": call["num_experts"] > call["top_k"],
        "ids are int32": ids is None or ids.dtype == torch.int32,
        "weights are bf16": weights is None or weights.dtype == torch.bfloat16,
    }
    broken = [check for check, holds in checks.items() if not holds]
    if broken:
        raise RuntimeError(f"the op wants: {', '.join(broken)}")


def _prepared(call: dict[str, Any]) -> PreparedWeights:
    local, experts = call["local_num_experts"], call["num_experts"]
    tensors = {name: call[slot] for name, slot in _TENSORS.items()}
    return PreparedWeights(
        tensors={n: t for n, t in tensors.items() if t is not None},
        layout="trtllm_gen.v1",
        config=MoEConfig(
            hidden=call["valid_hidden_size"],
            intermediate=call["intermediate_size"],
            experts=experts,
            top_k=call["top_k"],
        ),
        shard=Shard(
            ep_size=experts // local, ep_rank=call["local_expert_offset"] // local
        ),
        valid_hidden=call["valid_hidden_size"],
        valid_intermediate=call["valid_intermediate_size"],
    )


candidate = TrtllmOp(op=StandInOp(), runner=StandInRunner(), name="trtllm_stand_in")
