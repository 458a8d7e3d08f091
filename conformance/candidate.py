"""What a kernel must look like to be judged: a structural protocol, no base class.

A candidate is any object (an instance, a class, a module) with a `name` and a
`prepare`, a `forward`, or both. It need not import anything from mxmoe.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields
from dataclasses import replace
from typing import Any
from typing import Protocol

import torch

from mxmoe.reference.errors import BadInput
from mxmoe.reference.formats import SCALE_RULES
from mxmoe.reference.layouts import CHECKPOINT_ORDER
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import RESERVED_ARITHMETIC
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard


class Candidate(Protocol):
    """The members a candidate may have; `name` and one of the first two are required.

    The others, all optional:

    ``route(logits[t, e], top_k)`` -> (ids, weights) or an object with both
    ``forward_fused(prepared, hidden_states, router_weight, router_bias, top_k)``
    ``trace(prepared, hidden_states, routing)`` -> mapping stage -> tensor
    ``decode(blocks[..., g, 16], scales[..., g], dtype)`` -> [..., 32g]
    ``encode(x[..., 32g], rule)`` -> (blocks, scales)
    ``all_reduce(partials)`` -> whole
    ``unavailable()`` -> one sentence, or None
    ``capabilities`` -> a mapping or object, see `Capabilities`
    """

    name: str

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> Mapping[str, object]:
        """Once per layer: checkpoint bytes -> named tensors on `device`."""

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        routing: Routing,
        *,
        tactic: object = None,
    ) -> torch.Tensor:
        """[t, h] -> [t, h]: this rank's partial sum; the input is not modified."""


SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("weights", "config", "shard", "device"),
    "forward": ("prepared", "hidden_states", "routing"),
    "route": ("logits", "top_k"),
    "forward_fused": (
        "prepared",
        "hidden_states",
        "router_weight",
        "router_bias",
        "top_k",
    ),
    "trace": ("prepared", "hidden_states", "routing"),
    "decode": ("blocks", "scales", "dtype"),
    "encode": ("x", "rule"),
    "all_reduce": ("partials",),
    "unavailable": (),
}
"""Positional arguments of every member, as the suite calls them."""


EXECUTIONS = ("native", "emulated", "unexecuted")
ROUTING_WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a candidate claims; everything undeclared has the default given here.

    layout : name of a layout in `LAYOUTS`, or None for a layout of its own
        (default; a forward without a prepare gets ``checkpoint.v1``).
    alignment : each rank's lanes of i are padded to a multiple of it. Default: the
        layout's, 32 for a layout of its own.
    arithmetic : name of an arithmetic class. Default ``w4a16_fp32acc``.
    devices : device types in order of preference. Default cuda, then cpu.
    shapes : `config` -> True, or False, or a sentence why not. Default: all.
    shards : "whole" (default), "any", or `(shard, config)` -> bool.
    deterministic : same input, same bits. Default False: judged by the bound only.
    batch_invariant : a token's bits do not depend on its neighbours. Default False.
    tactics : `(config, t)` or `(config, t, shard)` -> sequence of tactics to force.
        Default: none.
    scale_rules : rules that `encode` knows. Default: all of them.
    routing_weights : dtype that the op takes routing weights in. They are float32 in
        any case; for "bfloat16" their values are, and it may round its own to it.
        Default "float32".
    execution : "native" (default), "emulated" (stands in for a kernel of other
        hardware) or "unexecuted" (nobody has run it yet); shown with every verdict.
    """

    layout: str | None = None
    alignment: int | None = None
    arithmetic: str = "w4a16_fp32acc"
    devices: Sequence[str] = ("cuda", "cpu")
    shapes: Callable[[MoEConfig], bool | str] | None = None
    shards: str | Callable[[Shard, MoEConfig], bool] = "whole"
    deterministic: bool = False
    batch_invariant: bool = False
    tactics: Callable[..., Sequence[Any]] | None = None
    scale_rules: Sequence[str] = SCALE_RULES
    routing_weights: str = "float32"
    execution: str = "native"

    def align(self, shard: Shard) -> Shard:
        """`shard` with the padding rule of the candidate."""
        if self.alignment is not None:
            return replace(shard, alignment=self.alignment)
        return shard if self.layout is None else LAYOUTS[self.layout].aligned(shard)

    def routing_dtype(self) -> torch.dtype:
        """What `routing_weights` names."""
        return ROUTING_WEIGHTS[self.routing_weights]

    def described(self) -> str:
        """The arithmetic class, and how it was executed where that is not native."""
        if self.execution == "native":
            return self.arithmetic
        return f"{self.arithmetic}, {self.execution}"

    def arithmetic_class(self) -> Arithmetic:
        """The declared class itself."""
        return ARITHMETIC[self.arithmetic]

    def tactics_of(self, config: MoEConfig, tokens: int, shard: Shard) -> list[Any]:
        """The tactics of one rank's shape; of the layer's, if shards do not matter."""
        assert self.tactics is not None
        of_rank = len(inspect.signature(self.tactics).parameters) > 2
        ranks = [self.align(shard)] if of_rank else []
        return list(self.tactics(config, tokens, *ranks))

    def same_for_all_shapes(self) -> bool:
        """Whether what the candidate refuses does not depend on the shape."""
        return self.shapes is None and not callable(self.shards)

    def refuses_shape(self, config: MoEConfig) -> str | None:
        """Why the candidate does not do `config`, or None if it does."""
        if self.shapes is None:
            return None
        answer = self.shapes(config)
        if isinstance(answer, str):
            return f"shapes: {answer}"
        return None if answer else f"shapes: not {config.label()}"

    def refuses_shard(self, shard: Shard, config: MoEConfig) -> str | None:
        """Why the candidate does not do `shard`, or None if it does."""
        if shard.is_whole() or self.shards == "any":
            return None
        if callable(self.shards) and self.shards(self.align(shard), config):
            return None
        spelled = self.shards if isinstance(self.shards, str) else "callable"
        return f"shards: {spelled}, not {shard.label()}"


def read_capabilities(declared: object, *, forward_only: bool) -> Capabilities:
    """Normalise a mapping or object; `BadInput` names what to change."""
    known = [f.name for f in fields(Capabilities)]
    if declared is None:
        given: dict[str, Any] = {}
    elif isinstance(declared, Mapping):
        given = dict(declared)
    elif isinstance(declared, (str, bytes, int, float, list, tuple, set)):
        raise BadInput(
            f"capabilities: expected a mapping or an object, found {declared!r:.80}"
        )
    else:
        public = [name for name in dir(declared) if not name.startswith("_")]
        given = {name: getattr(declared, name) for name in public}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadInput(
                f"capabilities: expected keys from {', '.join(known)}, "
                f"found {name!r}{hint}"
            )
    if forward_only and given.get("layout") is None:
        given["layout"] = CHECKPOINT_ORDER.name
    capabilities = Capabilities(**given)
    _check_names(capabilities)
    if capabilities.alignment is not None:
        try:
            Shard(alignment=capabilities.alignment)
        except BadInput as error:
            raise BadInput(f"capabilities.{error}") from error
    return capabilities


def _check_names(capabilities: Capabilities) -> None:
    closed = (
        ("layout", (capabilities.layout,), (*LAYOUTS, None)),
        ("arithmetic", (capabilities.arithmetic,), tuple(ARITHMETIC)),
        ("devices", tuple(capabilities.devices), ("cuda", "cpu")),
        ("scale_rules", tuple(capabilities.scale_rules), SCALE_RULES),
        ("routing_weights", (capabilities.routing_weights,), tuple(ROUTING_WEIGHTS)),
        ("execution", (capabilities.execution,), EXECUTIONS),
    )
    for key, found, allowed in closed:
        for value in found:
            if value not in allowed:
                reserved = " (reserved)" if value in RESERVED_ARITHMETIC else ""
                raise BadInput(
                    f"capabilities.{key}: expected one of "
                    f"{', '.join(map(str, allowed))}, found {value!r}{reserved}"
                )
    if not callable(capabilities.shards) and capabilities.shards not in (
        "whole",
        "any",
    ):
        raise BadInput(
            "capabilities.shards: expected 'whole', 'any' or a function of "
            f"(shard, config), found {capabilities.shards!r}"
        )
    for key in ("shapes", "tactics"):
        value = getattr(capabilities, key)
        if value is not None and not callable(value):
            raise BadInput(f"capabilities.{key}: expected a function, found {value!r}")
