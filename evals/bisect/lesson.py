"""What the ends of a history taught: the fault to look for, and what half way is.

A step knows nothing of other commits. The lesson is written where the bad end is
judged, then the good end, and read at every commit between them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxmoe.conformance.bundles.bundle import Bundle
from mxmoe.conformance.bundles.bundle import read_bundle
from mxmoe.conformance.rundir import read_run
from mxmoe.evals.bisect.signature import Signature
from mxmoe.evals.bisect.signature import from_json
from mxmoe.evals.bisect.signature import read_text
from mxmoe.evals.bisect.signature import signature_of
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """signatures : of the bad end's failures; None if it was not judged yet.

    case : the one that failed there, if it was one: judging it again suffices.
    asked : questions of a score. bad_right, good_right : those answered correctly at
    either end; None if not measured.
    """

    signatures: tuple[Signature, ...] | None = None
    case: str | None = None
    asked: int | None = None
    bad_right: tuple[int, ...] | None = None
    good_right: tuple[int, ...] | None = None

    @property
    def least_correct(self) -> int | None:
        """Correct answers from half way between the ends up, rounded up."""
        if self.bad_right is None or self.good_right is None:
            return None
        return max(1, -(-(len(self.bad_right) + len(self.good_right)) // 2))

    def write(self, path: Path) -> None:
        """Keep it as JSON, whole, through a rename."""
        signatures = self.signatures
        facts = {
            "signatures": None
            if signatures is None
            else [signature.as_json() for signature in signatures],
            "case": self.case,
            "asked": self.asked,
            "bad_right": self.bad_right,
            "good_right": self.good_right,
        }
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


def read_lesson(path: Path) -> Lesson:
    """The lesson in `path`, an empty one if there is none; `BadInput` if damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        given = found["signatures"]
        return Lesson(
            signatures=None if given is None else tuple(map(from_json, given)),
            case=found["case"],
            asked=found["asked"],
            bad_right=_numbers(found["bad_right"]),
            good_right=_numbers(found["good_right"]),
        )
    except FileNotFoundError:
        return Lesson()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: expected a lesson of ours, found {error}") from error


def _numbers(found: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if found is None else tuple(int(number) for number in found)


def lesson_of(bundle: Bundle) -> Lesson:
    """What a bundle teaches."""
    check = bundle.repetition.check
    found = read_text(bundle.text, verdict=bundle.verdict, check=check)
    return Lesson(signatures=(found,), case=bundle.case)


def lesson_like(path: Path) -> Lesson:
    """What a failed run, or a bundle, teaches; `BadInput` if nothing failed in it."""
    if (path / "case.json").exists():
        return lesson_of(read_bundle(path))
    failed = [line for line in read_run(path).verdicts if line.verdict.failed]
    if not failed:
        raise BadInput(f"{path}: expected a run with a failure, found none")
    cases = {line.case for line in failed}
    return Lesson(
        signatures=tuple(signature_of(line) for line in failed),
        case=cases.pop() if len(cases) == 1 else None,
    )
