"""`kernels.triton_moe.combine`: served slots, in order, and nothing of the others."""

from __future__ import annotations

import math

import pytest
import torch
from triton import knobs

from mxmoe.kernels.triton_moe.combine import combine

INTERPRETED = knobs.runtime.interpret
TOKENS = (0, 1, 3) if INTERPRETED else (0, 1, 2, 3, 5, 8, 16, 33, 128, 500, 8192)
POISON = math.nan


def slots(tokens: int, top_k: int, device: torch.device, seed: int = 0):
    """ids of 12 experts and -1, and weights float32, both [t, k]."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, 12, (tokens, top_k), generator=draw, dtype=torch.int32)
    weights = torch.rand(tokens, top_k, generator=draw)
    return ids.to(device), weights.to(device)


def expected(y, ids, weights, first, experts):
    """In float64, and the sum of magnitudes, of which an error is a share."""
    rows = y.double().view(*ids.shape, y.shape[1])
    served = (ids >= first) & (ids < first + experts)
    parts = torch.where(served[..., None], rows * weights.double()[..., None], 0.0)
    return parts.sum(dim=1), parts.abs().sum(dim=1)


def check(y, ids, weights, out, first=0, experts=12) -> None:
    """k products and k sums in float32, each within 2**-24; then one rounding."""
    before = y.clone(), ids.clone(), weights.clone()
    options = {"first_expert": first, "experts": experts}
    found = combine(y[None], ids, weights, **options, out=out)
    assert found is out
    exact, magnitude = expected(*before, first, experts)
    half_ulp = torch.finfo(out.dtype).eps / 2
    allowed = (
        magnitude * 2 * ids.shape[1] * 2.0**-24 * 1.01 + exact.abs() * half_ulp * 1.01
    )
    assert (out.double() - exact).abs().le(allowed).all()
    for was, tensor in zip(before, (y, ids, weights), strict=True):
        assert torch.equal(was.nan_to_num(7.5), tensor.nan_to_num(7.5))


def poisoned(y, ids, weights, first, experts) -> None:
    """NaN in every row and weight that no slot of this rank owns."""
    served = (ids >= first) & (ids < first + experts)
    y.view(*ids.shape, y.shape[1])[~served] = POISON
    weights[~served] = POISON


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 8, 12])
@pytest.mark.parametrize("tokens", TOKENS)
def test_the_sum_is_over_the_slots_of_this_rank(tokens, top_k, device) -> None:
    ids, weights = slots(tokens, top_k, device)
    for hidden in (32, 544) if INTERPRETED else (32, 672, 2880):
        y = torch.randn(tokens * top_k, hidden, device=device)
        poisoned(y, ids, weights, 3, 6)
        out = torch.full((tokens, hidden), POISON, device=device)
        check(y, ids, weights, out, 3, 6)
        unserved = ((ids < 3) | (ids > 8)).all(dim=1)
        assert out[unserved].eq(0).all()


def test_strides_of_all_but_y_may_be_any(device) -> None:
    ids, weights = slots(4, 6, device)
    y = torch.randn(12, 96, device=device)
    out = torch.full((8, 192), POISON, device=device)
    check(y, ids[:, ::2].long(), weights.t().contiguous().t()[:, 1::2], out[::2, ::2])
    assert out[1::2].isnan().all()
    assert out[:, 1::2].isnan().all()


def test_slots_are_added_in_order(device) -> None:
    """1 + 2**-24 + 2**-24 is 1 from the left, and 1 + 2**-23 from the right."""
    y = torch.ones(3, 32, device=device)
    ids = torch.zeros(1, 3, dtype=torch.int32, device=device)
    for row, total in (((1, 2**-24, 2**-24), 1), ((2**-24, 2**-24, 1), 1 + 2**-23)):
        weights = torch.tensor([row], dtype=torch.float32, device=device)
        out = torch.empty(1, 32, device=device)
        combine(y[None], ids, weights, first_expert=0, experts=1, out=out)
        assert out.eq(total).all()


def test_splits_are_added_in_order_before_the_weight(device) -> None:
    """Their sum 1 + 2**-24 + 2**-24 is 1 from the left; twice that is 2."""
    y = torch.full((3, 2, 32), 2.0**-24, device=device)
    y[0] = 1
    ids = torch.tensor([[0, -1]], dtype=torch.int32, device=device)
    weights = torch.full((1, 2), 2.0, device=device)
    out = torch.empty(1, 32, device=device)
    y[:, 1] = POISON
    combine(y, ids, weights, first_expert=0, experts=1, out=out)
    assert out.eq(2).all()
    combine(y.flip(0), ids, weights, first_expert=0, experts=1, out=out)
    assert out.eq(2 + 2**-22).all()


@pytest.mark.parametrize("y_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_type", [torch.float32, torch.bfloat16])
def test_types_on_a_gpu(y_type, weight_type, native) -> None:
    ids, weights = slots(65, 4, native)
    y = torch.randn(65 * 4, 2880, device=native).to(y_type)
    out = torch.empty(65, 2880, dtype=torch.bfloat16, device=native)
    check(y, ids, weights.to(weight_type), out)


def test_offsets_beyond_31_bits_on_a_gpu(native) -> None:
    """y has 2**31 + 2**22 entries; the last row is the one to look at."""
    tokens, hidden = 2**20 + 2**11, 2048
    y = torch.zeros(tokens, hidden, dtype=torch.bfloat16, device=native)
    y[-1] = 3.0
    ids = torch.zeros(tokens, 1, dtype=torch.int32, device=native)
    weights = torch.ones(tokens, 1, device=native)
    out = torch.empty(tokens, hidden, dtype=torch.bfloat16, device=native)
    combine(y[None], ids, weights, first_expert=0, experts=1, out=out)
    assert out[-1].eq(3.0).all()
    assert out[:-1].eq(0.0).all()
