"""Values that are other ones in the right place: what was done to each entry.

Nothing is enumerated that can be read off: the constant of an addition, a factor, a
mask or a table of codes follows from the first entries that differ, and is then held
against all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator

import torch

Values = Callable[[torch.Tensor], torch.Tensor]
Guess = tuple[str, Values]

_COUNTED = {1: "one", 2: "two"}
# A table of bytes is told only if so many entries agree with one that was seen before.
_TABLE_EVIDENCE = 64


def value_guesses(
    kind: str, wanted: torch.Tensor, found: torch.Tensor, **sizes: int
) -> Iterator[Guess]:
    """What turns `wanted` into `found` [n], both integers, for use on all others.

    kind : blocks, scales or bias. sizes : numbers by which a value may be multiplied
    or divided by mistake, by name.
    """
    if kind == "bias":
        guesses = _of_floats(wanted, found, sizes)
    elif kind == "scales":
        guesses = _of_scales(wanted, found)
    else:
        guesses = _of_codes(wanted, found)
    for words, edit in (*_constant(kind, found), *guesses):
        if torch.equal(edit(wanted), found):
            yield words, edit


def _constant(kind: str, found: torch.Tensor) -> Iterator[Guess]:
    first = found[0]
    if not bool((found == first).all()):
        return
    value = int(first)
    if value == 0:
        yield "all zero, as if never written", torch.zeros_like
        return
    if kind == "bias":
        yield f"holds {float(_floats(first)):g}", lambda x: torch.full_like(x, value)
        return
    yield f"holds 0x{value:02x}", lambda x: torch.full_like(x, value)


def _of_scales(wanted: torch.Tensor, found: torch.Tensor) -> Iterator[Guess]:
    low, high = int(found.min()), int(found.max())
    if low == high:
        yield f"biased exponents limited to at most {low}", lambda x: x.clamp(max=low)
        yield f"biased exponents limited to at least {low}", lambda x: x.clamp(min=low)
    by = (int(found[0]) - int(wanted[0]) + 128) % 256 - 128
    if by:
        much, side = abs(by), "high" if by > 0 else "low"
        without = ": the bias of 127 taken off" if by == -127 else ""
        without = without or (": the bias of 127 added again" if by == 127 else "")
        yield (
            f"biased exponents {_COUNTED.get(much, much)} {side}{without}",
            lambda x: x + by,
        )
        saturated = (
            f"biased exponents {_COUNTED.get(much, much)} {side}, within 0 to 254"
        )
        yield saturated, lambda x: (x.int() + by).clamp(0, 254).to(x.dtype)
    yield "biased exponents negated (254 - b)", lambda x: 254 - x
    yield "biased exponents halved", lambda x: x // 2
    yield "biased exponents doubled", lambda x: x * 2
    yield "nibbles of each scale byte swapped", lambda x: (x >> 4) | (x << 4)
    yield "bits of each scale byte in reverse order", _reversed_bits
    yield from _of_bits(wanted, found, "scale bytes")
    yield from _table(wanted, found, "scale byte")


def _of_codes(wanted: torch.Tensor, found: torch.Tensor) -> Iterator[Guess]:
    yield "nibbles swapped", lambda x: (x >> 4) | (x << 4)
    yield "signs flipped", lambda x: x ^ 0x88
    yield "signs lost", lambda x: x & 0x77
    yield "all signs negative", lambda x: x | 0x88
    yield "low nibble of each byte in both places", lambda x: (x & 15) * 17
    yield "high nibble of each byte in both places", lambda x: (x >> 4) * 17
    yield "low nibbles zero", lambda x: x & 0xF0
    yield "high nibbles zero", lambda x: x & 0x0F
    yield "bits of each byte in reverse order", _reversed_bits
    yield "low nibble's sign flipped", lambda x: x ^ 0x08
    yield "high nibble's sign flipped", lambda x: x ^ 0x80
    by = (int(found[0]) - int(wanted[0])) % 256
    yield f"bytes {by} higher (modulo 256)", lambda x: x + by
    yield from _of_bits(wanted, found, "bytes")
    yield from _code_table(wanted, found)
    yield from _table(wanted, found, "byte")


def _of_bits(wanted: torch.Tensor, found: torch.Tensor, what: str) -> Iterator[Guess]:
    flipped = int(wanted[0]) ^ int(found[0])
    words = "all bits inverted" if flipped == 255 else f"bits 0x{flipped:02x} flipped"
    yield f"{words} in {what}", lambda x: x ^ flipped
    kept = _reduce(~(wanted & ~found), "and")
    yield f"bits 0x{255 - kept:02x} cleared in {what}", lambda x: x & kept
    added = _reduce(found & ~wanted, "or")
    yield f"bits 0x{added:02x} set in {what}", lambda x: x | added


def _reduce(values: torch.Tensor, how: str) -> int:
    bits = [(values >> n & 1).bool() for n in range(8)]
    every = [bool(b.all()) if how == "and" else bool(b.any()) for b in bits]
    return sum(1 << n for n, bit in enumerate(every) if bit)


def _reversed_bits(x: torch.Tensor) -> torch.Tensor:
    x = (x >> 1) & 0x55 | (x & 0x55) << 1
    x = (x >> 2) & 0x33 | (x & 0x33) << 2
    return (x >> 4) | (x << 4)


def _code_table(wanted: torch.Tensor, found: torch.Tensor) -> Iterator[Guess]:
    """Each nibble is a function of the nibble that belongs there."""
    codes = torch.cat((wanted & 15, wanted >> 4)).long()
    made = torch.cat((found & 15, found >> 4))
    table = torch.arange(16, dtype=torch.uint8)
    table[codes] = made
    if len(codes) < _TABLE_EVIDENCE or not torch.equal(table[codes], made):
        return
    changes = [f"{c:x} -> {int(t):x}" for c, t in enumerate(table) if c != int(t)]
    words = f"E2M1 codes replaced: {', '.join(changes)}"
    yield words, lambda x: table[(x & 15).long()] | table[(x >> 4).long()] << 4


def _table(wanted: torch.Tensor, found: torch.Tensor, what: str) -> Iterator[Guess]:
    """Each byte is a function of the byte that belongs there, whatever function."""
    table = torch.arange(256, dtype=torch.uint8)
    table[wanted.long()] = found
    again = len(wanted) - len(wanted.unique())
    if again < _TABLE_EVIDENCE or not torch.equal(table[wanted.long()], found):
        return
    changed = [(b, int(t)) for b, t in enumerate(table) if b != int(t)]
    shown = ", ".join(f"0x{b:02x} -> 0x{t:02x}" for b, t in changed[:3])
    more = ", ..." if len(changed) > 3 else ""
    words = f"each {what} replaced by a function of itself: {shown}{more}"
    yield words, lambda x: table[x.long()]


def _of_floats(
    wanted: torch.Tensor, found: torch.Tensor, sizes: dict[str, int]
) -> Iterator[Guess]:
    a, b = _floats(wanted).double(), _floats(found).double()
    real = (a != 0) & a.isfinite() & b.isfinite()
    if bool(real.any()):
        ratio = float((b[real] / a[real]).median())
        names = {-1.0: "sign flipped", 0.5: "halved", 2.0: "doubled"}
        for name, size in sizes.items():
            if size > 1:
                names[1.0 / size] = f"divided by {name} = {size} once too often"
                names[float(size)] = f"times {name} = {size}"
        for factor, words in names.items():
            if abs(ratio - factor) <= 1e-2 * abs(factor):
                yield words, _on_floats(lambda x, f=factor: x * f)  # type: ignore[misc]
        yield from _of_factor(ratio)
    for words, dtype in _NARROWER:
        yield f"rounded to {words}", _on_floats(lambda x, d=dtype: x.to(d))  # type: ignore[misc]
    for bits in range(1, 8):
        kept = f"{bits} bits of mantissa"
        yield f"cut to {kept}", lambda x, b=bits: x & -(1 << _mantissa(x) - b)  # type: ignore[misc]
        yield f"rounded to {kept}", _on_floats(lambda x, b=bits: _rounded(x, b))  # type: ignore[misc]
    yield "rounded to whole numbers", _on_floats(torch.round)
    yield "cut to whole numbers", _on_floats(torch.trunc)
    yield "absolute values", _on_floats(torch.abs)
    yield "negative values set to 0", _on_floats(torch.relu)
    low, high = float(b.min()), float(b.max())
    yield f"limited to {low:g} ... {high:g}", _on_floats(lambda x: x.clamp(low, high))
    yield f"limited to at most {high:g}", _on_floats(lambda x: x.clamp(max=high))
    yield f"limited to at least {low:g}", _on_floats(lambda x: x.clamp(min=low))
    offset = float((b - a).median())
    yield f"{offset:g} added", _on_floats(lambda x: x + offset)
    yield "bfloat16 bits read as float16", _read_as_float16
    yield "bits of each value, bytes in reverse order", _swapped_bytes


def _of_factor(ratio: float) -> Iterator[Guess]:
    """A factor, or a divisor, of few digits, in float32 or rounded once."""
    if ratio == 0 or not math.isfinite(1 / ratio):
        return
    for digits in range(1, 7):
        factor, divisor = (float(f"{x:.{digits}g}") for x in (ratio, 1 / ratio))
        yield f"times {factor:g}", _on_floats(lambda x, f=factor: x * f)  # type: ignore[misc]
        yield f"times {factor:g}", _on_floats(lambda x, f=factor: x.float() * f)  # type: ignore[misc]
        yield f"divided by {divisor:g}", _on_floats(lambda x, d=divisor: x / d)  # type: ignore[misc]


_NARROWER = (
    ("bfloat16", torch.bfloat16),
    ("float16", torch.float16),
    ("float8 e4m3", torch.float8_e4m3fn),
    ("float8 e5m2", torch.float8_e5m2),
)


def _mantissa(bits: torch.Tensor) -> int:
    """Stored bits of the mantissa of the float that these integers are."""
    return {4: 23, 2: 7}[bits.element_size()]


def _rounded(values: torch.Tensor, bits: int) -> torch.Tensor:
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 2 ** (bits + 1)).round(), exponent - bits - 1)


def _floats(bits: torch.Tensor) -> torch.Tensor:
    kinds = {4: torch.float32, 2: torch.bfloat16}
    return bits.contiguous().view(kinds[bits.element_size()])


def _on_floats(edit: Values) -> Values:
    """`edit` of the values themselves, rounded once to their own dtype."""

    def apply(bits: torch.Tensor) -> torch.Tensor:
        values = _floats(bits)
        return edit(values.double()).double().to(values.dtype).view(bits.dtype)

    return apply


def _read_as_float16(bits: torch.Tensor) -> torch.Tensor:
    values = _floats(bits)
    other = values.bfloat16().view(torch.float16)
    return other.to(values.dtype).view(bits.dtype)


def _swapped_bytes(bits: torch.Tensor) -> torch.Tensor:
    size = bits.element_size()
    flat = bits.contiguous().view(torch.uint8).unflatten(-1, (-1, size)).flip(-1)
    return flat.flatten(-2).contiguous().view(bits.dtype)
