"""Faults from outside: what any candidate is given, and what it gives back.

They touch no internals, so that `mxmoe faults --candidate X` can plant them in any X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.conformance.faults.tails import output
from mxmoe.reference.types import Routing

_output = faults_of("L3", "test_output_stays_within_the_bound")
_again = faults_of("L3", "test_a_second_call_repeats_the_first")
_bytes = faults_of("L1", "test_prepared_bytes_match_the_layout")

Call = tuple[Tensor, Routing]


def given(candidate: Any, edit: Callable[[Any, Tensor, Routing], Call]) -> object:
    """With edit(prepared, hidden_states, routing) before `forward`."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(p, *edit(p, x, r))

    return spoiled(candidate, forward=forward)


def _prepared(candidate: Any, edit: Callable[[str, Tensor], Tensor]) -> object:
    """With edit(name, tensor) after `prepare`."""

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, Any]:
        prepared = candidate.prepare(w, config, shard, device)
        return {
            name: edit(name, tensor) if isinstance(tensor, Tensor) else tensor
            for name, tensor in prepared.items()
        }

    return spoiled(candidate, prepare=prepare)


@_output("vllm-project/compressed-tensors#538", "the whole output times 4")
def output_four_times(candidate: Any) -> object:
    """The output is four times too large: cosine similarity does not see it."""
    return output(candidate, lambda out, *_: out * 4)


@_output("", "the whole output times 1.01")
def output_a_percent_off(candidate: Any) -> object:
    """The output is 1 % too large."""
    return output(candidate, lambda out, *_: out * 1.01)


@_output("", "output all zero")
def output_all_zero(candidate: Any) -> object:
    """Nothing is written: zeros come back."""
    return output(candidate, lambda out, *_: torch.zeros_like(out))


@_output("", "the whole output times 0.8")
def output_a_fifth_too_small(candidate: Any) -> object:
    """The output is multiplied by 0.8."""
    return output(candidate, lambda out, *_: (out.float() * 0.8).to(out.dtype))


@_output("", "output rounded to float8 (E4M3)")
def output_in_float8(candidate: Any) -> object:
    """The output passes through E4M3."""
    return output(
        candidate,
        lambda out, *_: out.clamp(-448, 448).to(torch.float8_e4m3fn).to(out.dtype),
    )


@_output("", "token 0 holds that of token 1, token 1 holds that of token 0")
def output_rows_exchanged(candidate: Any) -> object:
    """The first two tokens get each other's result."""

    def exchanged(out: Tensor, *_: object) -> Tensor:
        return torch.cat((out[:2].flip(0), out[2:]))

    return output(candidate, exchanged)


@_output("", "each column holds the output of column n - 1")
def output_columns_shifted(candidate: Any) -> object:
    """Column h holds what belongs into column h - 1."""
    return output(candidate, lambda out, *_: out.roll(1, 1))


@_output(
    "sgl-project/sglang#26884",
    "columns in another order: row shuffle 32 (epilogue tile 128)",
)
def output_columns_shuffled(candidate: Any) -> object:
    """Columns come in the row order of an epilogue tile of 128."""

    def shuffled(out: Tensor, *_: object) -> Tensor:
        n = torch.arange(out.shape[1], device=out.device)
        return out[:, n - n % 32 + 4 * (n % 8) + n % 32 // 8]

    return output(candidate, shuffled)


@_output("", "the output of column 17 times 1.1")
def one_column_of_many_wrong(candidate: Any) -> object:
    """Column 17 is an eighth too large."""

    def wrong(out: Tensor, *_: object) -> Tensor:
        out[:, 17] *= 1.125
        return out

    return output(candidate, wrong)


@_output("", "wrong is one element only, the last column of the last token")
def last_element_wrong(candidate: Any) -> object:
    """The last column of the last token is an eighth too large."""

    def wrong(out: Tensor, *_: object) -> Tensor:
        out[-1:, -1] *= 1.125
        return out

    return output(candidate, wrong)


@_output("", "contents of experts 0 and 1 swapped")
def experts_exchanged(candidate: Any) -> object:
    """Tokens of experts 0 and 1 visit the other one."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        both = (r.ids >= 0) & (r.ids < 2) & (p.config.experts > 1)
        return x, Routing(torch.where(both, 1 - r.ids, r.ids), r.weights)

    return given(candidate, edit)


@_output("", "contents of expert e + 1")
def next_expert(candidate: Any) -> object:
    """Expert ids count from 1."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        ids = torch.where(r.ids < 0, r.ids, (r.ids + 1) % p.config.experts)
        return x, Routing(ids, r.weights)

    return given(candidate, edit)


@_output("", "the last expert of the rank not computed")
def last_expert_dropped(candidate: Any) -> object:
    """The last of several experts adds nothing."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        last = max(p.config.experts - 1, 1)
        return x, Routing(r.ids.masked_fill(r.ids == last, -1), r.weights)

    return given(candidate, edit)


@_output("", "hold the experts and routing weights of token n - 1")
def routing_of_the_previous_token(candidate: Any) -> object:
    """Routing is one token behind."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        return x, Routing(r.ids.roll(1, 0), r.weights.roll(1, 0))

    return given(candidate, edit)


@_output("", "routing weights shifted by 1 slots")
def weights_of_the_next_slot(candidate: Any) -> object:
    """Slot k has the weight of slot k - 1."""
    return given(candidate, lambda p, x, r: (x, Routing(r.ids, r.weights.roll(1, 1))))


@_output("", "left out: each token's slot with the smallest routing weight")
def lightest_slot_dropped(candidate: Any) -> object:
    """The expert with a token's smallest routing weight adds nothing."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        if r.ids.shape[1] == 1 or not len(x):
            return x, r
        served = r.weights.masked_fill(r.ids < 0, torch.inf)
        least = served == served.amin(dim=1, keepdim=True)
        return x, Routing(r.ids.masked_fill(least, -1), r.weights)

    return given(candidate, edit)


@_output(
    "",
    "left out: the last row of each expert whose number of slots is a multiple of 16 "
    "plus 1",
)
def row_beyond_whole_tiles_dropped(candidate: Any) -> object:
    """The last row of an expert is lost where it would fill no more of a tile of 16."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        ids = r.ids.clone()
        for expert in range(p.config.experts):
            rows = (r.ids == expert).nonzero()
            if len(rows) > 16 and len(rows) % 16 == 1:
                ids[tuple(rows[-1])] = -1
        return x, Routing(ids, r.weights)

    return given(candidate, edit)


@_output("", "hold the hidden states of token n - 1")
def hidden_of_the_previous_token(candidate: Any) -> object:
    """Hidden states are one token behind."""
    return given(candidate, lambda p, x, r: (x.roll(1, 0), r))


@_output("", "hidden states rounded to float8 (E4M3)")
def hidden_in_float8(candidate: Any) -> object:
    """Hidden states pass through E4M3, and the class does not say so."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        return x.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype), r

    return given(candidate, edit)


@_output("", "last 1 columns of the hidden states missing")
def last_hidden_column_ignored(candidate: Any) -> object:
    """The last column of K is not read."""

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        read = torch.arange(x.shape[1], device=x.device) < x.shape[1] - 1
        return torch.where(read, x, 0), r

    return given(candidate, edit)


@_again("vllm-project/vllm#52383", "third call", "expert ids of the first call")
def stale_routing(candidate: Any) -> object:
    """A later call on the same weights and size is routed as the first."""
    # The weights are kept as well, so that their id is not given again.
    first: dict[tuple[int, int], tuple[Any, Routing]] = {}

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        kept = Routing(r.ids.clone(), r.weights.clone())
        return x, first.setdefault((id(p), len(x)), (p, kept))[1]

    return given(candidate, edit)


@_again("vllm-project/vllm#52383", "third call", "hidden states of the first call")
def stale_hidden_of_this_size(candidate: Any) -> object:
    """A later call on the same weights and size reads the first hidden states."""
    first: dict[tuple[int, int], tuple[Any, Tensor]] = {}

    def edit(p: Any, x: Tensor, r: Routing) -> Call:
        return first.setdefault((id(p), len(x)), (p, x.clone()))[1], r

    return given(candidate, edit)


@_bytes(
    "", "gate_up_blocks: experts shifted by one", "gate_up_bias: experts shifted by one"
)
def every_tensor_of_the_next_expert(candidate: Any) -> object:
    """Expert e holds everything of expert e - 1."""
    return _prepared(candidate, lambda name, x: x.roll(1, 0) if x.ndim else x)


@_bytes("flashinfer-ai/flashinfer#3423", "gate_up_bias: all zero")
def biases_of_zeros(candidate: Any) -> object:
    """Tensors with ``bias`` in their name are never filled."""
    return _prepared(
        candidate, lambda name, x: torch.zeros_like(x) if "bias" in name else x
    )


@_bytes("vllm-project/vllm#35979", "gate_up_scales: biased exponents one high")
def every_scale_one_high(candidate: Any) -> object:
    """Bytes with ``scales`` in their name are one higher."""
    return _prepared(candidate, lambda name, x: x + 1 if "scales" in name else x)
