"""Both GEMMs compile for every target; on sm_90 weights go from decoding to wgmma.

No GPU and no memory: tensors are on the ``meta`` device.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

from mxmoe.kernels.triton_moe.compile_ahead import TARGETS
from mxmoe.kernels.triton_moe.compile_ahead import Compiled
from mxmoe.kernels.triton_moe.compile_ahead import compile_ahead
from mxmoe.kernels.triton_moe.compile_ahead import launches_of
from mxmoe.kernels.triton_moe.device import assume_capability
from mxmoe.kernels.triton_moe.dispatch import empty_dispatch
from mxmoe.kernels.triton_moe.down import down
from mxmoe.kernels.triton_moe.gate_up import gate_up
from mxmoe.kernels.triton_moe.layer import Layer
from mxmoe.kernels.triton_moe.layer import Weights
from mxmoe.kernels.triton_moe.tactics import TACTICS
from mxmoe.kernels.triton_moe.tactics import Tactic

CAPABILITY = {"sm_80": 8, "sm_90": 9, "sm_100": 10}
INSTRUCTION = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma"}
GEMMS = {"gate_up": 0, "down": 1}
# Bytes of local memory of one thread: 16 registers, which tiles of 64 tokens spill so
# that a fourth program fits on a multiprocessor (256 tokens: 435 -> 413 us).
MOST_STACK_BYTES = 64
SLOTS = 512
WAIT = "wgmma.wait_group.sync.aligned 0;"

meta = torch.device("meta")


def weights(rows: int, columns: int) -> Weights:
    tiles = (128, rows // 64, columns // 64)
    return Weights(
        words=torch.empty(*tiles, 512, dtype=torch.int32, device=meta),
        scales=torch.empty(*tiles, 32, dtype=torch.int32, device=meta),
        bias=torch.empty(128, rows, device=meta),
    )


GPT_OSS = Layer(
    gate_up=weights(5760, 2880),
    down=weights(2880, 2880),
    hidden=2880,
    lanes=2880,
    first_expert=0,
    alpha=1.702,
    beta=1.0,
    limit=7.0,
    wide_scales=False,
)


@cache
def compiled(gemm: str, tactic: Tactic, target: str) -> Compiled:
    x = torch.empty(SLOTS // 4, 2880, dtype=torch.bfloat16, device=meta)
    dispatched = empty_dispatch(SLOTS, 128, tactic.block_t, meta)

    def call() -> None:
        activation = gate_up(x, GPT_OSS, dispatched, tactic, top_k=4)
        down(activation, GPT_OSS, dispatched, tactic)

    with assume_capability(CAPABILITY[target]):
        launches = launches_of(call)
    return compile_ahead(launches[GEMMS[gemm]], TARGETS[target])


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("tactic", TACTICS, ids=Tactic.label)
def test_on_sm_90_every_tactic_multiplies_decoded_registers(
    gemm: str, tactic: Tactic
) -> None:
    """The left operand is four registers, and every iteration waits for the last."""
    built = compiled(gemm, tactic, "sm_90")
    assert "mma.sync" not in built.assembly
    assert built.stack_bytes <= MOST_STACK_BYTES
    for loop in loops_with_products(built):
        products = re.findall(r"wgmma\.mma_async[^;]*;", loop)
        assert all(re.search(r"},\s*{[^}]*},", product) for product in products)
        assert WAIT in loop[loop.rindex("wgmma.mma_async") :]


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("tactic", TACTICS, ids=Tactic.label)
def test_on_sm_90_decoded_weights_do_not_pass_through_shared_memory(
    gemm: str, tactic: Tactic
) -> None:
    """In the loops nothing is stored there but by cp.async, straight from memory."""
    for loop in loops_with_products(compiled(gemm, tactic, "sm_90")):
        assert "cp.async" in loop
        assert "st.shared" not in loop
        assert "ldmatrix" not in loop


@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("tactic", TACTICS[:1], ids=Tactic.label)
def test_other_devices_multiply_with_their_own_instruction(
    gemm: str, tactic: Tactic, target: str
) -> None:
    built = compiled(gemm, tactic, target)
    found = {name for name in INSTRUCTION.values() if name in built.assembly}
    assert found == {INSTRUCTION[target]}
    assert built.stack_bytes <= MOST_STACK_BYTES


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("tactic", TACTICS[1:], ids=Tactic.label)
def test_other_devices_multiply_so_under_every_tactic(
    gemm: str, tactic: Tactic, target: str
) -> None:
    assert INSTRUCTION[target] in compiled(gemm, tactic, target).assembly


def loops_with_products(built: Compiled) -> list[str]:
    """The basic blocks that multiply, one for each width of a tile."""
    blocks = re.split(r"^\$L__BB\d+_\d+:", built.assembly, flags=re.MULTILINE)
    found = [block for block in blocks if "wgmma.mma_async" in block]
    assert found
    return found
