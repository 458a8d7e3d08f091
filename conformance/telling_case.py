"""A second look at a failing candidate: a case that tells causes apart.

A drawn case is shrunk, and one token of one expert of one block behaves like many
faults. This one has several experts, slots, K blocks and tokens. The candidate is
called twice, with other hidden states first: what it keeps from call to call shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.reference.types import MoEConfig

# Experts, top_k, hidden, intermediate: odd numbers of K blocks and 37 tokens, which no
# tile divides; then what kernels with larger tiles support.
_SHAPES = ((8, 4, 96, 160), (8, 4, 256, 256), (4, 2, 128, 256), (4, 2, 384, 256))
_TOKENS = 37
_OTHER_STATES = 1


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the candidate gave for `case`.

    former : what it gave one call earlier for other hidden states, and should have.
    """

    case: Case
    data: CaseData
    judged: Judged
    out: torch.Tensor
    former: tuple[torch.Tensor, torch.Tensor]

    @property
    def wrong(self) -> bool:
        """Whether the output is out of bound here too."""
        truth, allowed = self.judged.truth["combine"], self.judged.allowed["combine"]
        return not compare_numbers(self.out, truth, allowed).within


def tell(
    judge: Judge,
    like: Case,
    config: MoEConfig,
    run: Callable[[Case, CaseData], torch.Tensor],
) -> Told | None:
    """Run the candidate on a telling case of the kind of `like`; None if it cannot.

    config : of `like`. run : gives the output [t, h] of a case.
    """
    case = _case(judge, like, config)
    if case is None:
        return None
    try:
        data = judge.data(case)
        earlier = replace(data, hidden_states=_others(data.hidden_states))
        former = run(case, earlier).clone()
        out = run(case, data)
    except (Failure, NotJudged):
        return None
    return Told(
        case=case,
        data=data,
        judged=judge.judged(case, data),
        out=out,
        former=(former, judge.judged(case, earlier).truth["combine"]),
    )


def _case(judge: Judge, like: Case, own: MoEConfig) -> Case | None:
    claims = judge.subject.capabilities
    shard = like.shard
    for experts, top_k, hidden, intermediate in _SHAPES:
        config = replace(
            own,
            experts=experts,
            top_k=top_k,
            hidden=hidden,
            # As many lanes on each rank.
            intermediate=intermediate * shard.tp_size,
        )
        if claims.refuses_shape(config) or claims.refuses_shard(shard, config):
            continue
        return Case(config=config, shard=shard, tokens=_TOKENS, hot=like.hot)
    return None


def _others(states: torch.Tensor) -> torch.Tensor:
    return states.flip(0).roll(_OTHER_STATES, 1)
