"""Kernels that come while the one before them ends touch no memory before they wait."""

from __future__ import annotations

import re

import pytest
import torch

from mxmoe.kernels.triton_moe.compile_ahead import TARGETS
from mxmoe.kernels.triton_moe.compile_ahead import Launch
from mxmoe.kernels.triton_moe.compile_ahead import compile_ahead
from mxmoe.kernels.triton_moe.compile_ahead import launches_of
from mxmoe.kernels.triton_moe.device import assume_capability
from mxmoe.kernels.triton_moe.layer import Layer
from mxmoe.kernels.triton_moe.layer import Weights
from mxmoe.kernels.triton_moe.moe import moe_fused

WAIT, START_NEXT = "griddepcontrol.wait", "griddepcontrol.launch_dependents"
MEMORY = re.compile(r"\b(?:ld|st|red|atom)\.(?:\w+\.)*global|cp\.async\.c")
meta = torch.device("meta")


def weights(rows: int) -> Weights:
    return Weights(
        words=torch.empty(8, rows // 64, 2, 512, dtype=torch.int32, device=meta),
        scales=torch.empty(8, rows // 64, 2, 32, dtype=torch.int32, device=meta),
        bias=torch.empty(8, rows, device=meta),
    )


LAYER = Layer(
    gate_up=weights(256),
    down=weights(128),
    hidden=128,
    lanes=128,
    first_expert=0,
    alpha=1.702,
    beta=1.0,
    limit=7.0,
    wide_scales=False,
)


def launches(tokens: int, capability: int) -> list[Launch]:
    x = torch.empty(tokens, 128, dtype=torch.bfloat16, device=meta)
    router = torch.empty(8, 128, dtype=torch.bfloat16, device=meta)
    with assume_capability(capability):
        return launches_of(lambda: moe_fused(x, router, None, 4, LAYER))


@pytest.mark.parametrize("tokens", [4, 300])
def test_every_kernel_waits_before_it_touches_memory(tokens: int) -> None:
    first, *rest = launches(tokens, 9)
    assert not first.options.get("launch_pdl")
    assert START_NEXT in compile_ahead(first, TARGETS["sm_90"]).assembly
    for launch in rest:
        assembly = compile_ahead(launch, TARGETS["sm_90"]).assembly
        touched = MEMORY.search(assembly)
        assert touched is not None
        assert 0 <= assembly.find(WAIT) < touched.start(), launch.name
        is_last = launch is rest[-1]
        assert (START_NEXT in assembly) is not is_last, launch.name


def test_few_slots_wait_for_the_routing_before_the_first_gemm_is_launched() -> None:
    early = {
        tokens: [launch.options.get("launch_pdl") for launch in launches(tokens, 9)]
        for tokens in (3, 4)
    }
    assert early[3] == [None, True, False, True, True]
    assert early[4] == [None, True, True, True, True]


def test_older_devices_launch_one_kernel_after_the_other() -> None:
    for launch in launches(4, 8):
        assert "launch_pdl" not in launch.options
        assert launch.options["CHAINED"] is False
