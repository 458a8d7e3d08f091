"""``python -m mxmoe.evals.locate.measure_memory``: what a search holds in memory.

    python -m mxmoe.evals.locate.measure_memory --experts 32 --layers 2 --tokens 64

Writes a random checkpoint of the shape of gpt-oss to a temporary directory, plants
biases of zeros in its last layer, runs ``mxmoe locate`` in a child, and prints the
place that it found and two peaks of its memory: of all that was resident, pages of the
mapped checkpoint included, which the kernel may drop at any time; and of what is backed
by no file. Linux only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from typing import Any

import typer

from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.registry import load_candidate
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.reference.types import MoEConfig

_MODULE = "mxmoe.evals.locate.measure_memory"
FAULT = "biases_of_zeros"
_CANDIDATE = "trtllm_gen"
# Of `write_checkpoint`; its model has no tokenizer, and is given one that nobody asks.
_VOCABULARY = 256
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
_COMMAND = (
    "import sys; from mxmoe.conformance.commands.main import main; main(sys.argv[1:])"
)
# Between two looks at the child.
_SECONDS = 0.01

without_trace = changed(load_candidate(_CANDIDATE).candidate, trace=None)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run. resident, private : peaks in bytes. said : its document, or its words.

    place : layer, stage and expert that were found, None if nothing was.
    """

    resident: int
    private: int
    seconds: float
    place: tuple[int, str, int | None] | None
    said: str


def write_model(folder: Path, config: MoEConfig, layers: int) -> None:
    """A checkpoint made from a seed, with what it takes to be loaded beside it."""
    write_checkpoint(folder, config=config, layers=layers)
    for name in _BESIDE:
        shutil.copyfile(FOLDER / name, folder / name)


def measure(folder: Path, tokens: int, layer: int, *, trace: bool) -> Measured:
    """``mxmoe locate`` on the checkpoint `folder`, with the fault in `layer`."""
    spec = _CANDIDATE if trace else f"{_MODULE}:without_trace"
    ids = ",".join(str(2 + n % (_VOCABULARY - 2)) for n in range(tokens))
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as kept:
        words = ["locate", "-c", spec, "--fault", FAULT, "--fault-layer", str(layer)]
        words += ["--model", str(folder), "--tokens", ids, "--json"]
        words += ["--run-dir", str(Path(kept) / "run")]
        out = Path(kept) / "out"
        with out.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, *words], stdout=stream
            )
        resident, private = _watch(child)
        said = out.read_text(encoding="utf-8")
    return Measured(
        resident=resident,
        private=private,
        seconds=time.perf_counter() - begun,
        place=_place(said),
        said=said,
    )


def _watch(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Peaks of the child until it ends, in bytes: all, and what no file backs."""
    private = 0
    while True:
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        if ended:
            child.returncode = os.waitstatus_to_exitcode(status)
            return 1024 * usage.ru_maxrss, private
        private = max(private, _private(child.pid))
        time.sleep(_SECONDS)


def _private(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return 1024 * int(value.split()[0])
    return 0


def _place(said: str) -> tuple[int, str, int | None] | None:
    try:
        found: Sequence[Any] = json.loads(said)["found"]
    except (json.JSONDecodeError, KeyError):
        return None
    if not found:
        return None
    first = found[0]
    return first["layer"], str(first.get("stage")), first.get("expert")


def main(
    experts: Annotated[int, typer.Option()] = 32,
    layers: Annotated[int, typer.Option()] = 1,
    tokens: Annotated[str, typer.Option(help="with commas between")] = "64",
    size: Annotated[int, typer.Option(help="hidden and intermediate")] = 2880,
    top_k: Annotated[int, typer.Option()] = 4,
    trace: Annotated[bool, typer.Option(help="whether the candidate has one")] = True,
) -> None:
    """Print a line for each number of tokens."""
    config = MoEConfig(hidden=size, intermediate=size, experts=experts, top_k=top_k)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "model"
        write_model(folder, config, layers)
        for count in map(int, tokens.split(",")):
            found = measure(folder, count, layers - 1, trace=trace)
            typer.echo(_line(config, layers, count, found, trace=trace))


def _line(
    config: MoEConfig, layers: int, tokens: int, found: Measured, *, trace: bool
) -> str:
    place = f"found nothing: {found.said[:2000]}"
    if found.place is not None:
        layer, stage, expert = found.place
        place = f"found layer {layer}, stage {stage}, expert {expert}"
    peaks = (
        f"peak {found.resident / 2**30:.2f} GiB, {found.private / 2**30:.2f} GiB "
        f"without mapped files, {found.seconds:.0f} s"
    )
    shape = f"{config.label()}, layers {layers}, tokens {tokens}"
    return f"{shape}{'' if trace else ', no trace'}: {peaks}; {place}"


if __name__ == "__main__":
    typer.run(main)
