"""The suite's options and markers inside pytest, and the session that they ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.suite.session import Options
from mxmoe.conformance.suite.session import Session
from mxmoe.conformance.suite.session import open_session
from mxmoe.reference.errors import BadInput

MARKERS = {
    "bytewise": "L0 formats and L1 bytes: byte for byte, seconds, no GPU needed",
    "routing": "L2: expert ids and routing weights",
    "numeric": "L3: stages and output within the derived bound",
    "state": "L3: second call, poisoned memory, input unmodified, raw weights freed",
    "sharding": "L4: tensor and expert parallel partition and re-assembly",
    "distributed": "L4: real collectives between processes",
    "e2e": "L5: the task score",
    "faults": "the suite against itself",
    "gpu": "needs an accelerator",
    "b200": "needs an sm_100 GPU",
    "nightly": "too slow for a working day",
    "needs_option(name)": "deselected unless the option is given",
    "level(name)": "which level a check belongs to (L0 .. L5)",
}


def add_options(parser: pytest.Parser) -> None:
    """What ``mxmoe check`` takes, by the names that pytest leaves free."""
    group = parser.getgroup("mxmoe", "MXFP4 MoE conformance")
    group.addoption(
        "--candidate",
        action="append",
        default=[],
        metavar="SPEC",
        help="what to judge: path/file.py:attr, package.module:attr or an installed "
        "name; repeatable (default: $MXMOE_CANDIDATE, else the bundled ones)",
    )
    group.addoption("--against", metavar="SPEC", help="compare with this candidate too")
    group.addoption(
        "--checkpoint", metavar="DIR", help="a gpt-oss MXFP4 folder to judge on"
    )
    group.addoption("--layers", help="'all' or numbers like 0,5 (of the checkpoint)")
    group.addoption(
        "--case", metavar="WORD", help="judge this one case, as a failure prints it"
    )
    group.addoption(
        "--mxmoe-device", help="cpu or cuda (default: the candidate's first choice)"
    )
    group.addoption("--require-class", metavar="NAME", help="pin the arithmetic class")
    group.addoption(
        "--mxmoe-isolate",
        choices=("yes", "no"),
        help="judge candidates in processes of their own (default: on a GPU)",
    )
    group.addoption("--expected", metavar="FILE", help="known failures, TOML")
    group.addoption(
        "--lenient-expected",
        action="store_true",
        help="entries of it that match nothing, have expired or pass are warnings",
    )
    group.addoption("--run-dir", metavar="DIR", help="write the run directory here")


def session_of(config: pytest.Config, profile: str) -> Session:
    """The session of these options; `pytest.UsageError` for bad input."""
    checkpoint, run_dir, expected = (
        config.getoption(option)
        for option in ("--checkpoint", "--run-dir", "--expected")
    )
    try:
        return open_session(
            Options(
                candidates=config.getoption("--candidate"),
                against=config.getoption("--against"),
                checkpoint=None if checkpoint is None else Path(checkpoint),
                layers=config.getoption("--layers"),
                case=config.getoption("--case"),
                device=config.getoption("--mxmoe-device"),
                required_class=config.getoption("--require-class"),
                run=None if run_dir is None else RunWriter(Path(run_dir)),
                profile=profile,
                expected=None if expected is None else Path(expected),
                lenient_expected=config.getoption("--lenient-expected"),
                isolate=_yes_or_no(config.getoption("--mxmoe-isolate")),
            )
        )
    except BadInput as error:
        raise pytest.UsageError(str(error)) from error


def _yes_or_no(word: str | None) -> bool | None:
    return None if word is None else word == "yes"
