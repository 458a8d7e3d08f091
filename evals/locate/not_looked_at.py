"""What of a candidate a search in one model on one rank does not reach or not see."""

from __future__ import annotations

from mxmoe.conformance.subject import Subject


def not_looked_at(subject: Subject) -> list[str]:
    """One line for each, with the command that does look at it."""
    lines = []
    if subject.has("all_reduce"):
        lines.append(
            "not looked at: all_reduce, as there is one rank here "
            "(mxmoe check -m distributed judges it)"
        )
    if subject.capabilities.tactics is not None:
        lines.append(
            "not looked at: tactics other than the one that forward chooses "
            "(mxmoe check -k tactic judges each)"
        )
    if not subject.has("forward_fused"):
        return lines
    return [*lines, "forward_fused: judged too, but for tokens near a tie of experts"]


def not_observable(subject: Subject) -> list[str]:
    """One line for each thing that the candidate does not show."""
    lines = []
    if not subject.has("trace"):
        lines.append("gate_up, activation, down: not observable (exposes no trace)")
    if subject.layout is None:
        lines.append("prepared bytes: not observable (a layout of the candidate's own)")
    if not subject.has("route"):
        lines.append("routing: not observable (exposes no route)")
    return lines
