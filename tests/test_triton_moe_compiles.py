"""Every Triton kernel compiles for every target, as its launch function launches it.

No GPU and no memory: tensors are on the ``meta`` device.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field

import pytest
import torch

from mxmoe.kernels.triton_moe import dispatch as dispatch_module
from mxmoe.kernels.triton_moe.combine import combine
from mxmoe.kernels.triton_moe.compile_ahead import TARGETS
from mxmoe.kernels.triton_moe.compile_ahead import compile_ahead
from mxmoe.kernels.triton_moe.compile_ahead import launches_of
from mxmoe.kernels.triton_moe.dispatch import dispatch
from mxmoe.kernels.triton_moe.route import route
from mxmoe.kernels.triton_moe.route_and_dispatch import route_and_dispatch
from mxmoe.kernels.triton_moe.router_logits import router_logits

BF16, F32, I32 = torch.bfloat16, torch.float32, torch.int32
EVERY_MMA = {"sm_80": "mma.sync", "sm_90": "mma.sync", "sm_100": "mma.sync"}
NEWEST_MMA = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma"}


@dataclass(frozen=True)
class Case:
    """`call` launches `kernels`, in order.

    instructions : the matrix instruction by target; none is expected where it is not
        given. stack_bytes : the most that a thread may spill.
    """

    name: str
    kernels: tuple[str, ...]
    call: Callable[[], object]
    instructions: Mapping[str, str] = field(default_factory=dict)
    stack_bytes: int = 0


def empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def logits_of(tokens: int, weight_type: torch.dtype = BF16) -> Callable[[], object]:
    weight = empty(128, 2880, dtype=weight_type)
    return lambda: router_logits(empty(tokens, 2880), weight, empty(128))


def placed(tokens: int) -> Callable[[], object]:
    ids = empty(tokens, 4, dtype=I32)
    return lambda: dispatch(ids, first_expert=0, experts=128, block_t=16)


def routed(tokens: int, experts: int) -> Callable[[], object]:
    logits = empty(tokens, 128, dtype=F32)
    return lambda: route_and_dispatch(
        logits, 4, first_expert=0, experts=experts, block_t=16
    )


def combined() -> object:
    ids, weights = empty(8, 4, dtype=I32), empty(8, 4, dtype=F32)
    y, out = empty(2, 32, 2880, dtype=F32), empty(8, 2880)
    return combine(y, ids, weights, first_expert=0, experts=128, out=out)


CASES = (
    Case("logits-few", ("_few_kernel",), logits_of(4)),
    Case("logits-many", ("_many_kernel",), logits_of(64), EVERY_MMA),
    Case("logits-most", ("_many_kernel",), logits_of(8192), NEWEST_MMA),
    Case("logits-float32", ("_many_kernel",), logits_of(8192, F32)),
    Case("route", ("_route_kernel",), lambda: route(empty(64, 128, dtype=F32), 4)),
    Case("dispatch", ("_place_kernel",), placed(4)),
    Case("dispatch-chunks", ("_count_kernel", "_place_kernel"), placed(9)),
    Case("route-dispatch", ("_route_and_dispatch_kernel",), routed(8, 128)),
    Case("route-dispatch-ep", ("_route_and_dispatch_kernel",), routed(4, 16)),
    Case("combine", ("_combine_kernel",), combined),
)


@pytest.fixture(autouse=True)
def _chunks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort of 1024 slots takes 4 s to compile; one of 32 has the same steps."""
    monkeypatch.setattr(dispatch_module, "_CHUNK", 32)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_compiles_with_the_instruction_that_is_meant(case, target) -> None:
    launches = launches_of(case.call)
    assert case.kernels == tuple(launch.name for launch in launches)
    for launch in launches:
        built = compile_ahead(launch, TARGETS[target])
        found = {name for name in set(NEWEST_MMA.values()) if name in built.assembly}
        assert found == {case.instructions[target]} if case.instructions else not found
        assert built.stack_bytes <= case.stack_bytes
