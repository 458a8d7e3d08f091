"""`kernels.triton_moe.tactics`: labels that parse, and one choice for every shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmoe.kernels.triton_moe.tactics import TACTICS
from mxmoe.kernels.triton_moe.tactics import GemmTactic
from mxmoe.kernels.triton_moe.tactics import Tactic
from mxmoe.kernels.triton_moe.tactics import choose
from mxmoe.kernels.triton_moe.tactics import parse_tactic
from mxmoe.kernels.triton_moe.tactics import split_tiles

gemms = st.builds(
    GemmTactic,
    rows=st.sampled_from((1, 2, 4)),
    columns=st.sampled_from((1, 2, 4)),
    stages=st.integers(1, 8),
    warps=st.sampled_from((4, 8)),
)
tactics = st.builds(
    Tactic,
    block_t=st.sampled_from((16, 32, 64, 128, 256)),
    gate_up=gemms,
    down=gemms,
    splits=st.integers(1, 8),
)


@given(tactics)
def test_a_label_parses_to_its_tactic(tactic: Tactic) -> None:
    assert parse_tactic(tactic.label()) == tactic


@given(st.integers(0, 8192 * 8), st.sampled_from((4, 8, 32, 128, 260)))
def test_every_shape_has_a_tactic_of_the_list(slots: int, experts: int) -> None:
    assert choose(slots, experts) in TACTICS
    assert choose(slots, experts) is choose(slots, experts)


@pytest.mark.parametrize("experts", [4, 8, 32, 128])
def test_more_slots_never_take_narrower_tiles(experts: int) -> None:
    widths = [choose(slots, experts).block_t for slots in range(0, 8192 * 4, 13)]
    assert widths == sorted(widths)
    assert len(set(widths)) > 1


@given(st.integers(1, 100), tactics)
def test_splits_cover_all_of_k_in_whole_steps(k_tiles: int, tactic: Tactic) -> None:
    part = split_tiles(k_tiles, tactic)
    assert part % tactic.down.columns == 0
    assert part * tactic.splits >= k_tiles
