"""Seconds of calls: CUDA events on a GPU, the clock of the machine on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Mapping

import torch

# Rounds that are run and not counted: the first ones load code and raise clocks.
_UNTIMED = 3
# Five times the L2 cache of an H100. It is read: lines that were written would still be
# in the cache, and writing them back would cost the call that is timed, 8 to 10 us on
# an H100 from two tokens on.
_FLUSHED_BYTES = 256 * 2**20


def seconds_in_turn(
    calls: Mapping[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, tuple[float, ...]]:
    """Each call `repeats` times, A B C A B C ..., so that clocks are shared.

    On a GPU nothing waits between the calls, and before each the L2 cache is
    filled with other data, outside the time that is taken.
    """
    measure = _on_gpu if device.type == "cuda" else _on_cpu
    taken = measure(calls, device, _UNTIMED + repeats)
    return {name: seconds[_UNTIMED:] for name, seconds in taken.items()}


def _on_gpu(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, tuple[float, ...]]:
    cache = torch.zeros(_FLUSHED_BYTES // 4, dtype=torch.int32, device=device)
    events = {name: [_two_events() for _ in range(rounds)] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            start, end = events[name][turn]
            cache.sum()
            start.record()
            call()
            end.record()
    torch.cuda.synchronize(device)
    return {
        name: tuple(start.elapsed_time(end) / 1e3 for start, end in pairs)
        for name, pairs in events.items()
    }


def _two_events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _on_cpu(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, tuple[float, ...]]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: tuple(seconds) for name, seconds in taken.items()}
