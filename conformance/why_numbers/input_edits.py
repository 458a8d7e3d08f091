"""Edits of what goes into a layer, each of which is a fault somebody made."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial

import torch

from mxmoe.conformance.why_bytes.finished_tensor import EDITS
from mxmoe.conformance.why_numbers.bias_shares import bias_shares
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.otherwise.stores import to_float8
from mxmoe.conformance.why_numbers.otherwise.stores import to_int8
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Routing

Hypothesis = Callable[[Situation], Situation]
# Edits of a bias that its share on a rank may be, too.
_FACTORS = {
    Fraction(1, 4): "a quarter",
    Fraction(1, 2): "halved",
    Fraction(2): "doubled",
    Fraction(4): "times 4",
}


def hypotheses(situation: Situation) -> Iterator[tuple[str, Hypothesis]]:
    """Named edits that apply to this situation."""
    part, config = situation.part, situation.config
    if part.gate_up_bias is not None and part.down_bias is not None:
        yield from _biases(situation)
    yield (
        "gate and up swapped",
        _weights(
            gate_up_blocks=_swap_rows,
            gate_up_scales=_swap_rows,
            gate_up_bias=_swap_rows,
        ),
    )
    for name, kind, edit in (
        ("nibbles of {} swapped", "blocks", _swap_nibbles),
        ("{} scales of the next K block", "scales", _next_block),
        ("last K block of {} dropped", "blocks", _without_last_block),
        ("{} scales twice as large", "scales", _doubled),
        ("{} scales half as large", "scales", _halved),
    ):
        gate_up, down = f"gate_up_{kind}", f"down_{kind}"
        yield name.format("gate_up"), _weights(**{gate_up: edit})
        yield name.format("down"), _weights(**{down: edit})
        both = name.format("gate_up and down")
        yield both, _weights(**{gate_up: edit, down: edit})
    yield from _edited_bytes(part)
    activation = config.activation
    for name, changed in (
        ("no clamp", replace(activation, limit=math.inf)),
        ("no +1 on the up half", replace(activation, beta=0.0)),
        ("alpha taken as 1", replace(activation, alpha=1.0)),
        ("plain silu(gate) * up", SILU),
        ("swiglu with gpt-oss's alpha, limit and +1, as of another layer", SWIGLU_OAI),
    ):
        if changed != activation:
            yield name, _config(activation=changed)
    most = situation.hidden_states.abs().amax().double()
    for words, store in (("float8 (E4M3)", to_float8), ("int8", to_int8)):
        words = f"hidden states quantised to {words}, one scale for all tokens"
        yield words, _hidden_states(partial(store, most=most))
    yield "routing weights ignored (1 each)", _routing(torch.ones_like)
    yield (
        "routing weights uniform (1/k)",
        _routing(lambda w: torch.full_like(w, 1 / w.shape[1])),
    )
    yield "routing weights in reverse slot order", _routing(lambda w: w.flip(1))
    yield "last slot dropped", _routing(_without_last_slot)
    yield "only the first slot added", _routing(_only_first_slot)
    if config.top_k > 1:
        yield "only the last slot added", _routing(_only_last_slot)
        yield "experts overwrite each other's sum, the last one stays", _last_expert
    yield "output all zero", _routing(torch.zeros_like)
    owned = situation.shard.expert_range(config)
    if (situation.routing.ids < 0).any() and len(owned):
        for which, expert in (("last", owned.stop - 1), ("first", owned.start)):
            words = f"slots without an expert (-1) visit this rank's {which} expert"
            yield words, _visiting(expert)
            yield words, _visiting_each(expert)
    if _elsewhere(situation).any() and len(owned):
        words = "slots of other ranks' experts visit"
        yield f"{words} expert id % {len(owned)} of this rank", _folded(_modulo)
        yield f"{words} this rank's nearest expert", _folded(_nearest)
        yield f"{words} this rank's first expert", _folded(_to_first)
        if owned.start:
            yield _TAKEN_FOR_LOCAL.format(len(owned) - 1, owned.start), _as_local


def _biases(s: Situation) -> Iterator[tuple[str, Hypothesis]]:
    yield "gate_up bias ignored", _weights(gate_up_bias=_zeros)
    elsewhere = ", or added on another rank of tp only" if s.shard.tp_rank else ""
    yield f"down bias ignored{elsewhere}", _weights(down_bias=_zeros)
    yield "both biases ignored", _weights(gate_up_bias=_zeros, down_bias=_zeros)
    exchanged = _weights(down_bias=_next_expert, gate_up_bias=_next_expert)
    yield "both biases of the next expert", exchanged
    shares = bias_shares(s.shard)
    for words, factor in shares.items():
        yield words, _weights(down_bias=partial(_times, factor=factor))
    said = {f"down_bias: {_FACTORS.get(factor)}" for factor in shares.values()}
    if (tp := s.shard.tp_size) > 1:
        part = Fraction(1, tp)
        said.add(f"gate_up_bias: {_FACTORS.get(part)}")
        divided = _weights(gate_up_bias=partial(_times, factor=part))
        yield f"gate_up bias divided by tp = {tp}, as the down bias is", divided
    present = s.part.tensors()
    for name in ("gate_up_bias", "down_bias"):
        for words, edit in _reordered(name, present[name]):
            if words not in said:
                yield words, edit


def _reordered(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, Hypothesis]]:
    """The row and expert orders that bytes are searched for, too."""
    for edit in EDITS:
        if edit.fits(name, tensor) and edit.name != "all zero":
            yield f"{name}: {edit.name}", _weights(**{name: edit.apply})


# What bytes are searched for under another name already, or does not change a number.
_SAID = ("all zero", "nibbles swapped", "K blocks shifted back by one")


def _edited_bytes(part: ExpertWeights) -> Iterator[tuple[str, Hypothesis]]:
    """Blocks or scales in another order than specified, or with other values."""
    present = part.tensors()
    for name in ("gate_up_blocks", "gate_up_scales", "down_blocks", "down_scales"):
        for edit in EDITS:
            if edit.fits(name, present[name]) and edit.name not in _SAID:
                yield f"{name}: {edit.name}", _weights(**{name: edit.apply})
        if name.endswith("scales") and (present[name] >= 128).any():
            signed = "biased exponents from 128 read as negative"
            yield f"{name}: {signed}", _weights(**{name: _signed})
    for matrix in ("gate_up", "down"):
        names = [n for n in present if n.startswith(f"{matrix}_")]
        for edit in EDITS:
            if all(edit.fits(n, present[n]) for n in names) and edit.name != "all zero":
                every = _weights(**dict.fromkeys(names, edit.apply))
                yield f"everything of {matrix}: {edit.name}", every


def _weights(**edits: Callable[[torch.Tensor], torch.Tensor]) -> Hypothesis:
    def apply(s: Situation) -> Situation:
        present = s.part.tensors()
        edited = {n: edit(present[n]) for n, edit in edits.items() if n in present}
        return replace(s, part=replace(s.part, **edited))

    return apply


def _config(**changes: object) -> Hypothesis:
    return lambda s: replace(s, config=replace(s.config, **changes))  # type: ignore[arg-type]


def _hidden_states(edit: Callable[[torch.Tensor], torch.Tensor]) -> Hypothesis:
    return lambda s: replace(s, hidden_states=edit(s.hidden_states.double()))


def _routing(edit: Callable[[torch.Tensor], torch.Tensor]) -> Hypothesis:
    return lambda s: replace(s, routing=Routing(s.routing.ids, edit(s.routing.weights)))


def _visiting(expert: int) -> Hypothesis:
    def apply(s: Situation) -> Situation:
        ids = s.routing.ids
        # A token visits an expert once.
        free = (ids < 0) & (ids < 0).int().cumsum(dim=1).eq(1)
        free &= ~(ids == expert).any(dim=1, keepdim=True)
        ids = torch.where(free, expert, ids)
        return replace(s, routing=Routing(ids, s.routing.weights))

    return apply


def _elsewhere(s: Situation) -> torch.Tensor:
    """bool [t, k]: slots whose expert another rank holds."""
    ids, owned = s.routing.ids, s.shard.expert_range(s.config)
    return (ids >= 0) & ((ids < owned.start) | (ids >= owned.stop))


def _modulo(ids: torch.Tensor, owned: range) -> torch.Tensor:
    return owned.start + ids % len(owned)


def _nearest(ids: torch.Tensor, owned: range) -> torch.Tensor:
    return ids.clamp(owned.start, owned.stop - 1)


def _to_first(ids: torch.Tensor, owned: range) -> torch.Tensor:
    return torch.full_like(ids, owned.start)


def _folded(fold: Callable[[torch.Tensor, range], torch.Tensor]) -> Hypothesis:
    """Other ranks' experts become this one's; visits of one expert are one visit."""

    def apply(s: Situation) -> Situation:
        ids, weights = s.routing.ids, s.routing.weights
        here = fold(ids, s.shard.expert_range(s.config))
        ids = torch.where(_elsewhere(s), here, ids)
        same = (ids[:, :, None] == ids[:, None, :]) & (ids >= 0)[:, :, None]
        again = same.tril(diagonal=-1).any(dim=2)
        total = (same * weights[:, None, :]).sum(dim=2)
        weights = torch.where(ids >= 0, total, weights).masked_fill(again, 0)
        return replace(s, routing=Routing(ids.masked_fill(again, -1), weights))

    return apply


_TAKEN_FOR_LOCAL = (
    "global expert ids taken for local ones: slots of experts 0..{} visit those from "
    "{} on, this rank's"
)


def _as_local(s: Situation) -> Situation:
    ids, first = s.routing.ids, s.shard.expert_range(s.config).start
    ids = torch.where(ids < 0, ids, ids + first)
    ids = ids.masked_fill(ids >= s.config.experts, -1)
    return replace(s, routing=Routing(ids, s.routing.weights))


def _visiting_each(expert: int) -> Hypothesis:
    """Every empty slot adds, also to a visit that there is."""

    def apply(s: Situation) -> Situation:
        ids, weights = s.routing.ids, s.routing.weights
        free = ids < 0
        more = torch.where(free, weights, 0).sum(dim=1, keepdim=True)
        there = (ids == expert).any(dim=1, keepdim=True)
        first = free & free.int().cumsum(dim=1).eq(1) & ~there
        weights = torch.where(first, more, weights)
        weights = torch.where(ids == expert, weights + more, weights)
        return replace(s, routing=Routing(torch.where(first, expert, ids), weights))

    return apply


def _times(x: torch.Tensor, *, factor: Fraction) -> torch.Tensor:
    # In float64: three times a bfloat16 is not always one.
    return x.double() * float(factor)


_zeros = torch.zeros_like


def _next_expert(x: torch.Tensor) -> torch.Tensor:
    return x.roll(-1, 0)


def _signed(x: torch.Tensor) -> torch.Tensor:
    # 2**(b - 256 - 127): 0 for any scale of the kind that models have.
    return torch.where(x >= 128, 0, x)


def _swap_rows(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)


def _swap_nibbles(x: torch.Tensor) -> torch.Tensor:
    return (x >> 4) | (x << 4)


def _next_block(x: torch.Tensor) -> torch.Tensor:
    return x.roll(-1, 2)


def _without_last_block(x: torch.Tensor) -> torch.Tensor:
    cut = x.clone()
    cut[:, :, -1:] = 0
    return cut


def _doubled(x: torch.Tensor) -> torch.Tensor:
    # 254 stays: one more would be NaN.
    return torch.where(x < 254, x + 1, x)


def _halved(x: torch.Tensor) -> torch.Tensor:
    return torch.where((x > 0) & (x < 255), x - 1, x)


def _last_expert(s: Situation) -> Situation:
    """Experts come in the order of their ids; each writes where it should add."""
    ids, weights = s.routing.ids, s.routing.weights
    stays = ids == ids.amax(dim=1, keepdim=True)
    return replace(s, routing=Routing(ids, torch.where(stays, weights, 0.0)))


def _only_last_slot(w: torch.Tensor) -> torch.Tensor:
    return _only_first_slot(w.flip(1)).flip(1)


def _without_last_slot(w: torch.Tensor) -> torch.Tensor:
    cut = w.clone()
    cut[:, -1] = 0
    return cut


def _only_first_slot(w: torch.Tensor) -> torch.Tensor:
    cut = torch.zeros_like(w)
    cut[:, 0] = w[:, 0]
    return cut
