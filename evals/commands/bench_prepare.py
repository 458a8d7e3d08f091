"""``mxmoe bench prepare``: how fast trtllm-gen weights are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from mxmoe.conformance.commands.options import AsLine
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode
from mxmoe.reference.errors import BadInput

if TYPE_CHECKING:
    import torch

    from mxmoe.kernels.trtllm_gen.bench_prepare import Figures
    from mxmoe.kernels.trtllm_gen.mover import Mover

# The aims for one gpt-oss-120b layer on two cores; the first one on an H100 too.
WANTED = {"copy_fraction": 0.5, "speedup_vs_engine_loop": 5.0}


def bench_prepare(
    experts: Annotated[int, typer.Option(help="of the layer")] = 128,
    hidden: Annotated[int, typer.Option(help="multiple of 32")] = 2880,
    intermediate: Annotated[int, typer.Option(help="multiple of 32")] = 2880,
    tp: Annotated[int, typer.Option(help="size of the tensor parallel group")] = 1,
    rank: Annotated[int, typer.Option(help="0 to tp - 1")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    mover: Annotated[
        str, typer.Option(help="views (torch) or triton (on CUDA): moves the bytes")
    ] = "views",
    repeats: Annotated[int, typer.Option(min=1, max=1000)] = 7,
    run_dir: RunDir = None,
    as_json: AsLine = False,
) -> ExitCode:
    """Time the preparation of one layer against a copy and the engines' loop.

    The layer is gpt-oss-120b's unless said otherwise. First the bytes of prepare and
    of the loop are compared; if they differ, nothing is timed and the exit code is 1.
    All is measured in turn within one process; the medians count.
    """
    import json

    from mxmoe.conformance.rundir import RunWriter
    from mxmoe.conformance.rundir import describe_machine
    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.kernels.check_input import check_device
    from mxmoe.kernels.trtllm_gen.bench_prepare import measure_prepare
    from mxmoe.reference.types import MoEConfig
    from mxmoe.reference.types import Shard

    config = MoEConfig(
        hidden=hidden, intermediate=intermediate, experts=experts, top_k=1
    )
    shard = Shard(tp_size=tp, tp_rank=rank)
    place = check_device(device)
    chosen = _mover(mover, place)
    writer = RunWriter(run_dir or Path("runs") / new_run_id())
    figures = measure_prepare(config, shard, place, repeats=repeats, mover=chosen)
    facts = {
        "command": "bench prepare",
        "shape": config.label(),
        "shard": shard.label(),
        "mover": mover,
        "repeats": repeats,
        **_facts(figures),
    }
    machine = describe_machine()
    writer.describe(**(machine | facts))
    writer.bench(
        ("what", "repetition", "seconds"),
        [
            (what, number, seconds)
            for what, times in figures.seconds.items()
            for number, seconds in enumerate(times)
        ],
    )
    _print_table(figures, f"{config.label()}/{shard.label()}")
    print(f"run {writer.folder}")
    if as_json:
        print(json.dumps({**facts, "versions": machine["versions"]}))
    return ExitCode.FAIL if figures.differing else ExitCode.PASS


def _mover(name: str, device: torch.device) -> Mover:
    if name == "views":
        from mxmoe.kernels.trtllm_gen.mover import VIEWS

        return VIEWS
    if name != "triton" or device.type != "cuda":
        raise BadInput(
            f"--mover: expected views, or triton with --device cuda, found {name!r} "
            f"with {device}"
        )
    from mxmoe.kernels.trtllm_gen.triton_mover import TRITON

    return TRITON


def _facts(figures: Figures) -> dict[str, Any]:
    """What ``--json`` and ``run.json`` say."""
    facts: dict[str, Any] = {
        "device": figures.device,
        "threads": figures.threads,
        "input_bytes": figures.input_bytes,
        "output_bytes": figures.output_bytes,
        "extra_memory_bytes": figures.extra_bytes,
        "extra_memory_fraction": figures.extra_fraction,
        "differing": list(figures.differing),
    }
    if figures.differing:
        return facts
    medians = {f"{what}_seconds": figures.median(what) for what in figures.seconds}
    ratios = {name: getattr(figures, name) for name in WANTED}
    return facts | medians | ratios


def _print_table(figures: Figures, what: str) -> None:
    print(
        f"{what} on {figures.device}, {figures.threads} threads: "
        f"{figures.input_bytes / 1e9:.3g} GB -> {figures.output_bytes / 1e9:.3g} GB"
    )
    if figures.differing:
        names = ", ".join(figures.differing)
        print(f"FAIL prepare and the engine loop differ in {names}; nothing was timed")
        return
    for name, times in figures.seconds.items():
        median = figures.median(name)
        print(
            f"{name:12} {median * 1e3:9.2f} ms  "
            f"({min(times) * 1e3:.2f} to {max(times) * 1e3:.2f})  "
            f"{figures.output_bytes / median / 1e9:8.2f} GB/s"
        )
    for name, wanted in WANTED.items():
        print(f"{name:24} {getattr(figures, name):6.2f}  (wanted: {wanted} or more)")
    print(f"{'extra memory':24} {figures.extra_fraction:6.3f}  of the prepared layer")
