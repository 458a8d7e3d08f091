"""What several failures say of their causes is put together at the end of a run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.suite.causes_said import causes_said
from mxmoe.conformance.suite.causes_said import said_most
from mxmoe.conformance.suite.collection import PLAIN_OUTPUT
from mxmoe.conformance.verdict import Verdict


@pytest.mark.parametrize(
    ("line", "causes"),
    [
        ("behaves as if: beta is 0; or alpha is 1.2", ("beta is 0", "alpha is 1.2")),
        ("behaves as if: beta is 0 (in case e8k4h96i160/t37)", ("beta is 0",)),
        ("fc1_bias: missing: row shuffle 32", ("fc1_bias: missing: row shuffle 32",)),
        (
            "any of: columns reversed; signs flipped",
            ("columns reversed", "signs flipped"),
        ),
        ("none of the known hypotheses gives this output", ()),
        ("no mixture of the ranks' outputs gives this sum", ()),
        ("close to the bound: a rounding that class fp32 does not have?", ()),
        ("fc1_bias: no edit of one or two known steps gives these bytes", ()),
    ],
)
def test_the_alternatives_of_a_failure_are_read(
    line: str, causes: tuple[str, ...]
) -> None:
    assert causes_said(["x · output · case", f"why    {line}", "again"]) == causes


def test_a_failure_without_a_cause_has_none() -> None:
    assert causes_said(["x · output · case", "again  mxmoe check"]) == ()


def line(name: str, why: str, verdict: Verdict = Verdict.MISMATCH) -> VerdictLine:
    return VerdictLine(
        check="x::y", candidate=name, level="L3", verdict=verdict, text=f"why    {why}"
    )


def often(lines: Sequence[VerdictLine]) -> list[str]:
    return list(said_most(lines))


def test_what_most_failures_name_comes_first() -> None:
    said = [
        "behaves as if: a; or b",
        "behaves as if: b",
        "behaves as if: b; or c; or a",
    ]
    lines = [line("mine", why) for why in said]
    lines += [line("mine", "none of the known hypotheses gives this output")]
    assert often(lines) == [
        "cause  mine: b (3 of 4 failures)",
        "cause  mine: a (2 of 4 failures)",
    ]


def test_candidates_are_told_apart() -> None:
    lines = [line(n, f"behaves as if: {n} is odd") for n in ("x", "y", "x")]
    assert often(lines) == ["cause  x: x is odd (2 of 2 failures)"]


def test_what_passed_names_no_cause() -> None:
    lines = [line("x", "behaves as if: a", Verdict.OK)] * 2
    assert often(lines) == []


def test_a_level_begins_with_the_plain_output_and_ends_with_laws() -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "mxmoe.conformance.checks"]
    command += ["-c", os.devnull, "-p", "no:cacheprovider", "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "--candidate", "torch_dense"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    files = [x.partition("::")[0] for x in done.stdout.splitlines() if "::" in x]
    names = [x for x in done.stdout.splitlines() if "test_l3_" in x]
    assert PLAIN_OUTPUT[0] in names[0]
    order = list(dict.fromkeys(file.rpartition("/")[2] for file in files))
    assert order.index("test_l3_laws.py") == len(order) - 3
    assert sorted(order[-2:]) == ["test_l4_distributed.py", "test_l4_sharding.py"]
    assert len(order) == len(set(order))
    # Each file once: no level is taken up again.
    assert sum(a != b for a, b in itertools.pairwise(files)) == len(order) - 1
