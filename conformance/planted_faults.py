"""All planted faults, in the order of the levels that must find them.

``mxmoe check -c mxmoe.conformance.planted_faults:drop_limit`` judges a candidate
that has one of them.
"""

from __future__ import annotations

from mxmoe.conformance import planted_activation
from mxmoe.conformance import planted_bytes
from mxmoe.conformance import planted_claims
from mxmoe.conformance import planted_codec
from mxmoe.conformance import planted_numbers
from mxmoe.conformance import planted_ranks
from mxmoe.conformance import planted_routing
from mxmoe.conformance import planted_stages
from mxmoe.conformance import planted_state
from mxmoe.conformance import planted_tails
from mxmoe.conformance import planted_trtllm
from mxmoe.conformance.planted import Fault

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for module in (
        planted_codec,
        planted_bytes,
        planted_trtllm,
        planted_routing,
        planted_numbers,
        planted_activation,
        planted_tails,
        planted_stages,
        planted_state,
        planted_claims,
        planted_ranks,
    )
    for fault in vars(module).values()
    if isinstance(fault, Fault)
}


def __getattr__(name: str) -> object:
    if name not in FAULTS:
        raise AttributeError(f"no fault is called {name!r}")
    return FAULTS[name].plant()
