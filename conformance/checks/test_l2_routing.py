"""L2: which experts, and with what weight."""

from __future__ import annotations

import itertools

import pytest
import torch

from mxmoe.conformance.bounds.routing import weight_bound
from mxmoe.conformance.cases.logits import LOGIT_KINDS
from mxmoe.conformance.cases.logits import make_logits
from mxmoe.conformance.judging.as_routing import as_routing
from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.judging.empty_slots import judge_empty_slots
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.routing_laws import judge_routing_law
from mxmoe.conformance.laws.routing import ROUTING_LAWS
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.routing import why_choice
from mxmoe.conformance.why_numbers.routing import why_weights
from mxmoe.reference.routing import route
from mxmoe.reference.types import Routing

pytestmark = [pytest.mark.routing, pytest.mark.level("L2")]

# (experts, top_k): gpt-oss-20b and -120b, every expert, one of one, odd counts.
SIZES = ((32, 4), (128, 4), (4, 4), (1, 1), (8, 2), (60, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("kind", LOGIT_KINDS)
def test_route_chooses_the_top_k(judge: Judge, kind: str, dtype: torch.dtype) -> None:
    """Ids are the k largest logits; another order among ties earns a note."""
    judge.subject.need("route")
    for experts, top_k in SIZES:
        logits = make_logits(kind, tokens=67, experts=experts).to(dtype)
        found = _route(judge, logits, top_k, kind)
        problem = _wrong_ids(found.ids, logits, top_k)
        if problem is not None:
            raise judge.fail(
                Verdict.MISMATCH,
                [problem, *why_choice(found.ids, logits, top_k)],
                what=f"route · {kind} logits · e{experts}k{top_k}",
                tensors={"logits": logits, "found": found.ids},
            )
        expected = route(logits, top_k)
        finite = ~logits.isnan().any(dim=1)
        ids, wanted = (r.ids[finite].sort(dim=1).values for r in (found, expected))
        if not torch.equal(ids, wanted.to(ids.dtype)):
            judge.note("ties are not broken towards the lowest expert id")


@pytest.mark.parametrize("kind", [k for k in LOGIT_KINDS if k not in ("nan", "inf")])
def test_route_weights_are_the_softmax_of_the_chosen(judge: Judge, kind: str) -> None:
    """Weights of the ids that were chosen, within the bound of a float32 softmax.

    Of bfloat16 logits too: those bits are exact, and no reason to compute in bfloat16.
    """
    judge.subject.need("route")
    for (experts, top_k), dtype in itertools.product(
        SIZES, (torch.float32, torch.bfloat16)
    ):
        logits = make_logits(kind, tokens=67, experts=experts).to(dtype)
        found = _route(judge, logits, top_k, kind)
        ids = found.ids.long().clamp(0, experts - 1)
        chosen = logits.double().gather(1, ids)
        truth = torch.softmax(chosen, dim=1)
        allowed = weight_bound(chosen, truth, found.weights.dtype)
        error = (found.weights.double() - truth).abs()
        ratio = (error / allowed).nan_to_num(torch.inf)
        judge.saw(float(ratio.max()))
        if not (ratio <= 1).all():
            token, slot = divmod(int(ratio.argmax()), top_k)
            raise judge.fail(
                Verdict.MISMATCH,
                [
                    f"token {token}, slot {slot} (expert {int(ids[token, slot])}): "
                    f"expected weight {float(truth[token, slot]):.8g}, "
                    f"found {float(found.weights[token, slot]):.8g}, "
                    f"allowed {float(allowed[token, slot]):.2g}",
                    f"weights of this token sum to "
                    f"{float(found.weights[token].double().sum()):.8g}",
                    *why_weights(found.weights, logits, ids),
                ],
                what=f"routing weights · {kind} logits · e{experts}k{top_k}",
                tensors={"logits": logits, "found": found.weights, "expected": truth},
            )


def test_route_reads_strided_logits(judge: Judge) -> None:
    """Rows with gaps between them give what contiguous rows give."""
    judge.subject.need("route")
    logits = make_logits("distinct", tokens=33, experts=60)
    wide = torch.full((33, 64), torch.inf)
    wide[:, :60] = logits
    found = _route(judge, logits, 4, "contiguous")
    strided = _route(judge, wide[:, :60], 4, "strided")
    if not torch.equal(found.ids, strided.ids):
        raise judge.fail(
            Verdict.MISMATCH,
            ["ids differ between the same logits with row stride 60 and 64"],
            what="route · strided logits",
        )
    chosen = logits.double().gather(1, found.ids.long())
    allowed = weight_bound(chosen, chosen.softmax(dim=1), found.weights.dtype)
    difference = (found.weights.double() - strided.weights.double()).abs()
    if not (difference <= 2 * allowed).all():
        raise judge.fail(
            Verdict.MISMATCH,
            ["weights differ between the same logits with row stride 60 and 64"],
            what="route · strided logits",
        )


@pytest.mark.parametrize("law", ROUTING_LAWS)
def test_routing_law_holds(judge: Judge, law: str) -> None:
    """Two answers of `route` agree as the law says."""
    judge.subject.need("route")
    for experts, top_k in SIZES:
        for seed in range(4):
            judge_routing_law(
                judge, ROUTING_LAWS[law], experts=experts, top_k=top_k, seed=seed
            )


def test_minus_one_contributes_nothing(judge: Judge) -> None:
    """The weight of a slot without an expert has no influence, to the last bit."""
    judge.subject.need("forward")
    judge.for_all(
        judge_empty_slots, always=("no_expert",), tokens=(1, 3, 17), share=0.5
    )


def _route(judge: Judge, logits: torch.Tensor, top_k: int, kind: str) -> Routing:
    what = f"route · {kind} logits · e{logits.shape[1]}k{top_k}"
    given = _to(logits, judge.subject.device)
    before = as_bytes(given).clone()
    try:
        returned = judge.subject.call("route", given, top_k)
        found = as_routing(returned, tokens=logits.shape[0], top_k=top_k)
    except Failure as error:
        raise judge.fail(error.verdict, [error.text], what=what) from error
    if not torch.equal(before, as_bytes(given)):
        line = "route changed the caller's logits"
        raise judge.fail(Verdict.MISMATCH, [line], what=what)
    return found


def _to(logits: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moved with its row stride kept: `Tensor.to` would close the gaps."""
    whole = logits._base if logits._base is not None else logits
    return whole.to(device).as_strided(logits.shape, logits.stride())


def _wrong_ids(ids: torch.Tensor, logits: torch.Tensor, top_k: int) -> str | None:
    """The first thing wrong with `ids`, tie-aware, or None."""
    experts = logits.shape[1]
    outside = (ids < 0) | (ids >= experts)
    if outside.any():
        token, slot = (int(n) for n in outside.nonzero()[0])
        return (
            f"token {token}, slot {slot}: expected an expert from 0 to {experts - 1}, "
            f"found {int(ids[token, slot])}"
        )
    ordered = ids.sort(dim=1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    if repeated.any():
        token = int(repeated.int().argmax())
        return f"token {token}: expected distinct experts, found {ids[token].tolist()}"
    comparable = ~logits.isnan().any(dim=1)
    chosen = logits.gather(1, ids.long()).float().sort(dim=1, descending=True).values
    best = logits.float().sort(dim=1, descending=True).values[:, :top_k]
    wrong = (chosen != best).any(dim=1) & comparable
    if wrong.any():
        token = int(wrong.int().argmax())
        expected = route(logits[token : token + 1], top_k).ids[0].tolist()
        return (
            f"token {token}: expected experts {expected} with logits "
            f"{_numbers(best[token])}, found {ids[token].tolist()} with "
            f"{_numbers(chosen[token])}"
        )
    return None


def _numbers(values: torch.Tensor) -> str:
    return "[" + ", ".join(f"{float(v):.7g}" for v in values) + "]"
