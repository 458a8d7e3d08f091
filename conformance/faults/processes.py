"""Faults that need real processes: wrong collectives, ranks that die or hang (L4).

Candidates and layer steps by name, as a rank of torchrun loads them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.ranks.layer_step import AllReduce
from mxmoe.reference.types import Routing


def all_reduce_missing(residual: Tensor, partial: Tensor, reduce: AllReduce) -> Tensor:
    """Each rank goes on with its own partial sum."""
    return residual + partial


def all_reduce_twice(residual: Tensor, partial: Tensor, reduce: AllReduce) -> Tensor:
    """Reduced by the kernel, and again by the engine."""
    return residual + reduce(reduce(partial))


def all_reduce_after_residual(
    residual: Tensor, partial: Tensor, reduce: AllReduce
) -> Tensor:
    """The residual is added on every rank, then the ranks are."""
    return reduce(residual + partial)


def sum_in_float32(residual: Tensor, partial: Tensor, reduce: AllReduce) -> Tensor:
    """Correct: reduced, and the residual added, in float32."""
    return (residual.float() + reduce(partial.float())).to(residual.dtype)


def residual_on_rank_0(residual: Tensor, partial: Tensor, reduce: AllReduce) -> Tensor:
    """Correct: one rank adds the residual before the reduction."""
    first = torch.distributed.get_rank() == 0
    return reduce(residual.float() * first + partial.float()).to(residual.dtype)


def on_rank_1(act: Callable[[], None]) -> object:
    """A candidate that is right, but for what rank 1 does in `forward`."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        if os.environ.get("RANK") == "1":
            act()
        return PLAIN.forward(p, x, r)

    return changed(PLAIN, forward=forward)


def _raise() -> None:
    raise RuntimeError("out of workspace")


def _ignore_everything_and_sleep() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(600)


def _say_and_exit() -> None:
    sys.stderr.write("rank 1 leaves\n")
    os._exit(3)


raises = on_rank_1(_raise)
exits = on_rank_1(_say_and_exit)
hangs_deaf_to_signals = on_rank_1(_ignore_everything_and_sleep)


def _part_of_rank_0(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
    """The part of rank 0 on rank 1 as well, where there is one expert."""
    wrong = replace(p.shard, tp_rank=0) if p.config.experts == 1 else p.shard
    return PLAIN.forward(replace(p, shard=wrong), x, r)


def _prepare_part_of_rank_0(w: Any, c: Any, s: Any, d: Any) -> object:
    return PLAIN.prepare(w, c, replace(s, tp_rank=0) if c.experts == 1 else s, d)


part_of_rank_0_if_one_expert = changed(
    PLAIN, forward=_part_of_rank_0, prepare=_prepare_part_of_rank_0
)
