"""Acceptance rules: (output, expected) -> whether the project's test would pass.

Both are float32 [t, h] of equal shape; `expected` is what the project's own reference
gives, in its precision. Every function says what the rule does with NaN, because the
projects differ. Figures are arguments, and stand with their source in `peers`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor
Rule = Callable[[Tensor, Tensor], bool]


def share_close(
    *, absolute: float, relative: float, share: float, nan: str, of: str = "expected"
) -> Rule:
    """|error| <= absolute + relative * |of| for at least `share` of the elements.

    of : "expected" or "output", whose magnitude counts. nan : "rejected" where the
    rule asks for finite outputs first; "accepted" where it counts the elements that
    are beyond the tolerance, which no comparison with NaN is.
    """

    def accepts(output: Tensor, expected: Tensor) -> bool:
        if nan == "rejected" and not output.isfinite().all():
            return False
        size = (expected if of == "expected" else output).abs()
        beyond = (output - expected).abs() > absolute + relative * size
        return float(beyond.double().mean()) <= 1 - share

    return accepts


def share_close_in_either(*, absolute: float, relative: float, share: float) -> Rule:
    """As FlashInfer-Bench: beyond both tolerances counts as wrong; finite outputs."""

    def accepts(output: Tensor, expected: Tensor) -> bool:
        if not output.isfinite().all():
            return False
        error = (output - expected).abs()
        wrong = (error > absolute) & (error / (expected.abs() + 1e-8) > relative)
        return 1 - float(wrong.double().mean()) >= share

    return accepts


def share_within_spread(
    *, floor: float, spreads: float, relative: float, share: float
) -> Rule:
    """|error| < max(floor, spreads * std of all expected), or < relative * |expected|.

    For at least `share` of the elements. NaN is within nothing and counts as wrong.
    """

    def accepts(output: Tensor, expected: Tensor) -> bool:
        spread = max(float(expected.std()), 0.01)
        error = (output - expected).abs()
        near = error < max(floor, spreads * spread)
        near |= error / (expected.abs() + 1e-8) < relative
        return float(near.double().mean()) >= share

    return accepts


def all_within_largest(*, of_largest: float, absolute: float, relative: float) -> Rule:
    """Each |error| <= of_largest * max |expected| + absolute + relative * |expected|.

    NaN and Inf are rejected where `expected` is finite.
    """

    def accepts(output: Tensor, expected: Tensor) -> bool:
        size = expected.abs()
        allowed = of_largest * size.max() + absolute + relative * size
        return bool(((output - expected).abs() <= allowed).all())

    return accepts


def largest_and_rms(*, largest: float, rms: float) -> Rule:
    """|error| / max(RMS of expected, |expected|): its maximum and its own RMS.

    NaN makes both NaN, which is rejected. Inf must stand where expected has it.
    """

    def accepts(output: Tensor, expected: Tensor) -> bool:
        infinite = expected.isinf()
        if not torch.equal(output.isinf(), infinite):
            return False
        found, wanted = (x.masked_fill(infinite, 0) for x in (output, expected))
        # Scaled to a largest value of 1, so that squares do not overflow.
        scale = 1 / (wanted.abs().max() + 1e-30)
        found, wanted = found * scale, wanted * scale
        typical = wanted.square().mean().sqrt() + 1e-30
        error = (wanted - found).abs() / torch.maximum(typical, wanted.abs())
        # Both as "not above": a NaN is not.
        return bool(error.max() <= largest and error.square().mean().sqrt() <= rms)

    return accepts


def relative_norm(*, below: float) -> Rule:
    """|output - expected| / |expected| over all elements, Euclidean; finite outputs."""

    def accepts(output: Tensor, expected: Tensor) -> bool:
        if not output.isfinite().all():
            return False
        error = torch.linalg.vector_norm(output - expected)
        return bool(error / torch.linalg.vector_norm(expected) < below)

    return accepts
