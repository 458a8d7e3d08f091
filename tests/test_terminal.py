"""On a real terminal: bars while it runs, none in CI, none in a pipe; nothing cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.faults.matrix import print_matrix

OnTerminal = Callable[..., str]
FAULT = "routing_weights_a_fifth_of_a_percent_off_it"
CHECK = "check", "-m", "bytewise", "-k", "decode", "--candidate", "torch_dense"


REDRAWN = "\x1b[2K"


def test_a_terminal_has_a_bar_and_no_line_is_wider_than_it(
    on_terminal: OnTerminal, tmp_path: Path
) -> None:
    written = on_terminal(CHECK, tmp_path, columns=80)
    assert REDRAWN in written
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r", "\n")
    said, _, verdict = frames.rpartition("verdict: PASS torch_dense")
    assert verdict
    assert max(map(len, said.split("\n"))) <= 80


def test_a_terminal_lent_by_ci_has_no_bar(
    on_terminal: OnTerminal, tmp_path: Path
) -> None:
    written = on_terminal(CHECK, tmp_path, columns=80, CI="true")
    assert REDRAWN not in written
    assert "verdict: PASS torch_dense" in written


@pytest.mark.parametrize(("width", "shown"), [(80, False), (120, True)])
def test_a_name_that_an_option_takes_is_never_cut(
    width: int, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    kill = Kill(
        fault=FAULT,
        base="trtllm_gen",
        level="L3",
        seed=0,
        checks={"test_output_stays_within_the_bound": "caught"},
        first="test_output_stays_within_the_bound",
        seconds=0.25,
        reason="",
    )
    print_matrix(Console(width=width), [kill])
    head, row = capsys.readouterr().out.splitlines()
    assert row.split()[0] == FAULT
    assert head.split()[-2:] == ["caught", "s"]
    assert row.split()[-1] == "0.25"
    assert ("first check" in head) is shown
