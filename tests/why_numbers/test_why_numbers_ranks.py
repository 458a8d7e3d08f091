"""A failure of a group's ranks names what the ranks do otherwise, and which of them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import CLAIMS
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import pack
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.faults.state import calling
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.ranks import judge_each_rank
from mxmoe.conformance.judging.ranks import judge_sum
from mxmoe.conformance.judging.record import Record
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

pytestmark = pytest.mark.usefixtures("one_thread")
CLASS = ARITHMETIC["w4a16_fp32acc"]
# Seven K blocks for three ranks; an expert each two ranks; both.
OF_TP, OF_EP = "e4k2h64i224/tp3r0/t17/s0", "e8k2h64i96/tp1r0-ep4r0/t17/s0"
OF_BOTH = "e8k2h64i160/tp2r0-ep2r0/t17/s0"
# What a shrunk case cannot tell, but a telling one can.
TINY = "e1k1h32i32/tp2r0/t1/s0"
GATE_UP = ("gate_up_blocks", "gate_up_scales", "gate_up_bias")
DOWN = ("down_blocks", "down_scales")


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings() as found:
        yield found


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which lanes [n] and experts a rank holds, by tensor."""

    lanes: Callable[[str, MoEConfig, Shard], Tensor]
    experts: Callable[[str, MoEConfig, Shard], Sequence[int]] = lambda name, c, s: (
        s.expert_range(c)
    )

    def __call__(self, w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        found = {}
        for name, tensor in w.tensors().items():
            if name.startswith("router"):
                continue
            part = tensor[torch.tensor(list(self.experts(name, c, s)))]
            lanes = self.lanes(name, c, s)
            if name.startswith("gate_up"):
                part = part[:, torch.stack((2 * lanes, 2 * lanes + 1), 1).flatten()]
            elif name != "down_bias":
                part = part[:, :, lanes[::32] // 32]
            found[name] = part.clone()
        return found


def own_lanes(_name: str, c: MoEConfig, s: Shard) -> Tensor:
    lanes = s.intermediate_range(c)
    return torch.arange(lanes.start, lanes.stop)


def cutting(
    lanes: Callable[[str, MoEConfig, Shard], Tensor] = own_lanes, **experts: Any
) -> Plain:
    claims = {**CLAIMS, "layout": None}
    return replace(PLAIN, pack=Cut(lanes=lanes, **experts), capabilities=claims)


def early(*names: str, by: int = 32) -> Plain:
    def lanes(name: str, c: MoEConfig, s: Shard) -> Tensor:
        own = own_lanes(name, c, s)
        return own - by * (s.tp_rank > 0) if name in names else own

    return cutting(lanes)


def of_rank_0(*names: str) -> Plain:
    def lanes(name: str, c: MoEConfig, s: Shard) -> Tensor:
        own = own_lanes(name, c, s)
        return own - own[0] if name in names else own

    return cutting(lanes)


def whole_blocks(rest: str) -> Plain:
    def lanes(_name: str, c: MoEConfig, s: Shard) -> Tensor:
        each, more = divmod(c.intermediate // 32, s.tp_size)
        start, stop = s.tp_rank * each, (s.tp_rank + 1) * each
        if rest == "last" and s.tp_rank == s.tp_size - 1:
            stop += more
        if rest == "first":
            start += min(s.tp_rank, more)
            stop = start + each + (s.tp_rank < more)
        return torch.arange(32 * start, 32 * stop)

    return cutting(lanes)


def dealt(_name: str, c: MoEConfig, s: Shard) -> Tensor:
    blocks = torch.arange(c.intermediate // 32)[s.tp_rank :: s.tp_size]
    return (32 * blocks[:, None] + torch.arange(32)).flatten()


def padded(_name: str, c: MoEConfig, s: Shard) -> Tensor:
    own = own_lanes("", c, s)
    missing = s.padded_intermediate(c) - len(own)
    return torch.cat((own, own[-32:].repeat(missing // 32)))


def rows(of: Callable[[int, Tensor], Tensor]) -> Plain:
    """gate_up holds other rows: of(i, lanes)."""

    def packed(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        own, e = pack(w, c, s), s.expert_range(c)
        index = of(c.intermediate, own_lanes("", c, s))
        for name in GATE_UP:
            own[name] = getattr(w, name)[e.start : e.stop, index]
        return own

    return replace(PLAIN, pack=packed, capabilities={**CLAIMS, "layout": None})


def holding(names: Sequence[str], by: int) -> Plain:
    def experts(name: str, c: MoEConfig, s: Shard) -> Sequence[int]:
        own = s.expert_range(c)
        moved = by if name in names or not names else 0
        return [(e + moved * (s.ep_rank > 0)) % c.experts for e in own]

    return cutting(experts=experts)


def routed(ids: Callable[[Any, Tensor], Tensor]) -> object:
    """The candidate is given other expert ids on each rank."""
    return calling(
        PLAIN, lambda p, x, r: PLAIN.forward(p, x, Routing(ids(p, r.ids), r.weights))
    )


def _owned(p: Any, ids: Tensor) -> Tensor:
    own = p.shard.expert_range(p.config)
    return (ids >= own.start) & (ids < own.stop)


def _as_local(p: Any, ids: Tensor) -> Tensor:
    own = p.shard.expert_range(p.config)
    return torch.where((ids >= 0) & (ids < len(own)), ids + own.start, -1)


def _without_last(p: Any, ids: Tensor) -> Tensor:
    return ids.masked_fill(ids == p.shard.expert_range(p.config).stop - 1, -1)


def _renormalised(p: Any, x: Tensor, r: Routing) -> Tensor:
    weights = torch.where(_owned(p, r.ids), r.weights, 0)
    total = weights.sum(dim=1, keepdim=True).clamp(min=1e-20)
    return PLAIN.forward(p, x, Routing(r.ids, weights / total))


def _on_rank_1(candidate: Plain) -> object:
    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        return (candidate if p.shard.tp_rank == 1 else PLAIN).forward(p, x, r)

    return calling(PLAIN, forward)


def sharing(share: Callable[[Shard], float]) -> Plain:
    return replace(PLAIN, add_down_bias=lambda y, b, s: y + share(s) * b)


def scaled(factor: Callable[[Shard], float]) -> object:
    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        return (PLAIN.forward(p, x, r).float() * factor(p.shard)).to(x.dtype)

    return calling(PLAIN, forward)


def _apart(rest: bool) -> object:
    """i // tp lanes for each rank; others are taken out between the GEMMs."""

    def prepare(w: Any, c: Any, s: Any, d: Any) -> object:
        return PLAIN.prepare(w, c, replace(s, tp_size=1, tp_rank=0), d)

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        i, s = p.config.intermediate, p.shard
        each = i // s.tp_size
        stop = i if rest and s.tp_rank == s.tp_size - 1 else (s.tp_rank + 1) * each
        lanes = torch.arange(i)
        held = (lanes >= s.tp_rank * each) & (lanes < stop)
        some = replace(PLAIN, activate=lambda z, a: swiglu(z, a) * held)
        return some.forward(p, x, r)

    claims = {**CLAIMS, "layout": None}
    return changed(
        PLAIN, prepare=prepare, forward=forward, trace=None, capabilities=claims
    )


def _up_bias_of_rank_0(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
    own, first = pack(w, c, s), pack(w, c, replace(s, tp_rank=0))
    bias = own["gate_up_bias"]
    bias[:, 1::2] = first["gate_up_bias"][:, 1 : bias.shape[1] : 2]
    return own


def _codes_at_half(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
    own, lanes = pack(w, c, s), s.intermediate_range(c)
    first, count = lanes.start // 4, len(lanes) // 2
    codes = w.down_blocks.flatten(2)[:, :, first : first + count]
    return own | {"down_blocks": codes.unflatten(2, (-1, 16)).clone()}


def _one_more(p: Any, ids: Tensor) -> Tensor:
    stop = p.shard.expert_range(p.config).stop
    return torch.where(ids == stop, stop - 1, ids)


class _Shared:
    """Ranks add what rank 0 left in a buffer."""

    def __init__(self) -> None:
        self.left: Tensor | None = None

    def forward(self, p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        if p.shard.tp_rank == p.shard.ep_rank == 0:
            self.left = out.clone()
        elif self.left is not None:
            out = (out.float() + self.left.float()).to(out.dtype)
        return out


def packing(
    packed: Callable[[ExpertWeights, MoEConfig, Shard], dict[str, Tensor]],
) -> Plain:
    return replace(PLAIN, pack=packed, capabilities={**CLAIMS, "layout": None})


NO_CLAMP = replace(
    PLAIN, activate=lambda z, a: swiglu(z, replace(a, limit=float("inf")))
)
ROUNDED_DOWN = "i // tp lanes for each rank, in whole K blocks; "

PLANTED: dict[str, tuple[str, object]] = {
    "all lanes begin one K block early (ranks tp3r1, tp3r2)": (
        OF_TP,
        early(*GATE_UP, *DOWN),
    ),
    "down columns begin one K block early (ranks tp3r1, tp3r2)": (OF_TP, early(*DOWN)),
    "gate_up rows begin one lane early (ranks tp3r1, tp3r2)": (
        OF_TP,
        early(*GATE_UP, by=1),
    ),
    "down scales begin where those of rank 0 of tp do (ranks tp3r1, tp3r2)": (
        OF_TP,
        of_rank_0("down_scales"),
    ),
    "gate_up scales begin where those of rank 0 of tp do (ranks tp3r1, tp3r2)": (
        OF_TP,
        of_rank_0("gate_up_scales"),
    ),
    "gate_up bias begins where those of rank 0 of tp do (ranks tp3r1, tp3r2)": (
        OF_TP,
        of_rank_0("gate_up_bias"),
    ),
    f"{ROUNDED_DOWN}the rest on no rank (every rank)": (OF_TP, whole_blocks("none")),
    f"{ROUNDED_DOWN}the rest on the last (every rank)": (OF_TP, whole_blocks("last")),
    f"{ROUNDED_DOWN}one K block more for the first ranks, until none is left (ranks "
    "tp3r1, tp3r2)": (OF_TP, whole_blocks("first")),
    "K blocks dealt to the ranks of tp one by one (every rank)": (
        OF_TP.replace("224", "192"),
        cutting(dealt),
    ),
    "padding behind the rank's lanes holds its last K block again (rank tp3r2)": (
        OF_TP,
        cutting(padded),
    ),
    "gate_up rows cut as if all gates came before all ups (every rank)": (
        OF_TP,
        rows(lambda i, lanes: torch.cat((lanes, i + lanes))),
    ),
    "gate_up rows begin at the first lane, not at twice that (ranks tp3r1, tp3r2)": (
        OF_TP,
        rows(lambda i, lanes: lanes[0] + torch.arange(2 * len(lanes))),
    ),
    "gate_up bias divided by tp = 3, as the down bias is (every rank)": (
        OF_TP,
        replace(PLAIN, add_gate_up_bias=lambda z, b: z + b / 3),
    ),
    "no clamp (rank tp3r1)": (OF_TP, _on_rank_1(NO_CLAMP)),
    "weights and biases of expert e - 1, across ranks (ranks tp1r0-ep4r1, "
    "tp1r0-ep4r2, tp1r0-ep4r3)": (OF_EP, holding((), -1)),
    "scales of expert e - 1, across ranks (ranks tp1r0-ep4r1, tp1r0-ep4r2, "
    "tp1r0-ep4r3)": (OF_EP, holding(("gate_up_scales", "down_scales"), -1)),
    "biases of the experts of the ep rank before (ranks tp1r0-ep4r1, tp1r0-ep4r2, "
    "tp1r0-ep4r3)": (OF_EP, holding(("gate_up_bias", "down_bias"), -2)),
    "the rank's experts serve the ids of rank 0 of ep, as if ids were local (ranks "
    "tp1r0-ep4r1, tp1r0-ep4r2, tp1r0-ep4r3)": (OF_EP, routed(_as_local)),
    "the last expert of the rank not computed (every rank)": (
        OF_EP,
        routed(_without_last),
    ),
    "routing weights of the rank's own slots normalised to a sum of 1 (every rank)": (
        OF_EP,
        calling(PLAIN, _renormalised),
    ),
    "down bias on rank 0 of tp only": (OF_BOTH, sharing(lambda s: s.tp_rank == 0)),
    "down bias on rank 0 of all only": (
        OF_BOTH,
        sharing(lambda s: s.tp_rank == s.ep_rank == 0),
    ),
    "down bias on rank 0 of ep only": (OF_BOTH, sharing(lambda s: s.ep_rank == 0)),
    "the output of each rank divided by tp = 2": (
        "e8k2h64i160/tp2r0-ep4r0/t17/s0",
        scaled(lambda s: 1 / s.tp_size),
    ),
    "i // tp lanes for each rank, K blocks cut apart; the rest on no rank (every "
    "rank)": (OF_TP, _apart(rest=False)),
    "i // tp lanes for each rank, K blocks cut apart; the rest on the last (every "
    "rank)": (OF_TP, _apart(rest=True)),
    "up bias begins where those of rank 0 of tp do (ranks tp3r1, tp3r2)": (
        OF_TP,
        packing(_up_bias_of_rank_0),
    ),
    "down codes, not their scales, begin at half their first lane (ranks tp3r1, "
    "tp3r2)": (OF_TP, packing(_codes_at_half)),
    "slots of the next rank's first expert visit this rank's last (ranks "
    "tp1r0-ep4r0, tp1r0-ep4r1, tp1r0-ep4r2)": (OF_EP, routed(_one_more)),
    "ranks tp3r1, tp3r2: the part of tp3r0 added to their own": (
        OF_TP,
        calling(PLAIN, _Shared().forward),
    ),
    "ranks tp3r1, tp3r2 missing": (OF_TP, scaled(lambda s: s.tp_rank == 0)),
}


def said(
    check: Callable[[Judge, Case], None],
    candidate: object,
    word: str,
    settings: Settings,
    *,
    telling: bool = False,
) -> str:
    """The line ``why`` of a failure."""
    judge = Judge(subject_of(candidate), settings, "test", Record(telling=telling))
    with pytest.raises(Failure) as caught:
        check(judge, parse_case(word))
    [line] = [t for t in caught.value.text.splitlines() if t.startswith("why ")]
    return line


@pytest.mark.parametrize("words", PLANTED)
def test_what_ranks_do_otherwise_is_named(words: str, settings: Settings) -> None:
    word, candidate = PLANTED[words]
    line = said(judge_each_rank, candidate, word, settings)
    assert line == f"why    behaves as if: {words}"


def test_a_sum_over_ranks_says_what_a_rank_says(settings: Settings) -> None:
    words = "down columns begin one K block early (ranks tp3r1, tp3r2)"
    line = said(judge_sum, early(*DOWN), OF_TP, settings)
    assert line == f"why    behaves as if: {words}"


@pytest.mark.parametrize(
    ("words", "candidate"),
    [
        (f"{ROUNDED_DOWN}the rest on the last (every rank)", whole_blocks("last")),
        ("down bias on rank 0 of tp only", sharing(lambda s: s.tp_rank == 0)),
        ("no clamp (rank tp2r0)", NO_CLAMP),
    ],
)
def test_a_shrunk_case_is_told_by_another_group(
    words: str, candidate: object, settings: Settings
) -> None:
    line = said(judge_each_rank, candidate, TINY, settings, telling=True)
    assert line == f"why    behaves as if: {words}"


def _noise(p: Any, x: Tensor, r: Routing) -> Tensor:
    out = PLAIN.forward(p, x, r).float()
    random = torch.Generator().manual_seed(p.shard.tp_rank)
    wrong = 0.3 * out.std() * torch.randn(out.shape, generator=random)
    return (out + wrong).to(x.dtype)


@pytest.mark.parametrize("word", [OF_TP, OF_EP, OF_BOTH])
def test_nothing_is_claimed_for_noise_on_ranks(word: str, settings: Settings) -> None:
    line = said(judge_each_rank, calling(PLAIN, _noise), word, settings, telling=True)
    assert "behaves as if" not in line


def test_bytes_of_another_form_are_said_and_not_read(settings: Settings) -> None:
    def short(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        part = pack(w, c, s)
        cut = {n: part[n][:, :-64] for n in GATE_UP}
        return part | cut | {n: part[n][:, :, :-1] for n in DOWN}

    judge = Judge(subject_of(replace(PLAIN, pack=short)), settings, "test")
    with pytest.raises(Failure) as caught:
        judge_each_rank(judge, parse_case(OF_TP))
    assert "attribution: your bytes have another form: gate_up_blocks: " in str(
        caught.value.text
    )


def test_a_candidate_whose_calls_fail_is_explained_without_them(
    settings: Settings,
) -> None:
    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        if p.config.hidden != 64:
            raise RuntimeError("not this shape")
        return early(*DOWN).forward(p, x, r)

    fussy = changed(calling(early(*DOWN), forward))
    line = said(judge_each_rank, fussy, OF_TP, settings, telling=True)
    assert "down columns begin one K block early" in line
