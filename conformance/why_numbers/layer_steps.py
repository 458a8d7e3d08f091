"""A layer computed in float64 with one step of it done otherwise, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.reference.activation import split_halves
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import e8m0
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny
_LARGEST = {
    torch.float8_e4m3fn: 448.0,
    torch.float16: 65504.0,
    torch.float8_e5m2: 57344.0,
}


@dataclass(frozen=True)
class Fit:
    """What an output behaves like, and the part of its mean square error left.

    family : the search that found it. place : where alone it is so, "" for everywhere.
    """

    name: str
    left: float
    family: str = ""
    place: str = ""

    def __str__(self) -> str:
        return self.name + self.place


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The input of one rank's forward pass.

    strided : the candidate was given rows with gaps between them. whole : the layer
    that `part` is cut out of, if it is known.
    """

    part: ExpertWeights
    config: MoEConfig
    hidden_states: torch.Tensor
    routing: Routing
    shard: Shard
    strided: bool = False
    whole: ExpertWeights | None = None

    def of_tokens(self, at: slice | Tensor) -> Situation:
        """With some of the tokens."""
        few = Routing(self.routing.ids[at], self.routing.weights[at])
        return replace(self, hidden_states=self.hidden_states[at], routing=few)

    def judged(self, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
        """(the true output, what is allowed around it), float64 [t, h]."""
        judged = judge_rank(
            self.part,
            self.config,
            self.hidden_states,
            self.routing,
            shard=self.shard,
            arithmetic=arithmetic,
        )
        return judged.truth["combine"], judged.allowed["combine"]


def situation_of(case: Case, data: CaseData) -> Situation:
    """What the rank of `case` is given."""
    return Situation(
        part=shard_weights(data.weights, data.config, case.shard),
        config=data.config,
        hidden_states=data.hidden_states,
        routing=data.routing,
        shard=case.shard,
        strided="strided" in case.hot,
        whole=data.weights,
    )


def _same(x: Tensor) -> Tensor:
    return x


def _whole(k: int) -> int:
    return k


def gated(z: Tensor, bias: Tensor, activation: Activation) -> Tensor:
    """The activation as it should be: [n, 2i] without the bias, [2i] -> [n, i]."""
    gate, up = split_halves(z + bias)
    gate, up = clamped(gate, up, activation)
    return gate * torch.sigmoid(activation.alpha * gate) * (up + activation.beta)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a layer does at each place; the defaults are right.

    x : hidden states before GEMM1. z : its result before the bias. gated : bias and
    activation. act : the intermediate before GEMM2, None for the rounding of the
    class. v : the result of GEMM2 before the bias. y : each slot with its bias, None
    likewise. first, last : columns of K that GEMM1 and GEMM2 read. product1, product2 :
    of rows [n, k] and a matrix [rows, k], None for exact ones. down_bias : of the share
    of this rank. weighs_bias : whether the routing weight multiplies it.
    weighs_input : whether that multiplies the hidden states, and nothing else.
    """

    x: Callable[[Tensor], Tensor] = _same
    z: Callable[[Tensor], Tensor] = _same
    gated: Callable[[Tensor, Tensor, Activation], Tensor] = gated
    act: Callable[[Tensor], Tensor] | None = None
    v: Callable[[Tensor], Tensor] = _same
    y: Callable[[Tensor], Tensor] | None = None
    first: Callable[[int], int] = _whole
    last: Callable[[int], int] = _whole
    product1: Callable[[Tensor, Tensor], Tensor] | None = None
    product2: Callable[[Tensor, Tensor], Tensor] | None = None
    down_bias: Callable[[Tensor], Tensor] = _same
    weighs_bias: bool = True
    weighs_input: bool = False

    @property
    def activates_right(self) -> bool:
        """Whether the intermediate is what it should be, of a right `z`."""
        return self.gated is gated and self.act is None

    @property
    def ends_right(self) -> bool:
        """Whether the second GEMM, its bias and its weight are what they should be."""
        given = self.v, self.y, self.last, self.product2, self.down_bias
        plain = given == (_same, None, _whole, None, _same)
        return plain and self.weighs_bias and not self.weighs_input

    @property
    def multiplies_right(self) -> bool:
        """Whether all behind the operands of the first GEMM is what it should be."""
        given = self.z, self.first, self.product1
        right = given == (_same, _whole, None) and self.activates_right
        return right and self.ends_right


class Layer:
    """The experts of a situation that a token visits, decoded once.

    like : a layer of equal matrices, but those that were edited: the others are not
    decoded again. columns : of the output; the others are not computed.
    """

    def __init__(
        self,
        situation: Situation,
        arithmetic: Arithmetic,
        *,
        like: Layer | None = None,
        columns: int | None = None,
    ) -> None:
        self._s, self._arithmetic, self._columns = situation, arithmetic, columns
        self._known: dict[tuple[str, int], Tensor] = {}
        self._w1: dict[int, _Factors] = {}
        self._w2: dict[int, _Factors] = {}
        for local, e in enumerate(situation.shard.expert_range(situation.config)):
            if (situation.routing.ids == e).any():
                self._w1[local] = self._matrix("gate_up", local, slice(None), like)
                self._w2[local] = self._matrix("down", local, slice(columns), like)

    def _matrix(
        self, name: str, local: int, rows: slice, like: Layer | None
    ) -> _Factors:
        """The two factors of `decode`, of which most hypotheses edit one."""
        return (
            self._part(f"{name}_blocks", local, rows, like, _elements),
            self._part(f"{name}_scales", local, rows, like, e8m0.values),
        )

    def _part(
        self,
        name: str,
        local: int,
        rows: slice,
        like: Layer | None,
        read: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Decoded; what `like` has of the very same bytes is taken from there."""
        key, known = (name, local), None
        if like is not None and like._shares(name, self):
            known = like._known.get(key)
        if known is None:
            known = read(getattr(self._s.part, name)[local, rows])
        self._known[key] = known
        return known

    def _shares(self, name: str, other: Layer) -> bool:
        return getattr(self._s.part, name) is getattr(other._s.part, name)

    def output(self) -> Tensor:
        """float64 [t, h], or as many columns as were asked for."""
        s, arithmetic, rows = self._s, self._arithmetic, slice(self._columns)
        total = torch.zeros_like(s.hidden_states[:, rows], dtype=torch.float64)
        first = s.shard.expert_range(s.config).start
        for local, w1 in self._w1.items():
            w2, at = self._w2[local], s.routing.ids == first + local
            tokens = at.nonzero()[:, 0]
            p = s.routing.weights[at].double()[:, None]
            b1, b2 = (total.new_zeros(len(w[0])) for w in (w1, w2))
            if s.part.gate_up_bias is not None and s.part.down_bias is not None:
                b1 = s.part.gate_up_bias[local].double()
                b2 = s.part.down_bias[local, rows].double() / s.shard.tp_size
            z = _times(s.hidden_states[tokens].double(), w1)
            a = gated(z, b1, s.config.activation)
            y = _times(through(a, dtype=arithmetic.intermediate), w2)
            added = p * through(y + b2, dtype=arithmetic.slot)
            total.index_add_(0, tokens, added)
        return total


_Factors = tuple[Tensor, Tensor]
"""Elements [rows, g, 32] and what scales [rows, g] multiply them by."""


def _times(x: Tensor, w: _Factors) -> Tensor:
    """[n, 32g] -> [n, rows], without a matrix that is as large as all elements."""
    elements, scales = w
    return (in_blocks(x, elements) * scales.T[..., None]).sum(dim=0).T


def in_blocks(x: Tensor, elements: Tensor) -> Tensor:
    """[n, 32g] times [rows, g, 32], summed in each K block alone: [g, rows, n]."""
    return elements.transpose(0, 1) @ x.unflatten(1, (-1, BLOCK)).permute(1, 2, 0)


def _elements(blocks: Tensor) -> Tensor:
    """uint8 [rows, g, 16] -> [rows, g, 32]."""
    return decode(blocks, blocks.new_full(blocks.shape[:-1], e8m0.BIAS)).unflatten(
        -1, (-1, BLOCK)
    )


def clamped(gate: Tensor, up: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Both halves [n, i] within the activation's limit, as it should be."""
    limit = activation.limit
    return gate.clamp(max=limit), up.clamp(-limit, limit)


def through(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Rounded to nearest, beyond the largest number the largest."""
    most = _LARGEST.get(dtype)
    return (x if most is None else x.clamp(-most, most)).to(dtype).to(x.dtype)


def misses(
    found: Tensor, truth: Tensor, allowed: Tensor, arithmetic: Arithmetic
) -> Tensor:
    """Errors over what `allowed` and the output's own rounding leave for them."""
    room = allowed + half_ulp(truth.abs() + allowed, arithmetic.output)
    return (found - truth).abs() / room.clamp(min=_TINY)


def mean_square(x: Tensor) -> float:
    """Of all elements."""
    return float(x.square().mean())
