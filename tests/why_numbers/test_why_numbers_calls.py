"""Calls that explain a failure say more about it, and never become another one."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mxmoe.conformance.bundles.repetitions import Repetition
from mxmoe.conformance.bundles.repetitions import arguments_of
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.isolation.host import Losses
from mxmoe.conformance.isolation.judge import judge_of
from mxmoe.conformance.isolation.judge import make_check
from mxmoe.conformance.isolation.opening import child_plan
from mxmoe.conformance.isolation.opening import open_isolated
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.numbers import run_route
from mxmoe.conformance.judging.trace import judge_trace
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.kept import explain_kept
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
SMALL = "e1k1h32i32/tp1r0/t3/s0"


def failure_of(
    candidate: object,
    word: str,
    check: Callable[[Judge, Any], None] = judge_output,
    before: str | None = None,
) -> Failure:
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        if before is not None:
            check(judge, parse_case(before))
        with pytest.raises(Failure) as raised:
            check(judge, parse_case(word))
    return raised.value


def doubling_but(other: Callable[[], Tensor]) -> object:
    """Twice the output on the smallest shape; on others whatever `other` does."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return 2 * PLAIN.forward(p, x, r) if x.shape[1] == 32 else other()

    return changed(PLAIN, forward=forward, trace=None)


def raises() -> Tensor:
    raise RuntimeError("no kernel for this shape")


@pytest.mark.parametrize("other", [raises, lambda: None, lambda: torch.zeros(1)])
def test_a_telling_case_that_cannot_run_leaves_the_failure_as_it_is(
    other: Callable[[], Tensor],
) -> None:
    failure = failure_of(doubling_but(other), SMALL)
    assert failure.verdict is Verdict.MISMATCH
    assert "the whole output times 2" in failure.text
    assert "attribution: your bytes are right, your kernel is wrong" in failure.text
    assert "no kernel" not in failure.text


def test_a_claim_that_raises_for_the_telling_shape_leaves_the_failure() -> None:
    def shapes(config: Any) -> bool:
        if config.hidden != 32:
            raise KeyError(config.hidden)
        return True

    claims = {**PLAIN.capabilities, "shapes": shapes}
    doubling = changed(doubling_but(raises), capabilities=claims)
    assert "the whole output times 2" in failure_of(doubling, SMALL).text


DYING = """
import ctypes
from mxmoe.kernels.torch_dense import candidate as real

class Dying:
    name, capabilities = "dying", real.capabilities

    def forward(self, prepared, hidden_states, routing):
        if len(hidden_states) == 37:
            ctypes.string_at(0)
        return 2 * real.forward(prepared, hidden_states, routing)

dying = Dying()
"""


def test_a_process_that_dies_over_a_telling_case_leaves_the_failure(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dying.py"
    path.write_text(textwrap.dedent(DYING), encoding="utf-8")
    check = "test_output_stays_within_the_bound"
    with repeatable_settings(layers=(0,), examples=1) as found:
        settings = replace(found, isolate=True, case=parse_case(SMALL))
        plan = child_plan(
            checkpoint_folder=settings.checkpoint_folder,
            checkpoint_given=False,
            layers=settings.layers,
            device=None,
            isolate=True,
        )
        subject = open_isolated(f"{path}:dying", plan, Losses())
        try:
            judge = judge_of(subject, settings, check, place="", parameters=())
            arguments = arguments_of(Repetition(check=check), subject, settings)
            with pytest.raises(Failure) as raised:
                make_check(judge, arguments)
        finally:
            subject.host.close()
    assert raised.value.verdict is Verdict.MISMATCH
    assert "off by" in raised.value.text
    assert "the whole output times 2" in raised.value.text
    assert "died" not in raised.value.text


def in_float16(x: Tensor, w: Tensor) -> Tensor:
    return (x.half().float() @ w.half().float().T).half().float()


def test_what_overflows_is_told_from_what_every_token_has_anyhow() -> None:
    overflowing = changed(replace(PLAIN, product=in_float16), trace=None)
    text = failure_of(overflowing, "e1k1h32i32/tp1r0/t3/s0/wide_hidden").text
    assert "beyond float16 (in case e8k4h96i160/" in text
    assert "exp(" not in text


def test_gaps_between_rows_that_are_read_are_named() -> None:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        packed = torch.as_strided(x, x.shape, (x.shape[1], 1))
        return PLAIN.forward(p, packed, r)

    ignoring = changed(PLAIN, forward=forward, trace=None)
    text = failure_of(ignoring, "e1k1h32i32/tp1r0/t3/s0/strided").text
    assert "hidden states read as if no gaps lay between rows" in text


def test_weights_that_are_kept_by_shape_are_named() -> None:
    kept: dict[tuple[int, ...], Tensor] = {}

    def decode(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        found = PLAIN.decode(blocks, scales, dtype)
        return kept.setdefault(tuple(found.shape), found)

    keeping = changed(replace(PLAIN, decode=decode), trace=None)
    text = failure_of(keeping, SMALL, before="e1k1h32i32/tp1r0/t3/s1").text
    assert "why    not followed: gate_up weights, down weights. " in text


@pytest.mark.parametrize("word", [SMALL, "e8k4h96i160/tp2r1/t9/s0/no_expert"])
def test_a_candidate_that_follows_its_input_is_told_nothing(word: str) -> None:
    with repeatable_settings() as settings:
        judge = Judge(subject_of(PLAIN), settings, "test")
        case = parse_case(word)
        run = partial(run_route, route="yours-yours")
        assert explain_kept(judge, case, judge.data(case), run) == []


def test_every_empty_slot_that_adds_an_expert_is_named() -> None:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        one = x.new_zeros(x.shape, dtype=torch.float32)
        for slot in range(r.ids.shape[1]):
            ids, weights = r.ids[:, slot, None] % p.config.experts, r.weights
            routing = Routing(ids, weights[:, slot, None])
            one += PLAIN.trace(p, x, routing)["down"][:, 0] * routing.weights
        return one.to(x.dtype)

    indexing = changed(PLAIN, forward=forward, trace=None)
    text = failure_of(indexing, "e8k4h96i160/tp1r0/t9/s0/no_expert").text
    assert "slots without an expert (-1) visit this rank's last expert" in text


def test_a_traced_activation_is_explained_where_the_output_hides_it() -> None:
    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z[..., 0::2].clamp(-a.limit, a.limit), z[..., 1::2]
        up = up.clamp(-a.limit, a.limit)
        return gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)

    clamping = replace(PLAIN, activate=activate)
    text = failure_of(clamping, "e4k2h64i96/tp1r0/t17/s0", judge_trace).text
    assert "why    behaves as if: gate clamped on both sides" in text


ONE_LINE: dict[str, Any] = {
    "hidden states quantised to float8 (E4M3), one scale a row": changed(
        PLAIN,
        trace=None,
        forward=lambda p, x, r, tactic=None: PLAIN.trace(p, float8(x), r)["combine"],
    ),
}


def float8(x: Tensor) -> Tensor:
    scale = x.float().abs().amax(dim=1, keepdim=True) / 448
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


@pytest.mark.parametrize("words", ONE_LINE)
def test_one_more_line_that_is_wrong_is_named(words: str) -> None:
    assert words in failure_of(ONE_LINE[words], "e4k2h64i96/tp1r0/t17/s0").text


def test_a_swapped_last_block_is_named() -> None:
    def pack(*given: Any) -> dict[str, Tensor]:
        packed = PLAIN.pack(*given)
        last = packed["down_blocks"][:, :, -1]
        packed["down_blocks"][:, :, -1] = (last << 4) | (last >> 4)
        return packed

    swapping = changed(replace(PLAIN, pack=pack), trace=None)
    text = failure_of(swapping, "e4k2h64i96/tp1r0/t17/s0").text
    assert "nibbles of K block 2, the last, of down swapped" in text
