"""A check draws only cases that the candidate declares to do, and all kinds of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.profiles import register_profiles
from mxmoe.conformance.cases.rank_groups import GROUPS
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import NotJudged
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(examples=40) as found:
        yield found


def drawn(settings: Settings, groups: tuple[Shard, ...] = (), **claims: Any):
    seen: list[Case] = []
    judge = Judge(subject_of(claiming(PLAIN, **claims)), settings, "drawing")
    with contextlib.suppress(NotJudged):  # which would be a skip
        judge.for_all(lambda _judge, case: seen.append(case), groups=groups)
    return seen


def wide(config: MoEConfig) -> bool:
    return config.hidden >= 256


def narrow_if_split(shard: Shard, config: MoEConfig) -> bool:
    return shard.tp_size <= 4 and config.hidden <= 128


def test_without_limits_every_kind_is_drawn(settings: Settings) -> None:
    seen = drawn(settings, shards="any")
    assert {case.shard.tp_size for case in seen} >= {1, 2, 3, 4, 8}
    assert {case.shard.ep_size for case in seen} == {1, 2}
    assert all(case.config.experts % case.shard.ep_size == 0 for case in seen)
    assert any(case.shard.is_whole() for case in seen)
    assert len({case.config for case in seen}) > 20


def test_shapes_that_it_does_not_do_are_not_drawn(settings: Settings) -> None:
    seen = drawn(settings, shards="any", shapes=wide)
    assert seen
    assert all(wide(case.config) for case in seen)
    assert any(not case.shard.is_whole() for case in seen)


def test_shards_that_it_does_not_do_are_not_drawn(settings: Settings) -> None:
    seen = drawn(settings, shards=narrow_if_split)
    split = [case for case in seen if not case.shard.is_whole()]
    assert split
    assert all(narrow_if_split(case.shard, case.config) for case in split)
    assert any(case.config.hidden > 128 for case in seen)
    assert all(case.shard.is_whole() for case in drawn(settings, shards="whole"))


def test_groups_are_drawn_for_a_candidate_of_shards_only(settings: Settings) -> None:
    seen = {case.shard for case in drawn(settings, GROUPS, shards="any")}
    assert len(seen) > 1
    assert seen <= {*GROUPS}
    assert drawn(settings, GROUPS, shards="whole") == []


def test_profiles_shrink_whatever_profile_is_loaded() -> None:
    with repeatable_settings():
        register_profiles()
        assert Phase.shrink in hypothesis.settings.get_profile("ci").phases
