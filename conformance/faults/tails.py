"""Faults of sizes: tails, token counts, experts, ranks, strides (L3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.decoder import swap_nibbles
from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.types import Routing

_output = faults_of("L3", "test_output_stays_within_the_bound")
_counts = faults_of("L3", "test_every_token_count_stays_within_the_bound")
_neighbour = faults_of("L3", "test_a_token_that_is_not_finite_spoils_no_other")
_spot = faults_of("L3", "test_hot_spot_stays_within_the_bound")

Stages = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Editing(Plain):
    """With edit(stages, prepared, local expert) after each expert."""

    edit: Callable[..., Stages]

    def expert(self, p: Any, local: int, x: Tensor) -> Stages:
        """As `Plain`, then the edit."""
        return self.edit(super().expert(p, local, x), p, local)


def output(candidate: Any, edit: Callable[..., Tensor]) -> object:
    """With edit(out, hidden_states, routing) after `forward`."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return edit(candidate.forward(p, x, r), x, r)

    return spoiled(candidate, forward=forward)


def _down(edit: Callable[[Tensor], Tensor]) -> object:
    return Editing(edit=lambda s, *_: s | {"down": edit(s["down"])})


def _k_cut(columns: Callable[[int], int]) -> object:
    def cut(x: Tensor, w: Tensor) -> Tensor:
        n = columns(x.shape[1])
        return product(x[:, :n], w[:, :n])

    return replace(PLAIN, product=cut)


def decoding(edit: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> object:
    """With edit(blocks, scales) before they are decoded."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        return dequantize(*edit(b, s), dtype)

    return replace(PLAIN, decode=decode)


@_output("triton-lang/triton#7203", "last K block of gate_up and down dropped")
def last_k_block_dropped() -> object:
    """The last 32 columns of K are not added."""
    return _k_cut(lambda k: max(k - 32, 0))


@_output("", "last K block of gate_up dropped")
def odd_k_block_dropped() -> object:
    """K is walked in steps of 64: an odd last block of 32 is left out."""
    return _k_cut(lambda k: k // 64 * 64 if k > 64 else k)


@_output("vllm-project/vllm#49087", "columns 64..95 all zero")
def grid_floor(candidate: Any) -> object:
    """Only floor(h / 64) * 64 output columns are computed, where there are more."""

    def cut(out: Tensor, *_: object) -> Tensor:
        n = out.shape[1] // 64 * 64
        out[:, n or out.shape[1] :] = 0
        return out

    return output(candidate, cut)


@_output("", "column 95 all zero")
def last_column_zero(candidate: Any) -> object:
    """The very last output column is 0."""

    def cut(out: Tensor, *_: object) -> Tensor:
        out[:, -1] = 0
        return out

    return output(candidate, cut)


@_output("", "token 36 all zero")
def last_token_zero(candidate: Any) -> object:
    """The last row is not computed where t is not a multiple of 16."""

    def cut(out: Tensor, *_: object) -> Tensor:
        out[len(out) - 1 if len(out) % 16 else len(out) :] = 0
        return out

    return output(candidate, cut)


@_output("", "columns 64..95 all zero")
def last_64_columns_zero(candidate: Any) -> object:
    """The last tile of up to 64 output columns is not written."""

    def cut(out: Tensor, *_: object) -> Tensor:
        out[:, (out.shape[1] - 1) // 64 * 64 :] = 0
        return out

    return output(candidate, cut)


@_output("", "token 36 all zero")
def last_token_always_zero(candidate: Any) -> object:
    """The last row is not computed, whatever the count."""

    def cut(out: Tensor, *_: object) -> Tensor:
        out[-1:] = 0
        return out

    return output(candidate, cut)


@_output(
    "vllm-project/vllm-xpu-kernels#453",
    "left out: the tokens of an expert after its first 1",
)
def first_token_only() -> object:
    """Later tokens of an expert are dropped."""
    return _down(lambda rows: rows * (torch.arange(len(rows)) < 1)[:, None])


@_output("", "left out: the tokens of an expert after its first 64")
def expert_capacity() -> object:
    """An expert takes 64 tokens, the others are dropped."""
    return _down(lambda rows: rows * (torch.arange(len(rows)) < 64)[:, None])


@_counts(
    "ROCm/aiter#3933",
    "output of 3 tokens",
    "the whole output times 1.5",
    "wrong at 2 of 139 counts: counts 3..4",
)
def m_bucket_wrong(candidate: Any) -> object:
    """Wrong for 3 and 4 tokens."""
    return output(candidate, lambda out, *_: out * 1.5 if len(out) in (3, 4) else out)


@_output(
    "tenstorrent/tt-metal#50669",
    "/t1/",
    "the whole output times 1.5",
    "/t37/s0 is right",
)
def one_token_wrong(candidate: Any) -> object:
    """Wrong for a single token, the decode path."""
    return output(candidate, lambda out, *_: out * 1.5 if len(out) == 1 else out)


@_counts(
    "",
    "output of 67 tokens",
    "the whole output times 1.5",
    "wrong at 1 of 139 counts: count 67",
)
def one_count_wrong(candidate: Any) -> object:
    """Wrong for 67 tokens."""
    return output(candidate, lambda out, *_: out * 1.5 if len(out) == 67 else out)


@_neighbour(
    "",
    "token 128 holds nan",
    "exactly all others: what is shared by the whole batch",
    verdict=Verdict.NONFINITE,
)
def masked_by_multiplication(candidate: Any) -> object:
    """Other tokens' rows are multiplied by 0 and added."""
    return output(candidate, lambda out, x, r: out + 0 * x.sum(dim=0, keepdim=True))


@_spot(
    "",
    "exactly the tokens where hidden states are beyond float16",
    verdict=Verdict.NONFINITE,
)
def hidden_in_float16(candidate: Any) -> object:
    """Hidden states pass through float16."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(p, x.half().to(x.dtype), r)

    return spoiled(candidate, forward=forward)


@_output("", "hold the output of token n - 256")
def long_batch_wrong(candidate: Any) -> object:
    """Rows from 256 on repeat the first rows."""

    def wrapped(out: Tensor, *_: object) -> Tensor:
        return out[torch.arange(len(out)) % 256] if len(out) else out

    return output(candidate, wrapped)


@_output("", "left out: all of the experts from 64 on")
def experts_beyond_64_skipped(candidate: Any) -> object:
    """The loop over experts ends at 64."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(
            p, x, Routing(r.ids.masked_fill(r.ids >= 64, -1), r.weights)
        )

    return spoiled(candidate, forward=forward)


@_output("triton-lang/triton#5197", "nibbles of gate_up and down swapped")
def nibbles_swapped_in_kernel() -> object:
    """The kernel's own decoder takes the high nibble first."""
    return decoding(lambda blocks, scales: (swap_nibbles(blocks), scales))


@_output("", "gate_up and down scales of the next K block")
def scales_one_block_ahead() -> object:
    """The kernel's own decoder reads the scale of the next block."""
    return decoding(lambda blocks, scales: (blocks, scales.roll(-1, -1)))


@_output("", "down scales twice as large, in expert 1 only")
def last_expert_wrong() -> object:
    """The result of GEMM2 is doubled in the last of several experts."""

    def expert(s: Stages, p: Any, local: int) -> Stages:
        last = local == len(p["down_blocks"]) - 1
        return s | {"down": s["down"] * 2} if local and last else s

    return Editing(edit=expert)


@_output("NVIDIA-NeMo/Megatron-Bridge#3743", "down transposed, square here")
def transpose_square_down() -> object:
    """W2 is transposed where it is square."""

    def transposed(x: Tensor, w: Tensor) -> Tensor:
        return product(x, w.T if w.shape[0] == w.shape[1] else w)

    return replace(PLAIN, product=transposed)


@_spot(
    "vllm-project/vllm#40794",
    "hidden states read as if no gaps lay between rows",
    verdict=Verdict.NONFINITE,
)
def packed_rows_assumed(candidate: Any) -> object:
    """Row t of the hidden states is taken to start at t * h."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(p, x.as_strided(x.shape, (x.shape[1], 1)), r)

    return spoiled(candidate, forward=forward)


@_spot(
    "flashinfer-ai/flashinfer#4713",
    "routing ids and weights read as if no gaps lay between rows",
)
def packed_routing_assumed(candidate: Any) -> object:
    """Row t of ids and weights is taken to start at t * k."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        step = (r.ids.shape[1], 1)
        ids, weights = (y.as_strided(y.shape, step) for y in (r.ids, r.weights))
        return candidate.forward(p, x, Routing(ids, weights))

    return spoiled(candidate, forward=forward)


@_output("flashinfer-ai/flashinfer#3547", "global expert ids taken for local ones")
def ep_global_ids_local_weights(candidate: Any) -> object:
    """Global ids index local experts: nothing matches on later ranks."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        first = p.shard.expert_range(p.config).start
        ids = torch.where(r.ids < 0, r.ids, r.ids + first)
        return candidate.forward(p, x, Routing(ids, r.weights))

    return spoiled(candidate, forward=forward)


@_spot("", "silent_expert", "forward raised", verdict=Verdict.CRASH)
def silent_expert_raises(candidate: Any) -> object:
    """An expert without tokens is an error."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        for expert in p.shard.expert_range(p.config):
            if not (r.ids == expert).any():
                raise IndexError(f"expert {expert} has no token")
        return candidate.forward(p, x, r)

    return spoiled(candidate, forward=forward)


@_output("", "forward returned")
def output_without_an_axis(candidate: Any) -> object:
    """A single token comes back as [h]."""
    return output(candidate, lambda out, *_: out[0] if len(out) == 1 else out)


@_output(
    "triton-lang/triton#8865", "GEMM2 reads 32 columns behind K, up to a multiple of 64"
)
def mask_2i_not_i() -> object:
    """The tail of the last tile of 64 lanes is masked at 2i: it holds other lanes."""

    def expert(s: Stages, p: Any, local: int) -> Stages:
        act = s["activation"]
        w2 = dequantize(p["down_blocks"][local], p["down_scales"][local], act.dtype)
        beyond = -act.shape[1] % 64
        # W2 goes on with its next row.
        extra = product(act[:, :beyond], w2.roll(-1, 0)[:, :beyond])
        return s | {"down": s["down"] + extra}

    return Editing(edit=expert)


def _wrapped(rows: int, size: int, bits: int) -> Tensor:
    """Rows at which row * size lies, modulo 2**bits."""
    return torch.arange(rows) * size % 2**bits // max(size, 1)


@_output("", "left out: those of experts of at most 3 slots")
def small_experts_skipped() -> object:
    """Experts with fewer rows than the smallest tile are not launched."""

    class Skipping(Plain):
        def expert(self, p: Any, local: int, x: Tensor) -> Stages:
            stages = super().expert(p, local, x)
            return stages if len(x) > 3 else {n: 0 * s for n, s in stages.items()}

    return Skipping()


@_output("", "left out: the slots from 2 on of each token")
def only_two_slots_added() -> object:
    """The loop over the slots of a token has a fixed end of 2."""

    def mix(weights: Tensor, down: Tensor) -> Tensor:
        return (weights[:, :2, None] * down[:, :2]).sum(dim=1)

    return replace(PLAIN, mix=mix)


@_output(
    "vllm-project/vllm#34279",
    "GEMM1 takes the hidden states of token (token * 96 mod 2^16) // 96, as of offsets",
)
def token_offset_wraps() -> object:
    """Offsets of hidden states, t * h, wrap: at 2**16 here, for 2**31 there."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        rows = _wrapped(len(x), x.shape[1], 16)
        return PLAIN.forward(p, x[rows], r)

    return spoiled(PLAIN, forward=forward)


@_output(
    "deepspeedai/DeepSpeed#8261",
    "codes of gate_up read at offsets that wrap at 2^17 bytes",
)
def expert_offset_wraps() -> object:
    """Offsets of experts, e * 2i * h, wrap: at 2**18 here, for 2**31 there."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        blocks = p["gate_up_blocks"]
        size = 2 * p.valid_intermediate * p.config.hidden
        wrapped = {"gate_up_blocks": blocks[_wrapped(len(blocks), size, 18)]}
        return PLAIN.forward(replace(p, tensors={**p.tensors, **wrapped}), x, r)

    return spoiled(PLAIN, forward=forward)
