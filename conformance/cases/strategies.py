"""Hypothesis strategies: they draw descriptions of cases, never tensors.

Sizes come from hot sets, because uniform draws do not find the edges of tiles or
the shapes of real models. Each strategy shrinks towards its first entry.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from functools import cache

from hypothesis import strategies as st

from mxmoe.conformance.cases.case import Case
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# One block; two; odd block counts; both sides of 128 and 256; 2880 / 10.
_DIMENSIONS = (32, 64, 96, 128, 160, 224, 256, 288, 384)
_EXPERTS_AND_TOP_K = ((1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 2), (8, 4), (32, 4))
# Both sides of the tile edges 16, 32, 64, 128, and every small count.
TOKENS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
SHARDS = (
    WHOLE,
    *(Shard(tp_size=n, tp_rank=r) for n in (2, 3, 4, 8) for r in (0, n - 1)),
    *(Shard(ep_size=2, ep_rank=r) for r in (0, 1)),
    Shard(tp_size=2, tp_rank=1, ep_size=2, ep_rank=1),
)
ALL_RANKS = (
    WHOLE,
    *(Shard(tp_size=n, tp_rank=r) for n in (2, 3, 4, 5, 6, 7, 8, 16) for r in range(n)),
    *(Shard(ep_size=n, ep_rank=r) for n in (2, 4) for r in range(n)),
    *(Shard(tp_size=3, tp_rank=r, ep_size=2, ep_rank=r % 2) for r in range(3)),
)
"""For bytes, which cost little: every rank of every size, uneven ones among them."""

# Elements of W1 and W2: larger shapes are for explicit examples.
_LARGEST_LAYER = 2**22

GPT_OSS_SHAPE = MoEConfig(hidden=2880, intermediate=2880, experts=2, top_k=2)
"""The real matrices with two experts: what two cores can judge in seconds."""

SILU_SHAPE = MoEConfig(
    hidden=160, intermediate=96, experts=8, top_k=2, activation=SILU, has_bias=False
)
"""The one configuration that is not gpt-oss, judged throughout."""

MANY_EXPERTS = MoEConfig(hidden=64, intermediate=32, experts=128, top_k=4)
"""As many experts as gpt-oss-120b: more than a warp or a byte of them."""

MANY_TOKENS = MoEConfig(hidden=96, intermediate=64, experts=4, top_k=2)
"""Small enough for a prefill of a thousand tokens."""


@cache
def shapes() -> tuple[MoEConfig, ...]:
    """Every combination of the hot sets, smallest layer first."""
    found = [
        MoEConfig(
            hidden=h,
            intermediate=i,
            experts=e,
            top_k=k,
            activation=activation,
            has_bias=has_bias,
        )
        for h in _DIMENSIONS
        for i in _DIMENSIONS
        for e, k in _EXPERTS_AND_TOP_K
        for activation, has_bias in ((SWIGLU_OAI, True), (SILU, False))
        if 3 * e * h * i <= _LARGEST_LAYER
    ]
    return tuple(sorted(found, key=lambda c: c.experts * c.hidden * c.intermediate))


def cases(
    supported: Callable[[MoEConfig, Shard], bool] | None,
    *,
    hot: tuple[str, ...] = (),
    always: tuple[str, ...] = (),
    tokens: tuple[int, ...] = TOKENS,
    shards: Sequence[Shard] = SHARDS,
) -> st.SearchStrategy[Case]:
    """Cases that the candidate supports; nothing() if there is none in the hot sets.

    supported : None says that all are. hot : hot spots that may be drawn. always : hot
    spots in every case. shards : what to draw shards from; one that does not suit the
    shape gives way to the first that does.
    """
    divided = _divided(tuple(shards))
    suiting = divided
    if supported is not None:
        kept = {c: [s for s in divided[c] if supported(c, s)] for c in divided}
        suiting = {config: found for config, found in kept.items() if found}
    if not suiting:
        return st.nothing()
    usable = list(suiting)
    anywhere = [s for s in shards if any(s in found for found in suiting.values())]
    drawn = st.builds(
        lambda config, shard, t, seed, spots: Case(
            config=config,
            shard=shard if shard in suiting[config] else suiting[config][0],
            tokens=t,
            seed=seed,
            hot=tuple(dict.fromkeys((*always, *sorted(spots)))),
        ),
        # By index: the repr of the whole list would be 100 kB long.
        st.integers(0, len(usable) - 1).map(usable.__getitem__),
        st.sampled_from(anywhere),
        st.sampled_from(tokens),
        st.integers(0, 999),
        st.sets(st.sampled_from(hot), max_size=2) if hot else st.just(set()),
    )
    return drawn


@cache
def _divided(shards: tuple[Shard, ...]) -> dict[MoEConfig, list[Shard]]:
    """To each shape the shards whose ranks have equally many experts, if any."""
    kept = {c: [s for s in shards if c.experts % s.ep_size == 0] for c in shapes()}
    return {config: found for config, found in kept.items() if found}
