"""A pair of dumps of one layer: the first stage that differs more than what enters it.

Without the weights no bound can be derived. The rule here is one of thumb, and says so:
an element may differ by 4 times (what its row's input differs by, relatively, plus
2**-8, a rounding to bfloat16) of the row's rms or of itself, whichever is larger. What
is identical, which two checksums tell without reading it whole, is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.divergence import first_divergence
from mxmoe.evals.locate.dumps.aligned import BY_SLOT
from mxmoe.evals.locate.dumps.aligned import Slots
from mxmoe.evals.locate.dumps.aligned import ids_of
from mxmoe.evals.locate.dumps.aligned import in_reference_order
from mxmoe.evals.locate.dumps.aligned import match_slots
from mxmoe.evals.locate.dumps.aligned import shape_of
from mxmoe.evals.locate.dumps.aligned import stage_rows
from mxmoe.evals.locate.dumps.folder import INPUT
from mxmoe.evals.locate.dumps.folder import LayerDump
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import Routing

# Rounding to bfloat16 errs by 2**-9 at most; the rms of a GEMM's result in it by less.
_ROUNDING = 2.0**-8
# The largest of 1e5 normal errors of rms 2**-9.8 is 4.4 times that: below 2**-7.6.
_FACTOR = 4.0
# Logits are sums over all columns of the input, and softmax takes their exponential.
_EXCHANGED = 16.0

RULE = (
    "judged by a rule of thumb (4 x (difference of the input + 2^-8)), as no bound "
    "follows from a pair of dumps: --model DIR gives the derived ones"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairDifference:
    """The first difference of a layer, if there is one.

    ids : the tokens [n] that visit other experts, not by a tie. permuted : what the
    checksums say of the stage. checked : stages that both have. ties : tokens whose
    experts differ by a tie, left out. inherited : the input differed already.
    """

    divergence: Divergence | None
    ids: tuple[int, ...]
    permuted: str | None
    checked: tuple[str, ...]
    ties: int
    inherited: bool


def first_difference(reference: LayerDump, found: LayerDump) -> PairDifference:
    """Both of one layer; `BadInput` where they do not describe the same tokens."""
    names = tuple(n for n in reference.names if n in found.names)
    tokens, top_k = shape_of(reference)
    if shape_of(found) != (tokens, top_k):
        raise BadInput(
            f"{found.path}: expected {tokens} tokens, top-{top_k}, as in "
            f"{reference.path}, found {shape_of(found)}"
        )
    hashes = {n: found.checksums(n).compare(reference.checksums(n)) for n in names}
    error = _input_error(
        reference, found, tokens, differs=hashes.get(INPUT) is not None
    )
    slots, ties, wrong = _routing(reference, found, names, error)
    ids = ids_of(reference) if "ids" in names else None
    k = top_k or 1
    routing = Routing(
        torch.zeros(tokens, k, dtype=torch.int32) if ids is None else ids.int(),
        torch.ones(tokens, k),
    )
    seen = PairDifference(
        divergence=None,
        ids=wrong,
        permuted=None,
        checked=names,
        ties=ties,
        inherited=hashes.get(INPUT) is not None,
    )
    errors = error[:, None].expand(tokens, k).clone()
    for name in names:
        if name == "ids" and wrong:
            return seen
        if name in (INPUT, "ids"):
            continue
        if hashes[name] is None and (name not in BY_SLOT or _same_order(slots)):
            continue
        pair = [stage_rows(dump, name, tokens, top_k) for dump in (reference, found)]
        difference = _differs(name, pair[0], pair[1], slots, errors, routing)
        if difference is not None:
            return replace(seen, divergence=difference, permuted=hashes[name])
    return seen


def _input_error(
    reference: LayerDump, found: LayerDump, tokens: int, *, differs: bool
) -> torch.Tensor:
    """[t], by how much of its own size each token's hidden states differ."""
    if not differs:
        return torch.zeros(tokens, dtype=torch.float64)
    wanted, got = (stage_rows(dump, INPUT, tokens, None) for dump in (reference, found))
    return _relative(got, wanted)


def _relative(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    off = (got - wanted).square().mean(dim=-1).sqrt()
    size = wanted.square().mean(dim=-1).sqrt()
    return torch.where(off > 0, off / size, 0).nan_to_num(nan=0.0)


def _same_order(slots: Slots | None) -> bool:
    if slots is None:
        return True
    own = torch.arange(slots.order.shape[1]).expand_as(slots.order)
    return torch.equal(slots.order, own)


def _routing(
    reference: LayerDump,
    found: LayerDump,
    names: tuple[str, ...],
    error: torch.Tensor,
) -> tuple[Slots | None, int, tuple[int, ...]]:
    """(how slots lie, tokens left out for a tie, tokens that are routed wrongly).

    error : [t], what the hidden states differ by. A choice may differ where the experts
    that were exchanged have logits, or weights, that differ by no more than follows.
    """
    if "ids" not in names:
        return None, 0, ()
    ids = [ids_of(dump) for dump in (reference, found)]
    assert ids[0] is not None
    assert ids[1] is not None
    slots = match_slots(ids[0], ids[1])
    other = ~slots.same
    if not other.any():
        return slots, 0, ()
    near = _EXCHANGED * (error + _ROUNDING)
    if "router_logits" in names:
        logits, k = reference.read("router_logits").double(), ids[0].shape[1]
        ranked = logits.sort(dim=1, descending=True).values
        gap = ranked[:, k - 1] - ranked[:, min(k, ranked.shape[1] - 1)]
        tie = gap <= near * ranked.abs().amax(dim=1)
    elif "weights" in names:
        pair = [dump.read("weights").double() for dump in (reference, found)]
        gone, come = (
            torch.where((one[:, :, None] != two[:, None, :]).all(dim=2), w, 0).sum(
                dim=1
            )
            for one, two, w in ((ids[0], ids[1], pair[0]), (ids[1], ids[0], pair[1]))
        )
        tie = (gone - come).abs() <= near * torch.maximum(gone, come)
    else:
        tie = error > 0
    wrong = (other & ~tie).nonzero()[:, 0].tolist()
    return slots, int((other & tie).sum()), tuple(wrong)


def _differs(
    name: str,
    wanted: torch.Tensor,
    got: torch.Tensor,
    slots: Slots | None,
    error: torch.Tensor,
    routing: Routing,
) -> Divergence | None:
    """The divergence of a stage; `error` [t, k] becomes that of its rows."""
    if got.shape != wanted.shape:
        raise BadInput(
            f"{name}: expected {list(wanted.shape)} in both dumps, "
            f"found {list(got.shape)}"
        )
    by_slot = name in BY_SLOT
    if slots is not None:
        if by_slot or name == "weights":
            got = in_reference_order(got, slots)
        # Tokens with other experts are another stage's.
        keep = slots.same.reshape(-1, *[1] * (wanted.dim() - 1))
        got = torch.where(keep, got, wanted)
    enters = error if by_slot else error.amax(dim=1)
    size = wanted.square().mean(dim=-1, keepdim=True).sqrt()
    may = _FACTOR * (enters[..., None] + _ROUNDING) * torch.maximum(size, wanted.abs())
    divergence = first_divergence(name, got, wanted, may, routing)
    if by_slot:
        error.copy_(torch.maximum(error, _relative(got, wanted)))
    return divergence
