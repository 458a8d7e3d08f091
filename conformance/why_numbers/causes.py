"""Why an output is out of bound: every search that this suite has, simplest first."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from functools import partial
from itertools import chain

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.why_numbers.biases import explain_biases
from mxmoe.conformance.why_numbers.constants import explain_constants
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import likeliest
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.hypotheses import fits_of_numbers
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.noise import explain_noise
from mxmoe.conformance.why_numbers.nonfinite import explain_nonfinite
from mxmoe.conformance.why_numbers.otherwise.activations import activations_otherwise
from mxmoe.conformance.why_numbers.otherwise.addresses import addresses_otherwise
from mxmoe.conformance.why_numbers.otherwise.block_shifts import explain_block_shifts
from mxmoe.conformance.why_numbers.otherwise.contents import contents_otherwise
from mxmoe.conformance.why_numbers.otherwise.known_activations import known_activations
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.otherwise.one_thing import explain_confined
from mxmoe.conformance.why_numbers.otherwise.one_thing import explain_otherwise
from mxmoe.conformance.why_numbers.otherwise.one_thing import wrong_output
from mxmoe.conformance.why_numbers.otherwise.steps import steps_otherwise
from mxmoe.conformance.why_numbers.otherwise.weights import weights_otherwise
from mxmoe.conformance.why_numbers.output import Output
from mxmoe.conformance.why_numbers.output import explain_output
from mxmoe.conformance.why_numbers.ranks.cuts import rank_cuts
from mxmoe.conformance.why_numbers.slots.accumulators import explain_accumulators
from mxmoe.conformance.why_numbers.slots.chunks import explain_chunks
from mxmoe.conformance.why_numbers.slots.empty_slots import Former
from mxmoe.conformance.why_numbers.slots.empty_slots import explain_empty_slots
from mxmoe.conformance.why_numbers.slots.erased_rows import explain_erased_rows
from mxmoe.conformance.why_numbers.slots.exchanged import explain_exchanged
from mxmoe.conformance.why_numbers.slots.expert_grids import explain_expert_grids
from mxmoe.conformance.why_numbers.slots.expert_index import explain_expert_index
from mxmoe.conformance.why_numbers.slots.former_routing import explain_former_routing
from mxmoe.conformance.why_numbers.slots.gathers import explain_gathers
from mxmoe.conformance.why_numbers.slots.gathers import explain_taken
from mxmoe.conformance.why_numbers.slots.gathers import places_of
from mxmoe.conformance.why_numbers.slots.packed_rows import explain_packed_rows
from mxmoe.conformance.why_numbers.slots.padding import explain_padding
from mxmoe.conformance.why_numbers.slots.rows import explain_rows
from mxmoe.conformance.why_numbers.slots.scaled_slots import explain_slots
from mxmoe.conformance.why_numbers.slots.scaled_slots import fitted_slots
from mxmoe.conformance.why_numbers.slots.scaled_slots import slots_of
from mxmoe.conformance.why_numbers.slots.scattered import explain_scattered
from mxmoe.conformance.why_numbers.slots.slot_sums import explain_slot_sums
from mxmoe.conformance.why_numbers.slots.slots_left_out import explain_left_out
from mxmoe.conformance.why_numbers.slots.tails import explain_tails
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights

# Fits compute the layer some hundred times: this one is larger than the telling case
# and the layers of the default checkpoint.
LARGEST_FIT = 11 * 2**16

# Bytes of W1 of an expert: of many so small ones, offsets may overflow.
_SMALL_EXPERT = 2**13

_MATRICES = ("gate_up", "down")

# Searches that take little time.
CHEAP = {
    "output",
    "bytes",
    "cuts",
    "weights",
    "steps",
    "contents",
    "confined",
    "block shifts",
    "empty slots",
    "left out",
    "packed rows",
    "slots",
    "slot sums",
    "biases",
    "fitted slots",
    "rows",
    "noise",
}

# Asks what these found to be a part of it.
_CONFINED = "confined"
# These ask for less evidence where a telling case says so.
_GRIDS, _ERASED = "expert grids", "erased rows"
_PARTLY = {"activations", "steps", "contents"}

# Searches that fit a great deal, and so are asked where nothing else fits.
_LAST = {"biases", "fitted slots", "rows", "noise", "two activations"}

# What is asked too if the output itself says this: one factor on everything is what
# other weights do to one token; of tokens that are zero it may be the slots that are.
_FACTOR = "the whole output times"
_ASKED_TOO = {
    _FACTOR: ("weights",),
    "output: token": ("packed rows", "left out"),
}
# The family of sentences about what is not finite.
NONFINITE = "not finite"

# Below this one a hypothesis can be within the bound without being the cause, so every
# other one is asked as well.
_NEAR = 32.0

# One element of so many, so far beyond its bound, is no rounding.
_MANY, _FAR_OFF = 1024, 4.0


def causes(
    situation: Situation,
    judged: Judged,
    out: torch.Tensor,
    arithmetic: Arithmetic,
    *,
    former: Sequence[torch.Tensor] = (),
    before: Former | None = None,
    only: Collection[str] = (),
) -> list[Fit]:
    """Sentences that are true of the whole of `out` [t, h]; [] for a right one.

    former : outputs of the call before. before : what its slots gave. only : the
    families to ask, if not all.
    """
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    found = out.detach().cpu().double().reshape(truth.shape)
    if not found.isfinite().all():
        if taken := _taken_beyond(found, judged, situation, arithmetic):
            return taken
        names = explain_nonfinite(found, judged, situation)
        return [Fit(name, 0.0, family=NONFINITE) for name in names]
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
    if _one_number(found - truth, ratio, honest):
        only = {"output"}
    fits = list[Fit]()
    wrong, right = None, 1.0
    if not too_large(situation.part) and has_lanes(situation.part):
        wrong = wrong_output(found, judged, Experts(situation, arithmetic))
        right = part_left(found - wrong.right, found - truth, allowed)
    if _CONFINED in only:
        only = {*only, *_PARTLY}
    for family, explain in _families(output, judged, situation, wrong, before, only):
        likely = likeliest(fits, found.numel(), min(right, 1.0))
        far = family in _LAST or bool((ratio > _NEAR).any())
        if likely and far:
            more = {
                other
                for words, others in _ASKED_TOO.items()
                if any(words in fit.name for fit in likely)
                for other in others
            }
            if not more:
                break
            if family not in more:
                continue
        if not only or family in only:
            fits += [replace(fit, family=family) for fit in explain()]
    fits = _as_likely(fits)
    sized = [fit for fit in fits if fit.family == "noise"]
    if sized:
        return likeliest(sized, found.numel())
    return likeliest(fits, found.numel(), min(right, 1.0))


def _one_number(error: torch.Tensor, ratio: torch.Tensor, honest: torch.Tensor) -> bool:
    """Whether one of many elements is wrong, and all others have honest errors.

    What is confined to one column of one token explains it, whatever it is.
    """
    bad = ratio > 1
    far = bool((ratio > _FAR_OFF).any()) and ratio.numel() >= _MANY
    others = error.masked_fill(bad, 0.0)
    return far and int(bad.sum()) == 1 and has_honest_size(others, honest)


def _as_likely(fits: list[Fit]) -> list[Fit]:
    """One factor on the output is as likely as weights that give the same."""
    least = min((fit.left for fit in fits if fit.family == "weights"), default=1.0)
    return [
        replace(fit, left=min(fit.left, least)) if _FACTOR in fit.name else fit
        for fit in fits
    ]


def _taken_beyond(
    found: torch.Tensor, judged: Judged, s: Situation, arithmetic: Arithmetic
) -> list[Fit]:
    """Rows taken from elsewhere, if what is not finite lay beyond their buffer."""
    rows = found.isfinite().all(dim=1)
    if not rows.any() or too_large(s.part, LARGEST_FIT) or not has_lanes(s.part):
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
    output: Output,
    judged: Judged,
    s: Situation,
    wrong: Wrong | None,
    before: Former | None,
    asked: Collection[str],
) -> Iterator[tuple[str, Callable[[], list[Fit]]]]:
    """The searches, simplest first."""
    found, arithmetic = output.found, output.arithmetic
    # Of rows that are zero, the rule before their list.
    told = _ERASED in asked
    yield _ERASED, lambda: explain_erased_rows(found, judged, s, arithmetic, asked=told)
    yield "output", lambda: explain_output(output)
    right = output.truth, output.allowed
    yield "bytes", lambda: fits_of_numbers(found, s, arithmetic, right)
    if not too_large(s.part, LARGEST_FIT):
        cuts = rank_cuts(s)
        yield "cuts", lambda: fits_of_numbers(found, s, arithmetic, right, cuts)
    empty = partial(explain_empty_slots, found, judged, s, arithmetic, before)
    if before is not None:
        yield (
            "former routing",
            lambda: explain_former_routing(found, output.truth, s, arithmetic, before),
        )
    yield (
        "packed rows",
        lambda: explain_packed_rows(found, output.truth, s, arithmetic),
    )
    slots = slots_of(found, judged, s.routing, s.config, s.shard, arithmetic)
    yield "left out", lambda: explain_left_out(slots)
    owned = s.shard.expert_range(s.config)
    yield _GRIDS, lambda: explain_expert_grids(slots, owned, asked=_GRIDS in asked)
    if wrong is None:
        yield "empty slots", empty
        yield "slots", lambda: explain_slots(slots)
        yield "fitted slots", lambda: fitted_slots(slots)
        return
    if not too_large(s.part, LARGEST_FIT):
        yield "chunks", lambda: explain_chunks(found, judged, s, arithmetic)
    blocks = {name: getattr(s.part, f"{name}_blocks").shape[2] for name in _MATRICES}
    weights = weights_otherwise(s.routing.ids, s.routing.weights)
    yield "weights", partial(explain_otherwise, wrong, weights)
    partly = list[Otherwise]()
    declared = s.config.activation
    activations = chain(activations_otherwise(1), known_activations(declared))
    for family, hypotheses in (
        ("activations", activations),
        ("steps", steps_otherwise(blocks)),
        ("contents", contents_otherwise(blocks)),
    ):
        yield family, partial(explain_otherwise, wrong, hypotheses, partly)
    yield "empty slots", empty
    yield "slots", lambda: explain_slots(slots)

    def rows() -> list[Fit]:
        return [Fit(name, 0.0) for name in explain_rows(wrong)]

    def addresses() -> list[Fit]:
        return explain_otherwise(wrong, addresses_otherwise(s.part))

    if not too_large(s.part, LARGEST_FIT):
        yield "constants", lambda: explain_constants(wrong)
    # Weights first: they are what is most often confined to lanes.
    yield _CONFINED, lambda: explain_confined(wrong, reversed(partly))
    yield "block shifts", lambda: explain_block_shifts(wrong, blocks)
    if not too_large(s.part, LARGEST_FIT):
        yield "exchanged", lambda: explain_exchanged(wrong)
        places = cache(partial(places_of, wrong))
        yield "gathers", lambda: explain_gathers(wrong, places())
        yield "scattered", lambda: explain_scattered(wrong)
        yield "expert index", lambda: explain_expert_index(wrong)
        yield "tails", lambda: explain_tails(wrong)
        yield "accumulators", lambda: explain_accumulators(wrong)
        yield "padding", lambda: explain_padding(wrong)
        yield "addresses", addresses
        yield "rows", rows
        yield "taken", lambda: explain_taken(wrong, places())
    yield "slot sums", lambda: explain_slot_sums(wrong)
    yield "biases", lambda: explain_biases(wrong)
    yield "fitted slots", lambda: fitted_slots(slots)
    if too_large(s.part, LARGEST_FIT):
        if s.part.gate_up_blocks[:1].numel() <= _SMALL_EXPERT:
            yield "addresses", addresses
        yield "rows", rows
    yield "noise", lambda: explain_noise(wrong)
    if bool((_ratio(output) > _NEAR).any()):
        two = activations_otherwise(2)
        yield "two activations", lambda: explain_otherwise(wrong, two)
