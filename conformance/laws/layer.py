"""Laws of the layer: what one output says about another, without any oracle.

A law changes the input in a way whose effect is known exactly. Where the arithmetic
cannot tell the difference (a power of two, a sign, another token's values) the bits
are compared, if the candidate declares what that takes; where a sum is made in another
order, both outputs may be off by their bound.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np
import torch

from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.laws.pairs import ROUTING_WEIGHTS
from mxmoe.conformance.laws.pairs import Pair
from mxmoe.conformance.laws.pairs import edited
from mxmoe.conformance.laws.questions import other_tokens
from mxmoe.conformance.laws.questions import tensors_of_expert
from mxmoe.conformance.laws.scales import W1_BEYOND
from mxmoe.conformance.laws.scales import down_doubles
from mxmoe.conformance.laws.scales import gate_up_scales_far
from mxmoe.conformance.laws.scales import input_halves
from mxmoe.conformance.laws.scales import scales_far
from mxmoe.reference.formats.nibbles import pack_nibbles
from mxmoe.reference.formats.nibbles import unpack_nibbles
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Law:
    """One sentence and how to put it to the test.

    exact_if : the declared capability with which it holds bit for bit (+0 and -0 are
    equal); None if a sum changes its order, so that it holds within rounding.
    """

    statement: str
    exact_if: str | None
    pair: Callable[[CaseData, Shard, np.random.Generator], Pair]


def _tokens_permute(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    order = torch.from_numpy(random.permutation(len(data.hidden_states)))
    ids, weights = data.routing.ids[order], data.routing.weights[order]
    moved = replace(
        data, hidden_states=data.hidden_states[order], routing=Routing(ids, weights)
    )
    return Pair(before=data, after=moved, expect=lambda out: out[order], placed=True)


def _experts_permute(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    owned = shard.expert_range(data.config)
    source = torch.arange(data.config.experts)
    source[owned.start : owned.stop] = owned.start + torch.from_numpy(
        random.permutation(len(owned))
    )
    weights = edited(data.weights, **dict.fromkeys(_OF_EXPERTS, lambda x: x[source]))
    new_id = source.argsort().int()
    ids = torch.where(data.routing.ids < 0, -1, new_id[data.routing.ids.long()])
    routing = Routing(ids, data.routing.weights)
    return Pair(before=data, after=replace(data, weights=weights, routing=routing))


def _slots_permute(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    t, k = data.routing.ids.shape
    order = torch.from_numpy(random.permuted(np.tile(np.arange(k), (t, 1)), axis=1))
    ids, weights = (
        x.gather(1, order) for x in (data.routing.ids, data.routing.weights)
    )
    return Pair(before=data, after=replace(data, routing=Routing(ids, weights)))


def _empty_slot(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    ids, weights = data.routing.ids, data.routing.weights
    chosen = torch.from_numpy(random.random(ids.shape) < 0.5)
    zero = Routing(ids, weights.masked_fill(chosen, 0))
    empty = Routing(ids.masked_fill(chosen, -1), weights.masked_fill(chosen, 1))
    return Pair(before=replace(data, routing=zero), after=replace(data, routing=empty))


def _weights_scale(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    larger = Routing(data.routing.ids, data.routing.weights * 4)
    after = replace(data, routing=larger)
    scaled = {ROUTING_WEIGHTS: 4.0}
    return Pair(before=data, after=after, expect=lambda out: out * 4, scaled=scaled)


def _down_negates(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    weights = edited(data.weights, down_blocks=lambda x: x ^ 0x88, down_bias=torch.neg)
    return Pair(before=data, after=replace(data, weights=weights), expect=torch.neg)


def _lanes_permute(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    """Of this rank's lanes: blocks of 32 among each other, and alike inside each."""
    lanes = shard.intermediate_range(data.config)
    blocks, inside = _block_permutation(
        data.config.intermediate // BLOCK,
        range(lanes.start // BLOCK, lanes.stop // BLOCK),
        random,
    )
    lane = (blocks[:, None] * BLOCK + inside).flatten()
    row = torch.stack((2 * lane, 2 * lane + 1), dim=1).flatten()
    weights = edited(
        data.weights,
        gate_up_blocks=lambda x: x[:, row],
        gate_up_scales=lambda x: x[:, row],
        gate_up_bias=lambda x: x[:, row],
        down_blocks=lambda x: _taken(x, lane),
        down_scales=lambda x: x[..., blocks],
    )
    return Pair(before=data, after=replace(data, weights=weights))


def _columns_permute(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    order = torch.from_numpy(random.permutation(data.config.hidden))
    names = ("down_blocks", "down_scales", "down_bias")
    weights = edited(data.weights, **dict.fromkeys(names, lambda x: x[:, order]))
    after = replace(data, weights=weights)
    return Pair(before=data, after=after, expect=lambda out: out[:, order])


def _inputs_permute(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    count = data.config.hidden // BLOCK
    blocks, inside = _block_permutation(count, range(count), random)
    column = (blocks[:, None] * BLOCK + inside).flatten()
    weights = edited(
        data.weights,
        gate_up_blocks=lambda x: _taken(x, column),
        gate_up_scales=lambda x: x[..., blocks],
    )
    hidden = data.hidden_states[:, column]
    return Pair(before=data, after=replace(data, weights=weights, hidden_states=hidden))


def _neighbours(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    token = int(random.integers(len(data.hidden_states)))
    kept = slice(token, token + 1)
    hidden = data.hidden_states.roll(1, dims=1) * -4
    hidden[kept] = data.hidden_states[kept]
    after = replace(data, hidden_states=hidden)
    return Pair(
        before=data,
        after=after,
        expect=lambda out: out[kept],
        rows=kept,
        questions=lambda: other_tokens(data, hidden, token),
    )


def _token_alone(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    token = int(random.integers(len(data.hidden_states)))
    kept = slice(token, token + 1)
    routing = Routing(data.routing.ids[kept], data.routing.weights[kept])
    after = replace(data, hidden_states=data.hidden_states[kept], routing=routing)
    return Pair(before=data, after=after, expect=lambda out: out[kept], placed=True)


def _unvisited(data: CaseData, shard: Shard, random: np.random.Generator) -> Pair:
    owned = shard.expert_range(data.config)
    expert = owned.start + int(random.integers(len(owned)))
    ids = data.routing.ids.masked_fill(data.routing.ids == expert, -1)
    before = replace(data, routing=Routing(ids, data.routing.weights))

    def other(x: Tensor) -> Tensor:
        changed = x.clone()
        # Other values of every kind: larger scales, other codes, other biases.
        changed[expert] = x[expert] + 8 if x.dtype == torch.uint8 else x[expert] * -8
        return changed

    names = [name for name in _OF_EXPERTS if not name.startswith("router")]
    weights = edited(data.weights, **dict.fromkeys(names, other))
    return Pair(
        before=before,
        after=replace(before, weights=weights),
        questions=lambda: tensors_of_expert(before, weights, expert),
    )


_OF_EXPERTS = tuple(ExpertWeights.__dataclass_fields__)


def _taken(blocks: Tensor, source: Tensor) -> Tensor:
    """[..., g, 16] with element n from element source[n] of the whole row."""
    codes = unpack_nibbles(blocks.flatten(-2))[..., source]
    return pack_nibbles(codes).unflatten(-1, blocks.shape[-2:])


def _block_permutation(
    count: int, movable: range, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(source of each of `count` blocks, source of each element in all of them)."""
    blocks = torch.arange(count)
    blocks[movable.start : movable.stop] = movable.start + torch.from_numpy(
        random.permutation(len(movable))
    )
    return blocks, torch.from_numpy(random.permutation(BLOCK))


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "tokens_permute": Law(
            statement="permuting the tokens permutes the rows",
            exact_if="batch_invariant",
            pair=_tokens_permute,
        ),
        "experts_permute": Law(
            statement="permuting the experts with their ids changes nothing",
            exact_if=None,
            pair=_experts_permute,
        ),
        "slots_permute": Law(
            statement="the order of a token's slots does not matter",
            exact_if=None,
            pair=_slots_permute,
        ),
        "empty_slot": Law(
            statement="an expert of weight 0 adds nothing, as id -1 does",
            exact_if="batch_invariant",
            pair=_empty_slot,
        ),
        "weights_scale": Law(
            statement="routing weights times 4 give the output times 4",
            exact_if="deterministic",
            pair=_weights_scale,
        ),
        "down_doubles": Law(
            statement="adding 1 to W2's scale bytes and doubling b2 doubles the output",
            exact_if="deterministic",
            pair=down_doubles,
        ),
        "scales_far": Law(
            statement="W1's scale bytes 14 higher for an input of 2**-14, and W2's 20 "
            "lower with b2 times 2**-20, give the output times 2**-20",
            exact_if="deterministic",
            pair=scales_far,
        ),
        "gate_up_scales_high": Law(
            statement=f"W1's scale bytes {W1_BEYOND} higher for an input of "
            f"2**-{W1_BEYOND} are no change",
            exact_if="deterministic",
            pair=partial(gate_up_scales_far, by=W1_BEYOND),
        ),
        "gate_up_scales_low": Law(
            statement=f"W1's scale bytes {W1_BEYOND} lower for an input of "
            f"2**{W1_BEYOND} are no change",
            exact_if="deterministic",
            pair=partial(gate_up_scales_far, by=-W1_BEYOND),
        ),
        "down_negates": Law(
            statement="negating W2 and b2 negates the output",
            exact_if="deterministic",
            pair=_down_negates,
        ),
        "input_halves": Law(
            statement="adding 1 to W1's scale bytes and halving the input is no change",
            exact_if="deterministic",
            pair=input_halves,
        ),
        "lanes_permute": Law(
            statement="permuting gate and up rows with W2's columns changes nothing",
            exact_if=None,
            pair=_lanes_permute,
        ),
        "columns_permute": Law(
            statement="permuting the rows of W2 and b2 permutes the output's columns",
            exact_if=None,
            pair=_columns_permute,
        ),
        "inputs_permute": Law(
            statement="permuting the input's columns with those of W1 changes nothing",
            exact_if=None,
            pair=_inputs_permute,
        ),
        "neighbours": Law(
            statement="other tokens' hidden states do not change a token's row",
            exact_if="deterministic",
            pair=_neighbours,
        ),
        "token_alone": Law(
            statement="a token alone has the row that it has in the batch",
            exact_if="batch_invariant",
            pair=_token_alone,
        ),
        "unvisited_expert": Law(
            statement="the weights of an expert that no token visits do not matter",
            exact_if="deterministic",
            pair=_unvisited,
        ),
    }
)
"""By name, as in test ids; in each the rank's own experts and lanes are permuted."""
