"""A law of routing put to a candidate's `route`."""

from __future__ import annotations

import numpy as np
import torch

from mxmoe.conformance.bounds.routing import weight_bound
from mxmoe.conformance.judging.as_routing import as_routing
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.laws.routing import RoutingLaw
from mxmoe.conformance.laws.routing import grid_logits
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.routing import why_choice
from mxmoe.conformance.why_numbers.routing import why_weights
from mxmoe.reference.types import Routing

_TOKENS = 33


def judge_routing_law(
    judge: Judge, law: RoutingLaw, *, experts: int, top_k: int, seed: int
) -> None:
    """Raise `Failure` unless the second routing is what the first one says."""
    what = f"routing law · e{experts}k{top_k}"
    logits = grid_logits(tokens=_TOKENS, experts=experts, seed=seed)
    random = np.random.default_rng((seed, 7))
    orders = [torch.from_numpy(random.permutation(n)) for n in (_TOKENS, experts)]
    changed = law.change(logits, *orders)
    first, second = (_route(judge, x, top_k, what) for x in (logits, changed))
    expected, found = (_by_id(r) for r in (law.expect(first, *orders), second))
    wrong = (expected.ids != found.ids).any(dim=1)
    line = f"broken law: {law.statement} (ids exactly, weights within rounding)"
    if wrong.any():
        token = int(wrong.int().argmax())
        detail = (
            f"token {token}: the first routing gives experts "
            f"{expected.ids[token].tolist()}, the second is {found.ids[token].tolist()}"
        )
        lines = [line, detail, *_why((logits, first), (changed, second))]
        raise judge.fail(Verdict.MISMATCH, lines, what=what)
    chosen = changed.double().gather(1, found.ids.long())
    allowed = 2 * weight_bound(chosen, chosen.softmax(dim=1), found.weights.dtype)
    off = (expected.weights.double() - found.weights.double()).abs()
    if not (off <= allowed).all():
        token, slot = divmod(int((off / allowed).argmax()), top_k)
        detail = (
            f"token {token}, expert {int(found.ids[token, slot])}: the first routing "
            f"gives the weight {float(expected.weights[token, slot]):.9g}, the second "
            f"is {float(found.weights[token, slot]):.9g}"
        )
        lines = [line, detail, *_why((logits, first), (changed, second))]
        raise judge.fail(Verdict.MISMATCH, lines, what=what)


def _why(*routings: tuple[torch.Tensor, Routing]) -> list[str]:
    """Which of two routings of logits [t, e] is wrong, and what is true of both."""
    choices, weights = [], []
    for logits, routing in routings:
        ids = routing.ids.long()
        best = logits.topk(ids.shape[1], dim=1).indices
        choices.append(torch.equal(ids.sort(1).values, best.sort(1).values))
        chosen = logits.double().gather(1, ids)
        truth, found = chosen.softmax(dim=1), routing.weights.double()
        allowed = weight_bound(chosen, truth, routing.weights.dtype)
        weights.append(bool(((found - truth).abs() <= allowed).all()))
    logits = torch.cat([logits for logits, _ in routings])
    ids = torch.cat([routing.ids.long() for _, routing in routings])
    if not all(choices):
        why = why_choice(ids, logits, ids.shape[1])
        return [*why, f"wrong by itself: {_which(choices)}"]
    if not all(weights):
        found = torch.cat([routing.weights for _, routing in routings])
        why = why_weights(found, logits, ids)
        return [*why, f"wrong by itself: {_which(weights)}"]
    return []


def _which(right: list[bool]) -> str:
    wrong = [n for n, ok in zip(("first", "second"), right, strict=True) if not ok]
    return f"the {' and the '.join(wrong)} routing"


def _by_id(routing: Routing) -> Routing:
    """Slots in the order of their ids: any order is honest."""
    ids, order = routing.ids.sort(dim=1)
    return Routing(ids, routing.weights.gather(1, order))


def _route(judge: Judge, logits: torch.Tensor, top_k: int, what: str) -> Routing:
    try:
        returned = judge.subject.call("route", logits.to(judge.subject.device), top_k)
        return as_routing(returned, tokens=len(logits), top_k=top_k)
    except Failure as error:
        raise judge.fail(error.verdict, [error.text], what=what) from error
