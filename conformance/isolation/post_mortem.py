"""From what a lost child left behind to the failure that a person reads."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from mxmoe.conformance.isolation.beacon import Doing
from mxmoe.conformance.plugin import PACKAGE
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict

# faulthandler's lines: the frames, innermost first, and what stands around them.
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.+)$')
_AROUND = re.compile(
    r"^(Fatal Python error|Current thread|Thread 0x|Extension modules|Timeout \()"
)
_FRAMES, _WORDS = 4, 3


def post_mortem(doing: Doing, code: int | None, said: str) -> Failure:
    """What happened, in which call, where in the candidate, and its last words.

    code : the exit code, None for a child that hung. said : its output since it was
    asked.
    """
    if code is None:
        verdict = Verdict.TIMEOUT
        first = f"{doing.what} did not return in {doing.seconds:g} s"
        if not doing.calling:
            first = f"after {doing.what} the device did not answer any more"
    else:
        verdict = Verdict.CRASH
        where = doing.what if doing.calling else f"the time after {doing.what}"
        first = f"the process died in {where} ({_how(code)})"
    return Failure(verdict, "\n".join([first, *_frames(said), *_last_words(said)]))


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _frames(said: str) -> list[str]:
    """The candidate's own frames, innermost last, as for an exception."""
    found: list[str] = []
    for line in said.splitlines():
        frame = _FRAME.match(line)
        if frame is None:
            continue
        path = Path(frame[1])
        if PACKAGE in path.parents:
            break
        found.append(f"  at {path.name}:{frame[2]} in {frame[3]}")
    return found[:_FRAMES][::-1]


def _last_words(said: str) -> list[str]:
    """What native code printed: an assertion's text, the runtime's complaint."""
    words = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not _FRAME.match(line) and not _AROUND.match(line)
    ]
    return [f"  said {line[:200]}" for line in words[-_WORDS:]]
