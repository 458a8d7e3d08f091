"""A usual fault that holds in some place only is named, with the place.

Kernels branch by expert, slot, row of a tile and column: few of their faults hold
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as f

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.why_numbers.otherwise.stores import cut_to_bfloat16
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
Bytes = tuple[Tensor, Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = parse_case("e8k4h96i160/tp1r0/t37/s0")
DATA = make_case_data(CASE)
IDS, GIVEN = DATA.routing.ids, DATA.routing.weights.float()
T, K = IDS.shape
BEHAVES = "why    behaves as if: "


def as_stored(blocks: Tensor, scales: Tensor) -> Bytes:
    return blocks, scales


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Each step of a layer; the defaults are right."""

    states: Callable[[Tensor], Tensor] = Tensor.float
    gate_up: Callable[[Tensor, Tensor], Bytes] = as_stored
    gate_up_bias: float = 1.0
    activate: Callable[[Tensor, Activation], Tensor] = swiglu
    store: Callable[[Tensor], Tensor] = field(
        default=lambda a: a.bfloat16().float(),
    )
    down: Callable[[Tensor, Tensor], Bytes] = as_stored
    down_bias: float = 1.0

    def activations(self) -> Tensor:
        """[t, k, i]."""
        w, bias = DATA.weights, DATA.weights.gate_up_bias
        assert bias is not None
        found = torch.zeros(T, K, DATA.config.intermediate)
        for e in range(DATA.config.experts):
            at = IDS == e
            x = self.states(DATA.hidden_states[at.nonzero()[:, 0]])
            parts = self.gate_up(w.gate_up_blocks[e], w.gate_up_scales[e])
            z = x.float() @ dequantize(*parts, torch.float32).T
            z = z + self.gate_up_bias * bias[e].float()
            found[at] = self.store(self.activate(z, DATA.config.activation))
        return found

    def slots(self, activations: Tensor) -> Tensor:
        """What is added to each token, [t, k, h]."""
        w, bias = DATA.weights, DATA.weights.down_bias
        assert bias is not None
        found = torch.zeros(T, K, DATA.config.hidden)
        for e in range(DATA.config.experts):
            at = IDS == e
            parts = self.down(w.down_blocks[e], w.down_scales[e])
            y = activations[at] @ dequantize(*parts, torch.float32).T
            found[at] = y + self.down_bias * bias[e].float()
        return GIVEN[..., None] * found


RIGHT = Layer()


def hard(z: Tensor, a: Activation) -> Tensor:
    gate, up = z[..., 0::2].clamp(max=a.limit), z[..., 1::2].clamp(-a.limit, a.limit)
    return gate * f.hardsigmoid(a.alpha * gate) * (up + a.beta)


def acting(**edit: float) -> Layer:
    return Layer(activate=lambda z, a: swiglu(z, replace(a, **edit)))


FAULTS: dict[str, Layer] = {
    "gate_up bias ignored": Layer(gate_up_bias=0.0),
    "down bias ignored": Layer(down_bias=0.0),
    "no clamp": acting(limit=1e30),
    "alpha taken as 1": acting(alpha=1.0),
    "alpha of the activation is 1.2, not 1.702": acting(alpha=1.2),
    "hard sigmoid in place of the sigmoid": Layer(activate=hard),
    "no +1 on the up half": acting(beta=0.0),
    "gate_up scales of the next K block": Layer(
        gate_up=lambda blocks, scales: (blocks, scales.roll(-1, -1))
    ),
    "hidden states rounded to float8 (E4M3)": Layer(
        states=lambda x: x.to(torch.float8_e4m3fn)
    ),
    "intermediate cut to bfloat16, not rounded": Layer(store=cut_to_bfloat16),
    "intermediate with the halves of each 2 lanes swapped": Layer(
        down=lambda blocks, scales: (blocks >> 4 | (blocks & 15) << 4, scales)
    ),
}

ROW = torch.stack([(IDS == e).flatten().cumsum(0).reshape(T, K) - 1 for e in range(8)])
ROW = ROW.gather(0, IDS[None].long())[0]
COUNT = torch.bincount(IDS.flatten().long())[IDS.long()]
POSITION = IDS.flatten().long().argsort(stable=True).argsort().reshape(T, K)
TOKEN, SLOT = torch.arange(T)[:, None].expand(T, K), torch.arange(K).expand(T, K)

SLOTS: dict[str, Tensor] = {
    "in expert 1 only": IDS == 1,
    "in experts from 4 on only": IDS >= 4,
    "in experts of odd numbers only": IDS % 2 == 1,
    "in experts of at least 21 tokens only": COUNT >= 21,
    "for tokens 16..36 only": TOKEN >= 16,
    "for odd tokens only": TOKEN % 2 == 1,
    "in slot 3 only": SLOT == 3,
    "in the rows of an expert after its first 16": ROW >= 16,
    "in rows of an expert that do not fill a tile of 16": ROW >= COUNT // 16 * 16,
    "at positions 64..147 of the slots sorted by expert only": POSITION >= 64,
    "in the rows of expert 1 after its first 8": (IDS == 1) & (ROW >= 8),
    "for odd tokens in slot 3 only": (SLOT == 3) & (TOKEN % 2 == 1),
}
# A cause with each place, and a place with some causes, by day.
BY_DAY = [
    *(("no +1 on the up half", where) for where in SLOTS),
    *((fault, "in experts from 4 on only") for fault in list(FAULTS)[::4]),
    ("alpha taken as 1", "in expert 1 only"),
    ("alpha of the activation is 1.2, not 1.702", "in expert 1 only"),
]


def cases(places: dict[str, Tensor], by_day: list[tuple[str, str]]) -> list[object]:
    nightly = pytest.mark.nightly
    return [
        pytest.param(name, where, marks=() if (name, where) in by_day else nightly)
        for name in FAULTS
        for where in places
    ]


@pytest.mark.parametrize(("name", "where"), cases(SLOTS, BY_DAY))
def test_a_fault_of_some_slots_is_named_with_its_place(
    why: Why, judged: Callable[[Case], Judged], name: str, where: str
) -> None:
    right, fault = RIGHT.activations(), FAULTS[name]
    slots = torch.where(
        SLOTS[where][..., None], fault.slots(fault.activations()), RIGHT.slots(right)
    )
    out = slots.sum(dim=1).bfloat16()
    if within(out, judged(CASE)):
        pytest.skip("nothing is out of bound")
    line = why(CASE, out)
    assert line.startswith(f"{BEHAVES}{name}, ")
    assert where in line
    assert "; or" not in line


def within(out: Tensor, judged: Judged) -> bool:
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    return bool(((out - truth).abs() <= allowed).all())


LANE = torch.arange(160)
LANES: dict[str, Tensor] = {
    "in lanes 64..159 only": LANE >= 64,
    "in lanes 128..159 only": LANE >= 128,
    "in lanes 32..63 only": (LANE >= 32) & (LANE < 64),
    "in odd lanes only": LANE % 2 == 1,
}
OF_LANES = [
    *(("gate_up bias ignored", where) for where in LANES),
    ("no clamp", "in odd lanes only"),
    ("gate_up scales of the next K block", "in lanes 128..159 only"),
]


@pytest.mark.parametrize(("name", "where"), cases(LANES, OF_LANES))
def test_a_fault_of_some_lanes_is_named_with_its_place(
    why: Why, judged: Callable[[Case], Judged], name: str, where: str
) -> None:
    fault = FAULTS[name]
    if (fault.down, fault.down_bias) != (as_stored, 1.0):
        pytest.skip("behind the lanes")
    lanes = torch.where(LANES[where], fault.activations(), RIGHT.activations())
    out = RIGHT.slots(lanes).sum(dim=1).bfloat16()
    if within(out, judged(CASE)):
        pytest.skip("nothing is out of bound")
    if name.startswith("alpha of"):
        pytest.skip("constants are fitted to all lanes")
    assert why(CASE, out) == f"{BEHAVES}{name}, {where}"


def test_columns_of_k_that_the_second_gemm_reads_otherwise_are_named(why: Why) -> None:
    """Scales of its last K blocks, of one expert."""

    def of_next_row(blocks: Tensor, scales: Tensor) -> Bytes:
        return blocks, torch.cat((scales[:, :3], scales[:, 3:].roll(-1, 0)), dim=1)

    lanes = RIGHT.activations()
    slots = torch.where(
        (IDS == 2)[..., None], Layer(down=of_next_row).slots(lanes), RIGHT.slots(lanes)
    )
    line = why(CASE, slots.sum(dim=1).bfloat16())
    assert "down scales of the next row, in lanes 96..159, in expert 2 only" in line


def test_k_blocks_of_the_first_gemm_that_are_read_otherwise_are_named(why: Why) -> None:
    def swapped(blocks: Tensor, scales: Tensor) -> Bytes:
        blocks = blocks.clone()
        blocks[:, 1:] = blocks[:, 1:] >> 4 | (blocks[:, 1:] & 15) << 4
        return blocks, scales

    fault = Layer(gate_up=swapped)
    line = why(CASE, fault.slots(fault.activations()).sum(dim=1).bfloat16())
    assert "nibbles of gate_up swapped, in K blocks 1..2 of GEMM1 only" in line


def test_a_factor_of_each_column_is_named(why: Why) -> None:
    factors = torch.linspace(0.5, 2, DATA.config.hidden)
    out = factors * RIGHT.slots(RIGHT.activations()).sum(dim=1)
    words = "each column of the output times a factor of its own: 0.5, 0.516"
    assert why(CASE, out.bfloat16()).startswith(BEHAVES + words)


DAMAGE: dict[str, Tensor] = SLOTS | {
    "columns": torch.ones(T, K, dtype=torch.bool),
    "one row": (IDS == 1) & (ROW == 9),
}


DAMAGED_BY_DAY = ("in expert 1 only", "columns")


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(
            where, marks=() if where in DAMAGED_BY_DAY else pytest.mark.nightly
        )
        for where in DAMAGE
    ],
)
@pytest.mark.parametrize("size", [0.02, 1.0])
def test_no_cause_is_named_for_noise_in_a_place(
    why: Why, where: str, size: float
) -> None:
    random = torch.Generator().manual_seed(1)
    slots = RIGHT.slots(RIGHT.activations())
    noise = size * slots.std() * torch.randn(slots.shape, generator=random)
    noise = torch.where(DAMAGE[where][..., None], noise, 0)
    if where == "columns":
        noise[..., :64] = 0
    line = why(CASE, (slots + noise).sum(dim=1).bfloat16())
    assert not line.startswith(BEHAVES)


def test_rows_of_an_expert_are_told_from_tokens_by_a_case_with_experts() -> None:
    """The failing case has one expert."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        wrong = replace(PLAIN, add_gate_up_bias=lambda z, b: z)
        late = torch.zeros_like(r.ids, dtype=torch.bool)
        for e in r.ids.unique():
            at = (r.ids == e).nonzero()[16:]
            late[at[:, 0], at[:, 1]] = True
        down = torch.where(
            late[..., None], wrong.trace(p, x, r)["down"], PLAIN.trace(p, x, r)["down"]
        )
        return (r.weights[..., None] * down).sum(dim=1).to(x.dtype)

    with repeatable_settings() as settings:
        candidate = changed(PLAIN, forward=forward, trace=None)
        judge = Judge(subject_of(candidate), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_output(judge, parse_case("e1k1h32i32/tp1r0/t65/s0"))
    words = "gate_up bias ignored, in the rows of an expert after its first 16"
    assert words in failure.value.text
    assert "for tokens" not in failure.value.text
