"""The adapter of FlashInfer's MoE function, through one that records its arguments.

The parameters below are written down from flashinfer-ai/flashinfer 003eddfe,
``flashinfer/fused_moe/core.py``, not from the adapter.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import pytest
import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.kernels.trtllm_gen import emulated
from mxmoe.kernels.trtllm_gen.flashinfer_op import FlashinferOp
from mxmoe.kernels.trtllm_gen.flashinfer_op import pack_routing
from mxmoe.reference.layouts import FLASHINFER
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

# H 544 is padded to 640 for both GEMMs; P 256, 12 experts, 4 here from number 8 on.
CONFIG = MoEConfig(hidden=544, intermediate=288, experts=12, top_k=3)
SHARD = Shard(tp_size=2, tp_rank=1, ep_size=3, ep_rank=2)
TOKENS = 5
INTEGERS = {
    "num_experts": 12,
    "top_k": 3,
    "intermediate_size": 256,
    "local_expert_offset": 8,
    "local_num_experts": 4,
    "routing_method_type": 1,
}
WEIGHTS = {
    "gemm1_weights": "fc1_weights",
    "gemm1_bias": "fc1_bias",
    "gemm1_alpha": "swiglu_alpha",
    "gemm1_beta": "swiglu_beta",
    "gemm1_clamp_limit": "swiglu_limit",
    "gemm2_weights": "fc2_weights",
    "gemm2_bias": "fc2_bias",
}
SCALES = {"gemm1_weights_scale": "fc1_scales", "gemm2_weights_scale": "fc2_scales"}
EMPTY = (
    *("routing_bias", "hidden_states_scale", "n_group", "topk_group"),
    *("output1_scale_scalar", "output1_scale_gate_scalar", "output2_scale_scalar"),
    "routed_scaling_factor",
)


@dataclass
class RecordingOp:
    """Has the function's signature; the numbers come from the emulation."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(
        self,
        topk_ids: torch.Tensor,
        routing_bias: torch.Tensor | None,
        hidden_states: torch.Tensor,
        hidden_states_scale: torch.Tensor | None,
        gemm1_weights: torch.Tensor,
        gemm1_weights_scale: torch.Tensor,
        gemm1_bias: torch.Tensor | None,
        gemm1_alpha: torch.Tensor | None,
        gemm1_beta: torch.Tensor | None,
        gemm1_clamp_limit: torch.Tensor | None,
        gemm2_weights: torch.Tensor,
        gemm2_weights_scale: torch.Tensor,
        gemm2_bias: torch.Tensor | None,
        output1_scale_scalar: torch.Tensor | None,
        output1_scale_gate_scalar: torch.Tensor | None,
        output2_scale_scalar: torch.Tensor | None,
        num_experts: int,
        top_k: int,
        n_group: int | None,
        topk_group: int | None,
        intermediate_size: int,
        local_expert_offset: int,
        local_num_experts: int,
        routed_scaling_factor: float | None,
        routing_method_type: int = 0,
        do_finalize: bool = True,
        enable_pdl: bool | None = None,
        activation_type: int = 3,
        per_token_scale: torch.Tensor | None = None,
        output: torch.Tensor | None = None,
        tune_max_num_tokens: int = 8192,
    ) -> list[torch.Tensor]:
        call = {n: v for n, v in locals().items() if n != "self"}
        self.calls.append(call)
        return [consume(call)]


def consume(call: dict[str, Any]) -> torch.Tensor:
    """No valid sizes: all padded lanes and columns are computed; [t, padded h]."""
    hidden = call["gemm2_weights"].shape[1]
    assert (
        call["hidden_states"].shape[1] == hidden == 2 * call["gemm1_weights"].shape[2]
    )
    assert call["gemm1_weights_scale"].dtype == torch.float8_e4m3fn
    # The number format is inferred from this ratio: 32 elements a scale is MXFP4.
    for slot in ("gemm1_weights", "gemm2_weights"):
        assert 2 * call[slot].numel() == 32 * call[f"{slot}_scale"].numel()
    lanes, local = call["intermediate_size"], call["local_num_experts"]
    offset, experts = call["local_expert_offset"], call["num_experts"]
    tensors = {name: call[slot] for slot, name in (WEIGHTS | SCALES).items()}
    weights = PreparedWeights(
        tensors={n: t for n, t in tensors.items() if t is not None},
        layout=FLASHINFER.name,
        config=MoEConfig(
            hidden=hidden, intermediate=lanes, experts=experts, top_k=call["top_k"]
        ),
        shard=Shard(ep_size=experts // local, ep_rank=offset // local, alignment=128),
        valid_hidden=hidden,
        valid_intermediate=lanes,
    )
    packed = call["topk_ids"]
    routing = Routing(packed >> 16, packed.short().view(torch.bfloat16).float())
    return emulated.forward(weights, call["hidden_states"], routing)


@pytest.fixture(scope="module")
def data() -> CaseData:
    return make_case_data(Case(config=CONFIG, tokens=TOKENS, hot=("no_expert",)))


def prepare(data: CaseData, shard: Shard = SHARD) -> PreparedWeights:
    shard = FLASHINFER.aligned(shard)
    device = torch.device("cpu")
    return PreparedWeights(
        tensors=FlashinferOp().prepare(data.weights, CONFIG, shard, device),
        layout=FLASHINFER.name,
        config=CONFIG,
        shard=shard,
        valid_hidden=CONFIG.hidden,
        valid_intermediate=len(shard.intermediate_range(CONFIG)),
    )


def misplaced(call: dict[str, Any], prepared: PreparedWeights) -> list[str]:
    """The slots that do not hold what belongs there."""
    wrong = [s for s, v in INTEGERS.items() if type(call[s]) is not int or call[s] != v]
    wrong += [
        slot for slot, name in WEIGHTS.items() if call[slot] is not prepared[name]
    ]
    for slot, name in SCALES.items():
        bytes_of = prepared[name]
        assert isinstance(bytes_of, torch.Tensor)
        found = call[slot]
        view = isinstance(found, torch.Tensor) and found.dtype == torch.float8_e4m3fn
        if not view or found.data_ptr() != bytes_of.data_ptr():
            wrong.append(slot)
    return wrong + [slot for slot in EMPTY if call[slot] is not None]


def test_each_argument_lands_in_its_slot(data: CaseData) -> None:
    assert len(set(INTEGERS.values())) == len(INTEGERS)
    op, prepared = RecordingOp(), prepare(data)
    FlashinferOp(op=op).forward(prepared, data.hidden_states, data.routing)
    (call,) = op.calls
    assert misplaced(call, prepared) == []
    assert call["do_finalize"] is True
    slots = (*INTEGERS, *WEIGHTS, *SCALES)
    for one, other in itertools.combinations(slots, 2):
        swapped = call | {one: call[other], other: call[one]}
        assert misplaced(swapped, prepared), (one, other)


def test_ids_and_weights_are_packed_in_one_word() -> None:
    ids = torch.tensor([[7, -1, 127]], dtype=torch.int32)
    weights = torch.tensor([[0.75, 1000.0, 2**-9]])
    packed = pack_routing(Routing(ids, weights))
    assert packed.dtype == torch.int32
    assert (packed >> 16).tolist() == ids.tolist()
    low = (packed & 0xFFFF).tolist()[0]
    assert low == [0x3F40, 0x447A, 0x3B00]  # the upper halves of the float32 bits


def test_hidden_states_get_the_one_padded_width_with_zeros(data: CaseData) -> None:
    op, kernel = RecordingOp(), FlashinferOp()
    kernel.op = op
    kernel._buffer.pad(torch.full((5, 640), torch.nan, dtype=torch.bfloat16), 640)
    out = kernel.forward(prepare(data), data.hidden_states, data.routing)
    hidden = op.calls[0]["hidden_states"]
    assert hidden.shape == (TOKENS, 640)
    assert (hidden[:, 544:] == 0).all()
    assert torch.equal(hidden[:, :544], data.hidden_states)
    assert out.shape == (TOKENS, 544)


@pytest.mark.parametrize(
    "shard", [WHOLE, SHARD, Shard(tp_size=4, tp_rank=3)], ids=Shard.label
)
def test_the_whole_path_gives_the_right_numbers(data: CaseData, shard: Shard) -> None:
    """prepare, arguments, op: against truth with the weights that the op can take."""
    prepared = prepare(data, shard)
    kernel = FlashinferOp(op=RecordingOp())
    out = kernel.forward(prepared, data.hidden_states, data.routing)
    rounded = data.routing.weights.bfloat16().float()
    judged = judge_rank(
        shard_weights(data.weights, CONFIG, prepared.shard),
        CONFIG,
        data.hidden_states,
        Routing(data.routing.ids, rounded),
        shard=prepared.shard,
        arithmetic=ARITHMETIC["w4a16_fp32acc_bf16slots"],
    )
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    assert compare_numbers(out, truth, allowed).within
