"""Edits of a layout's steps: found where they are the cause, claimed nowhere else."""

from __future__ import annotations

import pytest
import torch

from mxmoe.conformance.cases.designed import any_bytes
from mxmoe.conformance.why_bytes.chain import explain_chain
from mxmoe.conformance.why_bytes.suspect import Prepared
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts import Chain
from mxmoe.reference.types import GPT_OSS_20B
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

CONFIG = MoEConfig(hidden=96, intermediate=352, experts=4, top_k=2)
SHARD = Shard(tp_size=2, tp_rank=1, ep_size=2, ep_rank=1)
WEIGHTS = any_bytes(CONFIG, 0)
NAMES = TRTLLM_GEN.names(CONFIG)
MOVED = [n for n in NAMES if not n.startswith("swiglu")]


def suspect(name: str, found: torch.Tensor) -> Prepared:
    return Prepared(
        name=name,
        found=found,
        layout=TRTLLM_GEN,
        weights=WEIGHTS,
        config=CONFIG,
        shard=SHARD,
    )


def expected(name: str) -> torch.Tensor:
    return TRTLLM_GEN.expected_tensor(name, WEIGHTS, CONFIG, SHARD)


def prepared_by(chain: Chain) -> torch.Tensor:
    source = WEIGHTS.tensors()[chain.source][2:]
    return chain.index_map(CONFIG).gather(source)


@pytest.mark.parametrize("name", MOVED)
def test_each_forgotten_step_is_named(name: str) -> None:
    chain = TRTLLM_GEN.chains(CONFIG, TRTLLM_GEN.aligned(SHARD))[name]
    assert isinstance(chain, Chain)
    named = 0
    for n, step in enumerate(chain.steps):
        try:
            found = prepared_by(chain.without(n))
        except (RuntimeError, IndexError):
            continue  # the next step needs this one: no bytes come of it
        if found.shape == expected(name).shape and torch.equal(found, expected(name)):
            continue
        claims = explain_chain(suspect(name, found))
        assert any(claim.startswith(f"missing: {step}") for claim in claims)
        named += 1
    assert named >= 1


@pytest.mark.parametrize("name", MOVED)
def test_nothing_is_claimed_for_a_random_row_order(name: str) -> None:
    order = torch.randperm(
        expected(name).shape[1], generator=torch.Generator().manual_seed(0)
    )
    assert explain_chain(suspect(name, expected(name)[:, order])) == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_claimed_for_one_wrong_byte(name: str) -> None:
    found = expected(name)
    # Byte 0 of expert 0: entry 0 is no padding, and the last expert is right.
    found.view(torch.uint8).view(-1)[0] ^= 0x04
    assert explain_chain(suspect(name, found)) == []


def test_a_claim_holds_for_every_expert() -> None:
    """One expert with another rank's lanes is not a rank's lanes."""
    other = Shard(tp_size=2, tp_rank=0, ep_size=2, ep_rank=1)
    found = TRTLLM_GEN.expected_tensor("fc1_bias", WEIGHTS, CONFIG, other)
    claims = explain_chain(suspect("fc1_bias", found))
    assert claims == ["the lanes of rank 0, not 1"]
    found[1] = expected("fc1_bias")[1]
    assert explain_chain(suspect("fc1_bias", found)) == []


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_equal_names_are_equal_steps(layout) -> None:
    """A cause is told by the names of steps, so no chain may hold two of one name."""
    for chain in layout.chains(GPT_OSS_20B, layout.aligned(Shard(tp_size=2))).values():
        names = [str(step) for step in getattr(chain, "steps", ())]
        assert len(names) == len(set(names))
