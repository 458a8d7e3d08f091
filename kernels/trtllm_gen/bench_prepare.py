"""Measure the preparation against a plain copy and against the engines' loop.

All three in one process, repetition by repetition in turn, so that what else the
machine does meets them alike:

    prepare      all tensors of one rank, into preallocated and touched buffers
    copy         ``copy_`` of as many bytes as prepare writes, touched to touched
    engine_loop  `engine_loop.engine_loop`, with fresh allocations
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mxmoe.kernels.trtllm_gen.engine_loop import engine_loop
from mxmoe.kernels.trtllm_gen.extra_memory import peak_extra_bytes
from mxmoe.kernels.trtllm_gen.geometry import geometry
from mxmoe.kernels.trtllm_gen.mover import VIEWS
from mxmoe.kernels.trtllm_gen.mover import Mover
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard
from mxmoe.reference.types import expected_tensors


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One measurement: seconds of every repetition, by what was timed.

    differing : tensors in which prepare and the engine loop differ; then nothing was
    timed. extra_bytes : allocated by one prepare beyond input and output, at most.
    """

    device: str
    threads: int
    input_bytes: int
    output_bytes: int
    extra_bytes: int
    differing: tuple[str, ...]
    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Of the repetitions of one of the three."""
        return statistics.median(self.seconds[name])

    @property
    def copy_fraction(self) -> float:
        """Speed of prepare as a part of the speed of a copy."""
        return self.median("copy") / self.median("prepare")

    @property
    def speedup_vs_engine_loop(self) -> float:
        """Time of the engines' loop in times of prepare."""
        return self.median("engine_loop") / self.median("prepare")

    @property
    def extra_fraction(self) -> float:
        """Extra memory as a part of the prepared layer."""
        return self.extra_bytes / self.output_bytes


def measure_prepare(
    config: MoEConfig,
    shard: Shard,
    device: torch.device,
    *,
    repeats: int,
    mover: Mover = VIEWS,
) -> Figures:
    """Compare the bytes, then time; needs about five times the layer's memory."""
    weights = random_weights(config, device)
    arena, out = output_arena(config, shard, device)

    def run_prepare() -> object:
        return prepare(weights, config, shard, device, out=out, mover=mover)

    # The first calls touch the memory and, on a GPU, load the kernels.
    run_prepare()
    expected = engine_loop(weights, config, shard)
    differing = tuple(n for n in expected if not torch.equal(expected[n], out[n]))
    del expected
    copied = torch.ones_like(arena)
    arena.copy_(copied)
    runs = {
        "prepare": run_prepare,
        "copy": lambda: arena.copy_(copied),
        "engine_loop": lambda: engine_loop(weights, config, shard),
    }
    inputs = {n: t for n, t in weights.tensors().items() if "router" not in n}
    return Figures(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        input_bytes=sum(tensor.nbytes for tensor in inputs.values()),
        output_bytes=arena.nbytes,
        extra_bytes=peak_extra_bytes(run_prepare, device),
        differing=differing,
        seconds={} if differing else _timed(runs, device, repeats),
    )


def random_weights(config: MoEConfig, device: torch.device) -> ExpertWeights:
    """A layer of random bytes and biases, the same in every run."""
    generator = torch.Generator(device).manual_seed(0)
    tensors: dict[str, torch.Tensor | None] = dict.fromkeys(
        ("gate_up_bias", "down_bias", "router_bias")
    )
    for name, (shape, dtype) in expected_tensors(config).items():
        tensor = torch.empty(shape, dtype=dtype or torch.bfloat16, device=device)
        if dtype == torch.uint8:
            tensors[name] = tensor.random_(0, 256, generator=generator)
        else:
            tensors[name] = tensor.normal_(generator=generator)
    return ExpertWeights(**tensors)  # type: ignore[arg-type]


def output_arena(
    config: MoEConfig, shard: Shard, device: torch.device
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """uint8 [bytes of all prepared tensors], and the tensors as views into it.

    One flat run of memory, so that the copy is one call. All but the SwiGLU
    parameters, which are last, take multiples of 128 bytes: every view is aligned.
    """
    outputs = geometry(config, shard).outputs()
    sizes = {
        name: torch.empty(shape, dtype=dtype, device="meta").nbytes
        for name, (shape, dtype) in outputs.items()
    }
    arena = torch.zeros(sum(sizes.values()), dtype=torch.uint8, device=device)
    parts = arena.split(list(sizes.values()))
    views = {
        name: part.view(dtype).view(shape)
        for part, (name, (shape, dtype)) in zip(parts, outputs.items(), strict=True)
    }
    return arena, views


def _timed(
    runs: Mapping[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, tuple[float, ...]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            _wait(device)
            start = time.perf_counter()
            result = run()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
            del result  # freeing is not timed
    return {name: tuple(times) for name, times in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
