"""Known failures: an issue and a date each, and no entry outlives its failure."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.suite.expected import read_expected
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput

ENTRY = """
[[expected]]
test = "{test}"
kind = "{kind}"
issue = "https://example.org/7"
expires = {expires}
"""
LATER = datetime.date(2999, 1, 31)
FILE = """
from mxmoe.kernels.torch_dense import candidate as real

class Mine:
    name = "mine"
    prepare = staticmethod(real.prepare)

    def route(self, logits, top_k):
        raise ValueError("no")

    def decode(self, blocks, scales, dtype):
        return real.decode(blocks, scales, dtype)

candidate = Mine()
"""
STRIDED = "mine-test_route_reads_strided_logits"
DECODE = "mine-test_decode_is_exact_for_every_scale_and_byte"


def entry(test: str, kind: str = "xfail", expires: datetime.date = LATER) -> str:
    return ENTRY.format(test=test, kind=kind, expires=expires)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "known.toml"


def check(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folder = file.parent
    (folder / "mine.py").write_text(FILE, encoding="utf-8")
    code = "from mxmoe.conformance.commands.main import main; main()"
    words = "check --profile dev -c mine.py --run-dir run --expected known.toml"
    words += " -k strided_logits"
    return subprocess.run(
        [sys.executable, "-c", code, *words.split(), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("pattern", "test_id", "matches"),
    [
        ("a-test_x", "a-test_x", True),
        ("a-test_x", "a-test_x-layer0", True),
        ("a-test_x", "a-test_xy", False),
        ("a-test_x-layer0", "a-test_x-layer0", True),
        ("a-test_x-layer0", "a-test_x", False),
        ("*-test_x-*-tp2r1", "b-test_x-layer3-tp2r1", True),
        ("a", "b-test_x", False),
    ],
)
def test_an_entry_is_exact_or_a_glob(
    pattern: str, test_id: str, matches: bool, file: Path
) -> None:
    file.write_text(entry(pattern))
    [found] = read_expected(file).entries
    assert found.matches(test_id) is matches


@pytest.mark.parametrize("field", ["test", "kind", "issue", "expires"])
def test_every_field_is_required(field: str, file: Path) -> None:
    lines = [x for x in entry("a").splitlines() if not x.startswith(f"{field} ")]
    file.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=f"entry 1.*: expected {field}, found none: add"):
        read_expected(file)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"xfail"', '"flaky"', "kind: expected skip or xfail, found 'flaky'"),
        ('"https://example.org/7"', '"#7"', "issue: expected a link, found '#7'"),
        (
            str(LATER),
            '"soon"',
            "expires: expected a date like 2027-01-31, found 'soon'",
        ),
        (str(LATER), f"{LATER}T00:00:00", "expires: expected a date like"),
        ('"a"', "3", "test: expected a test id, found 3"),
        ("kind", "kinds", r"\(a\): expected kind, found none"),
        (
            "test =",
            "reason = 'x'\ntest =",
            "test, kind, issue, expires only, found rea",
        ),
        ("[[expected]]", "[[known]]", r"expected tables \[\[expected\]\] only"),
        ("[[expected]]", "[expected]", r"expected tables \[\[expected\]\] only"),
        ("[[expected]]", "[[", "expected TOML, found"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(
    old: str, new: str, sentence: str, file: Path
) -> None:
    file.write_text(entry("a").replace(old, new))
    with pytest.raises(BadInput, match=sentence) as raised:
        read_expected(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
    file.unlink()
    with pytest.raises(BadInput, match="expected a TOML file, No such file"):
        read_expected(file)


def test_an_expired_entry_is_refused_unless_lenient(file: Path) -> None:
    file.write_text(entry("a", expires=datetime.date(2026, 1, 31)))
    last, after = datetime.date(2026, 1, 31), datetime.date(2026, 2, 1)
    read_expected(file).check_dates(last)
    with pytest.raises(BadInput, match=r"entry 1 \(a\): .*by 2026-01-31, which has pa"):
        read_expected(file).check_dates(after)
    lenient = read_expected(file, lenient=True)
    lenient.check_dates(after)
    assert len(lenient.complaints) == 1


def test_an_unmatched_entry_is_refused_unless_lenient(file: Path) -> None:
    file.write_text(entry("a-test_x") + entry("a-test_y"))
    with pytest.raises(BadInput, match=r"entry 2 \(a-test_y\): .*found none: correct"):
        read_expected(file).check_matched(["a-test_x-layer0"])
    lenient = read_expected(file, lenient=True)
    lenient.check_matched(["a-test_x-layer0"])
    assert len(lenient.complaints) == 1


def test_known_failures_are_shown_and_do_not_fail_a_run(file: Path) -> None:
    file.write_text(entry(STRIDED) + entry("mine-test_decode*", "skip"))
    done = check(file, "-k", "strided_logits or test_decode or test_zero_tokens")
    assert done.returncode == 3, done.stdout + done.stderr  # nothing else was judged
    assert (
        "expected failure: mine L2: crash, xfail: https://example.org/7" in done.stdout
    )
    assert "not run: mine L0: skip: https://example.org/7 (until 2999" in done.stdout
    found = {line.verdict for line in read_run(file.parent / "run").verdicts}
    assert found == {Verdict.EXPECTED_FAILURE, Verdict.NOT_RUN}


def test_an_unexpected_pass_is_an_error_unless_lenient(file: Path) -> None:
    test = f"{DECODE}-torch.float32"
    file.write_text(entry(test))
    lenient = read_expected(file, lenient=True)
    lenient.unexpectedly_passed(lenient.entries[0], test)
    assert (len(lenient.complaints), len(lenient.passed)) == (1, 0)
    done = check(file, "-k", "test_decode", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_code"] == 1, found
    assert found["verdict"] == "verdict: FAIL 1 passed that known.toml knows"


def test_an_unmatched_entry_stops_a_run_before_it_begins(file: Path) -> None:
    file.write_text(entry("mine-test_decoed"))
    done = check(file)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mxmoe: error: known.toml: entry 1 (mine-test_decoed): ")
