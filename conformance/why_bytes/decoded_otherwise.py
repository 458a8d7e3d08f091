"""Why a decoder is wrong: another meaning of codes, of scale bytes, or of their order.

Every scale byte was decoded with every packed byte, so a hypothesis is named only if it
gives all of that, but for the scale bytes that public decoders differ about.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator

import torch

from mxmoe.reference.formats import decode
from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import e8m0
from mxmoe.reference.formats import unpack_nibbles
from mxmoe.reference.types import BLOCK

Tensor = torch.Tensor
Decoder = Callable[[Tensor, Tensor], Tensor]
"""(blocks [n, g, 16], scales [n, g]) -> values [n, 32g], float64."""

_ONE = 0x7F
# Biased exponents that may be off by.
_OFF = (-3, -2, -1, 1, 2, 3)
# Towards the ends, what is off by some runs into what an exponent can be.
_INNER = range(16, 240)
# Scale bytes that are listed.
_LISTED = 4


def why_decoded(
    found: Tensor, blocks: Tensor, scales: Tensor, disputed: tuple[int, ...]
) -> list[str]:
    """The line that names what gives all of `found` [n, 32g]; [] if nothing does.

    scales : [n, g]; `disputed` ones matter only where all others are right.
    """
    expected = decode(blocks, scales, found.dtype)
    asked = ~torch.isin(scales, torch.tensor(disputed, dtype=scales.dtype))
    names = [
        name
        for name, told, inner in _hypotheses(blocks, scales, found.dtype)
        if _gives(told, found, asked & inner)
        and not _gives(told, expected, asked & inner)
    ]
    names = names or list(_some_scales(found, expected, scales, asked))
    names = names or list(_one_disputed(found, expected, scales, asked))
    names = names or list(_other_codes(found, blocks, scales, asked))
    return [f"why    behaves as if: {'; or '.join(names)}"] if names else []


def _gives(told: Tensor, found: Tensor, asked: Tensor) -> bool:
    told = told.to(found.dtype)
    same = (told == found) | (told.isnan() & found.isnan())
    return bool(same[asked.repeat_interleave(BLOCK, dim=-1)].all())


def _hypotheses(
    blocks: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(words, values, which scales [n, g] they are held against)."""
    every = torch.ones_like(scales, dtype=torch.bool)
    inner = torch.isin(scales, torch.tensor(list(_INNER), dtype=scales.dtype))
    for name, decoder in _DECODERS.items():
        yield name, decoder(blocks, scales), every
    for by in _OFF:
        shifted = (scales.int() + by).clamp(0, e8m0.MAX_BYTE).to(scales.dtype)
        name = f"scale byte b read as 2^(b - {e8m0.BIAS - by}), not 2^(b - 127)"
        yield name, decode(blocks, shifted), inner
    for through in (torch.float16, torch.bfloat16):
        if through != dtype:
            name = f"values go through {str(through).removeprefix('torch.')}"
            yield name, decode(blocks, scales).to(through).double(), every


def _elements(blocks: Tensor) -> Tensor:
    """Without their scales: [n, g, 32]."""
    ones = blocks.new_full(blocks.shape[:-1], _ONE)
    return decode(blocks, ones).unflatten(-1, (-1, BLOCK))


def _scaled(elements: Tensor, scales: Tensor) -> Tensor:
    return (elements * scales[..., None]).flatten(-2)


def _powers(scales: Tensor) -> Tensor:
    return e8m0.values(scales)


def _bytes_as(dtype: torch.dtype) -> Decoder:
    def decoder(blocks: Tensor, scales: Tensor) -> Tensor:
        pairs = blocks.view(dtype).double().repeat_interleave(2, dim=-1)
        return _scaled(pairs, _powers(scales))

    return decoder


def _scales_as(read: Callable[[Tensor], Tensor]) -> Decoder:
    return lambda blocks, scales: _scaled(_elements(blocks), read(scales))


def _in_order(order: Callable[[Tensor], Tensor]) -> Decoder:
    def decoder(blocks: Tensor, scales: Tensor) -> Tensor:
        return _scaled(order(_elements(blocks)), _powers(scales))

    return decoder


def _codes_as(mean: Callable[[Tensor], Tensor]) -> Decoder:
    def decoder(blocks: Tensor, scales: Tensor) -> Tensor:
        return _scaled(mean(unpack_nibbles(blocks).double()), _powers(scales))

    return decoder


_DECODERS: dict[str, Decoder] = {
    "nibbles swapped: element 2j from the high one": _in_order(
        lambda x: x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    ),
    "low nibbles of each block first": _in_order(
        lambda x: torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    ),
    "the low nibble of each byte read twice": _in_order(
        lambda x: x[..., 0::2].repeat_interleave(2, dim=-1)
    ),
    "the high nibble of each byte read twice": _in_order(
        lambda x: x[..., 1::2].repeat_interleave(2, dim=-1)
    ),
    "elements reversed in each block": _in_order(lambda x: x.flip(-1)),
    "signs ignored": _in_order(torch.abs),
    "signs inverted": _in_order(torch.neg),
    "codes read as two's complement integers": _codes_as(
        lambda c: torch.where(c < 8, c, c - 16)
    ),
    "codes read as a sign and an integer": _codes_as(
        lambda c: torch.where(c < 8, c, 8 - c)
    ),
    "packed bytes read as float8 (E4M3), twice each": _bytes_as(torch.float8_e4m3fn),
    "packed bytes read as float8 (E5M2), twice each": _bytes_as(torch.float8_e5m2),
    "scale bytes read as numbers: byte b is b": _scales_as(lambda s: s.double()),
    "scale bytes read as float8 (E4M3)": _scales_as(
        lambda s: s.view(torch.float8_e4m3fn).double()
    ),
    "scales ignored (1 each)": _scales_as(lambda s: torch.ones_like(s).double()),
    "scales inverted: 2^(127 - b)": _scales_as(lambda s: 1 / _powers(s)),
}


def _some_scales(
    found: Tensor, expected: Tensor, scales: Tensor, asked: Tensor
) -> Iterator[str]:
    """All is right but for some scale bytes, of which every element is one value."""
    same = (found == expected) | (found.isnan() & expected.isnan())
    wrong = ~same & asked.repeat_interleave(BLOCK, dim=-1)
    if not wrong.any() or not bool((~wrong & asked.repeat_interleave(BLOCK, -1)).any()):
        return
    guilty = scales[wrong.unflatten(-1, (-1, BLOCK)).any(dim=-1)].unique()
    of_them = torch.isin(scales, guilty).repeat_interleave(BLOCK, dim=-1)
    values = found[of_them].double()
    one = values.isnan().all() or bool((values == values[0]).all())
    if not one:
        return
    known = scales[asked].unique()
    value = float(values[0])
    last, first = int(guilty.max()), int(guilty.min())
    if torch.equal(guilty, known[known <= last]) and len(guilty) > 1:
        which = f"scale bytes below {last + 1} (2^{last + 1 - e8m0.BIAS}) decode"
    elif torch.equal(guilty, known[known >= first]) and len(guilty) > 1:
        which = f"scale bytes above {first - 1} (2^{first - 1 - e8m0.BIAS}) decode"
    elif len(guilty) <= _LISTED:
        named = ", ".join(f"{byte} (0x{byte:02x})" for byte in guilty.tolist())
        which = f"scale byte{'s' * (len(guilty) > 1)} {named} decode"
        which += "s" * (len(guilty) == 1)
    else:
        return
    yield f"{which} to {value:g}, all others as they should"


def _one_disputed(
    found: Tensor, expected: Tensor, scales: Tensor, asked: Tensor
) -> Iterator[str]:
    """All is right but for one scale byte, which is read as another power of two."""
    if not _gives(expected, found, asked):
        return
    for byte in scales[~asked].unique().tolist():
        of_it = (scales == byte).repeat_interleave(BLOCK, dim=-1)
        right = expected[of_it].double()
        told = (right != 0) & right.isfinite()
        factors = (found[of_it].double() / right)[told].unique()
        if len(factors) == 1 and float(factors) not in (0.0, 1.0, torch.inf):
            power = math.log2(abs(float(factors))) + byte - e8m0.BIAS
            words = f"scale byte {byte} (0x{byte:02x}) read as 2^{power:g}"
            yield f"{words}, not 2^{byte - e8m0.BIAS}, all others as they should"


def _other_codes(
    found: Tensor, blocks: Tensor, scales: Tensor, asked: Tensor
) -> Iterator[str]:
    """Codes that mean other values, the same under each scale."""
    codes = unpack_nibbles(blocks)
    plain = (scales == _ONE)[..., None].expand(codes.shape)
    values = found.double().unflatten(-1, (-1, BLOCK))
    table = []
    for code in range(len(e2m1.VALUES)):
        like = values[plain & (codes == code)].unique()
        if len(like) != 1 or not like.isfinite().all():
            return
        table.append(float(like))
    meant = torch.tensor(table, dtype=torch.float64)
    if _gives(_scaled(meant[codes.long()], _powers(scales)), found, asked):
        others = [
            f"code {code:x} as {value:g}, not {right:g}"
            for code, (value, right) in enumerate(zip(table, e2m1.VALUES, strict=True))
            if value != right
        ]
        if others:
            yield "E2M1 codes decoded wrongly: " + ", ".join(others)
