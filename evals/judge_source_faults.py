"""``python -m mxmoe.evals.judge_source_faults``: wrong lines in our Triton kernels.

    python -m mxmoe.evals.judge_source_faults OUT --jobs 8
    TRITON_INTERPRET=1 python -m mxmoe.evals.judge_source_faults OUT --device cpu \
        --check test_layer_output_stays_within_the_bound -k beta

Each copy has one wrong line (`SOURCE_FAULTS`) and is judged by ``mxmoe check`` as
anybody's kernel would be; the copy without a fault must pass. The interpreter is too
slow for most drawn cases and has no bfloat16, so there few of the faults can be tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mxmoe.kernels.triton_moe.source_faults import SOURCE_FAULTS
from mxmoe.kernels.triton_moe.source_faults import SourceFault
from mxmoe.kernels.triton_moe.source_faults import plant

_COMMAND = "from mxmoe.conformance.commands.main import main; main()"
# The longest of them compiles some hundred kernels.
_SECONDS = 400.0


@dataclass(frozen=True)
class Judged:
    """What ``mxmoe check`` said. code : its exit code. why : its causes, each once."""

    fault: SourceFault | None
    code: int
    why: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the fault."""
        return self.fault.name if self.fault else "no fault"

    @property
    def right(self) -> bool:
        """Whether it passed without a fault, or failed and its cause was named."""
        if self.fault is None:
            return self.code == 0
        says = self.fault.says
        named = any(words in line for words in says for line in self.why)
        return self.code == 1 and (named or not says)


def judge(
    fault: SourceFault | None, out: Path, *, check: str, device: str, profile: str
) -> Judged:
    """Plant one fault, or none, and run that check; its text is kept in `out`."""
    package = plant(fault, out / "copies")
    path = os.pathsep.join((str(out / "copies"), os.environ.get("PYTHONPATH", "")))
    arguments = [
        *("check", "--candidate", f"{package}.candidate:candidate"),
        *("--profile", profile, "--device", device, "--run-dir", str(out / package)),
        *("-k", check),
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, *arguments],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Judged(fault, -1, (f"not judged within {_SECONDS:g} s",))
    text = done.stdout + done.stderr
    (out / f"{package}.txt").write_text(text, encoding="utf-8")
    why = (line[3:].strip() for line in text.splitlines() if line.startswith("why "))
    return Judged(fault, done.returncode, tuple(dict.fromkeys(why)))


def main(
    out: Annotated[Path, typer.Argument(help="folder for copies, texts and runs")],
    only: Annotated[str, typer.Option("-k", help="faults whose name holds it")] = "",
    check: Annotated[
        str, typer.Option(help="for all faults; default: the one that each names")
    ] = "",
    device: Annotated[str, typer.Option(help="cuda, or cpu to interpret")] = "cuda",
    profile: Annotated[str, typer.Option(help="dev, ci, gpu or nightly")] = "ci",
    jobs: Annotated[int, typer.Option(min=1, help="at a time")] = 1,
) -> None:
    """Exit codes: 0 each fault was found and named; 1 not; 2 usage."""
    out = out.resolve()
    chosen = [fault for fault in SOURCE_FAULTS if only in fault.name]
    if not chosen:
        typer.echo(f"-k: expected part of a fault's name, found {only!r}")
        raise typer.Exit(2)

    def judged(fault: SourceFault | None) -> Judged:
        asked = check or (fault or chosen[0]).check
        return judge(fault, out, check=asked, device=device, profile=profile)

    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(judged, (None, *chosen)))
    for line in _lines(found):
        typer.echo(line)
    raise typer.Exit(0 if all(one.right for one in found) else 1)


def _lines(judged: Iterable[Judged]) -> Iterable[str]:
    verdicts = {0: "PASS", 1: "FAIL"}
    for one in judged:
        mark = "" if one.right else "NOT as expected: "
        cause = one.why[0] if one.why else ""
        verdict = verdicts.get(one.code, f"exit code {one.code}")
        yield f"{mark}{one.name:<34} {verdict:<5} {cause}".rstrip()


if __name__ == "__main__":
    typer.run(main)
