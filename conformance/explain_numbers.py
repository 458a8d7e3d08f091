"""Why numbers differ: the fault hypothesis under which the found output is right.

Each hypothesis edits the input of the reference; if the found output lies within
the bound around *that* truth, the candidate behaves as if it made the edit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds import judge_rank
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.explain_bytes import EDITS
from mxmoe.reference.types import SILU
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

# All hypotheses together should take a second or two: bytes of W1 and W2, decoded once
# for each of about 50 hypotheses. An expert costs what 2**15 bytes do (1 ms), however
# small it is.
LARGEST_SEARCH = 2**21
_EXPERT = 2**15


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The input of one rank's forward pass."""

    part: ExpertWeights
    config: MoEConfig
    hidden_states: torch.Tensor
    routing: Routing
    shard: Shard


Hypothesis = Callable[[Situation], Situation]


def explain_numbers(
    found: torch.Tensor, situation: Situation, arithmetic: Arithmetic
) -> list[str]:
    """The hypotheses under which `found` [t, h] is within the bound everywhere."""
    if too_large(situation.part):
        return []
    names = []
    for name, hypothesis in hypotheses(situation):
        s = hypothesis(situation)
        judged = judge_rank(
            s.part,
            s.config,
            s.hidden_states,
            s.routing,
            shard=s.shard,
            arithmetic=arithmetic,
        )
        if compare_numbers(
            found, judged.truth["combine"], judged.allowed["combine"]
        ).within:
            names.append(name)
    return names


def too_large(part: ExpertWeights) -> bool:
    """Whether a search would take much longer than a second."""
    size = part.gate_up_blocks.numel() + part.down_blocks.numel()
    return size + _EXPERT * len(part.down_blocks) > LARGEST_SEARCH


def hypotheses(situation: Situation) -> Iterator[tuple[str, Hypothesis]]:
    """Named edits that apply to this situation."""
    part, config = situation.part, situation.config
    if part.gate_up_bias is not None and part.down_bias is not None:
        yield "gate_up bias ignored", _weights(gate_up_bias=_zeros)
        yield "down bias ignored", _weights(down_bias=_zeros)
        yield "both biases ignored", _weights(gate_up_bias=_zeros, down_bias=_zeros)
        for name in ("gate_up_bias", "down_bias"):
            yield from _reordered(name, part.tensors()[name])
        if situation.shard.tp_size > 1:
            tp = situation.shard.tp_size
            # In float64: three times a bfloat16 is not always one.
            whole = _weights(down_bias=lambda x: x.double() * tp)
            yield "down bias not divided by tp", whole
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
    activation = config.activation
    for name, changed in (
        ("no clamp", replace(activation, limit=math.inf)),
        ("no +1 on the up half", replace(activation, beta=0.0)),
        ("alpha taken as 1", replace(activation, alpha=1.0)),
        ("plain silu(gate) * up", SILU),
    ):
        if changed != activation:
            yield name, _config(activation=changed)
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


def _reordered(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, Hypothesis]]:
    """The row and expert orders that bytes are searched for, too."""
    for edit in EDITS:
        if edit.fits(name, tensor) and edit.name != "all zero":
            yield f"{name}: {edit.name}", _weights(**{name: edit.apply})


def _weights(**edits: Callable[[torch.Tensor], torch.Tensor]) -> Hypothesis:
    def apply(s: Situation) -> Situation:
        present = s.part.tensors()
        edited = {n: edit(present[n]) for n, edit in edits.items() if n in present}
        return replace(s, part=replace(s.part, **edited))

    return apply


def _config(**changes: object) -> Hypothesis:
    return lambda s: replace(s, config=replace(s.config, **changes))  # type: ignore[arg-type]


def _routing(edit: Callable[[torch.Tensor], torch.Tensor]) -> Hypothesis:
    return lambda s: replace(s, routing=Routing(s.routing.ids, edit(s.routing.weights)))


_zeros = torch.zeros_like


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
