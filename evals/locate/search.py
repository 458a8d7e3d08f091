"""The search: record once, judge every layer alone, then try the places in the model.

Why not a binary search over layers: judging all L of them alone takes L calls of one
layer, the work of one pass of the model, where bisecting takes log2(L) passes; it needs
no threshold on logits; and it finds a second wrong layer, which bisecting cannot see
behind the first. Swapping the candidate out of the places found then shows in the model
that they are all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

from mxmoe.conformance.verdict import Failure
from mxmoe.evals.inside.swap import Place
from mxmoe.evals.inside.swap import Swap
from mxmoe.evals.locate.batch_sizes import first_wrong_size
from mxmoe.evals.locate.cause import Cause
from mxmoe.evals.locate.causes import causes
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.layer import judge_layer
from mxmoe.evals.locate.layer_numbers import Numbers
from mxmoe.evals.locate.layer_under_test import LayerUnderTest
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.evals.locate.recorded_inputs import record_inputs
from mxmoe.evals.locate.recorded_inputs import with_probes
from mxmoe.evals.locate.whole_model import LogitDistances
from mxmoe.evals.locate.whole_model import WrongCall
from mxmoe.evals.locate.whole_model import first_wrong_call
from mxmoe.evals.locate.whole_model import logit_distances

# Where a call was made that was wrong.
ALONE, IN_MODEL = "", ", as the model makes it"


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A wrong layer and what explains it."""

    result: LayerResult
    causes: tuple[Cause, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What a search came to.

    found : in the order of the layers. judged : layers that were judged alone.
    unreached : (layer, expert) that no prompt visits. distances : None where the
    candidate does not run in the model.
    """

    found: tuple[Found, ...]
    judged: int
    unreached: tuple[Place, ...]
    distances: LogitDistances | None
    count: Evaluations


def search(
    swap: Swap,
    prompts: Sequence[Sequence[int]],
    *,
    only_first: bool = False,
    heard: Callable[[str], None] = lambda doing: None,
) -> Search:
    """Find every wrong layer, or stop behind the first.

    prompts : token ids. Raises `Failure` where the model itself gives NaN or infinity.
    """
    count = Evaluations()
    heard("the reference serves the prompts")
    recorded = record_inputs(swap, prompts)
    count.model_passes += len(prompts)
    wrong: list[LayerResult] = []
    judged = 0
    for number in range(len(swap.layers)):
        heard(f"layer {number} of {len(swap.layers)}")
        inputs = with_probes(recorded[number], _experts(swap))
        result = judge_layer(_under(swap, number, inputs), count)
        judged += 1
        if result.wrong:
            wrong.append(result)
            if only_first:
                break
    if not wrong:
        heard("calls of other numbers of tokens")
        wrong = _of_other_sizes(swap, recorded, count)
    if not wrong:
        heard("the candidate serves the model")
        wrong = _in_the_model(swap, prompts[0], count)
    heard("the candidate without the wrong places")
    distances = _distances(swap, prompts[0], wrong, count)
    heard("why")
    return Search(
        found=tuple(Found(result=r, causes=tuple(causes(r))) for r in wrong),
        judged=judged,
        unreached=_unreached(recorded, _experts(swap)),
        distances=distances,
        count=count,
    )


def _experts(swap: Swap) -> int:
    return swap.inside.loaded.checkpoint.config.experts


def _under(swap: Swap, number: int, inputs: LayerInputs) -> LayerUnderTest:
    checkpoint = swap.inside.loaded.checkpoint
    return LayerUnderTest(
        number=number,
        weights=checkpoint.layer(number),
        config=checkpoint.config,
        experts=swap.layers[number].candidate,
        inputs=inputs,
        arithmetic=swap.inside.subject.arithmetic,
    )


def _of_other_sizes(
    swap: Swap, recorded: Sequence[LayerInputs], count: Evaluations
) -> list[LayerResult]:
    wrong = []
    for number, inputs in enumerate(recorded):
        under = _under(swap, number, inputs)
        try:
            call = first_wrong_size(under, count)
        except Failure as failure:
            return [LayerResult(under=under, failure=failure)]
        if call is not None:
            wrong.append(_call_result(swap, call, count, where=ALONE))
    return wrong


def _in_the_model(
    swap: Swap, prompt: Sequence[int], count: Evaluations
) -> list[LayerResult]:
    try:
        call = first_wrong_call(swap, prompt, count)
    except Failure as failure:
        layer = swap.inside.first_nonfinite_layer() or 0
        under = _under(swap, layer, _nothing(swap, prompt))
        return [LayerResult(under=under, failure=failure)]
    return [] if call is None else [_call_result(swap, call, count, where=IN_MODEL)]


def _nothing(swap: Swap, prompt: Sequence[int]) -> LayerInputs:
    return record_inputs(swap, [prompt])[0]


def _call_result(
    swap: Swap, call: WrongCall, count: Evaluations, *, where: str
) -> LayerResult:
    """The call made again on its inputs, or what it was if it is right now."""
    under = _under(swap, call.layer, call.inputs)
    again = judge_layer(under, count)
    tokens = len(call.inputs.tokens)
    what = "one token" if tokens == 1 else f"{tokens} tokens"
    if again.wrong:
        note = f"only in a call of {what}{where}"
        notes = (note, *again.numbers.notes)
        return replace(again, numbers=replace(again.numbers, notes=notes))
    note = (
        f"right when it is called again: a call of {what}{where} was wrong, so it "
        "depends on the calls before"
    )
    numbers = Numbers(
        divergence=call.divergence, worst=call.divergence.worst, notes=(note,)
    )
    return LayerResult(under=under, numbers=numbers)


def _distances(
    swap: Swap,
    prompt: Sequence[int],
    wrong: Sequence[LayerResult],
    count: Evaluations,
) -> LogitDistances | None:
    places = [place for result in wrong for place in _places(swap, result)]
    try:
        return logit_distances(swap, prompt, places, count)
    except Failure:
        return None


def _places(swap: Swap, result: LayerResult) -> list[Place]:
    """The experts that are wrong, or all of the layer where that is not known."""
    found = result.divergence
    experts = set() if found is None else set(found.experts)
    if found is None:
        for wrong in result.wrong_bytes:
            experts |= set(wrong.experts)
    return [(result.under.number, e) for e in sorted(experts) or range(_experts(swap))]


def _unreached(recorded: Sequence[LayerInputs], experts: int) -> tuple[Place, ...]:
    return tuple(
        (layer, e)
        for layer, inputs in enumerate(recorded)
        for e in sorted(set(range(experts)) - set(inputs.routing.ids.unique().tolist()))
    )
