"""Why an output is out of bound: every search that this suite has, simplest first.

What fits the failing case is held against a telling case (`telling_case`): a sentence
that is true of both is said first.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from functools import partial

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.case import Case
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.why_numbers.biases import explain_biases
from mxmoe.conformance.why_numbers.constants import explain_constants
from mxmoe.conformance.why_numbers.exchanged import explain_exchanged
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_index import explain_expert_index
from mxmoe.conformance.why_numbers.gathers import explain_gathers
from mxmoe.conformance.why_numbers.gathers import explain_taken
from mxmoe.conformance.why_numbers.gathers import places_of
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import likeliest
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.hypotheses import fits_of_numbers
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.noise import explain_noise
from mxmoe.conformance.why_numbers.nonfinite import explain_nonfinite
from mxmoe.conformance.why_numbers.otherwise import Wrong
from mxmoe.conformance.why_numbers.otherwise import explain_otherwise
from mxmoe.conformance.why_numbers.otherwise import wrong_output
from mxmoe.conformance.why_numbers.otherwise_activations import activations_otherwise
from mxmoe.conformance.why_numbers.otherwise_contents import contents_otherwise
from mxmoe.conformance.why_numbers.otherwise_steps import steps_otherwise
from mxmoe.conformance.why_numbers.otherwise_weights import weights_otherwise
from mxmoe.conformance.why_numbers.output import Output
from mxmoe.conformance.why_numbers.output import explain_output
from mxmoe.conformance.why_numbers.output import rounded_twice
from mxmoe.conformance.why_numbers.rows import explain_rows
from mxmoe.conformance.why_numbers.slot_sources import sets_of_tokens
from mxmoe.conformance.why_numbers.slots import explain_slots
from mxmoe.conformance.why_numbers.slots import fitted_slots
from mxmoe.conformance.why_numbers.slots import slots_of
from mxmoe.conformance.why_numbers.tails import explain_tails
from mxmoe.conformance.why_numbers.telling_case import Told
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights

# Fits compute the layer some hundred times: this one is larger than the telling case
# and the layers of the default checkpoint.
_LARGEST_FIT = 11 * 2**16

# Outputs of more elements than that tell causes apart by themselves.
_RICH = 1024
_MATRICES = ("gate_up", "down")

# Searches that take little time.
_CHEAP = {
    "output",
    "bytes",
    "weights",
    "steps",
    "contents",
    "slots",
    "biases",
    "fitted slots",
    "rows",
    "noise",
}

# Searches that fit a great deal, and so are asked where nothing else fits.
_LAST = {"biases", "fitted slots", "rows", "noise", "two activations"}

# Searches whose sentences name tokens and columns, which every case has others of.
_OF_PLACES = {"output", "rows"}

_FACTOR = "the whole output times"
# More sets of tokens that are alike do not tell.
_SETS = 3
_MORE = ("bytes", "weights")
_NONFINITE = "not finite"
_BEHAVES = "why    behaves as if:"

# Below this error / bound a missing or wrong term is less likely than a rounding.
_CLOSE = 4.0

# Below this one a hypothesis can be within the bound without being the cause, so every
# other one is asked as well.
_NEAR = 32.0

# So many sentences are printed; more of them say that the case cannot tell.
_SHOWN = 6


def why_lines(
    case: Case,
    data: CaseData,
    judged: Judged,
    out: torch.Tensor,
    arithmetic: Arithmetic,
    worst: float,
    tell: Callable[[], Told | None] = lambda: None,
    kept: Callable[[], list[str]] = list,
) -> list[str]:
    """The line that begins ``why``: what `out` [t, h] behaves like.

    worst : the largest error / allowed. tell : runs the candidate on a telling case.
    kept : asks it which parts of its input it does not follow.
    """
    told = tell()
    situation = situation_of(case, data)
    there = list[Fit]()
    if told is not None:
        there = causes(
            situation_of(told.case, told.data),
            told.judged,
            told.out,
            arithmetic,
            former=told.former,
        )
    only = {fit.family for fit in there}
    if told is not None and not there and told.wrong:
        # What explains neither case is not looked for twice.
        only = _CHEAP
    rich = out.numel() >= _RICH
    here = causes(situation, judged, out, arithmetic, only=only)
    if there and rich and not here:
        here = causes(situation, judged, out, arithmetic, only=_CHEAP)
    names, note = _agreed(here, there, told, rich)
    if names:
        more = f"; or {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return [f"{_BEHAVES} {'; or '.join(names[:_SHOWN])}{more}{note}"]
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    if twice := rounded_twice(out, truth, allowed, arithmetic.output):
        return [f"{_BEHAVES} {twice[0]}"]
    looked = [(situation, judged, out)]
    if told is not None:
        looked.insert(0, (situation_of(told.case, told.data), told.judged, told.out))
    for where in looked if worst >= _CLOSE else ():
        if words := _wrong_rows(*where):
            line = f"why    wrong are exactly the tokens in {words}"
            return [f"{line}: not computed, not written, or from elsewhere"]
    if too_large(situation.part):
        return ["why    not searched: there are too many weights for it"]
    if known := kept():
        return [f"why    {known[0]}"]
    if worst < _CLOSE:
        return [
            "why    close to the bound: a rounding that class "
            f"{arithmetic.name} does not have? A trace shows the stage"
        ]
    return ["why    none of the known hypotheses gives this output"]


def names_cause(lines: list[str]) -> bool:
    """Whether what `why_lines` says is a cause."""
    return any(line.startswith(_BEHAVES) for line in lines)


def _wrong_rows(situation: Situation, judged: Judged, out: torch.Tensor) -> str:
    """What exactly the wrong tokens have in common, whatever they hold; or ""."""
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    found = out.detach().cpu().double().reshape(truth.shape)
    bad = ~((found - truth).abs() <= allowed)
    owned = situation.shard.expert_range(situation.config)
    ids = situation.routing.ids
    served = (ids >= owned.start) & (ids < owned.stop)
    sets = sets_of_tokens(ids, bad.any(dim=1), served)
    return "; or ".join(list(sets)[:_SETS])


def _agreed(
    here: list[Fit], there: list[Fit], told: Told | None, rich: bool
) -> tuple[list[str], str]:
    """(what is said, a remark on where it is so)."""
    ours, theirs = (list(map(str, fits)) for fits in (here, there))
    if told is None:
        return ours, ""
    same = [name for name in ours if name in theirs]
    alike = {fit.name for fit in there}
    # Other tokens and columns in the other case, but the same experts and slots.
    there_too = [
        str(fit)
        for fit in here
        if fit.name in alike and ("token" in fit.place or "column" in fit.place)
    ]
    if same or there_too:
        return same or there_too, ""
    if _NONFINITE in {fit.family for fit in there}:
        return theirs, f" (in case {told.case}{told.how})"
    places = {fit.family for fit in (*here, *there)} <= _OF_PLACES
    if ours and places and not any("former" in name for name in theirs):
        return ours, ""
    if theirs and not (ours and rich):
        return theirs, f" (in case {told.case}{told.how})"
    if told.wrong and not rich:
        # Refuted there: few numbers are like those of many faults.
        return [], ""
    return ours, ""


def causes(
    situation: Situation,
    judged: Judged,
    out: torch.Tensor,
    arithmetic: Arithmetic,
    *,
    former: Sequence[torch.Tensor] = (),
    only: Collection[str] = (),
) -> list[Fit]:
    """Sentences that are true of the whole of `out` [t, h]; [] for a right one.

    only : the families to ask, if not all.
    """
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    found = out.detach().cpu().double().reshape(truth.shape)
    if not found.isfinite().all():
        if taken := _taken_beyond(found, judged, situation, arithmetic):
            return taken
        names = explain_nonfinite(found, judged, situation)
        return [Fit(name, 0.0, family=_NONFINITE) for name in names]
    earlier = [x.detach().cpu().double().reshape(truth.shape) for x in former]
    output = Output(
        found=found,
        truth=truth,
        allowed=allowed,
        hidden_states=situation.hidden_states.double(),
        arithmetic=arithmetic,
        former=earlier,
    )
    honest = honest_variance(truth, allowed, arithmetic.output)
    ratio = _ratio(output)
    if not bool((ratio > 1).any()) and has_honest_size(found - truth, honest):
        return []
    fits = list[Fit]()
    wrong, right = None, 1.0
    if not too_large(situation.part) and has_lanes(situation.part):
        wrong = wrong_output(found, judged, Experts(situation, arithmetic))
        right = part_left(found - wrong.right, found - truth, allowed)
    for family, explain in _families(output, judged, situation, wrong):
        likely = likeliest(fits, found.numel(), min(right, 1.0))
        far = family in _LAST or bool((ratio > _NEAR).any())
        if likely and far:
            # One factor on everything is what other weights do to one token.
            if not any(_FACTOR in fit.name for fit in likely) or family not in _MORE:
                break
            if family != "weights":
                continue
        if not only or family in only:
            fits += [replace(fit, family=family) for fit in explain()]
    sized = [fit for fit in fits if fit.family == "noise"]
    if sized:
        return likeliest(sized, found.numel())
    return likeliest(fits, found.numel(), min(right, 1.0))


def _taken_beyond(
    found: torch.Tensor, judged: Judged, s: Situation, arithmetic: Arithmetic
) -> list[Fit]:
    """Rows taken from elsewhere, if what is not finite lay beyond their buffer."""
    rows = found.isfinite().all(dim=1)
    if not rows.any() or too_large(s.part, _LARGEST_FIT) or not has_lanes(s.part):
        return []
    wrong = wrong_output(found, judged, Experts(s, arithmetic))
    if not wrong.bad[rows].any():
        return []
    fits = explain_gathers(wrong, places_of(wrong))
    return [replace(fit, family="gathers") for fit in fits]


def has_lanes(part: ExpertWeights) -> bool:
    """Whether the rank has a share of the intermediate dimension: not all must."""
    return part.down_scales.shape[2] > 0


def _ratio(output: Output) -> torch.Tensor:
    error = (output.found - output.truth).abs()
    return torch.where(error == 0, 0.0, error / output.allowed)


def _families(
    output: Output, judged: Judged, s: Situation, wrong: Wrong | None
) -> Iterator[tuple[str, Callable[[], list[Fit]]]]:
    """The searches, simplest first."""
    found, arithmetic = output.found, output.arithmetic
    yield "output", lambda: explain_output(output)
    right = output.truth, output.allowed
    yield "bytes", lambda: fits_of_numbers(found, s, arithmetic, right)
    slots = slots_of(found, judged, s.routing, s.config, s.shard, arithmetic)
    if wrong is None:
        yield "slots", lambda: explain_slots(slots)
        yield "fitted slots", lambda: fitted_slots(slots)
        return
    blocks = {name: getattr(s.part, f"{name}_blocks").shape[2] for name in _MATRICES}
    for family, hypotheses in (
        ("weights", weights_otherwise(s.routing.ids, s.routing.weights)),
        ("activations", activations_otherwise(1)),
        ("steps", steps_otherwise()),
        ("contents", contents_otherwise(blocks)),
    ):
        yield family, partial(explain_otherwise, wrong, hypotheses)
    yield "slots", lambda: explain_slots(slots)

    def rows() -> list[Fit]:
        return [Fit(name, 0.0) for name in explain_rows(wrong)]

    if not too_large(s.part, _LARGEST_FIT):
        yield "constants", lambda: explain_constants(wrong)
        yield "exchanged", lambda: explain_exchanged(wrong)
        places = cache(partial(places_of, wrong))
        yield "gathers", lambda: explain_gathers(wrong, places())
        yield "expert index", lambda: explain_expert_index(wrong)
        yield "tails", lambda: explain_tails(wrong)
        yield "rows", rows
        yield "taken", lambda: explain_taken(wrong, places())
    yield "biases", lambda: explain_biases(wrong)
    yield "fitted slots", lambda: fitted_slots(slots)
    if too_large(s.part, _LARGEST_FIT):
        yield "rows", rows
    yield "noise", lambda: explain_noise(wrong)
    if bool((_ratio(output) > _NEAR).any()):
        two = activations_otherwise(2)
        yield "two activations", lambda: explain_otherwise(wrong, two)
