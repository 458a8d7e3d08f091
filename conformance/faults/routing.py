"""Faults of routing: which experts, with what weight, and what -1 does (L2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.types import Routing

_ids = faults_of("L2", "test_route_chooses_the_top_k")
_weights = faults_of("L2", "test_route_weights_are_the_softmax_of_the_chosen")
_strided = faults_of("L2", "test_route_reads_strided_logits")
_nobody = faults_of("L2", "test_minus_one_contributes_nothing")

Routed = tuple[Tensor, Tensor]


def _routed(candidate: Any, logits: Tensor, top_k: int) -> Routed:
    """What `candidate` chose, as a pair."""
    found = candidate.route(logits, top_k)
    return (found.ids, found.weights) if hasattr(found, "ids") else tuple(found)


def _weighing(candidate: Any, weigh: Callable[[Tensor, Tensor], Tensor]) -> object:
    """With weigh(logits, ids) for the routing weights."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        ids, _ = _routed(candidate, logits, top_k)
        return ids, weigh(logits.float(), ids.long())

    return spoiled(candidate, route=routing)


def _choosing(candidate: Any, edit: Callable[[Tensor], Tensor]) -> object:
    """With edit(logits) before the choice."""
    return spoiled(
        candidate, route=lambda logits, k: candidate.route(edit(logits.float()), k)
    )


def _returning(
    candidate: Any, edit: Callable[[Tensor, Tensor, Tensor], object]
) -> object:
    """With edit(ids, weights, logits) after the choice."""

    def routing(logits: Tensor, top_k: int) -> object:
        return edit(*_routed(candidate, logits, top_k), logits.float())

    return spoiled(candidate, route=routing)


@_weights(
    "vllm-project/vllm#43223",
    "weights of this token sum to",
    "softmax over all experts, not only the chosen",
)
def softmax_all_no_renorm(candidate: Any) -> object:
    """Softmax over all experts, no renormalisation."""
    return _weighing(candidate, lambda logits, ids: logits.softmax(1).gather(1, ids))


@_weights("NVIDIA/TensorRT-LLM#13867", "softmax computed in bfloat16")
def softmax_bf16(candidate: Any) -> object:
    """Softmax in bfloat16."""
    return _weighing(
        candidate,
        lambda logits, ids: logits.bfloat16().gather(1, ids).softmax(1).float(),
    )


@_weights("tenstorrent/tt-metal#47671", "softmax computed in bfloat16")
def softmax_in_the_dtype_of_the_logits(candidate: Any) -> object:
    """Of bfloat16 logits the softmax is computed in bfloat16, step by step."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        ids, weights = _routed(candidate, logits, top_k)
        if logits.dtype != torch.bfloat16:
            return ids, weights
        chosen = logits.gather(1, ids.long())
        powers = (chosen - chosen.amax(dim=1, keepdim=True)).exp()
        return ids, (powers / powers.sum(dim=1, keepdim=True)).float()

    return spoiled(candidate, route=routing)


@_weights("", "weights in the order of expert ids")
def weights_in_expert_order(candidate: Any) -> object:
    """Weights sorted by expert id, ids by logit."""
    return _weighing(
        candidate, lambda logits, ids: logits.gather(1, ids.sort(1).values).softmax(1)
    )


@_weights("flashinfer-ai/flashinfer#2889", "sigmoids in place of the softmax")
def sigmoid_weights(candidate: Any) -> object:
    """Normalised sigmoids instead of the softmax."""
    return _weighing(
        candidate,
        lambda logits, ids: torch.nn.functional.normalize(
            logits.gather(1, ids).sigmoid(), p=1, dim=1
        ),
    )


@_weights("", "wide", "exp without subtracting the maximum")
def softmax_without_maximum(candidate: Any) -> object:
    """exp(x) / sum exp(x), which overflows beyond 88."""

    def weigh(logits: Tensor, ids: Tensor) -> Tensor:
        powers = logits.gather(1, ids).exp()
        return powers / powers.sum(dim=1, keepdim=True)

    return _weighing(candidate, weigh)


@_weights("", "softmax of sigmoids of the logits")
def softmax_of_sigmoids(candidate: Any) -> object:
    """Scores are sigmoids, and a softmax is taken of them."""
    return _weighing(
        candidate, lambda logits, ids: logits.gather(1, ids).sigmoid().softmax(1)
    )


@_weights("", "weights divided by their sum + 0.01")
def softmax_with_epsilon(candidate: Any) -> object:
    """The sum of the softmax has a number added, so that nothing is divided by 0."""

    def weigh(logits: Tensor, ids: Tensor) -> Tensor:
        chosen = logits.gather(1, ids)
        powers = (chosen - chosen.amax(dim=1, keepdim=True)).exp()
        return powers / (powers.sum(dim=1, keepdim=True) + 0.01)

    return _weighing(candidate, weigh)


@_ids("", "never chosen")
def last_expert_never_chosen(candidate: Any) -> object:
    """The search for the largest logits ends before the last expert."""

    def edit(logits: Tensor) -> Tensor:
        kept = logits.clone()
        kept[:, -1] = -torch.inf
        return kept

    return _choosing(candidate, edit)


@_ids("", "route changed the caller's logits")
def logits_modified(candidate: Any) -> object:
    """Each maximum that was taken is overwritten with -Inf."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        routed = _routed(candidate, logits, top_k)
        logits.scatter_(1, routed[0].long(), -torch.inf)
        return routed

    return spoiled(candidate, route=routing)


@_ids("tenstorrent/tt-metal#47671", "chosen by logits rounded to bfloat16")
def topk_on_bf16(candidate: Any) -> object:
    """The choice is made on bfloat16 logits."""
    return _choosing(candidate, lambda logits: logits.bfloat16().float())


@_ids("flashinfer-ai/flashinfer#2822", "a running maximum that starts at 0")
def topk_init_zero(candidate: Any) -> object:
    """The running maximum starts at 0 and expert 0."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        ids, weights = _routed(candidate, logits, top_k)
        chosen = logits.float().gather(1, ids.long())
        return torch.where(chosen < 0, 0, ids), weights

    return spoiled(candidate, route=routing)


@_ids("flashinfer-ai/flashinfer#2168", "padded to 32 with logits of 0")
def padded_experts(candidate: Any) -> object:
    """Experts are padded to a multiple of 32 with logits of 0."""
    return _choosing(
        candidate,
        lambda logits: torch.nn.functional.pad(logits, (0, -logits.shape[1] % 32)),
    )


@_ids(
    "vllm-project/vllm#39391",
    "expected distinct experts",
    "only rows that hold NaN are wrong",
)
def nan_row_duplicates(candidate: Any) -> object:
    """A row with NaN gives expert 0 in every slot."""
    return _returning(
        candidate,
        lambda ids, w, x: (ids.masked_fill(x.isnan().any(1, keepdim=True), 0), w),
    )


@_ids(
    "sgl-project/sglang#30079",
    "expected an expert from 0 to",
    "only rows that hold NaN are wrong",
)
def nan_row_sentinel(candidate: Any) -> object:
    """A row with NaN gives id e."""
    return _returning(
        candidate,
        lambda ids, w, x: (
            ids.masked_fill(x.isnan().any(1, keepdim=True), x.shape[1]),
            w,
        ),
    )


@_ids("", "+Inf taken for the smallest")
def infinity_taken_for_invalid(candidate: Any) -> object:
    """+Inf counts as the smallest logit."""
    return _choosing(
        candidate, lambda logits: logits.masked_fill(logits == torch.inf, -torch.inf)
    )


@_ids("vllm-project/vllm#33613", "bfloat16 bits read as float32, two logits at a time")
def logits_dtype_reinterpret(candidate: Any) -> object:
    """bfloat16 bits are read as float32, two logits at a time."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        if logits.dtype == torch.bfloat16 and logits.shape[1] % 2 == 0:
            half = logits.contiguous().view(torch.float32)
            logits = torch.cat((half, half), dim=1)
        return _routed(candidate, logits, top_k)

    return spoiled(candidate, route=routing)


@_ids("", "expected (ids, weights)")
def route_returns_nothing() -> object:
    """The result is written elsewhere."""
    return replace(PLAIN, route=lambda logits, k: None)


@_ids("", "expected integer ids")
def float_ids(candidate: Any) -> object:
    """Ids come as float32."""
    return _returning(candidate, lambda ids, w, x: (ids.float(), w))


@_ids("", "route raised IndexError", verdict=Verdict.CRASH)
def route_raises_for_one_expert(candidate: Any) -> object:
    """The second logit is read, also where there is one."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        assert logits[:, 1].ndim == 1
        return _routed(candidate, logits, top_k)

    return spoiled(candidate, route=routing)


@_strided("flashinfer-ai/flashinfer#4713", "ids differ", "row stride 60 and 64")
def packed_stride_assumed(candidate: Any) -> object:
    """Row t is taken to start at t * e."""

    def packed(logits: Tensor) -> Tensor:
        return logits.as_strided(logits.shape, (logits.shape[1], 1))

    return spoiled(
        candidate, route=lambda logits, k: candidate.route(packed(logits), k)
    )


@_strided("flashinfer-ai/flashinfer#4713", "weights differ", "row stride 60 and 64")
def packed_stride_assumed_for_weights(candidate: Any) -> object:
    """The logits of the chosen are read as if row t started at t * e."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        ids, _ = _routed(candidate, logits, top_k)
        packed = logits.as_strided(logits.shape, (logits.shape[1], 1))
        return ids, packed.float().gather(1, ids.long()).softmax(dim=1)

    return spoiled(candidate, route=routing)


def _minus_one(candidate: Any, edit: Callable[[Tensor], Tensor]) -> object:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(p, x, Routing(edit(r.ids), r.weights))

    return spoiled(candidate, forward=forward)


@_nobody(
    "huggingface/transformers#40545",
    "empty slot",
    "slots without an expert (-1) visit this rank's first expert",
)
def ep_mask_is_zero(candidate: Any) -> object:
    """A slot without an expert goes to expert 0."""
    return _minus_one(candidate, lambda ids: ids.clamp(min=0))


@_nobody("", "empty slot", "slots without an expert (-1) visit this rank's last expert")
def minus_one_wraps_around(candidate: Any) -> object:
    """-1 indexes the last expert."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(p, x, Routing(r.ids % p.config.experts, r.weights))

    return spoiled(candidate, forward=forward)


@_nobody(
    "AI-Hypercomputer/maxtext#3699",
    "empty slot",
    "slots without an expert (-1) add the down bias of expert 0",
)
def pad_row_bias_summed() -> object:
    """A slot without an expert still adds its weight times a down bias."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        out = PLAIN.forward(p, x, r)
        if "down_bias" not in p or not len(p["down_bias"]):
            return out
        empty = (r.weights * (r.ids < 0)).sum(dim=1, keepdim=True)
        return (out + empty * p["down_bias"][0].float()).to(x.dtype)

    return changed(PLAIN, forward=forward)


@_nobody("", "empty slot", "normalised to a sum of 1, empty slots (-1) counted")
def weights_renormalised_over_all_slots(candidate: Any) -> object:
    """Weights are divided by their sum, empty slots included."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        total = r.weights.abs().sum(dim=1, keepdim=True).clamp(min=1)
        return candidate.forward(p, x, Routing(r.ids, r.weights / total))

    return spoiled(candidate, forward=forward)
