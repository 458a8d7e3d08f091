"""Inputs for a codec: every byte pair, and blocks that tell encoders apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mxmoe.reference.formats import e2m1
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES


def every_byte_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """blocks uint8 [256, 16, 16], scales uint8 [256, 16]: row s holds every byte."""
    codes = torch.arange(256, dtype=torch.uint8).view(1, 16, BLOCK_BYTES)
    scales = torch.arange(256, dtype=torch.uint8)[:, None]
    return codes.expand(256, -1, -1).contiguous(), scales.expand(-1, 16).contiguous()


@dataclass(frozen=True)
class EncoderProbe:
    """Blocks [n, 32] for an encoder. `disputed`: public encoders differ there."""

    name: str
    values: Callable[[], torch.Tensor]
    disputed: bool = False


def _midpoints() -> torch.Tensor:
    """Each midpoint and its float32 neighbours, both signs, beside an amax of 6.

    The amax is repeated at powers of two from 2**-100 to 2**100.
    """
    exact = torch.tensor(e2m1.MIDPOINTS, dtype=torch.float32)
    near = torch.cat(
        (
            exact,
            torch.nextafter(exact, torch.tensor(torch.inf)),
            torch.nextafter(exact, torch.tensor(0.0)),
        )
    )
    block = torch.cat((torch.tensor([6.0]), near, -near[:10]))
    powers = torch.tensor([2.0**n for n in range(-100, 101, 8)])
    return powers[:, None] * block


def _bfloat16_maxima() -> torch.Tensor:
    """A block for each normal positive bfloat16 up to 2**120, as the amax."""
    bits = torch.arange(0x0400, 0x7B80, dtype=torch.int32).to(torch.int16)
    amax = bits.view(torch.bfloat16)
    fractions = torch.linspace(-1, 1, BLOCK).bfloat16()
    fractions[0] = 1
    return amax[:, None] * fractions


def _float32_maxima() -> torch.Tensor:
    """As amax: each mantissa at which a rule takes the next exponent, and beside it.

    One float32 below such a place, amax rounded to bfloat16 and log2 in float32 are
    already beyond it.
    """
    exact = torch.tensor([1.0, 1.5, 1.75])
    below, above = (exact.nextafter(torch.tensor(to)) for to in (0.0, 2.0))
    powers = torch.tensor([2.0**n for n in range(-100, 101, 4)])
    fractions = torch.linspace(-1, 1, BLOCK)
    fractions[0] = 1
    amax = powers[:, None] * torch.cat((exact, below, above, exact * (1 - 2.0**-10)))
    return amax.reshape(-1, 1) * fractions


def _ties_of_bfloat16() -> torch.Tensor:
    """Random bfloat16 blocks: a sixth of them hold an exact tie."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4096, BLOCK, generator=generator).bfloat16()


def _rows_of_three_blocks() -> torch.Tensor:
    """Blocks of one row with far apart magnitudes: each has its own scale."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(64, 3, BLOCK, generator=generator)
    magnitudes = torch.randint(-20, 20, (64, 3, 1), generator=generator)
    return torch.ldexp(values, magnitudes).bfloat16().float().flatten(1)


def _tiny() -> torch.Tensor:
    return torch.tensor([1.0, -0.75, 0.5, 0.0] * 8) * 2.0**-126


def _special(value: float) -> Callable[[], torch.Tensor]:
    def block() -> torch.Tensor:
        x = torch.ones(BLOCK)
        x[3] = value
        return x

    return block


ENCODER_PROBES = (
    EncoderProbe("midpoints", _midpoints),
    EncoderProbe("every bfloat16 amax", _bfloat16_maxima),
    EncoderProbe("float32 amax beside a step", _float32_maxima),
    EncoderProbe("random bfloat16", _ties_of_bfloat16),
    EncoderProbe("rows of three blocks", _rows_of_three_blocks),
    EncoderProbe("all zero", lambda: torch.zeros(2, BLOCK)),
    EncoderProbe("below 2**-124", _tiny, disputed=True),
    EncoderProbe("NaN", _special(torch.nan), disputed=True),
    EncoderProbe("Inf", _special(torch.inf), disputed=True),
    EncoderProbe("-Inf", _special(-torch.inf), disputed=True),
)
