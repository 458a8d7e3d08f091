"""The pieces of a run, each for one process: candidates by name in, findings out."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.subject import Subject
from mxmoe.evals.peer_rules.designed_layers import designed_layers
from mxmoe.evals.peer_rules.expected import expected
from mxmoe.evals.peer_rules.findings import BOUND
from mxmoe.evals.peer_rules.findings import SUITE
from mxmoe.evals.peer_rules.findings import Finding
from mxmoe.evals.peer_rules.findings import Word
from mxmoe.evals.peer_rules.layer import Layer
from mxmoe.evals.peer_rules.layer import run
from mxmoe.evals.peer_rules.peers import PEERS
from mxmoe.evals.peer_rules.peers import Peer
from mxmoe.evals.peer_rules.planted import FAULTS
from mxmoe.evals.peer_rules.planted import VARIANTS
from mxmoe.evals.peer_rules.planted import correct_twin
from mxmoe.evals.peer_rules.planted import faulty
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import WHOLE

OUTPUT_CHECK = "test_output_stays_within_the_bound"
"""The check that a correct variant is put to; each fault names its own."""


class Bench:
    """One layer, and what does not depend on the candidate: computed once each."""

    def __init__(self, layer: Layer, peers: Iterable[Peer]) -> None:
        self.layer = layer
        self.peers = tuple(peers)
        self._expected: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self._bounds: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._twins: dict[tuple[bool, str], tuple[torch.Tensor, set[str]]] = {}

    def accepting(self, subject: Subject, output: torch.Tensor | None) -> set[str]:
        """The rules that accept `output`; none does if the candidate raised."""
        if output is None:
            return set()
        found = {p.name for p in self.peers if self._accepts(p, subject, output)}
        truth, allowed = self._bound(subject)
        within = compare_numbers(output, truth, allowed).within
        return found | {BOUND} if within else found

    def twin(self, subject: Subject) -> tuple[torch.Tensor, set[str]]:
        """Output of the candidate without the fault, and the rules that accept it."""
        key = (subject.has("forward"), subject.arithmetic.name)
        if key not in self._twins:
            twin = correct_twin(subject)
            output = run(twin, self.layer)
            assert output is not None
            self._twins[key] = (output, self.accepting(twin, output))
        return self._twins[key]

    def _accepts(self, peer: Peer, subject: Subject, output: torch.Tensor) -> bool:
        key = (peer.name, subject.arithmetic.output)
        if key not in self._expected:
            self._expected[key] = expected(self.layer, peer.precision, key[1])
        return peer.rule(output, self._expected[key])

    def _bound(self, subject: Subject) -> tuple[torch.Tensor, torch.Tensor]:
        arithmetic = subject.arithmetic
        if arithmetic.name not in self._bounds:
            data = self.layer.data
            judged = judge_rank(
                shard_weights(data.weights, data.config, WHOLE),
                data.config,
                self.layer.hidden_states(arithmetic.output),
                data.routing,
                shard=WHOLE,
                arithmetic=arithmetic,
            )
            found = judged.truth["combine"], judged.allowed["combine"]
            self._bounds[arithmetic.name] = found
        return self._bounds[arithmetic.name]


def on_designed(
    faults: Sequence[str], correct: Sequence[str], seed: int
) -> tuple[dict[str, float], list[Finding]]:
    """Every rule on the designed layers; the effect of each fault that has one."""
    benches = [Bench(layer, PEERS.values()) for layer in designed_layers(seed)]
    rules = (*PEERS, BOUND)
    effects: dict[str, float] = {}
    findings: list[Finding] = []

    def note(subject: str, words: Mapping[str, Word]) -> None:
        findings.extend(
            Finding(subject=subject, rule=r, data="designed", seed=seed, word=word)
            for r, word in words.items()
        )

    for name in faults:
        words = dict.fromkeys(rules, Word.UNSEEN)
        effect = 0.0
        for bench in benches:
            subject = faulty(name)
            output, (clean, usable) = run(subject, bench.layer), bench.twin(subject)
            # Where a candidate raises, everybody sees it.
            if output is None or torch.equal(output, clean):
                continue
            effect = max(effect, _effect(output, clean))
            accepting = bench.accepting(subject, output)
            for rule in rules:
                if rule in usable and rule not in accepting:
                    words[rule] = Word.CAUGHT
                elif words[rule] is Word.UNSEEN:
                    words[rule] = Word.ACCEPTED
        if effect:
            effects[name] = effect
            note(name, words)
    for name in correct:
        words = dict.fromkeys(rules, Word.ACCEPTED)
        for bench in benches:
            subject = VARIANTS[name]()
            accepting = bench.accepting(subject, run(subject, bench.layer))
            words |= {rule: Word.CAUGHT for rule in rules if rule not in accepting}
        note(name, words)
    return effects, findings


def on_own_data(
    peer: str, faults: Sequence[str], correct: Sequence[str], seed: int
) -> list[Finding]:
    """One project's rule, and our bound, on the data of that project's recipe.

    The bound's findings have ``own:PEER`` for their data.
    """
    bench = Bench(PEERS[peer].recipe(seed), [PEERS[peer]])
    findings = []
    for name in (*faults, *correct):
        subject = faulty(name) if name in faults else VARIANTS[name]()
        output = run(subject, bench.layer)
        accepting = bench.accepting(subject, output)
        usable, same = {peer, BOUND}, False
        if name in faults:
            clean, usable = bench.twin(subject)
            same = output is not None and torch.equal(output, clean)
        for rule, data in ((peer, "own"), (BOUND, f"own:{peer}")):
            word = Word.ACCEPTED
            if same:
                word = Word.UNSEEN
            elif rule in usable and rule not in accepting:
                word = Word.CAUGHT
            findings.append(
                Finding(subject=name, rule=rule, data=data, seed=seed, word=word)
            )
    return findings


def by_the_suite(faults: Sequence[str], correct: Sequence[str]) -> list[Finding]:
    """Whether the check that a fault names fails, and whether a variant passes."""
    findings = []
    with repeatable_settings(profile="ci") as settings:
        for name in (*faults, *correct):
            fault = FAULTS[name] if name in faults else None
            subject = faulty(name) if fault else VARIANTS[name]()
            check = fault.check if fault else OUTPUT_CHECK
            outcomes = trial(check, subject, settings, explain=False)
            failed = any(outcome.verdict.failed for outcome in outcomes)
            word = Word.CAUGHT if failed else Word.ACCEPTED
            findings.append(
                Finding(subject=name, rule=SUITE, data="suite", seed=0, word=word)
            )
    return findings


def _effect(output: torch.Tensor, clean: torch.Tensor) -> float:
    """|output - clean| / |clean|, inf for NaN and Inf."""
    if not output.isfinite().all():
        return float("inf")
    change, size = (x.double().norm() for x in (output - clean, clean))
    return float(change / size)
