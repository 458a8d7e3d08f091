"""What a GEMM that is traced may have been given of the rank's weights instead.

What outputs are searched for, as far as it edits weights and biases only: bytes in
another order, lanes and experts of other ranks, blocks at other addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from functools import cache
from functools import partial
from itertools import chain

from mxmoe.conformance.why_numbers.causes import LARGEST_FIT
from mxmoe.conformance.why_numbers.expert_content import Content
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.input_edits import Hypothesis
from mxmoe.conformance.why_numbers.input_edits import hypotheses
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.otherwise.addresses import addresses_otherwise
from mxmoe.conformance.why_numbers.ranks.cuts import rank_cuts
from mxmoe.reference.types import Arithmetic


def parts_otherwise(s: Situation, arithmetic: Arithmetic) -> Iterator[Otherwise]:
    """Each edit of the weights of `s`, as what an expert holds."""
    cuts = () if too_large(s.part, LARGEST_FIT) else rank_cuts(s)
    for name, hypothesis in chain(hypotheses(s), cuts):
        edited = cache(partial(_edited, hypothesis, s, arithmetic))
        yield Otherwise(name=name, edit=partial(_content, edited=edited))
    if not too_large(s.part, LARGEST_FIT):
        yield from addresses_otherwise(s.part)


def _edited(
    hypothesis: Hypothesis, s: Situation, arithmetic: Arithmetic
) -> Experts | None:
    """The experts that it gives; None if it edits anything else, or the sizes."""
    other = hypothesis(s)
    sizes = [
        {name: x.shape for name, x in part.tensors().items()}
        for part in (s.part, other.part)
    ]
    rest = other.config is s.config and other.routing is s.routing
    same = rest and other.hidden_states is s.hidden_states and other.shard == s.shard
    return Experts(other, arithmetic) if same and sizes[0] == sizes[1] else None


def _content(
    experts: Experts, local: int, *, edited: Callable[[], Experts | None]
) -> Content:
    return (edited() or experts).content(local)
