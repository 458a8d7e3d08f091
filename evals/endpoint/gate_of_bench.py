"""The gate's run behind a benchmark: no latency for a server that failed it."""

from __future__ import annotations

from pathlib import Path

from mxmoe.conformance.rundir import read_run
from mxmoe.evals.endpoint.address import Address
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput


def gate_objection(run: Path, address: Address, model: str) -> str | None:
    """Why a gate's run forbids a benchmark of this server; None if it passed.

    Raises `BadInput` for what is no run of the gate at this server and model.
    """
    facts = read_run(run).run
    if facts.get("command") != "gate":
        raise BadInput(
            f"{run}: expected a run of mxmoe gate, found one of {facts.get('command')}"
        )
    options = facts.get("options")
    asked = options if isinstance(options, dict) else {}
    found = asked.get("endpoint"), asked.get("model")
    if found != (address.base, model):
        raise BadInput(
            f"{run}: expected a gate of {model} at {address.base}, found one of "
            f"{found[1]} at {found[0]}"
        )
    verdict = facts.get("verdict", "no verdict yet")
    if verdict == GateVerdict.PASS:
        return None
    return f"the gate of this server ended with {verdict}: {run}"
