"""One layer of a dump by the derived bounds: its stages, its inputs, the checkpoint."""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.own import judge_own
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.evals.locate.divergence import first_divergence
from mxmoe.evals.locate.dumps.aligned import ids_of
from mxmoe.evals.locate.dumps.aligned import stage_rows
from mxmoe.evals.locate.dumps.folder import INPUT
from mxmoe.evals.locate.dumps.folder import LayerDump
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.layer_numbers import BY_TRACE
from mxmoe.evals.locate.layer_numbers import Numbers
from mxmoe.evals.locate.layer_under_test import LayerUnderTest
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.evals.locate.recorded_inputs import Token
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import Routing

_NEEDED = (INPUT, "ids", "weights")
_JUDGED = ("gate_up", "activation", "down", "combine")
_EXACT = (torch.float32, torch.float64)


def judge_dump(
    dump: LayerDump, checkpoint: Checkpoint, arithmetic: Arithmetic
) -> LayerResult:
    """Each dumped stage from the dump's own stage before it.

    A stage that was stored in a narrower dtype than it is computed in is judged with
    that rounding, and the stages behind it are judged from the one before it. Raises
    `BadInput` for a dump without inputs, or of another shape than the checkpoint.
    """
    under = _under(dump, checkpoint, arithmetic)
    tokens, top_k = under.inputs.routing.ids.shape
    stages = {
        name: stage_rows(dump, name, tokens, top_k)
        for name in _JUDGED
        if name in dump.entries
    }
    own_dtype = {"activation": arithmetic.intermediate, "down": arithmetic.slot}
    exact = {
        name: rows
        for name, rows in stages.items()
        if dump.entries[name].dtype in (*_EXACT, own_dtype.get(name))
    }
    own = judge_own(under.layer(), exact)
    for name, rows in stages.items():
        truth, allowed = own.truth[name], own.allowed[name]
        if rows.shape != truth.shape:
            raise BadInput(
                f"{dump.path}: {name}: expected {list(truth.shape)} from the "
                f"checkpoint, found {list(rows.shape)}"
            )
        stored = half_ulp(truth.abs() + allowed, dump.entries[name].dtype)
        found = first_divergence(
            name, rows, truth, allowed + stored, under.inputs.routing
        )
        if found is not None:
            numbers = Numbers(
                divergence=found,
                seen=BY_TRACE,
                trace=exact,
                out=stages.get("combine"),
            )
            return LayerResult(under=under, numbers=numbers)
    return LayerResult(under=under)


def _under(
    dump: LayerDump, checkpoint: Checkpoint, arithmetic: Arithmetic
) -> LayerUnderTest:
    for name in _NEEDED:
        if name not in dump.entries:
            raise BadInput(
                f"{dump.path}: expected {', '.join(_NEEDED)} to judge it by a "
                f"checkpoint, found no {name}"
            )
    config = checkpoint.config
    x, weights, ids = dump.read(INPUT), dump.read("weights"), ids_of(dump)
    assert ids is not None
    shapes = (tuple(x.shape), tuple(ids.shape), tuple(weights.shape))
    t = len(ids)
    wanted = ((t, config.hidden), (t, config.top_k), (t, config.top_k))
    if shapes != wanted:
        raise BadInput(
            f"{dump.path}: {', '.join(_NEEDED)}: expected {wanted} from the "
            f"checkpoint, found {shapes}"
        )
    if int(ids.max()) >= config.experts:
        raise BadInput(
            f"{dump.path}: ids: expected at most {config.experts - 1}, "
            f"found {int(ids.max())}"
        )
    inputs = LayerInputs(
        hidden_states=x,
        routing=Routing(ids.int(), weights.float()),
        tokens=tuple(Token(0, n) for n in range(t)),
    )
    return LayerUnderTest(
        number=dump.number,
        weights=checkpoint.layer(dump.number),
        config=config,
        inputs=inputs,
        arithmetic=arithmetic,
    )
