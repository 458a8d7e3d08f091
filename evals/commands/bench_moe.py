"""``mxmoe bench moe``: one MoE layer beside other people's, judged, then timed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsLine
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode
from mxmoe.reference.errors import BadInput

if TYPE_CHECKING:
    from mxmoe.evals.moe_contest.contestant import Contestant
    from mxmoe.evals.moe_contest.result import Result

_POWERS_OF_TWO = ",".join(str(2**n) for n in range(14))


def bench_moe(
    candidate: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="ours: an installed candidate, path/file.py:attribute or "
            "package.module:attribute, with a forward_fused",
        ),
    ] = "triton_moe",
    triton_kernels: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="wheel of tokenspeed-triton-kernels, or a folder that holds "
            "triton_kernels; default: the installed package",
        ),
    ] = None,
    experts: Annotated[int, typer.Option(help="of the layer")] = 128,
    hidden: Annotated[int, typer.Option(help="multiple of 32")] = 2880,
    intermediate: Annotated[int, typer.Option(help="multiple of 32")] = 2880,
    top_k: Annotated[int, typer.Option(help="experts that a token visits")] = 4,
    tokens: Annotated[
        str, typer.Option(metavar="LIST", help="token counts, with commas between")
    ] = _POWERS_OF_TWO,
    device: Annotated[
        str, typer.Option(help="cuda, or cpu: without graphs, to try the command")
    ] = "cuda",
    replays: Annotated[
        int, typer.Option(min=1, max=10000, help="timed for each cell; 50 or more")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="of weights and tokens")] = 0,
    run_dir: RunDir = None,
    as_json: AsLine = False,
) -> ExitCode:
    """Time a candidate, triton_kernels and bf16 grouped GEMMs on the same MoE layer.

    All run router to output, with the same random weights and tokens, the shape of
    gpt-oss-120b unless said otherwise. Before a time is taken the output is judged: it
    must be finite, and 64 tokens of each batch within the bound of the contestant's
    arithmetic class. What is not is refused and has no time.

    On a GPU each contestant is a CUDA graph; graphs are replayed in turn, and before
    each replay the L2 cache is filled with other data. Medians count; the spread is
    half the interquartile range. The floor is measured in the same run: bytes of the
    touched experts' MXFP4 weights by the rate of a copy, or FLOPs by the rate of a bf16
    matmul, whichever takes longer. ratio is the time of triton_kernels, the faster of
    its layouts for 4 and 8 warps, in times of the candidate. floor/time and TFLOP/s
    are the candidate's.

    The run directory gets run.json, moe.csv (one line a cell), bench.csv (one line a
    replay), table.txt and, if matplotlib is there, roofline.png. Exit code 1: the
    candidate was refused at least once; 3: it could not take part.
    """
    import json

    from mxmoe.conformance.rundir import describe_machine
    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.conformance.rundir import open_run
    from mxmoe.evals.moe_contest.measure import measure_moe
    from mxmoe.evals.moe_contest.run_files import write_files
    from mxmoe.kernels.check_input import check_device
    from mxmoe.reference.types import MoEConfig

    config = MoEConfig(
        hidden=hidden, intermediate=intermediate, experts=experts, top_k=top_k
    )
    counts = _token_counts(tokens)
    place = check_device(device)
    contestants = _contestants(candidate, triton_kernels, str(place))
    writer = open_run(run_dir or Path("runs") / new_run_id())
    result = measure_moe(
        contestants, config, counts, place, replays=replays, seed=seed, say=_say
    )
    facts = {
        "command": "bench moe",
        "candidate": candidate,
        "shape": config.label(),
        "seed": seed,
        "replays": replays,
        **result.facts(),
    }
    machine = describe_machine()
    writer.describe(**(machine | facts))
    for line in write_files(writer, result, config.label()):
        print(line)
    print(f"took {result.phases.described()}")
    print(f"run {writer.folder}")
    if as_json:
        print(json.dumps({**facts, "versions": machine["versions"]}))
    return _exit_code(result)


def _token_counts(text: str) -> list[int]:
    from mxmoe.reference.types import LARGEST_DIMENSION

    words = [word.strip() for word in text.split(",")]
    counts = {int(word) for word in words if word.isdecimal() and len(word) < 10}
    if (
        len(counts) != len(words)
        or not 1 <= min(counts) <= max(counts) <= LARGEST_DIMENSION
    ):
        raise BadInput(
            "--tokens: expected different numbers from 1 to "
            f"{LARGEST_DIMENSION} with commas between, found {text!r:.80}"
        )
    return sorted(counts)


def _contestants(
    candidate: str, triton_kernels: Path | None, device: str
) -> list[Contestant]:
    from mxmoe.conformance.registry import load_candidate
    from mxmoe.evals.moe_contest.dequant_bf16 import DequantBf16
    from mxmoe.evals.moe_contest.suite_candidate import SuiteCandidate
    from mxmoe.evals.moe_contest.triton_kernels_layer import NUM_WARPS
    from mxmoe.evals.moe_contest.triton_kernels_layer import TritonKernelsLayer

    ours = SuiteCandidate(load_candidate(candidate, device=device))
    others: list[Contestant] = [
        *(TritonKernelsLayer(triton_kernels, warps) for warps in NUM_WARPS),
        DequantBf16(),
    ]
    if ours.name in [other.name for other in others]:
        raise BadInput(
            "--candidate: expected a name that no other contestant has, found "
            f"{ours.name!r}"
        )
    return [ours, *others]


def _exit_code(result: Result) -> ExitCode:
    if result.candidate in result.outcome.unavailable:
        return ExitCode.INVALID
    cells = result.outcome.cells[result.candidate]
    refused = any(cell.refusal is not None for cell in cells)
    return ExitCode.FAIL if refused else ExitCode.PASS


def _say(line: str) -> None:
    from mxmoe.conformance.escape import printable

    print(printable(line), file=sys.stderr, flush=True)
