"""The adapter of TensorRT-LLM's MoE op, through ops that record what they are given.

The op is registered with its schema, the numbers come from the emulation: see
`trtllm_stand_in`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_every_tactic
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.kernels.trtllm_gen import blackwell
from mxmoe.kernels.trtllm_gen.trtllm_op import TrtllmOp
from mxmoe.kernels.trtllm_gen.trtllm_stand_in import SCHEMA
from mxmoe.kernels.trtllm_gen.trtllm_stand_in import SLOTS
from mxmoe.kernels.trtllm_gen.trtllm_stand_in import StandInOp
from mxmoe.kernels.trtllm_gen.trtllm_stand_in import StandInRunner
from mxmoe.kernels.trtllm_gen.trtllm_stand_in import candidate as rehearsal
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import GPT_OSS_20B
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

# The real dispatcher checks kinds and numbers of arguments against the schema.
LIBRARY = torch.library.Library("mxmoe_recorded_trtllm", "DEF")
LIBRARY.define(SCHEMA)
STAND_IN = StandInOp()
LIBRARY.impl("bf16_mxe2m1_block_scale_moe_runner", STAND_IN.__call__, "CPU")
OP = torch.ops.mxmoe_recorded_trtllm.bf16_mxe2m1_block_scale_moe_runner

# Every integer of the call is different: H 544, H1 1024, H2 640, P 256, valid 32,
# 12 experts of which 4 from number 8 on, top-k 3, 5 tokens, method 1, activation 0.
CONFIG = MoEConfig(hidden=544, intermediate=288, experts=12, top_k=3)
SHARD = Shard(tp_size=2, tp_rank=1, ep_size=3, ep_rank=2)
TOKENS = 5
INTEGERS = {
    "num_experts": 12,
    "top_k": 3,
    "intermediate_size": 256,
    "valid_hidden_size": 544,
    "valid_intermediate_size": 32,
    "local_expert_offset": 8,
    "local_num_experts": 4,
    "routing_method_type": 1,
    "act_type": 0,
}
# top-k, hidden, intermediate, local experts, tokens, valid hidden and intermediate.
QUERY = (3, 1024, 256, 4, 5, 544, 32)
TENSORS = {
    "gemm1_weights": "fc1_weights",
    "gemm1_weights_scale": "fc1_scales",
    "gemm1_bias": "fc1_bias",
    "gemm1_alpha": "swiglu_alpha",
    "gemm1_beta": "swiglu_beta",
    "gemm1_clamp_limit": "swiglu_limit",
    "gemm2_weights": "fc2_weights",
    "gemm2_weights_scale": "fc2_scales",
    "gemm2_bias": "fc2_bias",
}


class SeedOrder(StandInRunner):
    """Is asked as the engine's Python wrapper once did."""

    def get_valid_configs(self, *values: int) -> list[list[int]]:
        return super().get_valid_configs(*values[:3], *values[5:], *values[3:5])


@pytest.fixture(scope="module")
def data() -> CaseData:
    return make_case_data(Case(config=CONFIG, shard=SHARD, tokens=TOKENS))


def candidate() -> TrtllmOp:
    return TrtllmOp(op=OP, runner=StandInRunner())


def prepare(data: CaseData, shard: Shard = SHARD) -> PreparedWeights:
    shard = TRTLLM_GEN.aligned(shard)
    config, device = data.config, torch.device("cpu")
    return PreparedWeights(
        tensors=candidate().prepare(data.weights, config, shard, device),
        layout=TRTLLM_GEN.name,
        config=config,
        shard=shard,
        valid_hidden=config.hidden,
        valid_intermediate=len(shard.intermediate_range(config)),
    )


def misplaced(
    call: dict[str, Any], prepared: PreparedWeights, data: CaseData
) -> list[str]:
    """The slots that do not hold what belongs there."""
    wrong = [s for s, v in INTEGERS.items() if type(call[s]) is not int or call[s] != v]
    wrong += [s for s, name in TENSORS.items() if not _is(call[s], prepared[name])]
    wrong += [
        slot
        for slot in (
            *("routing_logits", "routing_bias", "n_group", "topk_group"),
            "routed_scaling_factor",
        )
        if call[slot] is not None
    ]
    padded = torch.nn.functional.pad(data.hidden_states, (0, 1024 - 544))
    own = {
        "hidden_states": padded,
        "topk_weights": data.routing.weights.bfloat16(),
        "topk_ids": data.routing.ids,
    }
    wrong += [slot for slot, expected in own.items() if not _is(call[slot], expected)]
    return wrong


def _is(found: object, expected: object) -> bool:
    return (
        isinstance(found, torch.Tensor)
        and isinstance(expected, torch.Tensor)
        and found.dtype == expected.dtype
        and torch.equal(found, expected)
    )


def test_all_integers_of_the_calls_differ() -> None:
    assert len(set(INTEGERS.values())) == len(INTEGERS)
    assert len(set(QUERY)) == len(QUERY)


@pytest.mark.parametrize("tactic", [None, (16, 1)])
def test_each_argument_lands_in_its_slot(
    data: CaseData, tactic: tuple[int, int] | None
) -> None:
    kernel, prepared = candidate(), prepare(data)
    kernel.forward(prepared, data.hidden_states, data.routing, tactic=tactic)
    call = STAND_IN.last if tactic is None else kernel.runner.last
    assert misplaced(call, prepared, data) == []
    assert kernel.runner.tactics == ([] if tactic is None else [[16, 1]])


def test_any_two_slots_exchanged_are_seen(
    data: CaseData,
) -> None:
    prepared = prepare(data)
    candidate().forward(prepared, data.hidden_states, data.routing)
    call = STAND_IN.last
    empty = [slot for slot in SLOTS if call[slot] is None]
    for one, other in itertools.combinations(SLOTS, 2):
        if one in empty and other in empty:
            continue
        swapped = call | {one: call[other], other: call[one]}
        assert misplaced(swapped, prepared, data), (one, other)


def test_the_tactic_query_has_each_value_in_its_slot() -> None:
    kernel = candidate()
    assert kernel.tactics(CONFIG, TOKENS, SHARD)
    assert kernel.runner.queries == [QUERY]


def test_the_seeds_order_of_the_query_finds_no_tactic() -> None:
    """``valid_*`` before local experts and tokens: NVIDIA/TensorRT-LLM#13867."""
    assert StandInRunner().get_valid_configs(*QUERY)
    assert candidate().tactics(CONFIG, TOKENS, SHARD)
    assert TrtllmOp(op=OP, runner=SeedOrder()).tactics(CONFIG, TOKENS, SHARD) == []


@pytest.mark.parametrize("shard", [WHOLE, SHARD], ids=Shard.label)
def test_there_is_a_tactic_for_every_token_count(shard: Shard) -> None:
    kernel = candidate()
    for tokens in range(1, 8193):
        assert kernel.tactics(CONFIG, tokens, shard), tokens
    for rank in range(8):
        of_rank = Shard(tp_size=8, tp_rank=rank)
        assert kernel.tactics(GPT_OSS_20B, 8192, of_rank), rank
    assert kernel.runner.queries[-1][1] == 3072


def test_an_empty_tactic_list_is_a_mismatch() -> None:
    kernel = TrtllmOp(op=OP, runner=SeedOrder())
    with repeatable_settings() as settings:
        judge = Judge(subject_of(kernel), settings, "test_every_tactic")
        case = Case(config=CONFIG, tokens=TOKENS)
        with pytest.raises(Failure, match="no tactic for e12k3h544i288") as failure:
            judge.one(judge_every_tactic, case)
    assert failure.value.verdict is Verdict.MISMATCH


def test_every_tactic_of_the_rank_is_forced() -> None:
    kernel = candidate()
    with repeatable_settings() as settings:
        judge = Judge(subject_of(kernel), settings, "test_every_tactic")
        case = Case(config=CONFIG, shard=SHARD, tokens=TOKENS)
        judge.one(judge_every_tactic, case)
    assert kernel.runner.queries == [QUERY]
    expected = kernel.tactics(CONFIG, TOKENS, SHARD)
    assert [tuple(tactic) for tactic in kernel.runner.tactics] == expected


def test_hidden_states_are_padded_to_fc1s_width_with_zeros() -> None:
    """gpt-oss: 3072, not fc2's 2944, also where another call left NaN."""
    config = MoEConfig(hidden=2880, intermediate=32, experts=4, top_k=2)
    data = make_case_data(Case(config=config, tokens=3))
    kernel, prepared = candidate(), prepare(data, WHOLE)
    kernel._buffer.pad(torch.full((3, 3072), torch.nan, dtype=torch.bfloat16), 3072)
    kernel.forward(prepared, data.hidden_states, data.routing)
    hidden = STAND_IN.last["hidden_states"]
    assert hidden.shape == (3, 3072)
    assert (hidden[:, 2880:] == 0).all()
    assert torch.equal(hidden[:, :2880], data.hidden_states)


def test_a_wide_output_is_cut_to_the_valid_columns(data: CaseData) -> None:
    def wide(*values: Any) -> torch.Tensor:
        return torch.nn.functional.pad(STAND_IN(*values), (0, 96), value=torch.nan)

    out = TrtllmOp(op=wide).forward(prepare(data), data.hidden_states, data.routing)
    assert out.shape == (TOKENS, 544)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    "shard", [WHOLE, SHARD, Shard(tp_size=4, tp_rank=3)], ids=Shard.label
)
def test_the_whole_path_gives_the_right_numbers(data: CaseData, shard: Shard) -> None:
    """prepare, arguments, op: against truth with the weights that the op can take."""
    prepared = prepare(data, shard)
    out = candidate().forward(prepared, data.hidden_states, data.routing)
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


def test_the_fused_call_hands_logits_over(
    data: CaseData,
) -> None:
    prepared, router = prepare(data), data.weights.router_weight.bfloat16()
    hidden = data.hidden_states
    out = candidate().forward_fused(prepared, hidden, router, None, 3)
    call = STAND_IN.last
    assert call["topk_ids"] is None
    assert call["topk_weights"] is None
    assert torch.equal(call["routing_logits"], hidden @ router.T)
    assert {slot: call[slot] for slot in INTEGERS} == INTEGERS
    assert out.shape == hidden.shape


def test_no_tokens_are_no_call(data: CaseData) -> None:
    routing = Routing(data.routing.ids[:0], data.routing.weights[:0])
    before = STAND_IN.calls
    out = candidate().forward(prepare(data), data.hidden_states[:0], routing)
    assert out.shape == (0, 544)
    assert STAND_IN.calls == before


def test_why_it_cannot_run_here_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on(capability: tuple[int, int] | None, installed: bool) -> str | None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: capability is not None)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100")
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: object() if installed else None
        )
        return blackwell.missing("tensorrt_llm")

    assert on(None, True) == "needs an sm_100 GPU (B200), this machine has no GPU"
    assert on((9, 0), True) == (
        "needs an sm_100 GPU (B200), this machine has NVIDIA H100, sm_90"
    )
    assert on((10, 0), False) == "tensorrt_llm is not installed"
    assert on((10, 3), True) is None


@pytest.mark.parametrize(
    ("experts", "top_k", "word"), [(6, 2, "multiples"), (4, 4, "more experts")]
)
def test_shapes_that_the_routing_kernel_refuses_are_declared(
    experts: int, top_k: int, word: str
) -> None:
    config = replace(CONFIG, experts=experts, top_k=top_k)
    assert word in str(candidate().capabilities["shapes"](config))
    assert candidate().capabilities["shapes"](CONFIG) is True


def test_routing_weights_are_exact_in_the_dtype_that_is_declared() -> None:
    """Where the op must round them itself, a right op is 1.6 bounds off."""
    case = parse_case("e8k4h224i256/tp3r2/t33/s285")
    subject = subject_of(candidate())
    in_float32 = replace(subject.capabilities, routing_weights="float32")
    with repeatable_settings() as settings:
        judge = Judge(subject, settings, "test_output")
        judge.one(judge_output, case)
        undeclared = replace(subject, capabilities=in_float32)
        judge = Judge(undeclared, settings, "test_output")
        with pytest.raises(Failure, match="off by"):
            judge.one(judge_output, case)


@pytest.mark.parametrize(
    "check",
    [
        "test_output_stays_within_the_bound",
        "test_fused_routing_stays_within_the_bound",
        "test_poisoned_memory_changes_nothing",
    ],
)
def test_the_suite_passes_the_adapter_on_a_stand_in(check: str) -> None:
    """What a B200 will be asked, with the emulation in the place of the kernel."""
    with repeatable_settings(examples=6) as settings:
        outcomes = list(trial(check, subject_of(rehearsal), settings))
    assert outcomes
    for outcome in outcomes:
        assert outcome.verdict is Verdict.OK, outcome.text
