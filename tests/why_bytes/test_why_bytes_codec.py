"""What a wrong decoder or encoder does is named, and nothing of what is not known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mxmoe.conformance.cases.probes import ENCODER_PROBES
from mxmoe.conformance.cases.probes import every_byte_pair
from mxmoe.conformance.why_bytes.decoded_otherwise import why_decoded
from mxmoe.conformance.why_bytes.encoded_otherwise import Encoded
from mxmoe.conformance.why_bytes.encoded_otherwise import why_encoded
from mxmoe.reference.formats import SCALE_RULES
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import encode
from mxmoe.reference.formats import unpack_nibbles

Tensor = torch.Tensor
BLOCKS, SCALES = every_byte_pair()
DISPUTED = (0x00, 0xFD, 0xFE, 0xFF)


def values(blocks: Tensor = BLOCKS, scales: Tensor = SCALES) -> Tensor:
    return decode(blocks, scales, torch.float32)


def codes_meaning(table: dict[int, float]) -> Tensor:
    meant = torch.tensor([table.get(c, v) for c, v in enumerate(e2m1.VALUES)])
    codes = unpack_nibbles(BLOCKS).long()
    ones = torch.full_like(SCALES, 127)
    powers = values(torch.full_like(BLOCKS, 0x22), SCALES).unflatten(-1, (-1, 32))
    assert bool((values(torch.full_like(BLOCKS, 0x22), ones) == 1).all())
    return (meant[codes] * powers).flatten(-2)


def set_for(byte: int, value: float) -> Tensor:
    found = values().unflatten(-1, (-1, 32))
    found[byte] = value
    return found.flatten(-2)


DECODED: dict[str, Callable[[], Tensor]] = {
    "2^(b - 128), not": lambda: values(scales=(SCALES.int() - 1).clamp(0).byte()),
    "low nibbles of each block first": lambda: torch.cat(
        (
            values().unflatten(-1, (-1, 32))[..., 0::2],
            values().unflatten(-1, (-1, 32))[..., 1::2],
        ),
        dim=-1,
    ).flatten(-2),
    "elements reversed in each block": lambda: (
        values().unflatten(-1, (-1, 32)).flip(-1).flatten(-2)
    ),
    "signs ignored": lambda: values().abs(),
    "scales ignored": lambda: values(scales=torch.full_like(SCALES, 127)),
    "scale byte 60 (0x3c) decodes to 0, all others": lambda: set_for(60, 0.0),
    "codes decoded wrongly: code 7 as 5, not 6": lambda: codes_meaning({7: 5.0}),
}


@pytest.mark.parametrize("words", DECODED)
def test_what_a_wrong_decoder_does_is_named(words: str) -> None:
    [line] = why_decoded(DECODED[words](), BLOCKS, SCALES, DISPUTED)
    assert words in line


def test_nothing_is_named_for_a_right_decoder_or_for_noise() -> None:
    assert why_decoded(values(), BLOCKS, SCALES, DISPUTED) == []
    random = torch.Generator().manual_seed(0)
    noise = 1 + 0.1 * torch.randn(values().shape, generator=random)
    assert why_decoded(values() * noise, BLOCKS, SCALES, DISPUTED) == []


def test_what_is_exact_in_a_coarser_format_is_not_called_rounded() -> None:
    """Every value of MXFP4 is a bfloat16."""
    assert torch.equal(values().bfloat16().float()[1:253], values()[1:253])
    assert why_decoded(values().bfloat16().float(), BLOCKS, SCALES, DISPUTED) == []


def encoded(encoder: Callable[[Tensor], tuple[Tensor, Tensor]]) -> list[Encoded]:
    found = []
    for probe in ENCODER_PROBES:
        if not probe.disputed:
            x = probe.values()
            blocks, scales = encoder(x)
            found.append(Encoded(x=x, codes=unpack_nibbles(blocks), scales=scales))
    return found


def nibbles_swapped(x: Tensor) -> tuple[Tensor, Tensor]:
    blocks, scales = encode(x, "floor")
    return (blocks >> 4) | (blocks << 4), scales


def without_signs(x: Tensor) -> tuple[Tensor, Tensor]:
    return encode(x.abs(), "floor")[0], encode(x, "floor")[1]


ENCODERS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "nibbles swapped": nibbles_swapped,
    "signs lost": without_signs,
    "scale rule ceil in place of floor": lambda x: encode(x, "ceil"),
}


@pytest.mark.parametrize("words", ENCODERS)
def test_what_a_wrong_encoder_does_is_named(words: str) -> None:
    [line] = why_encoded(encoded(ENCODERS[words]), "floor")
    assert words in line


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_nothing_is_named_for_an_encoder_of_noise(rule: str) -> None:
    random = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> tuple[Tensor, Tensor]:
        blocks, scales = encode(x, rule)
        wrong = torch.randint(0, 256, blocks.shape, generator=random)
        return wrong.to(torch.uint8), scales

    assert why_encoded(encoded(noisy), rule) == []
