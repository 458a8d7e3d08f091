"""The whole layer under the suite's own judgement: outputs, stages, tactics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.fused import judge_fused
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_every_tactic
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trace import judge_trace
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.settings import Settings
from mxmoe.kernels.triton_moe.candidate import TritonMoe
from mxmoe.kernels.triton_moe.check_call import check_routing
from mxmoe.kernels.triton_moe.layer import layer_of
from mxmoe.kernels.triton_moe.tactics import TACTICS
from mxmoe.kernels.triton_moe.tactics import Tactic
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing

# Tiles are 64 x 64: sizes below, at and above, odd numbers of tiles, empty ranks.
CASES = (
    "e1k1h32i32/tp1r0/t1/s0",
    "e4k2h96i160/tp1r0/t3/s1",
    "e4k4h128i64-nobias/tp1r0/t3/s2",
    "e4k2h192i96/tp2r1/t6/s3/strided+no_expert",
    "e4k2h64i32/tp2r1/t4/s4",
    "e8k1h64i64/tp1r0-ep2r1/t40/s5/one_route",
    "e4k2h64i96-silu/tp1r0/t7/s6/saturated",
    "e4k1h64i64/tp1r0/t9/s7/zero_scale+silent_expert",
)


@pytest.fixture(scope="module")
def settings(device: torch.device) -> Iterator[Settings]:
    with repeatable_settings() as found:
        yield replace(found, device=device.type)


def judge(settings: Settings) -> Judge:
    subject = load_candidate("mxmoe.kernels.triton_moe.candidate:candidate")
    return Judge(subject, settings, "triton_moe")


@pytest.mark.parametrize("word", CASES)
def test_output_and_stages_stay_within_the_bound(word: str, settings: Settings) -> None:
    judge_output(judge(settings), parse_case(word))
    judge_trace(judge(settings), parse_case(word))


def test_tactics_stay_within_the_bound(settings: Settings) -> None:
    """All on a GPU; in the interpreter the first, with splits, and the widest."""
    case = parse_case("e2k1h64i96/tp1r0/t19/s0")
    if settings.device == "cuda":
        judge_every_tactic(judge(settings), case)
    for tactic in (TACTICS[0], TACTICS[-1]):
        judge_output(judge(settings), case, tactic=tactic.label())


# One slot more than the quarter and the half to which a tile is narrowed, and than the
# whole, for every width.
EDGES = [
    (tactic, part + 1)
    for tactic in {t.block_t: t for t in TACTICS}.values()
    for part in sorted({16, tactic.block_t // 4, tactic.block_t // 2, tactic.block_t})
    if 16 <= part <= tactic.block_t
]


@pytest.mark.parametrize(("tactic", "count"), EDGES)
def test_no_slot_is_lost_at_the_edges_of_a_tile(
    tactic: Tactic, count: int, settings: Settings
) -> None:
    case = parse_case(f"e1k1h32i32/tp1r0/t{count}/s0")
    judge_output(judge(settings), case, tactic=tactic.label())


@pytest.mark.parametrize("tokens", [0, 1, 3, 18])
def test_routing_inside_stays_within_the_bound(tokens: int, settings: Settings) -> None:
    judge_fused(judge(settings), parse_case(f"e8k2h64i64/tp1r0/t{tokens}/s0"))


@pytest.mark.parametrize("scale", [128, 129, 150, 200])
def test_large_block_scales_are_exact(scale: int, settings: Settings) -> None:
    """Beyond 128 two factors make a weight; at 128 one does."""
    found = judge(settings)
    case = parse_case("e2k1h64i64-nobias/tp1r0/t3/s0")
    data = found.data(case)
    scales = data.weights.down_scales.clone()
    scales[:, ::7] = scale
    data = replace(data, weights=replace(data.weights, down_scales=scales))
    prepared = found.subject.prepare(data.weights, data.config, case.shard)
    assert bool(prepared["wide_scales"]) == (scale > 128)
    x = found.inputs(case, data)
    out = found.subject.forward(prepared, x.hidden_states, x.routing, None)
    truth = found.judged(case, data)
    off = (out.double().cpu() - truth.truth["combine"]).abs()
    assert (off <= truth.allowed["combine"]).all()


def test_a_nan_scale_spoils_its_row_and_no_other(settings: Settings) -> None:
    found = judge(settings)
    case = parse_case("e2k1h64i64-nobias/tp1r0/t3/s0")
    data = found.data(case)
    scales = data.weights.down_scales.clone()
    scales[:, 5, 1] = 255
    weights = replace(data.weights, down_scales=scales)
    prepared = found.subject.prepare(weights, data.config, case.shard)
    x = found.inputs(case, data)
    out = found.subject.forward(prepared, x.hidden_states, x.routing, None)
    assert out[:, 5].isnan().all()
    assert out.isnan().sum() == len(out)


@pytest.fixture(scope="module")
def small(settings: Settings) -> tuple[PreparedWeights, CaseData]:
    found, case = judge(settings), parse_case("e4k2h64i64/tp1r0/t3/s0")
    data = found.data(case)
    prepared = found.subject.prepare(data.weights, data.config, case.shard)
    return prepared, found.inputs(case, data)


BAD_CALLS = {
    "hidden_states: expected [t, 64]": lambda x, ids, w: (x[:, :32], ids, w),
    "hidden_states: expected torch": lambda x, ids, w: (x.double(), ids, w),
    "ids: expected [3, top_k]": lambda x, ids, w: (x, ids[:2], w),
    "ids: expected torch.int32 or": lambda x, ids, w: (x, ids.float(), w),
    "weights: expected the shape": lambda x, ids, w: (x, ids, w[:, :1]),
    "weights: expected torch.float32 or": lambda x, ids, w: (x, ids, w.double()),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_is_refused_before_anything_runs(message: str, small) -> None:
    prepared, data = small
    x, ids, weights = BAD_CALLS[message](
        data.hidden_states, data.routing.ids, data.routing.weights
    )
    with pytest.raises(BadInput) as error:
        TritonMoe().forward(prepared, x, Routing(ids, weights))
    assert str(error.value).startswith(message)


def test_tensors_of_another_device_are_refused(small) -> None:
    prepared, data = small
    elsewhere = Routing(data.routing.ids.to("meta"), data.routing.weights)
    with pytest.raises(BadInput, match=r"ids: expected on .* found on meta"):
        check_routing(elsewhere, 3, layer_of(prepared))


def test_weights_that_were_not_prepared_are_refused(settings: Settings) -> None:
    found, case = judge(settings), parse_case("e4k2h64i64/tp1r0/t3/s0")
    data = found.data(case)
    raw = PreparedWeights(
        tensors=data.weights.tensors(),
        layout=None,
        config=data.config,
        valid_hidden=64,
        valid_intermediate=64,
    )
    with pytest.raises(
        BadInput, match=r"prepared: expected gate_up_weights.* found no"
    ):
        TritonMoe().forward(raw, data.hidden_states, data.routing)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("t16-fast", "tactic: expected a label like"),
        ("t8-1x1s2w4-1x1s2w4-k1", "tactic: block_t: expected one of"),
        ("t16-3x1s2w4-1x1s2w4-k1", "tactic: rows: expected one of"),
        ("t16-1x1s2w4-1x1s2w3-k1", "tactic: warps: expected one of"),
        ("t16-1x1s2w4-1x1s2w4-k0", "tactic: splits: expected one of"),
    ],
)
def test_an_unknown_tactic_is_refused(label: str, message: str, small) -> None:
    prepared, data = small
    with pytest.raises(BadInput, match=message):
        TritonMoe().forward(prepared, data.hidden_states, data.routing, tactic=label)


def test_ids_of_no_expert_count_for_nothing(small) -> None:
    """Out of range either way, as int64 too: never an address."""
    prepared, data = small
    ids, weights = data.routing.ids.clone(), data.routing.weights
    ids[0, 0], ids[2, 1] = -1, -1
    expected = TritonMoe().forward(prepared, data.hidden_states, Routing(ids, weights))
    for strange in (-7, 4, 2**31 - 1, -(2**31)):
        other = ids.long()
        other[0, 0], other[2, 1] = strange, strange
        found = TritonMoe().forward(
            prepared, data.hidden_states, Routing(other, weights)
        )
        assert torch.equal(found, expected)
