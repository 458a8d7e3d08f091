"""A case is a description: tensors follow from it, deterministically.

It prints as one word without spaces, which is the whole bug report:

    e4k2h64i96/tp2r1/t17/s5/strided+no_expert
    layer3/tp1r0/t8/s0

The second form takes its weights and shape from a layer of the checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import LARGEST_DIMENSION
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

HOT_SPOTS = {
    "strided": "hidden states, ids and weights are views with gaps between rows",
    "no_expert": "some slots hold id -1 and a routing weight of 1000",
    "one_route": "every token visits the same experts",
    "silent_expert": "expert 0 is never visited (where another can be)",
    "zero_scale": "some blocks have scale byte 0x00, some are all zero",
    "cancellation": "hidden values of 256 that cancel exactly over two K blocks",
    "wide_hidden": "one column of the hidden states is 2**17: beyond float16",
    "saturated": "most gates and ups are far beyond the clamps, on both sides",
}
"""What a case can contain besides its always varied data; see `designed`."""

_ACTIVATIONS = {a.name: a for a in (SWIGLU_OAI, SILU)}
# int() refuses thousands of digits, and no size or seed has ten.
_N = "([0-9]{1,9})"
_SHAPE = re.compile(rf"e{_N}k{_N}h{_N}i{_N}((?:-\w+)*)")
_SHARD = re.compile(rf"tp{_N}r{_N}(?:-ep{_N}r{_N})?")
_FORM = (
    "e4k2h64i96[-silu][-nobias]/tp1r0[-ep2r0]/t3/s0[/hot+spots] "
    "or layer0/tp1r0/t3/s0[/hot+spots]"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One situation: a shape or a layer, a shard, tokens, a seed, hot spots."""

    config: MoEConfig | None = None
    layer: int | None = None
    shard: Shard = WHOLE
    tokens: int
    seed: int = 0
    hot: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.config is None) == (self.layer is None):
            raise BadInput("case: expected a shape or a layer, found both or neither")
        if not 0 <= self.tokens <= LARGEST_DIMENSION:
            raise BadInput(
                f"case: tokens: expected 0 to {LARGEST_DIMENSION}, found {self.tokens}"
            )
        if self.config is not None:
            self.shard.expert_range(self.config)
        for name in self.hot:
            if name not in HOT_SPOTS:
                raise BadInput(
                    f"case: expected hot spots from {', '.join(HOT_SPOTS)}, "
                    f"found {name!r}"
                )

    def __str__(self) -> str:
        head = f"layer{self.layer}" if self.config is None else self.config.label()
        parts = [head, self.shard.label(), f"t{self.tokens}", f"s{self.seed}"]
        if self.hot:
            parts.append("+".join(self.hot))
        return "/".join(parts)

    __repr__ = __str__


def parse_case(word: str) -> Case:
    """The inverse of `str(case)`; `BadInput` shows the form expected."""
    parts = word.split("/")
    if len(parts) not in (4, 5):
        raise BadInput(f"case: expected {_FORM}, found {word!r}")
    head, shard, tokens, seed, *hot = parts
    layer = re.fullmatch(f"layer{_N}", head)
    found_tokens = re.fullmatch(f"t{_N}", tokens)
    found_seed = re.fullmatch(f"s{_N}", seed)
    if found_tokens is None or found_seed is None:
        raise BadInput(f"case: expected {_FORM}, found {word!r}")
    return Case(
        config=None if layer else _parse_shape(head),
        layer=int(layer[1]) if layer else None,
        shard=_parse_shard(shard),
        tokens=int(found_tokens[1]),
        seed=int(found_seed[1]),
        hot=tuple(hot[0].split("+")) if hot else (),
    )


def _parse_shape(word: str) -> MoEConfig:
    found = _SHAPE.fullmatch(word)
    if found is None:
        raise BadInput(f"case: expected a shape like e4k2h64i96, found {word!r}")
    experts, top_k, hidden, intermediate = (int(found[n]) for n in range(1, 5))
    options = [option for option in found[5].split("-") if option]
    activation = SWIGLU_OAI
    for option in options:
        if option not in (*_ACTIVATIONS, "nobias"):
            raise BadInput(
                f"case: expected options from {', '.join(_ACTIVATIONS)}, nobias, "
                f"found {option!r}"
            )
        activation = _ACTIVATIONS.get(option, activation)
    return MoEConfig(
        hidden=hidden,
        intermediate=intermediate,
        experts=experts,
        top_k=top_k,
        activation=activation,
        has_bias="nobias" not in options,
    )


def _parse_shard(word: str) -> Shard:
    found = _SHARD.fullmatch(word)
    if found is None:
        raise BadInput(
            f"case: expected a shard like tp2r1 or tp1r0-ep4r2, found {word!r}"
        )
    tp_size, tp_rank, ep_size, ep_rank = found.groups()
    return Shard(
        tp_size=int(tp_size),
        tp_rank=int(tp_rank),
        ep_size=int(ep_size or 1),
        ep_rank=int(ep_rank or 0),
    )
