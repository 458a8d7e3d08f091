"""``triton_moe.v1`` against its address formulas, written out entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.reference.layouts import TRITON_MOE
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import Derived
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import GPT_OSS_120B
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard
from mxmoe.reference.types import expected_tensors

Element = Callable[[int, int], int]

# Bits of a half word that hold a code's sign, exponent bits 1 and 0, and mantissa, by
# the code's number: where bfloat16 has them, then shifted right by 3 and by 6, then
# what is left.
CODE_BITS = {0: (15, 8, 7, 6), 1: (12, 5, 4, 3), 2: (9, 2, 1, 0), 3: (14, 11, 10, 13)}

repeatable = settings(max_examples=40, deadline=None, derandomize=True, database=None)
configs = st.builds(
    MoEConfig,
    hidden=st.integers(1, 7).map(lambda blocks: 32 * blocks),
    intermediate=st.integers(1, 7).map(lambda blocks: 32 * blocks),
    experts=st.sampled_from([1, 2, 4]),
    top_k=st.just(1),
    has_bias=st.booleans(),
)


@st.composite
def shards(draw: st.DrawFn, config: MoEConfig) -> Shard:
    """Any rank of 1 to 9, some without lanes."""
    tp = draw(st.integers(1, 9))
    ep = draw(st.sampled_from([n for n in (1, 2, 4) if config.experts % n == 0]))
    return Shard(
        tp_size=tp,
        tp_rank=draw(st.integers(0, tp - 1)),
        ep_size=ep,
        ep_rank=draw(st.integers(0, ep - 1)),
    )


def layer(config: MoEConfig, seed: int = 0) -> ExpertWeights:
    generator = torch.Generator().manual_seed(seed)
    tensors = dict.fromkeys(("gate_up_bias", "down_bias", "router_bias"))
    for name, (shape, dtype) in expected_tensors(config).items():
        tensors[name] = (
            torch.randint(256, shape, generator=generator, dtype=dtype)
            if dtype == torch.uint8
            else torch.randn(shape, generator=generator).to(torch.bfloat16)
        )
    return ExpertWeights(**tensors)


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class Rank:
    """What one rank's expert has in each row and column: plain Python, no views."""

    def __init__(self, weights: ExpertWeights, config: MoEConfig, shard: Shard) -> None:
        blocks = config.intermediate // 32
        self.lanes = 32 * up(blocks, shard.tp_size) // shard.tp_size
        self.first = self.lanes * shard.tp_rank
        self.config, self.tp_size = config, shard.tp_size
        local = config.experts // shard.ep_size
        self.experts = range(local * shard.ep_rank, local * (shard.ep_rank + 1))
        self.raw = {n: t.tolist() for n, t in weights.tensors().items()}
        self.sizes = {
            "gate_up": (2 * self.lanes, up(config.hidden, 64)),
            "down": (up(config.hidden, 64), up(self.lanes, 64)),
        }

    def place(self, matrix: str, row: int, column: int = 0) -> tuple[int, int] | None:
        """Checkpoint row and element of a prepared row and column; None: padding."""
        h, i = self.config.hidden, self.config.intermediate
        if matrix == "gate_up":
            a, rest = divmod(row, 16)
            u, r = divmod(rest, 8)
            channel = self.first + 8 * a + r
            return (2 * channel + u, column) if channel < i and column < h else None
        lane = self.first + column
        inside = row < h and lane < i and column < self.lanes
        return (row, lane) if inside else None

    def code(self, matrix: str, e: int, row: int, column: int) -> int:
        at = self.place(matrix, row, column)
        if at is None:
            return 0
        block, element = divmod(at[1], 32)
        byte = self.raw[f"{matrix}_blocks"][e][at[0]][block][element // 2]
        return byte >> 4 * (element % 2) & 0xF

    def scale(self, matrix: str, e: int, row: int, block: int) -> int:
        at = self.place(matrix, row, 32 * block)
        return 0 if at is None else self.raw[f"{matrix}_scales"][e][at[0]][at[1] // 32]


def word(code: Element) -> int:
    """32 bits of the codes (j, v)."""
    found = 0
    for j, places in CODE_BITS.items():
        for v in (0, 1):
            bits = code(j, v)
            for n, place in enumerate(places):
                found |= (bits >> (3 - n) & 1) << place + 16 * v
    return found


def expected_weights(rank: Rank, matrix: str) -> np.ndarray:
    rows, columns = rank.sizes[matrix]
    shape = (len(rank.experts), rows // 64, columns // 64, 512)
    words = np.zeros(shape, dtype="<u4")
    for n, e in enumerate(rank.experts):
        for t, q, w in np.ndindex(*shape[1:]):
            g, r, c, hr, m = np.unravel_index(w, (4, 8, 4, 2, 2))
            row, k = 64 * t + 16 * g + 8 * hr + r, 64 * q + 32 * m + 2 * c

            def code(j: int, v: int, e=e, row=row, k=k) -> int:
                s, u = divmod(j, 2)
                return rank.code(matrix, e, int(row), int(k + 16 * s + 8 * u + v))

            words[n, t, q, w] = word(code)
    return words.view(np.uint8)


def expected_scales(rank: Rank, matrix: str) -> np.ndarray:
    rows, columns = rank.sizes[matrix]
    found = np.zeros(
        (len(rank.experts), rows // 64, columns // 64, 128), dtype=np.uint8
    )
    for n, e in enumerate(rank.experts):
        for row in range(rows):
            for block in range(columns // 32):
                (t, in_tile), (q, m) = divmod(row, 64), divmod(block, 2)
                g, hr, r = in_tile // 16, in_tile // 8 % 2, in_tile % 8
                at = (g * 8 + r) * 4 + 2 * hr + m
                found[n, t, q, at] = rank.scale(matrix, e, row, block)
    return found


def expected_bias(rank: Rank, matrix: str) -> np.ndarray:
    rows, _ = rank.sizes[matrix]
    found = np.zeros((len(rank.experts), rows), dtype=np.float32)
    for n, e in enumerate(rank.experts):
        for row in range(rows):
            if matrix == "gate_up":
                at = rank.place(matrix, row)
                found[n, row] = 0 if at is None else rank.raw["gate_up_bias"][e][at[0]]
            elif row < rank.config.hidden:
                bias = np.float32(rank.raw["down_bias"][e][row])
                found[n, row] = bias / np.float32(rank.tp_size)
    return found


FORMULAS = {
    "weights": expected_weights,
    "scales": expected_scales,
    "bias": expected_bias,
}
# h and i below one tile, odd numbers of blocks, several tiles; with ranks that are
# full, short by half a tile, and empty.
CASES = {
    "one block": (MoEConfig(hidden=32, intermediate=32, experts=1, top_k=1), WHOLE),
    "odd": (MoEConfig(hidden=96, intermediate=160, experts=2, top_k=1), WHOLE),
    "short rank": (
        MoEConfig(hidden=64, intermediate=160, experts=1, top_k=1),
        Shard(tp_size=3, tp_rank=2),
    ),
    "second rank, second half of the experts": (
        MoEConfig(hidden=160, intermediate=192, experts=2, top_k=1),
        Shard(tp_size=2, tp_rank=1, ep_size=2, ep_rank=1),
    ),
    "rank without lanes": (
        MoEConfig(hidden=96, intermediate=32, experts=1, top_k=1),
        Shard(tp_size=4, tp_rank=3),
    ),
}


def differing(config: MoEConfig, shard: Shard, layout=TRITON_MOE) -> set[str]:
    """The tensors of `layout` that are not what the formulas say."""
    weights = layer(config)
    rank, found = Rank(weights, config, shard), layout.expected(weights, config, shard)
    wrong = set()
    for name, tensor in found.items():
        if name == "wide_scales":
            continue
        matrix, _, kind = name.rpartition("_")
        expected = FORMULAS[kind](rank, matrix)
        assert expected.shape == tuple(tensor.shape), name
        if not np.array_equal(expected, tensor.numpy()):
            wrong.add(name)
    return wrong


@pytest.mark.parametrize("case", CASES)
def test_every_entry_is_where_the_formulas_put_it(case) -> None:
    assert set() == differing(*CASES[case])


def planted(change: Callable[[str, Chain], Chain]):
    """The layout with each chain put through `change`."""

    def chains(config, shard):
        entries = TRITON_MOE.chains(config, shard)
        return {
            name: change(name, entry) if isinstance(entry, Chain) else entry
            for name, entry in entries.items()
        }

    return replace(TRITON_MOE, chains=chains)


def _bias_in_checkpoint_order(name: str, chain: Chain) -> Chain:
    if name != "gate_up_bias":
        return chain
    return chain.without(len(chain.steps) - 1)


def _nibbles_swapped(name: str, chain: Chain) -> Chain:
    if chain.bits is None:
        return chain
    places = chain.bits.places
    swapped = tuple(places[b ^ 4] for b in range(32))
    return replace(chain, bits=replace(chain.bits, places=swapped))


def _scales_of_the_other_half(name: str, chain: Chain) -> Chain:
    """Rows r and r + 8 exchanged."""
    if not name.endswith("scales"):
        return chain
    last = chain.steps[-1]

    def apply(x: torch.Tensor) -> torch.Tensor:
        return last.apply(x).unflatten(-1, (-1, 2, 2)).flip(-2).flatten(-3)

    return replace(chain, steps=(*chain.steps[:-1], replace(last, apply=apply)))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (_bias_in_checkpoint_order, {"gate_up_bias"}),
        (_nibbles_swapped, {"gate_up_weights", "down_weights"}),
        (_scales_of_the_other_half, {"gate_up_scales", "down_scales"}),
    ],
)
def test_a_planted_fault_differs_from_the_formulas(change, wrong) -> None:
    assert wrong == differing(*CASES["odd"], layout=planted(change))


def test_no_step_can_be_forgotten_unseen() -> None:
    """Without it some tensor differs, or has another shape, or a step does not fit."""
    steps, seen = set(), set()
    for config, shard in (CASES["odd"], CASES["short rank"]):
        weights = layer(config).tensors()
        for chain in TRITON_MOE.chains(config, shard).values():
            if not isinstance(chain, Chain):
                continue
            whole = chain.index_map(config)
            for n, step in enumerate(chain.steps):
                steps.add(step.name)
                try:
                    without = chain.without(n).index_map(config)
                except (RuntimeError, IndexError):
                    seen.add(step.name)
                    continue
                source = weights[chain.source]
                same = without.shape == whole.shape and torch.equal(
                    whole.gather(source), without.gather(source)
                )
                if not same:
                    seen.add(step.name)
    assert steps == seen


@repeatable
@given(data=st.data(), config=configs)
def test_restore_gives_the_rank_s_part_of_the_checkpoint(data, config) -> None:
    weights, shard = layer(config), data.draw(shards(config), label="shard")
    prepared = PreparedWeights(
        tensors=TRITON_MOE.expected(weights, config, shard),
        layout=TRITON_MOE.name,
        config=config,
        shard=shard,
        valid_hidden=config.hidden,
        valid_intermediate=len(shard.intermediate_range(config)),
    )
    found = TRITON_MOE.restore(prepared).tensors()
    part = shard_weights(weights, config, shard).tensors()
    for name in ("router_weight", "router_bias"):
        found.pop(name, None), part.pop(name, None)
    assert part.keys() == found.keys()
    for name, tensor in part.items():
        if name == "down_bias":  # bias / 3 is rounded in float32
            torch.testing.assert_close(tensor.double(), found[name].double())
        else:
            assert torch.equal(tensor.float(), found[name].float()), name


@repeatable
@given(data=st.data(), config=configs.filter(lambda config: config.has_bias))
def test_the_bias_has_the_row_order_of_the_weights_and_scales(data, config) -> None:
    """Each row of a tile is marked with its number in all three."""
    shard = TRITON_MOE.aligned(data.draw(shards(config), label="shard"))
    maps = TRITON_MOE.maps(config, shard)
    scales = maps["gate_up_scales"].index
    of_scale = scales.unflatten(2, (4, 8, 2, 2))[:, 0, ..., 0].transpose(2, 3)
    weights = maps["gate_up_weights"].index
    of_code = weights.unflatten(2, (4, 8, 4, 2, 8))[:, 0, :, :, 0, :, 0].transpose(2, 3)
    bias = maps["gate_up_bias"].index
    blocks = config.hidden // 32
    inside = bias >= 0
    assert torch.equal(bias[inside], of_scale.flatten()[inside] // blocks)
    assert torch.equal(bias[inside], of_code.flatten()[inside] // (16 * blocks))
    assert bool((of_scale.flatten()[~inside] < 0).all())


def test_gpt_oss_sizes() -> None:
    """h = i = 2880 is 45 tiles; a rank of 8 has 12 blocks, that is 6 tiles."""
    maps = TRITON_MOE.maps(replace(GPT_OSS_120B, experts=1, top_k=1), WHOLE)
    assert {n: m.shape for n, m in maps.items() if n.startswith("gate_up")} == {
        "gate_up_weights": (90, 45, 2048),
        "gate_up_scales": (90, 45, 128),
        "gate_up_bias": (5760,),
    }
    of_eight = Shard(tp_size=8, tp_rank=7)
    chains = TRITON_MOE.chains(GPT_OSS_120B, of_eight)
    assert isinstance(chains["wide_scales"], Derived)
    chain = chains["down_scales"]
    assert isinstance(chain, Chain)
    assert chain.index_map(GPT_OSS_120B).shape == (45, 6, 128)
