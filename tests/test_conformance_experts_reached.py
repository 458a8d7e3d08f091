"""A run says which experts its judged cases visited."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.commands.main import main
from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.judging.experts_reached import all_reached
from mxmoe.conformance.judging.experts_reached import united
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.suite.summary import _unreached
from mxmoe.conformance.verdict import Verdict

OUTPUT = "test_output_stays_within_the_bound"


def part(where: str, experts: int, *ids: int) -> Reached:
    return Reached(where=where, experts=experts, ids=ids)


def test_cases_of_one_place_are_united_and_places_kept_apart() -> None:
    parts = [part("e4", 4, 3), part("layer0", 4, 0), part("e4", 4, 0, 3)]
    assert united(parts) == (part("e4", 4, 0, 3), part("layer0", 4, 0))


def test_gaps_are_said_with_the_experts_that_nothing_visited() -> None:
    assert all_reached([]) == ""
    assert all_reached([part("e2", 2, 0, 1), part("e1", 1, 0)]) == "all in e1, e2"
    assert all_reached([part("e1", 1, 0), part("e8", 8, 7)]) == (
        "all in e1; 1 of 8 in e8, not 0, 1, 2, 3, ..."
    )


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("e8k2h64i32/tp1r0/t1/s0", "experts reached: torch_dense: 2 of 8 in e8, not "),
        ("e2k2h64i32/tp1r0/t1/s0", ""),
    ],
)
def test_a_run_tells_of_experts_that_no_judged_token_visited(
    case: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    words = ("--candidate", "torch_dense", "-k", OUTPUT, "--case", case)
    with pytest.raises(SystemExit) as ended:
        main(["check", *words, "--run-dir", str(run)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert ("experts reached" in printed) == bool(said)
    (line,) = read_run(run).verdicts
    (found,) = line.reached
    assert found.where == case.partition("k")[0]
    assert len(found.ids) == 2


def test_of_drawn_cases_nothing_is_told_and_of_layers_it_is() -> None:
    def told(where: str, given: Case | None) -> list[tuple[str, str]]:
        line = SimpleNamespace(
            candidate="mine", verdict=Verdict.OK, reached=(part(where, 4, 0),)
        )
        return list(_unreached([line], given))

    case = parse_case("e4k2h64i32/tp1r0/t1/s0")
    assert told("e4", None) == []
    assert told("e4", case) == [("mine", "1 of 4 in e4, not 1, 2, 3")]
    assert told("layer0", None) == [("mine", "1 of 4 in layer0, not 1, 2, 3")]
