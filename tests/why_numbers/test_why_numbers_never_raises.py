"""Whatever an output is, naming its cause ends with a sentence, not with an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import HOT_SPOTS
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.cases.strategies import cases
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.stages.stage import explain_stage
from mxmoe.conformance.why_numbers.why_lines import why_lines
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensor = torch.Tensor


def _last_token(out: Tensor) -> Tensor:
    return torch.cat([out[:-1], 2 * out[-1:] + 1])


def _one_nan(out: Tensor) -> Tensor:
    out = out.clone()
    out[-1, 0] = torch.nan
    return out


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "twice": lambda out: 2 * out,
    "nan": lambda out: out * torch.nan,
    "one_nan": _one_nan,
    "half_infinite": lambda out: torch.where(out > out.median(), torch.inf, out),
    "last_token": _last_token,
    "former_row": lambda out: out.roll(1, 0) + 0.01,
    "constant_columns": lambda out: torch.cat([out[:, :-32], out[:, -32:] * 0 + 3], 1),
    "ramp": lambda out: out + torch.linspace(-1, 1, out.numel()).view_as(out),
}


def is_small(config: MoEConfig, _shard: Shard) -> bool:
    return config.top_k * config.hidden * config.intermediate < 2**16


def judge_sentences(examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    # A rank without lanes.
    @example(parse_case("e1k1h32i32/tp3r2/t63/s55"), "constant_columns", "fp32")
    @example(parse_case("e1k1h32i32/tp3r2/t63/s55"), "half_infinite", "fp32")
    @given(
        cases(is_small, hot=tuple(HOT_SPOTS)),
        st.sampled_from(sorted(WRONG)),
        st.sampled_from(sorted(ARITHMETIC)),
    )
    def judge(case: Case, wrong: str, name: str) -> None:
        arithmetic = ARITHMETIC[name]
        data = make_case_data(case, hidden_dtype=arithmetic.output)
        judged = judge_rank(
            shard_weights(data.weights, data.config, case.shard),
            data.config,
            data.hidden_states,
            data.routing,
            shard=case.shard,
            arithmetic=arithmetic,
        )
        truth, allowed = judged.truth["combine"], judged.allowed["combine"]
        out = WRONG[wrong](truth.to(arithmetic.output)).to(arithmetic.output)
        difference = compare_numbers(out, truth, allowed)
        if not difference.within:
            (line,) = why_lines(case, data, judged, out, arithmetic, difference.worst)
            assert line.startswith("why    ")

    judge()


def judge_stages(examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @example(parse_case("e1k1h32i32/tp3r2/t63/s55"), "ramp", "down", "fp32")
    @given(
        cases(is_small, hot=tuple(HOT_SPOTS)),
        st.sampled_from(sorted(WRONG)),
        st.sampled_from(("gate_up", "activation", "down", "combine")),
        st.sampled_from(sorted(ARITHMETIC)),
    )
    def judge(case: Case, wrong: str, stage: str, name: str) -> None:
        data = make_case_data(case, hidden_dtype=ARITHMETIC[name].output)
        situation = situation_of(case, data)
        judged = judge_rank(
            situation.part,
            data.config,
            data.hidden_states,
            data.routing,
            shard=case.shard,
            arithmetic=ARITHMETIC[name],
        )
        rows = judged.truth[stage].flatten(0, -2)
        if rows.numel():
            spoiled = WRONG[wrong](rows).reshape(judged.truth[stage].shape)
            # What lies behind the wrong stage may be anything.
            stages = {"activation": torch.zeros(3), stage: spoiled}
            if stage == "down":
                stages["activation"] = judged.truth["activation"]
            explain_stage(stage, stages, judged, situation, ARITHMETIC[name])

    judge()


def test_any_wrong_stage_is_looked_at_without_an_error() -> None:
    judge_stages(6)


@pytest.mark.nightly
def test_any_of_hundreds_of_wrong_stages_is_looked_at_without_an_error() -> None:
    judge_stages(400)


def test_any_wrong_output_gets_one_line() -> None:
    judge_sentences(10)


@pytest.mark.nightly
def test_any_of_hundreds_of_wrong_outputs_gets_one_line() -> None:
    judge_sentences(400)
