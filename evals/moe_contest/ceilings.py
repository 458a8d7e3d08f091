"""What the device can do at best, measured: copying memory, multiplying bf16."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from mxmoe.evals.moe_contest.clock import seconds_in_turn

_REPEATS = 20


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Rates, and what was measured for them.

    copy_bytes_per_second : bytes read and bytes written, of one large copy, by the
    driver or by an elementwise kernel, whichever is faster.
    matmul_flops_per_second : of a square bfloat16 matmul.
    """

    copy_bytes_per_second: float
    matmul_flops_per_second: float
    copied_bytes: int
    matmul_size: int


def measure_ceilings(device: torch.device) -> Ceilings:
    """Medians; on a CPU of smaller sizes."""
    # 4 GiB are 80 times the L2 of an H100.
    elements, size = (2**31, 8192) if device.type == "cuda" else (2**22, 128)
    copied, seconds = _copy(elements, device)
    return Ceilings(
        copy_bytes_per_second=2 * copied / seconds,
        matmul_flops_per_second=2 * size**3 / statistics.median(_matmul(size, device)),
        copied_bytes=copied,
        matmul_size=size,
    )


def _copy(elements: int, device: torch.device) -> tuple[int, float]:
    source = torch.ones(elements, dtype=torch.bfloat16, device=device)
    target = torch.ones_like(source)
    ways = {
        "driver": lambda: target.copy_(source),
        "kernel": lambda: torch.neg(source, out=target),
    }
    taken = seconds_in_turn(ways, device, _REPEATS)
    return source.nbytes, min(map(statistics.median, taken.values()))


def _matmul(size: int, device: torch.device) -> tuple[float, ...]:
    # Zeros would draw less power, and clocks would be higher than with data.
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    calls = {"matmul": lambda: torch.mm(a, b, out=out)}
    return seconds_in_turn(calls, device, _REPEATS)["matmul"]
