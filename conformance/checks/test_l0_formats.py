"""L0: the codec alone, over everything that it can be given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.probes import ENCODER_PROBES
from mxmoe.conformance.cases.probes import every_byte_pair
from mxmoe.conformance.judging.compare_bytes import decoded
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.suite.places import for_each
from mxmoe.conformance.suite.places import scale_rules
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import unsupported
from mxmoe.conformance.why_bytes.decoded_otherwise import why_decoded
from mxmoe.conformance.why_bytes.encoded_otherwise import Encoded
from mxmoe.conformance.why_bytes.encoded_otherwise import why_encoded
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import encode
from mxmoe.reference.formats import unpack_nibbles
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES

pytestmark = [pytest.mark.bytewise, pytest.mark.level("L0")]

# Bytes where public decoders differ: see reference/formats/e8m0.py.
DISPUTED_SCALES = (0x00, 0xFD, 0xFE, 0xFF)

# One block alone; an odd number of blocks; more axes in front.
OTHER_SHAPES = ((1,), (7,), (3, 5), (2, 3, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_decode_is_exact_for_every_scale_and_byte(
    judge: Judge, dtype: torch.dtype
) -> None:
    """All 256 biased exponents x 256 packed bytes, and some other shapes."""
    judge.subject.need("decode")
    blocks, scales = every_byte_pair()
    found = _decoded(judge, blocks, scales, dtype)
    expected = decode(blocks, scales, dtype)
    equal = (found == expected) | (found.isnan() & expected.isnan())
    _note_differences(judge, found, expected, equal, scales)
    wrong = ~equal & ~_as_elsewhere(found, expected, scales)
    if wrong.any():
        at = tuple(int(n) for n in wrong.nonzero()[0])
        code = int(unpack_nibbles(blocks).flatten(-2)[at])
        scale = decoded("scales", scales[at[0], at[1] // 32])
        raise judge.fail(
            Verdict.MISMATCH,
            [
                f"code {code:x}, scale {scale}: expected {float(expected[at]):g}, "
                f"found {float(found[at]):g}",
                f"wrong: {int(wrong.sum())} of {wrong.numel()} elements",
                *why_decoded(found, blocks, scales, DISPUTED_SCALES),
            ],
            what=f"decode to {dtype}",
            tensors={"found": found, "expected": expected},
        )
    for shape in OTHER_SHAPES:
        count = math.prod(shape)
        some = blocks[113].repeat(-(-count // 16), 1)[:count].reshape(*shape, 16)
        power = torch.arange(count, dtype=torch.uint8).reshape(shape) + 100
        found = _decoded(judge, some, power, dtype)
        wrong = found != decode(some, power, dtype)
        if wrong.any():
            line = f"blocks {list(some.shape)}: found other values than in one row"
            where = _which_blocks(wrong, found)
            raise judge.fail(Verdict.MISMATCH, [line, where], what=f"decode to {dtype}")


def _which_blocks(wrong: torch.Tensor, found: torch.Tensor) -> str:
    """Where in a row the wrong blocks are, and whether they were left out."""
    blocks = wrong.unflatten(-1, (-1, BLOCK)).any(dim=-1)
    count = blocks.shape[-1]
    last = not blocks[..., :-1].any() and bool(blocks[..., -1].all())
    where = f"the last of {count} blocks" if last else "several blocks"
    return f"wrong: {where} of a row{', all zero' * (not found[wrong].any())}"


def _decoded(
    judge: Judge, blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """What `decode` returned, on the CPU, or a failure."""
    device = judge.subject.device
    found = judge.subject.call("decode", blocks.to(device), scales.to(device), dtype)
    shape = torch.Size((*scales.shape[:-1], scales.shape[-1] * BLOCK))
    found = judge.subject.checked_output("decode", found, shape).cpu()
    if found.dtype != dtype:
        line = f"expected {dtype}, found {found.dtype}"
        raise judge.fail(Verdict.MISMATCH, [line], what="decode")
    return found


def _as_elsewhere(
    found: torch.Tensor, expected: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """Where `found` is what a public decoder gives for a disputed scale byte."""
    byte = scales.repeat_interleave(BLOCK, dim=-1)
    beyond = found.isinf() | (found.abs() == torch.finfo(found.dtype).max)
    as_2_to_128 = (found.abs() >= 2.0**127) | (found == 0)
    return (
        ((byte == 0x00) & (found == 0))
        | ((byte >= 0xFD) & beyond)
        | ((byte == 0xFF) & (as_2_to_128 | found.isnan()))
    )


def _note_differences(
    judge: Judge,
    found: torch.Tensor,
    expected: torch.Tensor,
    equal: torch.Tensor,
    scales: torch.Tensor,
) -> None:
    for byte in DISPUTED_SCALES:
        differs = ~equal & (scales == byte).repeat_interleave(BLOCK, dim=-1)
        if differs.any():
            at = tuple(int(n) for n in differs.nonzero()[0])
            judge.note(
                f"scale byte 0x{byte:02x} decodes to {float(found[at]):g} "
                f"where the reference has {float(expected[at]):g}"
            )
    if (equal & (found == 0) & (found.signbit() != expected.signbit())).any():
        judge.note("code 8 decodes to +0 instead of -0")


@for_each(scale_rules)
def test_encode_follows_the_named_rule(judge: Judge, place: str) -> None:
    """Scale bytes and codes of probes at every midpoint, tie and edge of the rule."""
    judge.subject.need("encode")
    known = tuple(judge.subject.capabilities.scale_rules)
    if place not in known:
        raise unsupported(f"scale_rules: {', '.join(known)}, not {place}")
    for probe in ENCODER_PROBES:
        x = probe.values()
        blocks, scales = _encoded(judge, x, place)
        want_blocks, want_scales = encode(x, place)
        codes, want_codes = unpack_nibbles(blocks), unpack_nibbles(want_blocks)
        # Codes 0 and 8 are both zero: a lost sign is a note.
        zeros = ((codes & 7) == 0) & ((want_codes & 7) == 0)
        bad = (scales != want_scales) | ((codes != want_codes) & ~zeros).any(dim=-1)
        if (zeros & (codes != want_codes)).any():
            judge.note(f"encode ({place}): the sign of a zero is lost")
        if not bad.any():
            continue
        at = tuple(int(n) for n in bad.nonzero()[0])
        block = x.unflatten(-1, (-1, 32))[at]
        line = (
            f"{probe.name}, block with largest magnitude {float(block.abs().max()):g}: "
            f"expected scale {decoded('scales', want_scales[at])} "
            f"codes {_hex(want_codes[at])}, found {decoded('scales', scales[at])} "
            f"codes {_hex(codes[at])}"
        )
        if probe.disputed:
            judge.note(f"encode ({place}): {line}")
            continue
        count = f"wrong: {int(bad.sum())} of {bad.numel()} blocks"
        raise judge.fail(
            Verdict.MISMATCH,
            [line, count, *_why_encoded(judge, place)],
            what=f"encode, rule {place}",
            tensors={"x": x, "found": blocks, "expected": want_blocks},
        )


def _why_encoded(judge: Judge, rule: str) -> list[str]:
    """What explains every probe that is not disputed, asked once more."""
    given, judge = [], judge.aside()
    for probe in ENCODER_PROBES:
        if not probe.disputed:
            x = probe.values()
            try:
                blocks, scales = _encoded(judge, x, rule)
            except Exception:  # whatever this call does, it only explains
                return []
            given.append(Encoded(x=x, codes=unpack_nibbles(blocks), scales=scales))
    return why_encoded(given, rule)


def _encoded(
    judge: Judge, x: torch.Tensor, rule: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `encode` returned, as bytes on the CPU, or a failure."""
    returned = judge.subject.call("encode", x.to(judge.subject.device), rule)
    groups = (*x.shape[:-1], x.shape[-1] // BLOCK)
    shapes = {"blocks": (*groups, BLOCK_BYTES), "scales": groups}
    pair: Sequence[Any] = (None, None)
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        pair = returned
    for (name, shape), tensor in zip(shapes.items(), pair, strict=True):
        found = type(tensor).__name__
        if isinstance(tensor, torch.Tensor):
            if tensor.shape == shape and tensor.element_size() == 1:
                continue
            found = f"{tensor.dtype} {list(tensor.shape)}"
        line = f"expected (blocks, scales), {name} uint8 {list(shape)}, found {found}"
        raise judge.fail(Verdict.MISMATCH, [line], what=f"encode, rule {rule}")
    blocks, scales = (tensor.detach().cpu().view(torch.uint8) for tensor in pair)
    return blocks, scales


def _hex(codes: torch.Tensor) -> str:
    return "".join(f"{int(code):x}" for code in codes)
