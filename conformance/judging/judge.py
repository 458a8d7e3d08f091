"""The fixture that every check uses: one candidate, one check, one record."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

import torch
from hypothesis.strategies import SearchStrategy

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import any_bytes
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.cases.designed import on_device
from mxmoe.conformance.cases.kept_inputs import BYTES
from mxmoe.conformance.cases.kept_inputs import CASE
from mxmoe.conformance.cases.kept_inputs import LAYER
from mxmoe.conformance.cases.kept_inputs import Source
from mxmoe.conformance.cases.one_change import say_what_passes
from mxmoe.conformance.cases.rank_groups import ranks_of
from mxmoe.conformance.cases.search import Check
from mxmoe.conformance.cases.search import search_smallest
from mxmoe.conformance.cases.strategies import SHARDS
from mxmoe.conformance.cases.strategies import TOKENS
from mxmoe.conformance.cases.strategies import cases
from mxmoe.conformance.cases.strategies import shapes
from mxmoe.conformance.judging.record import Record
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.verdict import unsupported
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard


@dataclass(frozen=True)
class Judge:
    """Runs checks of `subject` and records what they find.

    place : the id of the layer, shard or tensor that the check is repeated over.
    parameters : name and word of each value that the check is parametrised with.
    """

    subject: Subject
    settings: Settings
    check_name: str
    record: Record = field(default_factory=Record)
    place: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    def for_all(
        self,
        check: Check,
        *,
        hot: tuple[str, ...] = (),
        always: tuple[str, ...] = (),
        tokens: tuple[int, ...] = TOKENS,
        examples: Iterable[Case] = (),
        share: float = 1.0,
        draws: float = 1.0,
        shards: Sequence[Shard] = SHARDS,
        groups: Sequence[Shard] = (),
    ) -> None:
        """Judge drawn cases, then `examples`; a failing drawn case is shrunk.

        share, draws : the part of the profile's seconds, and of its examples, that
        drawing may take. groups : draw one of these groups of ranks with every case,
        instead of a single rank.

        With ``--case`` only that case is judged. Examples that the candidate
        declares unsupported are left out; if nothing is left, so is the check.
        """
        try:
            if self.settings.case is not None:
                self.one(check, self.settings.case)
                return
            strategy = self._strategy(hot, always, tokens, shards, groups)
            if not strategy.is_empty:
                search_smallest(self, check, strategy, share=share, draws=draws)
            self._examples(check, examples)
        except Failure as error:
            told = say_what_passes(self, error, check, same_shard=bool(groups))
            raise told from error.__cause__

    def _strategy(
        self,
        hot: tuple[str, ...],
        always: tuple[str, ...],
        tokens: tuple[int, ...],
        shards: Sequence[Shard],
        groups: Sequence[Shard],
    ) -> SearchStrategy[Case]:
        """The cases that `for_all` draws."""
        supported = self._supports_group if groups else self._supports
        known = self.subject.capabilities.same_for_all_shapes()
        drawn = groups or shards
        if known:
            drawn = [s for s in drawn if supported(shapes()[0], s)]
        return cases(
            None if known else supported,
            hot=hot,
            always=always,
            tokens=tokens,
            shards=drawn,
        )

    def _examples(self, check: Check, examples: Iterable[Case]) -> None:
        """Judge those that are supported; `NotJudged` if nothing was judged at all."""
        refusal: NotJudged | None = None
        for case in examples:
            try:
                self.one(check, case)
            except NotJudged as error:
                refusal = error
        if self.record.examples == 0:
            raise refusal or unsupported("shapes: none of the suite's")

    def may_explain(self) -> bool:
        """Whether the candidate may be called here on other cases to explain one."""
        return self.record.telling and not self.record.searching

    def aside(self) -> Judge:
        """A judge that leaves no trace in the record of what is explained."""
        subject = replace(self.subject, aside=True)
        return replace(self, subject=subject, record=Record(searching=True))

    def for_example(self, check: Check, examples: Iterable[Case]) -> None:
        """Judge the first of `examples` that is supported, or the case asked for."""
        refusal: NotJudged | None = None
        asked = self.settings.case
        for case in examples if asked is None else (asked,):
            try:
                return self.one(check, case)
            except NotJudged as error:
                refusal = error
            except Failure as error:
                told = say_what_passes(self, error, check, same_shard=False)
                raise told from error.__cause__
        assert refusal is not None
        raise refusal

    def searched_enough(self) -> bool:
        """Whether the search for a smaller case costs too much, whatever its time."""
        return False

    def one(self, check: Check, case: Case) -> None:
        """Judge one case, its shard padded as the candidate pads, and count it."""
        case = replace(case, shard=self.subject.capabilities.align(case.shard))
        self.record.case, self.record.source = str(case), None
        try:
            self.conduct(check, case)
        except Failure as error:
            raise self.complete(error, case) from error.__cause__
        self.record.examples += 1
        self.record.case = None

    def whole_check(self) -> None:
        """Make a check again that called the candidate where it is not."""
        raise AssertionError("this judge's candidate is in this process")

    def conduct(self, check: Check, case: Case) -> None:
        """Make the check of one case, here in this process."""
        check(self, case)

    def complete(self, error: Failure, case: Case | None = None) -> Failure:
        """`error` with the headline and the command that a subject's own one lacks."""
        if error.text.startswith(f"{self.subject.name} · "):
            return error
        return self.fail(error.verdict, [error.text], case=case, what="call")

    def _supports(self, config: MoEConfig, shard: Shard) -> bool:
        claims = self.subject.capabilities
        return not (claims.refuses_shape(config) or claims.refuses_shard(shard, config))

    def _supports_group(self, config: MoEConfig, group: Shard) -> bool:
        claims = self.subject.capabilities
        if claims.refuses_shape(config):
            return False
        ranks = ranks_of(claims.align(group))
        return not any(claims.refuses_shard(rank, config) for rank in ranks)

    def need_right_output(self) -> None:
        """Raise `NotJudged` if plain outputs were found wrong earlier in this run.

        Hot spots and state compare outputs as well: they would say it again, and
        say it worse.
        """
        if self.subject.name in self.settings.wrong_outputs:
            raise not_run("the plain output is out of bound already")

    def another_shape(self, config: MoEConfig) -> Case | None:
        """A small supported case whose matrices differ from those of `config`."""
        for other in shapes():
            if other.hidden != config.hidden and self._supports(other, WHOLE):
                return Case(config=other, tokens=1)
        return None

    def layer_weights(self, layer: int) -> tuple[MoEConfig, ExpertWeights]:
        """Configuration and weights of one layer of the checkpoint."""
        self._from(LAYER, str(layer))
        kept = self.settings.kept
        found = None if kept is None else kept.layer(layer)
        if found is not None:
            return found
        checkpoint = self.settings.checkpoint
        return checkpoint.config, checkpoint.layer(layer)

    def raw_bytes(self, case: Case) -> tuple[MoEConfig, ExpertWeights]:
        """What `case` prepares: a layer of the checkpoint, or any bytes of a shape."""
        if case.layer is not None:
            return self.layer_weights(case.layer)
        assert case.config is not None
        self._from(BYTES, str(case))
        kept = self.settings.kept
        found = None if kept is None else kept.bytes_of(case)
        return case.config, found or any_bytes(case.config, case.seed)

    def data(self, case: Case) -> CaseData:
        """The tensors of `case` on the CPU; raises `NotJudged` if unsupported."""
        self._from(CASE, str(case))
        layer = None if case.layer is None else self.layer_weights(case.layer)
        config = case.config if layer is None else layer[0]
        assert config is not None
        self.subject.require(config, case.shard)
        data = make_case_data(
            case, hidden_dtype=self.subject.arithmetic.output, layer_weights=layer
        )
        if self.settings.kept is not None:
            data = self.settings.kept.data(case, data)
        # Rounded before both sides see them, so that it is nobody's error.
        dtype = self.subject.capabilities.routing_dtype()
        weights = data.routing.weights.to(dtype).float()
        return replace(data, routing=Routing(data.routing.ids, weights))

    def _from(self, kind: str, word: str) -> None:
        """Remember where the first inputs of a case came from."""
        if self.record.source is None:
            self.record.source = Source(kind, word)

    def inputs(self, case: Case, data: CaseData) -> CaseData:
        """`data` on the candidate's device."""
        return on_device(case, data, self.subject.device)

    def judged(
        self,
        case: Case,
        data: CaseData,
        routing_error: torch.Tensor | None = None,
    ) -> Judged:
        """Truth and bound of the candidate's class for this case."""
        return judge_rank(
            shard_weights(data.weights, data.config, case.shard),
            data.config,
            data.hidden_states,
            data.routing,
            shard=case.shard,
            arithmetic=self.subject.arithmetic,
            routing_error=routing_error,
        )

    def saw(self, worst: float, *, stage: str = "combine") -> None:
        """Remember the largest error / allowed of the check, and of `stage`."""
        record = self.record
        record.worst = max(worst, record.worst or 0.0)
        if record.case is not None:
            configuration = "/".join(record.case.split("/")[:2])
            record.measure(stage, configuration, worst)

    def note(self, text: str) -> None:
        """A quality note: the check passes and the report shows the text, once."""
        if text not in self.record.notes:
            self.record.notes.append(text)

    def again(self, case: Case | None) -> str:
        """The one command that repeats this check."""
        only = self.check_name
        if self.place and case is None:
            only = f"'{only} and {self.place}'"
        words = ["mxmoe check", "--candidate", self.subject.spec, "-k", only]
        if self.settings.checkpoint_given:
            words += ["--checkpoint", str(self.settings.checkpoint_folder)]
        if self.settings.device is not None:
            words += ["--device", self.settings.device]
        if self.settings.isolate:
            words.append("--isolate")
        if self.settings.against is not None:
            words += ["--against", self.settings.against.spec]
        if case is not None:
            words += ["--case", str(case)]
        return " ".join(words)

    def fail(
        self,
        verdict: Verdict,
        lines: Iterable[str],
        *,
        case: Case | None = None,
        what: str,
        tensors: dict[str, torch.Tensor] | None = None,
    ) -> Failure:
        """The failure to raise: headline, `lines`, how to repeat it."""
        described = "" if case is None else f" · {case}"
        text = [f"{self.subject.name} · {what}{described}", *lines]
        text.append(f"again  {self.again(case)}")
        facts: dict[str, object] = {
            "candidate": self.subject.spec,
            "check": self.check_name,
            "parameters": dict(self.parameters),
            "place": self.place,
            "case": None if case is None else str(case),
            "verdict": str(verdict),
            "text": "\n".join(text),
            "inputs": None
            if self.record.source is None
            else asdict(self.record.source),
        }
        # Written by the plugin for the last failure only: shrinking raises many.
        self.record.evidence = (facts, tensors or {})
        return Failure(verdict, "\n".join(text))
