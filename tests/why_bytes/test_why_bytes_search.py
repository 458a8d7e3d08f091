"""The search for a cause of wrong bytes: what it tries it finds, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.cases.designed import any_bytes
from mxmoe.conformance.why_bytes.chain_edits import extra_steps
from mxmoe.conformance.why_bytes.chain_edits import other_steps
from mxmoe.conformance.why_bytes.row_order import describe_order
from mxmoe.conformance.why_bytes.suspect import Prepared
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.conformance.why_bytes.suspects import suspect_of
from mxmoe.conformance.why_bytes.value_edits import value_guesses
from mxmoe.conformance.why_bytes.widely import explain_widely
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import TRITON_MOE
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = MoEConfig(hidden=160, intermediate=224, experts=4, top_k=3)
WEIGHTS = any_bytes(CONFIG, 0)
TP = Shard(tp_size=2, tp_rank=1)


def suspect(layout: Layout, name: str, found: torch.Tensor | None = None) -> Suspect:
    right = layout.expected_tensor(name, WEIGHTS, CONFIG, TP)
    prepared = Prepared(
        name=name,
        found=right if found is None else found,
        layout=layout,
        weights=WEIGHTS,
        config=CONFIG,
        shard=TP,
    )
    made = suspect_of(prepared)
    assert made is not None
    return made


@pytest.mark.parametrize("name", ["fc1_scales", "fc2_weights", "gate_up_bias"])
def test_every_edit_of_a_chain_is_found_in_the_bytes_it_gives(name: str) -> None:
    layout = TRTLLM_GEN if name.startswith("fc") else TRITON_MOE
    right, tried = suspect(layout, name), 0
    for words, chain in (*other_steps(right.chain), *extra_steps(right.chain)):
        runs = right.run(chain)
        if runs is None:
            continue
        found = right.values(right.entries(runs), chain)
        if torch.equal(found, right.expected):
            continue
        place = replace(right, found=found, _placed={}).place(words, chain)
        assert place is not None, words
        assert place.everywhere, words
        tried += 1
    assert tried > 30


BY_DAY = (TRTLLM_GEN,)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(
            layout, marks=() if layout in BY_DAY else pytest.mark.nightly, id=name
        )
        for name, layout in LAYOUTS.items()
    ],
)
def test_nothing_is_claimed_for_random_bytes(layout: Layout) -> None:
    for name, index_map in layout.maps(CONFIG, TP).items():
        if not index_map.source.endswith("scales"):
            continue
        right = layout.expected_tensor(name, WEIGHTS, CONFIG, TP)
        generator = torch.Generator().manual_seed(0)
        found = torch.randint(0, 256, right.shape, generator=generator).byte()
        assert explain_widely(suspect(layout, name, found), lambda: iter(())) == []


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ([1, 0, 2, 3, 4, 5, 6, 7], "row 0 holds row 1, row 1 holds row 0"),
        ([7, 6, 5, 4, 3, 2, 1, 0], "rows reversed"),
        ([3, 2, 1, 0, 7, 6, 5, 4], "rows reversed in each 4"),
        ([0, 2, 1, 3, 4, 6, 5, 7], "rows transposed as 2 x 2 in each 4"),
        ([0, 1, 2, 3, 0, 1, 2, 3], "rows 4 to 7 hold rows 0 to 3"),
        ([3, 6, 0, 7, 1, 5, 2, 4], "right rows in an order that no known step gives"),
        ([0, 1, 2, 3, 4, 5, 6, 7], None),
    ],
)
def test_an_order_is_put_into_words(order: list[int], words: str | None) -> None:
    said = describe_order(order, "rows")
    assert said == words or (words is not None and str(said).startswith(words))


def test_values_are_not_explained_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    pair = torch.randint(0, 256, (2, 256), generator=generator).byte()
    assert list(value_guesses("scales", *pair)) == []
    assert list(value_guesses("blocks", *pair)) == []
    floats = torch.randn(2, 256, generator=generator).view(torch.int32)
    assert list(value_guesses("bias", *floats)) == []
