"""Errors that are all within the bound, and still not those of an honest rounding."""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import own_route
from mxmoe.conformance.judging.numbers import run_route
from mxmoe.conformance.residual.gains import Gain
from mxmoe.conformance.residual.gains import GainFits
from mxmoe.conformance.residual.gains import fit_gains
from mxmoe.conformance.residual.spread import Spread
from mxmoe.conformance.residual.spread import wide_spreads
from mxmoe.conformance.residual.structure import Situation
from mxmoe.conformance.residual.structure import expected_errors
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.systematic import Systematic
from mxmoe.conformance.why_numbers.systematic import why_systematic
from mxmoe.reference.sharding import shard_weights

# How many gains are tried as the one that explains the others.
_TRIED = 6


def judge_structure(judge: Judge, case: Case) -> None:
    """Raise `Failure` if the residual has a gain, or a group of wide errors.

    An output beyond its elementwise bound is another check's to report.
    """
    data = judge.data(case)
    out = run_route(judge, case, data, own_route(judge.subject))
    judged = judge.judged(case, data)
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    if not compare_numbers(out, truth, allowed).within:
        return
    residual = out.detach().cpu().double() - truth
    situation = Situation(
        part=shard_weights(data.weights, data.config, case.shard),
        config=data.config,
        hidden_states=data.hidden_states,
        routing=data.routing,
        shard=case.shard,
        arithmetic=judge.subject.arithmetic,
        truth=judged.truth,
        allowed=judged.allowed["combine"],
    )
    explain = not judge.record.searching
    worst, lines = structure_lines(situation, residual, explain=explain)
    judge.saw(worst)
    if lines:
        raise judge.fail(
            Verdict.MISMATCH,
            lines,
            case=case,
            what="residual",
            tensors={"found": out, "expected": truth, "allowed": allowed},
        )


def structure_lines(
    situation: Situation, residual: torch.Tensor, *, explain: bool = True
) -> tuple[float, list[str]]:
    """The largest gain / allowed, and what is systematic in `residual` [t, h], if any.

    residual : found minus truth, every element within its bound. explain : say why,
    too.
    """
    expected = expected_errors(situation)
    fits = fit_gains(situation, expected)
    found, name = fits.of(residual), situation.arithmetic.name
    worst = max((abs(g.value) / g.allowed for g in found), default=0.0)
    if any(g.significant for g in found):
        lines = _gain_lines(fits, residual, name)
    elif spreads := wide_spreads(residual, situation, expected):
        lines = _spread_lines(spreads, name)
    else:
        return worst, []
    if explain:
        lines.append(why_systematic(Systematic(situation, expected, fits, residual)))
    return worst, lines


def _gain_lines(fits: GainFits, residual: torch.Tensor, arithmetic: str) -> list[str]:
    """The gain that leaves nothing else, or the most significant one."""
    found = sorted(
        (g for g in fits.of(residual) if g.significant), key=lambda g: -g.deviations
    )[:_TRIED]
    whole = [g for g in found if not fits.without(g, residual)]
    # Directions come from the simplest to the most special.
    whole.sort(key=lambda g: fits.names.index(g.along))
    gain = whole[0] if whole else found[0]
    lines = [
        f"{_said(gain)}, where every element is within its bound",
        f"  honest rounding in class {arithmetic} stays within "
        f"{100 * gain.allowed:.2g} % here; this is {gain.deviations:.0f} of its "
        "standard deviations",
    ]
    if not whole:
        rest = ", ".join(g.along for g in fits.without(gain, residual)[:3])
        return [*lines, f"without this gain the residual still has some, along {rest}"]
    return [*lines, "without this gain the residual has none"]


def _said(gain: Gain) -> str:
    percent = f"{100 * abs(gain.value):.3g} +- {100 * gain.sigma:.1g} %"
    if gain.rounding:
        return f"the errors of {gain.along}: {percent} of them are there"
    large = "large" if gain.value > 0 else "small"
    return f"gain along {gain.along}: {percent} too {large}"


def _spread_lines(spreads: list[Spread], arithmetic: str) -> list[str]:
    worst = spreads[0]
    lines = [
        f"{worst.where}: errors are {worst.rms:.3g} times their expected size (rms of "
        f"{worst.count} elements), where every element is within its bound",
        f"  independent roundings of class {arithmetic} stay below "
        f"{worst.allowed:.3g} there",
    ]
    if len(spreads) > 1:
        lines.append("as wide: " + ", ".join(s.where for s in spreads[1:4]))
    return lines
