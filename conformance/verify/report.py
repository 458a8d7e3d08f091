"""What `mxmoe verify` shows while it runs, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import TextIO

from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import TextColumn
from rich.progress import TimeRemainingColumn

from mxmoe.conformance.escape import printable
from mxmoe.conformance.processes import Process
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.suite.check_run import PatientConsole
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verify.layer_lines import LayerLine
from mxmoe.conformance.verify.layer_lines import RankLine
from mxmoe.conformance.verify.request import VerifyRequest
from mxmoe.conformance.watched import watched
from mxmoe.reference.types import Shard


@dataclass(frozen=True)
class Outcome:
    """What a run comes to; `lines` are the layers that were finished."""

    exit_code: ExitCode
    line: str
    lines: Mapping[int, LayerLine]

    def ranks(self) -> Iterator[RankLine]:
        """Every rank of every layer."""
        for line in self.lines.values():
            yield from line.ranks

    def as_json(self, request: VerifyRequest, folder: Path) -> dict[str, Any]:
        """The one document that ``--json`` prints."""
        return {
            "verdict": self.line,
            "exit_code": int(self.exit_code),
            "run": str(folder),
            "candidate": request.subject.name,
            "layout": request.layout.name,
            "ranks": [shard.label() for shard in request.shards],
            "prepare_seconds": sum(rank.prepare_seconds for rank in self.ranks()),
            "compare_seconds": sum(rank.compare_seconds for rank in self.ranks()),
            "layers": [asdict(line) for line in self.lines.values()],
        }


class Display:
    """Lines as layers end; above them, on a terminal, a bar."""

    def __init__(self, out: TextIO, request: VerifyRequest, process: Process) -> None:
        self.console = PatientConsole(
            file=out, markup=False, emoji=False, highlight=False, soft_wrap=True
        )
        self.request = request
        self.process = process
        self._shown: set[int] = set()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not watched(self.console),
        )
        self._task = self._progress.add_task("layers", total=len(request.layers))

    def begin(self, finished: Mapping[int, LayerLine]) -> None:
        """Start the bar, and say what an earlier run has finished."""
        mine = [layer for layer in self.request.layers if layer in finished]
        if mine:
            self._print(f"continued: {len(mine)} of {len(self.request.layers)} layers")
        self._progress.start()
        for layer in mine:
            self._show(finished[layer])

    def rank_started(self, layer: int) -> Callable[[Shard], None]:
        """Called before each rank of `layer`."""

        def show(shard: Shard) -> None:
            self._progress.update(
                self._task, description=f"layer {layer} {shard.label()}"
            )

        return show

    def update(self, lines: Mapping[int, LayerLine]) -> None:
        """Show the layers that are new."""
        for layer in self.request.layers:
            if layer in lines and layer not in self._shown:
                self._show(lines[layer])

    def stop(self) -> None:
        """Take the bar away."""
        self._progress.stop()

    def end(self, outcome: Outcome, folder: Path) -> None:
        """Times, the run directory, the verdict."""
        prepare = sum(rank.prepare_seconds for rank in outcome.ranks())
        compare = sum(rank.compare_seconds for rank in outcome.ranks())
        if prepare:
            self._print(
                f"prepared in {prepare:.3g} s, compared in {compare:.3g} s "
                f"({compare / prepare:.2g}x)"
            )
        if outcome.lines:
            self._print(f"run {folder}")
        self._print(outcome.line)

    def _show(self, line: LayerLine) -> None:
        self._shown.add(line.layer)
        self._progress.advance(self._task)
        for rank in line.failed:
            what = " ".join((rank.shard, *rank.tensors))
            self._print(f"FAILED layer {line.layer} {what}\n{rank.text}\n")
        total = sum(rank.bytes for rank in line.ranks) / 1e9
        failed = len(line.failed)
        state = f"FAIL {failed} of {len(line.ranks)}" if failed else "ok"
        self._print(
            f"layer {line.layer}: {state} ranks, {total:.3g} GB in {line.seconds:.3g} s"
        )

    def _print(self, text: str) -> None:
        self.console.print(printable(text))


def conclude(
    request: VerifyRequest, lines: Mapping[int, LayerLine], reason: str
) -> Outcome:
    """The verdict on the layers that were asked for; `reason` why some are missing."""
    lines = {n: lines[n] for n in request.layers if n in lines}
    failed = [(line.layer, rank) for line in lines.values() for rank in line.failed]
    first = ""
    if failed:
        layer, rank = failed[0]
        what = rank.tensors[0] if rank.tensors else str(rank.verdict)
        first = f"layer {layer} {rank.shard} {what}"
    missing = [str(layer) for layer in request.layers if layer not in lines]
    code, line = ExitCode.PASS, ""
    whose = f"{request.subject.name} in {request.layout.name}"
    if missing:
        also = f"; {first} is wrong" if failed else ""
        code = ExitCode.INVALID
        line = f"INVALID layers {', '.join(missing)} are missing: {reason}{also}"
    elif failed:
        count = len(request.layers) * len(request.shards)
        code = ExitCode.FAIL
        line = f"FAIL {first}: {len(failed)} of {count} preparations by {whose}"
    else:
        total = sum(r.bytes for found in lines.values() for r in found.ranks) / 1e9
        how = "byte for byte" if request.stored is None else "by their digests"
        line = (
            f"PASS {_count(request.layers, 'layer')} x "
            f"{_count(request.shards, 'rank')} by {whose}: {total:.3g} GB {how}"
        )
    return Outcome(code, f"verdict: {line}", lines)


def verdict_lines(
    request: VerifyRequest, lines: Mapping[int, LayerLine]
) -> Iterator[VerdictLine]:
    """The layers as verdicts of level L1, for ``verdicts.jsonl``."""
    for line in lines.values():
        failed = line.failed
        text = "\n".join(rank.text for rank in failed)
        yield VerdictLine(
            check=f"verify::layer{line.layer}",
            candidate=request.subject.name,
            level="L1",
            verdict=failed[0].verdict if failed else Verdict.OK,
            reason=text.partition("\n")[0],
            text=text,
            examples=len(line.ranks),
            seconds=line.seconds,
        )


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}" if len(things) == 1 else f"{len(things)} {word}s"
