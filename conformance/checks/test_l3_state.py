"""L3: what must not change between calls, and what must not be kept."""

from __future__ import annotations

import pytest

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.strategies import MANY_TOKENS
from mxmoe.conformance.judging import state as judge_state
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import unsupported
from mxmoe.reference.types import Shard

pytestmark = [pytest.mark.state, pytest.mark.level("L3")]

# Prefill, decode, and a tail; state faults do not depend on more.
TOKENS = (1, 4, 17)
HOT = ("no_expert", "strided")
# A rank whose experts and lanes do not begin at 0.
EXAMPLES = (
    Case(
        config=MANY_TOKENS,
        shard=Shard(tp_size=2, tp_rank=1, ep_size=2, ep_rank=1),
        tokens=17,
        hot=HOT,
    ),
)


def test_a_second_call_repeats_the_first(judge: Judge) -> None:
    """Same input, same result, also with another input in between."""
    judge.need_right_output()
    judge.subject.need("forward")
    judge.for_all(
        judge_state.second_call,
        hot=HOT,
        tokens=TOKENS,
        examples=EXAMPLES,
    )


def test_zero_tokens_give_an_empty_output(judge: Judge) -> None:
    judge.subject.need("forward")
    judge.for_all(judge_state.zero_tokens, tokens=(0,), share=0.25)


def test_the_input_is_not_modified(judge: Judge) -> None:
    """Hidden states, ids, weights and prepared tensors, byte for byte."""
    judge.subject.need("forward")
    judge.for_all(
        judge_state.input_unmodified,
        hot=HOT,
        tokens=TOKENS,
        share=0.5,
        examples=EXAMPLES,
    )


def test_poisoned_memory_changes_nothing(judge: Judge) -> None:
    """Memory holds 0xFF before `prepare` and before `forward` get it."""
    judge.need_right_output()
    judge.for_all(
        judge_state.poisoned,
        hot=HOT,
        tokens=TOKENS,
        examples=EXAMPLES,
    )


def test_raw_weights_are_freed(judge: Judge) -> None:
    """After `prepare`, raw tensors live on only inside the prepared ones."""
    judge.subject.need("prepare")
    judge.for_all(judge_state.raw_weights_freed, tokens=(1,), share=0.25)


def test_declared_determinism_holds(judge: Judge) -> None:
    """Eight repeats, bit for bit."""
    judge.subject.need("forward")
    if not judge.subject.capabilities.deterministic:
        raise unsupported("deterministic: False")
    judge.for_all(
        judge_state.deterministic,
        hot=HOT,
        tokens=TOKENS,
        examples=EXAMPLES,
    )


def test_declared_batch_invariance_holds(judge: Judge) -> None:
    """A token alone has the bits that it has in the batch."""
    judge.subject.need("forward")
    if not judge.subject.capabilities.batch_invariant:
        raise unsupported("batch_invariant: False")
    judge.for_all(judge_state.batch_invariant, tokens=(2, 17, 33, 129))
