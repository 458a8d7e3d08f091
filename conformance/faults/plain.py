"""A correct candidate whose steps can be replaced.

Replacing a step of `Plain` by another honest one gives a *correct variant*, which
every check must pass (`correct`); replacing it by a wrong one gives a fault, which
the check that the fault names must find.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from types import MappingProxyType
from types import SimpleNamespace
from typing import Any

import torch

from mxmoe.conformance.candidate import SIGNATURES
from mxmoe.conformance.candidate import read_capabilities
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import not_run
from mxmoe.reference.formats import encode
from mxmoe.reference.types import Activation
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def dequantize(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes by table, scales by ldexp: [..., g, 16] and [..., g] -> [..., 32g]."""
    table = torch.tensor((*_E2M1, *(-v for v in _E2M1)), dtype=torch.float64)
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    power = torch.ldexp(torch.ones(scales.shape).double(), scales.int() - 127)
    power = power.masked_fill(scales == 255, torch.nan)
    return (table[codes.long()] * power[..., None]).flatten(-2).to(dtype)


def pack(weights: ExpertWeights, config: MoEConfig, shard: Shard) -> dict[str, Tensor]:
    """This rank's part, in the order of ``checkpoint.v1``."""
    owned, lanes = shard.expert_range(config), shard.intermediate_range(config)
    e, rows = slice(owned.start, owned.stop), slice(2 * lanes.start, 2 * lanes.stop)
    columns = slice(lanes.start // 32, lanes.stop // 32)
    parts = {
        "gate_up_blocks": weights.gate_up_blocks[e, rows],
        "gate_up_scales": weights.gate_up_scales[e, rows],
        "down_blocks": weights.down_blocks[e, :, columns],
        "down_scales": weights.down_scales[e, :, columns],
    }
    if weights.gate_up_bias is not None and weights.down_bias is not None:
        parts["gate_up_bias"] = weights.gate_up_bias[e, rows]
        parts["down_bias"] = weights.down_bias[e]
    return {name: part.clone() for name, part in parts.items()}


def product(x: Tensor, w: Tensor) -> Tensor:
    """[n, k] x [m, k] -> [n, m], summed as the library likes."""
    return x @ w.T


def add_down_bias(down: Tensor, bias: Tensor, shard: Shard) -> Tensor:
    """Each tensor-parallel rank adds its share."""
    return down + bias / shard.tp_size


def swiglu(gate_up: Tensor, activation: Activation) -> Tensor:
    """[..., 2i] interleaved -> [..., i]."""
    gate, up = gate_up.unflatten(-1, (-1, 2)).unbind(-1)
    gate = gate.clamp(max=activation.limit)
    up = up.clamp(-activation.limit, activation.limit)
    return gate / (1 + (-activation.alpha * gate).exp()) * (up + activation.beta)


def mix(weights: Tensor, down: Tensor) -> Tensor:
    """[t, k] and [t, k, h] -> [t, h]."""
    return (weights[..., None] * down).sum(dim=1)


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Stable sort, so that the lowest id wins; softmax over the chosen."""
    ranked = logits.float().sort(dim=1, descending=True, stable=True)
    return ranked.indices[:, :top_k].int(), ranked.values[:, :top_k].softmax(dim=1)


CLAIMS: Mapping[str, object] = MappingProxyType(
    {"layout": "checkpoint.v1", "arithmetic": "w4a16_fp32acc", "shards": "any"}
)


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A loop over experts; `high`, `between`, `slot` say where it rounds, to what."""

    name: str = "plain"
    capabilities: Mapping[str, object] = field(default_factory=lambda: CLAIMS)
    high: torch.dtype = torch.float32
    between: torch.dtype = torch.bfloat16
    slot: torch.dtype | None = None
    decode: Callable[[Tensor, Tensor, torch.dtype], Tensor] = dequantize
    encode: Callable[[Tensor, str], tuple[Tensor, Tensor]] = encode
    route: Callable[[Tensor, int], object] = route
    pack: Callable[[ExpertWeights, MoEConfig, Shard], dict[str, Tensor]] = pack
    product: Callable[[Tensor, Tensor], Tensor] = product
    activate: Callable[[Tensor, Activation], Tensor] = swiglu
    add_gate_up_bias: Callable[[Tensor, Tensor], Tensor] = torch.add
    add_down_bias: Callable[[Tensor, Tensor, Shard], Tensor] = add_down_bias
    mix: Callable[[Tensor, Tensor], Tensor] = mix

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, Tensor]:
        """`pack`, on the device."""
        packed = self.pack(weights, config, shard)
        return {name: tensor.to(device) for name, tensor in packed.items()}

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: Tensor,
        routing: Routing,
        *,
        tactic: object = None,
    ) -> Tensor:
        """The last stage of `trace`."""
        return self.trace(prepared, hidden_states, routing)["combine"]

    def trace(
        self, prepared: PreparedWeights, hidden_states: Tensor, routing: Routing
    ) -> dict[str, Tensor]:
        """Every stage; rows of slots that this rank does not serve stay 0."""
        p: Any = prepared
        t, k = routing.ids.shape
        lanes = 32 * p["down_scales"].shape[2]
        stages = {
            "gate_up": torch.zeros(t, k, 2 * lanes, dtype=self.high),
            "activation": torch.zeros(t, k, lanes, dtype=self.high),
            "down": torch.zeros(t, k, p.config.hidden, dtype=self.high),
        }
        weights = torch.zeros(t, k, dtype=self.high)
        for local, expert in enumerate(p.shard.expert_range(p.config)):
            at = routing.ids == expert
            if at.any():
                weights[at] = routing.weights[at].to(self.high)
                x = hidden_states[at.nonzero()[:, 0]].to(self.high)
                for stage, rows in self.expert(p, local, x).items():
                    stages[stage][at] = rows
        total = self.mix(weights, stages["down"]).to(hidden_states.dtype)
        return {**stages, "combine": total}

    def expert(self, p: Any, local: int, x: Tensor) -> dict[str, Tensor]:
        """One expert on the rows [n, h] that visit it."""
        w1, w2 = (
            self.decode(p[f"{m}_blocks"][local], p[f"{m}_scales"][local], self.high)
            for m in ("gate_up", "down")
        )
        gate_up = self.product(x, w1)
        if "gate_up_bias" in p:
            gate_up = self.add_gate_up_bias(gate_up, p["gate_up_bias"][local].to(x))
        act = self.activate(gate_up, p.config.activation)
        act = act.to(self.between).to(self.high)
        down = self.product(act, w2)
        if "down_bias" in p:
            bias = p["down_bias"][local].to(x)
            down = self.add_down_bias(down, bias, p.shard)
        if self.slot is not None:
            down = down.to(self.slot).to(self.high)
        return {"gate_up": gate_up, "activation": act, "down": down}

    def forward_fused(
        self,
        prepared: PreparedWeights,
        hidden_states: Tensor,
        router_weight: Tensor,
        router_bias: Tensor | None,
        top_k: int,
    ) -> Tensor:
        """Logits in float32, `route`, `forward`."""
        logits = hidden_states.float() @ router_weight.float().T
        if router_bias is not None:
            logits = logits + router_bias.float()
        routed: Any = self.route(logits, top_k)
        routing = routed if isinstance(routed, Routing) else Routing(*routed)
        return self.forward(prepared, hidden_states, routing)


PLAIN = Plain()
_F32 = {"high": torch.float32, "between": torch.float32}
FLOAT32 = Plain(capabilities={**CLAIMS, "arithmetic": "fp32"}, **_F32)


def changed(candidate: object, **members: object) -> SimpleNamespace:
    """`candidate` with members replaced, or removed where None is given."""
    names = (*SIGNATURES, "name", "capabilities")
    found = {n: getattr(candidate, n) for n in names if hasattr(candidate, n)}
    return SimpleNamespace(**found | members)


def spoiled(candidate: object, **members: object) -> SimpleNamespace:
    """`changed`, for a candidate that has what is replaced; `NotJudged` otherwise."""
    for name in members:
        if not callable(getattr(candidate, name, None)):
            raise not_run(f"exposes no {name}, so that none can be wrong")
    return changed(candidate, **members)


def claiming(candidate: Plain, **claims: object) -> Plain:
    """`candidate` with other capabilities declared."""
    return replace(candidate, capabilities={**candidate.capabilities, **claims})


def subject_of(candidate: Any, spec: str = "planted") -> Subject:
    """What `registry.load_candidate` makes of it, without a module to load."""
    only = not callable(getattr(candidate, "prepare", None))
    claims = read_capabilities(
        getattr(candidate, "capabilities", None), forward_only=only
    )
    return Subject(
        spec=spec, name=candidate.name, candidate=candidate, capabilities=claims
    )
