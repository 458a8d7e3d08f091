"""The gate's run behind a benchmark: no latency for a server that failed it."""

from __future__ import annotations

from pathlib import Path

from mxmoe.evals.endpoint.address import Address
from mxmoe.evals.gate.gate_run import read_gate_run
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput


def gate_objection(run: Path, address: Address, model: str) -> str | None:
    """Why a gate's run forbids a benchmark of this server; None if it passed.

    Raises `BadInput` for what is no ended and undamaged run of the gate at this server
    and model.
    """
    found = read_gate_run(run)
    options = found.facts.get("options")
    asked = options if isinstance(options, dict) else {}
    judged = asked.get("endpoint"), asked.get("model")
    if judged != (address.base, model):
        raise BadInput(
            f"{run}: expected a gate of {model} at {address.base}, found one of "
            f"{judged[1]} at {judged[0]}"
        )
    verdict = found.conclusion.verdict
    if verdict is GateVerdict.PASS:
        return None
    return f"the gate of this server ended with {verdict}: {run}"
