"""A second look at a failing candidate: a case that tells causes apart.

A drawn case is shrunk, and one token of one expert of one block behaves like many
faults. This one has several experts, slots, K blocks and tokens. The candidate is
called twice, with other hidden states first: what it keeps from call to call shows.
If nothing is wrong there, an odd number of experts is tried where the failing rank has
few, and then the experts get more rows than the tiles of a kernel have.

Where the failing output is not finite, no bias hides how large numbers are, and tokens
differ in size: from which size on they are not finite tells the number that overflows.

These calls only explain. Whatever they do, a crash in them included, the failure that
was found is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.why_numbers import row_counts
from mxmoe.conformance.why_numbers.slots.empty_slots import Former
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

# Experts, top_k, hidden, intermediate: odd numbers of K blocks and 37 tokens, which no
# tile divides; then what kernels with larger tiles support.
_SHAPES = ((8, 4, 96, 160), (8, 4, 256, 256), (4, 2, 128, 256), (4, 2, 384, 256))
_TOKENS = 37
# The same, for rows of an expert: 300 of two, or 600 slots of four, are about 150 rows
# each, which fill the largest usual tile of 128. So many slots cost as much as the
# smallest of the larger shapes above.
_CROWDED = ((4, 2, 64, 96), (4, 2, 128, 256), (4, 2, 384, 256))
_CROWD = 300
# Experts of a rank that fill no block of several, asked if those of the failing rank
# fill none.
_UNEVEN = ((9, 4, 96, 160), (9, 4, 256, 256))
_BLOCK_OF_EXPERTS = 8
_OTHER_STATES = 1
# Hot spots of routing that another routing takes the place of.
_OF_ROUTING = {"no_expert", "one_route", "silent_expert"}

# Powers of two that tokens are multiplied by. Numbers of GEMM1 have a standard
# deviation of 4 (`designed`): from exp of nothing to all of them beyond float16.
_SMALLEST, _LARGEST = -6.0, 17.0
# Coprime to the tokens: neighbours in a tile are not neighbours in size.
_STEP = 15


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the candidate gave for `case`.

    former : what it gave one call earlier for other hidden states, and should have.
    before : what each slot should have given in that call.
    how : in what `data` differs from `case`, or "".
    """

    case: Case
    data: CaseData
    judged: Judged
    out: torch.Tensor
    former: tuple[torch.Tensor, torch.Tensor]
    before: Former
    how: str = ""

    @property
    def wrong(self) -> bool:
        """Whether the output is out of bound here too."""
        truth, allowed = self.judged.truth["combine"], self.judged.allowed["combine"]
        return not compare_numbers(self.out, truth, allowed).within


def tell(
    judge: Judge,
    like: Case,
    config: MoEConfig,
    run: Callable[[Judge, Case, CaseData], torch.Tensor],
    *,
    graded: bool = False,
) -> Told | None:
    """Run the candidate on a telling case of the kind of `like`; None if it cannot.

    config : of `like`. run : gives the output [t, h] of a case. graded : without
    biases, each token of another size.
    """
    judge = judge.aside()
    if graded:
        # Or all of them are beyond float16.
        like = replace(like, hot=tuple(h for h in like.hot if h != "wide_hidden"))
    found = _told(judge, like, config, run, shapes=_SHAPES, graded=graded)
    if found is None or found.wrong or graded:
        return found
    if len(like.shard.expert_range(config)) % _BLOCK_OF_EXPERTS:
        ranks = like.shard.ep_size
        shapes = [(e * ranks, k, h, i) for e, k, h, i in _UNEVEN]
        uneven = _told(judge, like, config, run, shapes=shapes)
        if uneven is not None and uneven.wrong:
            return uneven
    crowded = _told(judge, like, config, run, shapes=_CROWDED, tokens=_CROWD)
    if crowded is None or not crowded.wrong:
        crowded = tell_by_counts(judge, like, config, run)
    return found if crowded is None or not crowded.wrong else crowded


def tell_by_counts(
    judge: Judge,
    like: Case,
    config: MoEConfig,
    run: Callable[[Judge, Case, CaseData], torch.Tensor],
) -> Told | None:
    """As `tell`, with experts that have telling numbers of rows."""
    hot = tuple(spot for spot in like.hot if spot not in _OF_ROUTING)
    for experts in (row_counts.MOST, row_counts.FEWEST):
        count = experts // like.shard.ep_size
        if count < row_counts.FEWEST or experts % like.shard.ep_size:
            continue
        shapes = [(experts, row_counts.TOP_K, h, i) for _, _, h, i in _CROWDED]
        found = _told(
            judge.aside(),
            replace(like, hot=hot),
            config,
            run,
            shapes=shapes,
            tokens=row_counts.tokens_for(count),
            counted=True,
        )
        if found is not None:
            return found
    return None


def _told(
    judge: Judge,
    like: Case,
    config: MoEConfig,
    run: Callable[[Judge, Case, CaseData], torch.Tensor],
    *,
    shapes: Sequence[tuple[int, int, int, int]],
    tokens: int = _TOKENS,
    graded: bool = False,
    counted: bool = False,
) -> Told | None:
    how = _GRADED if graded else ""
    try:
        case = _case(judge, like, config, shapes, tokens)
        if case is None:
            return None
        data = judge.data(case)
        data = _graded(data) if graded else data
        if counted:
            owned = case.shard.expert_range(data.config)
            data = row_counts.with_counts(data, owned)
            how = row_counts.described(len(owned))
        earlier = replace(
            data,
            hidden_states=_others(data.hidden_states),
            routing=_other_routing(case, data),
        )
        former = run(judge, case, earlier).detach().cpu().clone()
        out = run(judge, case, data).detach().cpu().clone()
    # `shapes` and `shards` are the candidate's as well, and raise what they like; a
    # lost device raises at the copy.
    except Exception:
        return None
    judged_before = judge.judged(case, earlier)
    return Told(
        case=case,
        data=data,
        judged=judge.judged(case, data),
        out=out,
        former=(former, judged_before.truth["combine"]),
        before=Former(routing=earlier.routing, judged=judged_before),
        how=how,
    )


_GRADED = (
    " with biases of 0 and each token's hidden states times a power of two from "
    f"2^{_SMALLEST:g} to 2^{_LARGEST:g}"
)


def _graded(data: CaseData) -> CaseData:
    states, weights = data.hidden_states, data.weights
    order = torch.arange(len(states)) * _STEP % len(states)
    size = _SMALLEST + (_LARGEST - _SMALLEST) * order / (len(states) - 1)
    scaled = (states.double() * torch.exp2(size.double())[:, None]).to(states.dtype)
    if weights.gate_up_bias is not None and weights.down_bias is not None:
        weights = replace(
            weights,
            gate_up_bias=torch.zeros_like(weights.gate_up_bias),
            down_bias=torch.zeros_like(weights.down_bias),
        )
    return replace(data, hidden_states=scaled, weights=weights)


def _case(
    judge: Judge,
    like: Case,
    own: MoEConfig,
    shapes: Sequence[tuple[int, int, int, int]],
    tokens: int,
) -> Case | None:
    names = ("experts", "top_k", "hidden", "intermediate")
    sizes = [
        dict(zip(names, shape, strict=True)) | {"intermediate": lanes}
        for shape in shapes
        for lanes in lanes_with_a_rest(shape[-1], like.shard)
    ]
    return first_accepted(judge, like, own, sizes, tokens)


def lanes_with_a_rest(each: int, shard: Shard) -> list[int]:
    """Lanes of the whole layer: the last rank of tp has fewer than `each`, or as many.

    Ranks that share equally hide how the rest is cut.
    """
    tp, alignment = shard.tp_size, shard.alignment
    rest = tp > 1 and each % alignment == 0 and each > alignment
    return [each * tp - alignment, each * tp] if rest else [each * tp]


def first_accepted(
    judge: Judge,
    like: Case,
    own: MoEConfig,
    sizes: Iterable[dict[str, Any]],
    tokens: int,
) -> Case | None:
    """The first case of these sizes that the candidate takes, on the rank of `like`.

    sizes : fields of `own` with other values.
    """
    claims, shard = judge.subject.capabilities, like.shard
    for size in sizes:
        config = replace(own, **size)
        if claims.refuses_shape(config) or claims.refuses_shard(shard, config):
            continue
        return Case(config=config, shard=shard, tokens=tokens, hot=like.hot)
    return None


def _other_routing(case: Case, data: CaseData) -> Routing:
    """One that serves every slot, if the rank has experts enough for a token."""
    owned, ids = case.shard.expert_range(data.config), data.routing.ids
    t, k = ids.shape
    if len(owned) >= k:
        number = torch.arange(t)[:, None] + torch.arange(k)
        ids = (owned.start + number % len(owned)).to(ids.dtype)
    return Routing(ids.roll(1, 0), data.routing.weights.roll(1, 0))


def _others(states: torch.Tensor) -> torch.Tensor:
    return states.flip(0).roll(_OTHER_STATES, 1)
