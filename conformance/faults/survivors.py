"""What became of machine-made mutants, and whether a survivor is explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from types import MappingProxyType

from rich.console import Console

from mxmoe.conformance.escape import printable
from mxmoe.conformance.faults.explained import REASONS
from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.verdict import ExitCode

EXPLAINED: Mapping[str, str] = MappingProxyType(
    {edit: reason for reason, edits in REASONS.items() for edit in edits}
)
"""Edit, or pair of edits -> why it is equivalent, or as good as that."""


def explained(mutant: str) -> str | None:
    """Why a mutant survives: its pair of edits, or each of them; None if unknown."""
    if mutant in EXPLAINED:
        return EXPLAINED[mutant]
    reasons = [EXPLAINED.get(edit) for edit in mutant.split(" ; ")]
    return None if None in reasons else "; ".join(filter(None, reasons))


def conclude_mutants(kills: Sequence[Kill], seconds: float) -> tuple[ExitCode, str]:
    """The exit code, and the line that begins ``verdict:``."""
    idle = sum(bool(one.reason) for one in kills)
    lost = [one.fault for one in kills if one.survived]
    unknown = sum(explained(mutant) is None for mutant in lost)
    judged = len(kills) - idle
    text = (
        f"{judged - len(lost)} of {judged} mutants caught, {len(lost)} survived, "
        f"{unknown} of them unexplained, {idle} do not load ({seconds:.0f} s)"
    )
    if not judged:
        return ExitCode.INVALID, f"verdict: INVALID {text}"
    code = ExitCode.FAIL if unknown else ExitCode.PASS
    return code, f"verdict: {code.name} {text}"


def print_mutants(console: Console, kills: Sequence[Kill]) -> None:
    """How many each check was the first to catch; every survivor, with its reason."""
    for check, count in Counter(one.first for one in kills).most_common():
        if check is not None:
            console.print(f"{count:5} {check}")
    for one in kills:
        if one.survived:
            reason = explained(one.fault) or "UNEXPLAINED"
            text = f"survived: {one.fault}\n    {reason}"
            console.print(printable(text), soft_wrap=True)
