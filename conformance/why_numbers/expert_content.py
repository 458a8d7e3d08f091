"""The experts of a situation, taken apart so that one part of one can be another.

An expert is its elements [rows, g, 32] and scales [rows, g] of two matrices and two
biases, all float64. What a fault does to bytes, codes or places is an edit of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from functools import cached_property
from functools import partial

import torch

from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import in_blocks
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import unpack_nibbles
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor
_ONE = 127
_CODES_OF_1 = 0x22
# Of a matrix: with one token, with all of an expert, with those that values are fitted
# to, and one more, of hidden states that a hypothesis made.
_PRODUCTS = 4
# Rows whose products are taken by K block.
_FEW = 4
# Each of the experts once with all of its tokens, and of each slot of a token.
_ACTIVATIONS = 64


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """elements : [rows, g, 32], what `codes` (as many) mean. scales : [rows, g].

    bias : [rows]. of_blocks : the last elements and rows x, and their products in each
    K block; other scales take them from there.
    """

    elements: Tensor
    scales: Tensor
    codes: Tensor
    bias: Tensor
    of_blocks: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, repr=False
    )

    @cached_property
    def dense(self) -> Tensor:
        """[rows, 32g]."""
        return (self.elements * self.scales[..., None]).flatten(-2)

    @cached_property
    def _products(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}

    def times(self, x: Tensor) -> Tensor:
        """[n, 32g] -> [n, rows], computed once for one of the last `x`."""
        known = self._products.get(id(x))
        # What is remembered holds `x`, so that no other tensor gets its id.
        if known is None:
            if len(self._products) == _PRODUCTS:
                del self._products[next(iter(self._products))]
            product = self._of_few(x) if len(x) <= _FEW else x @ self.dense.T
            known = self._products[id(x)] = x, product
        return known[1]

    def _of_few(self, x: Tensor) -> Tensor:
        """As `times`, without a matrix that is as large as all elements."""
        key, known = (id(self.elements), id(x)), self.of_blocks
        if key not in known:
            if len(known) == _PRODUCTS:
                del known[next(iter(known))]
            known[key] = self.elements, x, in_blocks(x, self.elements)
        return (known[key][2] * self.scales.T[..., None]).sum(dim=0).T


@dataclass(frozen=True, kw_only=True)
class Content:
    """What one expert holds; down.bias is this rank's share."""

    gate_up: Matrix
    down: Matrix


Edit = Callable[["Experts", int], Content]


def _own(experts: Experts, local: int) -> Content:
    return experts.content(local)


def _as_given(weights: Tensor) -> Tensor:
    return weights


@dataclass(frozen=True, kw_only=True)
class Otherwise:
    """A layer that does one thing otherwise: content, a step, or the weights [t, k]."""

    name: str
    edit: Edit = _own
    steps: Steps = field(default_factory=Steps)
    weigh: Callable[[Tensor], Tensor] = _as_given

    @property
    def ends_right(self) -> bool:
        """Whether all is right behind the weights of the second GEMM."""
        return self.weigh is _as_given and self.steps.ends_right

    def edits_input(
        self, contents: dict[int, Content], rights: dict[int, Content]
    ) -> bool:
        """Whether operands of the first GEMM are all that is made otherwise.

        contents, rights : of the same experts.
        """
        same = all(
            contents[e].down is right.down
            and contents[e].gate_up.bias is right.gate_up.bias
            for e, right in rights.items()
        )
        return same and self.steps.multiplies_right


RIGHT = Otherwise(name="")


class Experts:
    """The experts of one rank, each taken apart when it is first asked for.

    like : of the same weights; what is taken apart there is not again.
    """

    def __init__(
        self,
        situation: Situation,
        arithmetic: Arithmetic,
        *,
        like: Experts | None = None,
    ) -> None:
        self.situation, self.arithmetic = situation, arithmetic
        owned = situation.shard.expert_range(situation.config)
        self.first, self.count = owned.start, len(owned)
        self._known: dict[int, Content] = {} if like is None else like._known
        self._visits: dict[int, tuple[Tensor, Tensor]] = {}
        self._tokens: dict[int, Tensor] = {}
        self._activations: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def content(self, local: int) -> Content:
        """What the expert with this index on the rank should hold."""
        if local not in self._known:
            s = self.situation
            self._known[local] = Content(
                gate_up=self._matrix("gate_up", local, 1),
                down=self._matrix("down", local, s.shard.tp_size),
            )
        return self._known[local]

    def _matrix(self, name: str, local: int, share: int) -> Matrix:
        part = self.situation.part
        blocks = getattr(part, f"{name}_blocks")[local]
        scales = getattr(part, f"{name}_scales")[local]
        bias = getattr(part, f"{name}_bias")
        zero = torch.zeros(len(blocks), dtype=torch.float64)
        return Matrix(
            elements=decode(blocks, torch.full_like(scales, _ONE)).unflatten(
                -1, (-1, BLOCK)
            ),
            scales=decode(torch.full_like(blocks, _CODES_OF_1), scales)[..., ::BLOCK],
            codes=unpack_nibbles(blocks).long(),
            bias=zero if bias is None else bias[local].double() / share,
        )

    def of_tokens(self, at: Tensor) -> Experts:
        """The same experts for some of the tokens."""
        return Experts(self.situation.of_tokens(at), self.arithmetic, like=self)

    def visited(self) -> list[int]:
        """Indices of the experts that a token visits."""
        ids = self.situation.routing.ids.unique() - self.first
        return [e for e in ids.tolist() if 0 <= e < self.count]

    @cached_property
    def served(self) -> Tensor:
        """The slots [t, k] that this rank serves."""
        ids = self.situation.routing.ids - self.first
        return (ids >= 0) & (ids < self.count)

    @cached_property
    def weights(self) -> Tensor:
        """Routing weights [t, k]; 0 where this rank does not serve the slot."""
        return torch.where(self.served, self.situation.routing.weights.double(), 0)

    def slots(self, otherwise: Otherwise) -> Tensor:
        """What each slot adds to each token: [t, k, h], 0 where none is."""
        s, weights = self.situation, self._weighed(otherwise)
        found = weights.new_zeros(*weights.shape, s.hidden_states.shape[1])
        for local in self.visited():
            mine, rows = self.visit(local)
            content, p = otherwise.edit(self, local), weights[mine][:, None]
            found[mine] = self.rows(content, otherwise.steps, rows, p)
        return found

    def visit(self, local: int) -> tuple[Tensor, Tensor]:
        """(slots [t, k] that visit an expert, the hidden states of each)."""
        if local not in self._visits:
            s = self.situation
            mine = s.routing.ids - self.first == local
            rows = s.hidden_states[mine.nonzero()[:, 0]].double()
            self._visits[local] = mine, rows
        return self._visits[local]

    def token(self, token: int) -> Tensor:
        """[1, h], the same tensor each time."""
        if token not in self._tokens:
            row = self.situation.hidden_states[token : token + 1].double()
            self._tokens[token] = row
        return self._tokens[token]

    def slots_of(self, token: int, otherwise: Otherwise) -> Tensor:
        """As `slots`, of one token: [k, h]."""
        s = self.situation
        row, weights = self.token(token), self._weighed(otherwise)[token]
        found = row.new_zeros(len(weights), row.shape[1])
        for slot, e in enumerate(s.routing.ids[token].tolist()):
            local = e - self.first
            if 0 <= local < self.count:
                content, p = otherwise.edit(self, local), weights[slot].reshape(1, 1)
                found[slot] = self.rows(content, otherwise.steps, row, p)[0]
        return found

    def _weighed(self, otherwise: Otherwise) -> Tensor:
        if otherwise.weigh is _as_given:
            return self.weights
        return otherwise.weigh(self.weights)

    def rows(self, content: Content, steps: Steps, x: Tensor, p: Tensor) -> Tensor:
        """What one expert adds for rows [n, h] of weight [n, 1]: [n, h]."""
        x = steps.x(p * x if steps.weighs_input else x)
        a = self.intermediate(content, steps, x)
        w2, k, bias = content.down, steps.last(a.shape[1]), content.down.bias
        if steps.product2 is not None:
            y = steps.product2(a, w2.dense)
        elif k < a.shape[1]:
            y = a[:, :k] @ w2.dense[:, :k].T
        else:
            y = w2.times(a) if steps.activates_right else a @ w2.dense.T
        y = steps.v(y)
        slot = steps.y or partial(through, dtype=self.arithmetic.slot)
        if steps.weighs_input:
            return slot(y + steps.down_bias(bias))
        if steps.weighs_bias:
            return p * slot(y + steps.down_bias(bias))
        return p * slot(y) + steps.down_bias(bias)

    def intermediate(self, content: Content, steps: Steps, x: Tensor) -> Tensor:
        """What GEMM2 is given for rows [n, h] of GEMM1: [n, i]."""
        w1, k = content.gate_up, steps.first(x.shape[1])
        if steps.product1 is not None:
            z = steps.product1(x, w1.dense)
        else:
            z = w1.times(x) if k == x.shape[1] else x[:, :k] @ w1.dense[:, :k].T
        return self._activated(steps.z(z), w1.bias, steps)

    def down(self, content: Content, a: Tensor) -> Tensor:
        """What GEMM2 and its bias make of rows [n, i], as it should be: [n, h]."""
        return self.finished(a @ content.down.dense.T, content)

    def finished(self, y: Tensor, content: Content) -> Tensor:
        """The slots [n, h] of GEMM2's results, as they should be."""
        return through(y + content.down.bias, dtype=self.arithmetic.slot)

    def activated(self, z: Tensor, content: Content) -> Tensor:
        """What GEMM2 is given of GEMM1's results [n, 2i], as it should be."""
        return self._activated(z, content.gate_up.bias, RIGHT.steps)

    def _activated(self, z: Tensor, bias: Tensor, steps: Steps) -> Tensor:
        """The intermediate of rows [n, 2i]; what is right is computed once."""
        key = id(z), id(bias)
        if steps.activates_right and key in self._activations:
            return self._activations[key][2]
        a = steps.gated(z, bias, self.situation.config.activation)
        store = steps.act or partial(through, dtype=self.arithmetic.intermediate)
        a = store(a)
        if steps.activates_right:
            if len(self._activations) == _ACTIVATIONS:
                del self._activations[next(iter(self._activations))]
            self._activations[key] = z, bias, a
        return a
