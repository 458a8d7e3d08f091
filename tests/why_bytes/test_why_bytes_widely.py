"""Faults of a `prepare` that no catalogue lists are named by their cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.cases.designed import any_bytes
from mxmoe.conformance.why_bytes.describe import why_lines
from mxmoe.reference.layouts import TRITON_MOE
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts import Layout
from mxmoe.reference.layouts.steps import row_shuffle
from mxmoe.reference.layouts.steps import scale_swizzle
from mxmoe.reference.layouts.triton_hopper import FP4_IN_BF16
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = MoEConfig(hidden=160, intermediate=224, experts=4, top_k=3)
WEIGHTS = any_bytes(CONFIG, 0)
OTHER_LAYER = any_bytes(CONFIG, 1)
TP = Shard(tp_size=2, tp_rank=1)

Edit = Callable[[torch.Tensor], torch.Tensor]


def explained(
    layout: Layout,
    name: str,
    found: torch.Tensor,
    *,
    shard: Shard = WHOLE,
    config: MoEConfig = CONFIG,
    weights: ExpertWeights = WEIGHTS,
) -> str:
    """The first line for a loader that is right but for `name`."""
    prepared = layout.expected(weights, config, shard) | {name: found}
    wrong = found != layout.expected_tensor(name, weights, config, shard)
    expert = int(wrong.nonzero()[0, 0])
    others = (("layer 0", OTHER_LAYER),)
    lines = why_lines(
        name, prepared, layout, weights, config, shard, expert, lambda: iter(others)
    )
    return lines[0]


def each(edit: Edit, *experts: int) -> Edit:
    """`edit` of the tensors of these experts, or of all."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        chosen = [e % len(x) for e in experts] or range(len(x))
        return torch.stack([edit(t) if e in chosen else t for e, t in enumerate(x)])

    return apply


def at(index: object, value: Edit) -> Edit:
    """`value` of x[index] in its place."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        edited = x.clone()
        edited[index] = value(x[index])  # type: ignore[index]
        return edited

    return apply


def before_swizzle(edit: Edit) -> Edit:
    swizzle = scale_swizzle()
    return each(lambda x: swizzle.apply(edit(swizzle.undo(x))))


SHUFFLE = row_shuffle(32)
FINISHED = [
    (
        "fc1_weights",
        each(SHUFFLE.undo, -1),
        "missing: row shuffle 32, in expert 3 (the",
    ),
    ("fc1_weights", each(SHUFFLE.undo, 0, 2), "row shuffle 32, in experts 0, 2 only"),
    (
        "fc1_weights",
        each(lambda x: torch.cat((x[:-128], SHUFFLE.undo(x[-128:])))),
        "missing: row shuffle 32, in rows 384 to 511 (the last 128 of 512) only",
    ),
    (
        "fc1_weights",
        at((..., slice(16)), lambda x: x | 255),
        "0xff, in columns 0 to 15",
    ),
    ("fc1_weights", at(1, lambda x: x ^ 0x88), "signs flipped, in expert 1 only"),
    ("fc1_weights", lambda x: x[[0, 0, 2, 3]], "expert 1 holds expert 0"),
    ("fc1_weights", lambda x: x[[1, 0, 2, 3]], "experts 0 and 1 exchanged"),
    (
        "fc1_weights",
        at((3, 9), lambda x: x ^ x),
        "in expert 3 (the last) only, in row 9",
    ),
    (
        "fc1_weights",
        at((1, 2, 3), lambda x: x ^ 4),
        "one entry is damaged, in expert 1",
    ),
    (
        "fc1_weights",
        each(lambda x: x[:, SHUFFLE.apply(torch.arange(256))]),
        "columns in",
    ),
    (
        "fc1_weights",
        at((1, 5), lambda x: x.flip(-1)),
        "bytes of each row reversed, in expert 1 only, in row 5",
    ),
    ("fc1_scales", lambda x: x - 127, "127 low: the bias of 127 taken off"),
    ("fc1_scales", lambda x: x.clamp(max=118), "limited to at most 118"),
    ("fc1_scales", lambda x: x + (x > 200).byte(), "one high, where 0xc9 or more"),
    (
        "fc1_scales",
        lambda x: x.flatten().roll(1).view(x.shape),
        "memory 1 entry too late",
    ),
    ("fc1_scales", before_swizzle(lambda x: x.flip(1)), "K columns reversed, before"),
    (
        "fc1_bias",
        at((slice(None), slice(1, None, 2)), lambda x: -x),
        "sign flipped, in every 2. of the rows",
    ),
    ("fc1_bias", lambda x: x.bfloat16().to(torch.float8_e4m3fn).float(), "float8 e4m3"),
    ("fc1_bias", lambda x: x * 1.702, "times 1.702"),
    ("fc1_bias", lambda x: x + 0.0 * x.flip(0) - x, "all zero"),
    (
        "fc2_weights",
        lambda x: x.transpose(1, 2).reshape(x.shape),
        "transposed in memory",
    ),
    ("fc2_scales", lambda x: (x + 1).flip(0), "experts reversed; biased exponents one"),
    ("fc2_bias", lambda x: x.roll(-2, 0), "expert e holds expert e - 2"),
    ("swiglu_alpha", lambda x: x - 0.702 + 1, "holds 2, not 1.702"),
    (
        "swiglu_limit",
        at(-1, torch.zeros_like),
        "holds 0, not 7, in expert 3 (the last)",
    ),
]


@pytest.mark.parametrize(
    ("name", "edit", "words"), FINISHED, ids=[f"{n}-{w}" for n, _, w in FINISHED]
)
def test_an_edit_of_a_finished_tensor_is_named(
    name: str, edit: Edit, words: str
) -> None:
    right = TRTLLM_GEN.expected_tensor(name, WEIGHTS, CONFIG, WHOLE)
    line = explained(TRTLLM_GEN, name, edit(right).contiguous())
    assert line.startswith(f"why    {name}: ")
    assert words in line


IN_TILES = [
    ("gate_up_weights", each(FP4_IN_BF16.undo, -1), "missing: FP4 codes spread"),
    (
        "gate_up_weights",
        each(lambda x: x.transpose(0, 1).reshape(x.shape)),
        "by column",
    ),
    ("gate_up_scales", lambda x: x.flip(2), "tiles along K reversed"),
    (
        "down_weights",
        at((slice(None), -1), lambda x: x ^ x),
        "in row of tiles 2 (the last",
    ),
    ("down_bias", lambda x: x * 4, "times 4"),
    ("wide_scales", lambda x: ~x, "the opposite"),
]


@pytest.mark.parametrize(
    ("name", "edit", "words"), IN_TILES, ids=[f"{n}-{w}" for n, _, w in IN_TILES]
)
def test_an_edit_of_a_tensor_of_tiles_is_named(
    name: str, edit: Edit, words: str
) -> None:
    right = TRITON_MOE.expected_tensor(name, WEIGHTS, CONFIG, WHOLE)
    assert words in explained_of_one(name, edit(right).contiguous())


def explained_of_one(name: str, found: torch.Tensor) -> str:
    """As `explained`, also for a tensor without an expert axis."""
    prepared = TRITON_MOE.expected(WEIGHTS, CONFIG, WHOLE) | {name: found}
    return why_lines(name, prepared, TRITON_MOE, WEIGHTS, CONFIG, WHOLE, 0)[0]


FROM_THE_CHECKPOINT = [
    (
        TRTLLM_GEN,
        "fc1_weights",
        lambda x: x[:, 0::2].repeat_interleave(2, 1),
        "in the pl",
    ),
    (TRTLLM_GEN, "fc1_bias", lambda x: x.roll(1, 1), "rows shifted by one, before de-"),
    (
        TRTLLM_GEN,
        "fc1_scales",
        at((..., 2), lambda x: x + 1),
        "high, in K block 2 only",
    ),
    (TRTLLM_GEN, "fc2_weights", lambda x: x.roll(-1, 2), "columns shifted back by one"),
    (
        TRITON_MOE,
        "gate_up_bias",
        lambda x: x.unflatten(1, (-1, 2)).flip(2),
        "exchanged",
    ),
    (TRITON_MOE, "down_weights", lambda x: (x >> 4) | (x << 4), "nibbles swapped"),
]


@pytest.mark.parametrize(
    ("layout", "name", "edit", "words"),
    FROM_THE_CHECKPOINT,
    ids=[f"{n}-{w}" for _, n, _, w in FROM_THE_CHECKPOINT],
)
def test_an_edit_of_what_is_loaded_is_named(
    layout: Layout, name: str, edit: Edit, words: str
) -> None:
    source = layout.maps(CONFIG, TP)[name].source
    own = WEIGHTS.tensors()[source]
    edited = replace(WEIGHTS, **{source: edit(own).reshape(own.shape)})
    found = layout.expected_tensor(name, edited, CONFIG, TP)
    assert words in explained(layout, name, found, shard=TP)


def test_what_nothing_explains_is_placed() -> None:
    found = TRTLLM_GEN.expected_tensor("fc2_scales", WEIGHTS, CONFIG, WHOLE)
    generator = torch.Generator().manual_seed(0)
    found[2] = torch.randint(0, 256, found[2].shape, generator=generator).byte()
    line = explained(TRTLLM_GEN, "fc2_scales", found)
    assert line == (
        "why    fc2_scales: no edit of one or two known steps gives these bytes; "
        "all that differs is in expert 2 only"
    )


def test_another_layers_tensor_is_named() -> None:
    found = TRTLLM_GEN.expected_tensor("fc2_bias", OTHER_LAYER, CONFIG, WHOLE)
    line = explained(TRTLLM_GEN, "fc2_bias", found)
    assert line == "why    fc2_bias: that of layer 0"


def test_another_tensors_content_is_named() -> None:
    fc1, fc2 = (
        TRTLLM_GEN.expected_tensor(f"fc{n}_bias", WEIGHTS, CONFIG, WHOLE)
        for n in (1, 2)
    )
    fc1[:, : fc2.shape[1]] = fc2
    assert explained(TRTLLM_GEN, "fc1_bias", fc1) == "why    fc1_bias: holds fc2_bias"


def test_a_part_of_a_full_size_tensor_is_named() -> None:
    config = MoEConfig(hidden=2880, intermediate=2880, experts=1, top_k=1)
    weights = any_bytes(config, 0)
    found = TRTLLM_GEN.expected_tensor("fc2_weights", weights, config, TP)
    found[:, :64] = each(SHUFFLE.undo)(found[:, :64])
    line = explained(
        TRTLLM_GEN, "fc2_weights", found, shard=TP, config=config, weights=weights
    )
    assert line == "why    fc2_weights: missing: row shuffle 32, in rows 0 to 63 only"
