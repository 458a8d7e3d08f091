"""Faults that no element shows: gains, noise, and broken laws."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import mix
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import route
from mxmoe.reference.types import Routing

_law = faults_of("L3", "test_law_holds")
_routing_law = faults_of("L2", "test_routing_law_holds")
_ranks = faults_of("L4", "test_ranks_add_up_to_the_candidates_own_whole")
_structure = faults_of("L3", "test_errors_within_the_bound_are_unsystematic")


def _routing(edit: Callable[[Routing], Tensor]) -> object:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return PLAIN.forward(p, x, Routing(r.ids, edit(r)))

    return changed(PLAIN, forward=forward)


@_structure("", "gain along the output", "or every routing weight, times 1.00")
def routing_weights_a_fifth_of_a_percent_off() -> object:
    """Every routing weight is 0.2 % too large."""
    return _routing(lambda r: r.weights * 1.002)


# Where a rank has expert 1 alone, its gain is that of the whole output.
@_structure("", "why    behaves as if: ", " times 0.99")
def one_expert_a_fifth_of_a_percent_off() -> object:
    """The routing weight of expert 1 is 0.2 % too small."""
    return _routing(lambda r: torch.where(r.ids == 1, 0.998 * r.weights, r.weights))


@_structure("", "gain along the output", "or every routing weight, times 0.99")
def output_a_tenth_of_a_percent_off() -> object:
    """The sum of the slots is 0.1 % too small."""
    return replace(PLAIN, mix=lambda weights, down: 0.999 * mix(weights, down))


@_structure("", "gain along the gate_up bias", "behaves as if: gate_up bias times 1.00")
def gate_up_bias_a_fifth_of_a_percent_off() -> object:
    """The gate_up bias is 0.2 % too large."""
    return replace(PLAIN, add_gate_up_bias=lambda z, b: z + 1.002 * b)


@_structure("", "gain along the down bias", "behaves as if: down bias times 0.99")
def down_bias_a_fifth_of_a_percent_off() -> object:
    """The down bias is 0.2 % too small."""
    return replace(PLAIN, add_down_bias=lambda y, b, s: y + 0.998 * b / s.tp_size)


@_structure("", "gain along the input", "or W1 and not its bias, times 1.00")
def first_gemm_a_fifth_of_a_percent_off() -> object:
    """The first GEMM is 0.2 % too large, before its bias."""
    return replace(PLAIN, add_gate_up_bias=lambda z, b: 1.002 * z + b)


@_structure("", "token 5: errors are", "times their expected size")
def noise_on_one_token() -> object:
    """Every other small element of token 5 has its last bit wrong."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        out = PLAIN.forward(p, x, r)
        if len(out) > 5 and out.dtype == torch.bfloat16:
            small = out[5].abs() < out[5].abs().median()
            wrong = (small & (torch.arange(out.shape[1]) % 2 == 0)).short()
            out[5] = (out[5].view(torch.int16) ^ wrong).view(torch.bfloat16)
        return out

    return changed(PLAIN, forward=forward)


# Same input, same bits: so the laws that no sum disturbs are judged bit for bit.
_SAME_BITS = claiming(PLAIN, deterministic=True)


def _editing(edit: Callable[..., Tensor], base: Plain = PLAIN) -> object:
    """With edit(out, hidden_states, routing, prepared) after `forward`."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return edit(base.forward(p, x, r), x, r, p)

    return changed(base, forward=forward)


def _stages(edit: Callable[[dict[str, Tensor], int], None]) -> object:
    """With edit(stages, local expert) after each expert."""

    class Edited(Plain):
        def expert(self, p: Any, local: int, x: Tensor) -> dict[str, Tensor]:
            stages = super().expert(p, local, x)
            edit(stages, local)
            return stages

    return Edited()


@_law("", "other tokens' hidden states do not change a token's row", "(the one before)")
def leak_from_the_row_above() -> object:
    """A thousandth of each row is added to the next one."""

    def leak(out: Tensor, *_: object) -> Tensor:
        return torch.cat((out[:1], out[1:] + out[:-1] / 1024))

    return _editing(leak, _SAME_BITS)


@_law("", "it is broken from W1's scale bytes 1", "no change")
def weights_decoded_to_float16() -> object:
    """Weights are decoded to float16 and saturate: 65504 at most, 2**-24 at least."""
    return replace(_SAME_BITS, decode=_in_float16)


@_law("", "routing weights times 4 give the output times 4", "rounded to bfloat16, in")
def large_routing_weights_in_bfloat16() -> object:
    """Routing weights above 1 are rounded to bfloat16."""

    def rounded(w: Tensor) -> Tensor:
        return torch.where(w > 1, w.bfloat16().to(w), w)

    return replace(_SAME_BITS, mix=lambda weights, down: mix(rounded(weights), down))


@_law(
    "", "an expert that no token visits do not matter", "the output follows down_bias"
)
def bias_scaled_by_the_largest_of_all_experts() -> object:
    """The down bias is rounded on a grid that the largest bias of the rank sets."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        def add(y: Tensor, b: Tensor, shard: object) -> Tensor:
            grid = p["down_bias"].float().abs().max() / 2**14
            return y + (b / grid).round() * grid / p.shard.tp_size

        return replace(_SAME_BITS, add_down_bias=add).forward(p, x, r)

    return changed(_SAME_BITS, forward=forward)


@_routing_law(
    "", "adding a power of two to all logits changes", "as of an exp that is limited"
)
def weights_by_exp_in_float32_without_a_maximum() -> object:
    """exp(logit) overflows where the largest logit is not taken off first."""

    def unshifted(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        ids, _ = route(logits, top_k)
        power = logits.float().gather(1, ids.long()).exp().clamp(max=1e28)
        return ids, power / power.sum(dim=1, keepdim=True)

    return replace(PLAIN, route=unshifted)


@_ranks("", "add up to that of one rank alone", "behaves as if: no clamp")
def ranks_without_the_clamp() -> object:
    """The clamp is left out where there is more than one rank."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        whole = p.shard.is_whole()
        act = p.config.activation
        limit = act.limit if whole else torch.inf
        config = replace(p.config, activation=replace(act, limit=limit))
        return PLAIN.forward(replace(p, config=config), x, r)

    return changed(PLAIN, forward=forward)


def _scaled_row(stages: dict[str, Tensor], local: int) -> None:
    if local == 0:
        stages["down"] *= 1.5


def _first_dropped(x: Tensor, w: Tensor) -> Tensor:
    return product(x[:, 1:], w[:, 1:])


def _slot_favoured(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
    weights = r.weights.clone()
    weights[:, 0] *= 1.5
    return PLAIN.forward(p, x, Routing(r.ids, weights))


def _empty_is_zero(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
    first = p.shard.expert_range(p.config).start
    return PLAIN.forward(p, x, Routing(torch.where(r.ids < 0, first, r.ids), r.weights))


def _row_favoured(out: Tensor, *_: object) -> Tensor:
    return torch.cat((1.5 * out[:1], out[1:]))


def _last_column_favoured(out: Tensor, *_: object) -> Tensor:
    return torch.cat((out[:, :-1], 1.5 * out[:, -1:]), dim=1)


def _negative_less(out: Tensor, *_: object) -> Tensor:
    return torch.where(out < 0, out * (1 - 2**-8), out)


def _in_float16(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    values = dequantize(blocks, scales, torch.float32)
    most = torch.finfo(torch.float16).max
    return values.clamp(-most, most).half().to(dtype)


def _shifted_logits(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    favoured = logits.clone()
    favoured[:, 0] += 0.3
    return route(favoured, top_k)


def _repeated_row(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    return route(torch.cat((logits[:1], logits[:-1])), top_k)


BROKEN: Mapping[str, Callable[[], object]] = MappingProxyType(
    {
        "tokens_permute": lambda: _editing(_row_favoured),
        "experts_permute": lambda: _stages(_scaled_row),
        "slots_permute": lambda: changed(PLAIN, forward=_slot_favoured),
        "empty_slot": lambda: changed(PLAIN, forward=_empty_is_zero),
        "weights_scale": large_routing_weights_in_bfloat16.plant,
        "down_doubles": lambda: _editing(lambda out, *_: out + 2**-8, _SAME_BITS),
        "scales_far": lambda: _editing(lambda out, *_: out.half().to(out), _SAME_BITS),
        "gate_up_scales_high": weights_decoded_to_float16.plant,
        "gate_up_scales_low": weights_decoded_to_float16.plant,
        "down_negates": lambda: _editing(_negative_less, _SAME_BITS),
        "input_halves": lambda: _editing(
            lambda out, x, *_: out + x.abs().mean() / 64, _SAME_BITS
        ),
        "lanes_permute": lambda: replace(PLAIN, product=_first_dropped),
        "columns_permute": lambda: _editing(_last_column_favoured),
        "inputs_permute": lambda: replace(PLAIN, product=_first_dropped),
        "neighbours": leak_from_the_row_above.plant,
        "token_alone": lambda: _editing(
            lambda out, *_: out * 1.5 if len(out) == 1 else out
        ),
        "unvisited_expert": bias_scaled_by_the_largest_of_all_experts.plant,
        "logits_shift": weights_by_exp_in_float32_without_a_maximum.plant,
        "logits_tokens_permute": lambda: replace(PLAIN, route=_repeated_row),
        "logits_experts_permute": lambda: replace(PLAIN, route=_shifted_logits),
    }
)
"""For each law, a candidate that breaks it."""
