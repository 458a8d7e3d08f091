"""The failure of one layer as a bundle that ``mxmoe replay`` repeats.

The check of the suite that sees it is made once more, on the very rows that went wrong,
and writes the bundle as it does in `mxmoe check`.
"""

from __future__ import annotations

import math
from pathlib import Path

from mxmoe.conformance.bundles.bundle import write_bundle
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.kept_inputs import CASE
from mxmoe.conformance.cases.kept_inputs import KeptInputs
from mxmoe.conformance.cases.kept_inputs import Source
from mxmoe.conformance.isolation.judge import make_check
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.places import Place
from mxmoe.conformance.suite.places import layer_routes
from mxmoe.conformance.suite.places import layer_tensors
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.reference.checkpoint import Checkpoint

# Rows in a bundle: the first wrong one, and others that visit its expert.
_ROWS = 16


def bundle_of(
    result: LayerResult, checkpoint: Checkpoint, writer: RunWriter
) -> str | None:
    """Its path in the run; None where the suite's check passes on these rows."""
    if result.wrong_bytes and result.wrong_bytes[0].experts:
        return _of_bytes(result, checkpoint, writer)
    return _of_numbers(result, checkpoint, writer)


def _of_bytes(
    result: LayerResult, checkpoint: Checkpoint, writer: RunWriter
) -> str | None:
    settings = _settings(result, checkpoint, writer, case=None, kept=None)
    name = result.wrong_bytes[0].tensor
    for place in layer_tensors(settings, result.under.candidate.subject):
        case, tensor = place.value
        if tensor == name and case.shard.is_whole():
            return _written(
                result, settings, "test_prepared_bytes_match_the_layout", place
            )
    return None


def _of_numbers(
    result: LayerResult, checkpoint: Checkpoint, writer: RunWriter
) -> str | None:
    under, found = result.under, result.divergence
    rows = under.inputs.routing.ids.new_zeros(len(under.inputs.tokens)).bool()
    if found is None:
        rows[:_ROWS] = True
    else:
        bad = found.bad.flatten(1).any(dim=1)
        rows[bad.nonzero()[:_ROWS, 0]] = True
        rows[found.row] = True
    part = under.inputs.rows(rows.nonzero()[:, 0])
    case = Case(layer=under.number, tokens=len(part.tokens))
    shard = under.candidate.subject.capabilities.align(case.shard)
    word = str(Case(layer=under.number, shard=shard, tokens=case.tokens))
    kept = KeptInputs(
        source=Source(CASE, word),
        weights=under.weights,
        checkpoint=checkpoint,
        hidden_states=part.hidden_states,
        routing=part.routing,
    )
    settings = _settings(result, checkpoint, writer, case=case, kept=kept)
    for place in layer_routes(settings, under.candidate.subject):
        if place.value[1].endswith("-yours"):
            check = "test_layer_output_stays_within_the_bound"
            return _written(result, settings, check, place)
    return None


def _settings(
    result: LayerResult,
    checkpoint: Checkpoint,
    writer: RunWriter,
    *,
    case: Case | None,
    kept: KeptInputs | None,
) -> Settings:
    device = result.under.candidate.subject.device_request
    return Settings(
        checkpoint_folder=Path(checkpoint.folder).absolute(),
        checkpoint_given=True,
        layers=(result.under.number,),
        seconds_per_check=math.inf,
        case=case,
        device=device,
        run=writer,
        kept=kept,
    )


def _written(
    result: LayerResult, settings: Settings, check: str, place: Place
) -> str | None:
    subject: Subject = result.under.candidate.subject
    judge = Judge(subject, settings, check, place=place.id)
    try:
        make_check(judge, {"place": place.value})
    except Failure as error:
        judge.complete(error)
        return write_bundle(judge)
    except NotJudged:
        return None
    return None
