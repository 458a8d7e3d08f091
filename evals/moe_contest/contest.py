"""The contest: for each token count, judge every contestant, then time those left."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

import torch

from mxmoe.evals.moe_contest.clock import seconds_in_turn
from mxmoe.evals.moe_contest.contestant import Contestant
from mxmoe.evals.moe_contest.contestant import Layer
from mxmoe.evals.moe_contest.contestant import Unavailable
from mxmoe.evals.moe_contest.judgement import Finding
from mxmoe.evals.moe_contest.judgement import Judgement
from mxmoe.evals.moe_contest.phases import Phases
from mxmoe.evals.moe_contest.replay import Replay
from mxmoe.evals.moe_contest.replay import make_replay
from mxmoe.evals.moe_contest.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One contestant with one batch: seconds of each replay, or why there are none.

    worst : the largest error / bound of the judged elements, where it was compared.
    """

    tokens: int
    seconds: tuple[float, ...] = ()
    worst: float | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it, by name of the contestant, in the order of the contestants.

    unavailable : one sentence; such a contestant has no cells.
    """

    cells: dict[str, list[Cell]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What all bouts share. say : takes a line of progress now and then."""

    workload: Workload
    judgement: Judgement
    phases: Phases
    replays: int
    say: Callable[[str], None]

    def hold(self, contestants: Sequence[Contestant], counts: Sequence[int]) -> Outcome:
        """Prepare every contestant, then one bout for each token count."""
        outcome = Outcome()
        layers: dict[str, Layer] = {}
        for contestant in contestants:
            try:
                layers[contestant.name] = self._built(contestant)
            except Unavailable as reason:
                outcome.unavailable[contestant.name] = str(reason)
                self.say(f"{contestant.name}: unavailable: {reason}")
        there = [c for c in contestants if c.name in layers]
        for tokens in counts:
            for name, cell in self._bout(there, layers, tokens).items():
                outcome.cells.setdefault(name, []).append(cell)
        return outcome

    def _built(self, contestant: Contestant) -> Layer:
        load = self.workload
        self.say(f"{contestant.name}: preparing")
        try:
            with self.phases("prepare"):
                layer = contestant.build(
                    load.weights, load.config, load.hidden_states.device
                )
        except Unavailable:
            raise
        except Exception as error:
            return _failing(error)
        with self.phases("reference"):
            self.judgement.prepare(contestant)
        return layer

    def _bout(
        self,
        contestants: Sequence[Contestant],
        layers: Mapping[str, Layer],
        tokens: int,
    ) -> dict[str, Cell]:
        replays: dict[str, Replay] = {}
        findings: dict[str, Finding] = {}
        for contestant in contestants:
            name = contestant.name
            x = self.workload.hidden_states[:tokens]
            try:
                with self.phases("compile and capture"):
                    x = x.to(contestant.arithmetic.output)
                    replays[name] = make_replay(layers[name], x)
                findings[name] = self._judged(contestant, replays[name], tokens)
            except Exception as error:
                findings[name] = _crash(error)
        right = {n: r for n, r in replays.items() if findings[n].refusal is None}
        seconds: dict[str, tuple[float, ...]] = {}
        try:
            with self.phases("timing"):
                seconds = self._timed(right)
            # Once more: a time counts only if the output is still right after it.
            for contestant in contestants:
                if (name := contestant.name) in right:
                    findings[name] = self._judged(contestant, right[name], tokens)
        except Exception as error:
            findings |= dict.fromkeys(right, _crash(error))
        return {
            c.name: self._cell(c.name, tokens, seconds.get(c.name), findings[c.name])
            for c in contestants
        }

    def _timed(self, right: Mapping[str, Replay]) -> dict[str, tuple[float, ...]]:
        device = self.workload.hidden_states.device
        return seconds_in_turn(right, device, self.replays) if right else {}

    def _judged(self, contestant: Contestant, replay: Replay, tokens: int) -> Finding:
        with self.phases("judgement"):
            return self.judgement.finding(contestant, replay.output(), tokens)

    def _cell(
        self,
        name: str,
        tokens: int,
        seconds: tuple[float, ...] | None,
        finding: Finding,
    ) -> Cell:
        cell = Cell(
            tokens=tokens,
            seconds=seconds or () if finding.refusal is None else (),
            worst=finding.worst,
            refusal=finding.refusal,
        )
        if cell.refusal is not None:
            self.say(f"{tokens} tokens: {name}: refused: {cell.refusal}")
        elif cell.seconds:
            middle = sorted(cell.seconds)[len(cell.seconds) // 2]
            self.say(f"{tokens} tokens: {name}: {middle * 1e6:.1f} us")
        return cell


def _failing(error: Exception) -> Layer:
    """A layer whose preparation failed: it says so whenever it is called."""

    def layer(hidden_states: torch.Tensor) -> torch.Tensor:
        raise error

    return layer


def _crash(error: Exception) -> Finding:
    said = " ".join(str(error).split())
    return Finding(refusal=f"crash: {type(error).__name__}: {said:.300}")
