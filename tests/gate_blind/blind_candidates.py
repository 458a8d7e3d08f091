"""Candidates that are wrong in ways no fault of the catalogue is, each an attribute.

They plug in as a stranger's would: this file imports nothing of mxmoe, and none of its
classes says what is wrong with it. `right` is the one that is correct.
"""

from __future__ import annotations

import hashlib
import sys
import time
from typing import Any

import torch

CODES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def decoded(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """uint8 [..., g, 16] and [..., g] -> float32 [..., 32g]."""
    codes = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).int()
    return torch.ldexp(CODES[codes], scales.int()[..., None] - 127).flatten(-2)


class Right:
    """Decodes once, in `prepare`."""

    name = "stranger"

    def __init__(self) -> None:
        self.layers = 0

    def prepare(self, weights: Any, config: Any, shard: Any, device: Any) -> Any:
        self.layers += 1
        return {
            "layer": torch.tensor(self.layers - 1),
            "w1": decoded(weights.gate_up_blocks, weights.gate_up_scales),
            "b1": weights.gate_up_bias.float(),
            "w2": decoded(weights.down_blocks, weights.down_scales),
            "b2": weights.down_bias.float(),
        }

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        a, x = prepared.config.activation, hidden_states.float()
        out = torch.zeros_like(x)
        for e in range(prepared.config.experts):
            t, k = torch.where(routing.ids == e)
            z = x[t] @ prepared["w1"][e].T + prepared["b1"][e]
            gate, up = (
                z[:, 0::2].clamp(max=a.limit),
                z[:, 1::2].clamp(-a.limit, a.limit),
            )
            act = gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)
            y = act.bfloat16().float() @ prepared["w2"][e].T + prepared["b2"][e]
            out.index_add_(0, t, routing.weights[t, k, None] * y)
        return out.to(hidden_states.dtype)


class Changed(Right):
    """A right result of [t, h], then `spoil`."""

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        out = super().forward(prepared, hidden_states, routing)
        return self.spoil(out, prepared, hidden_states, routing)

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        raise NotImplementedError


class OnlyInDecode(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return out.roll(1, dims=1) if len(out) <= 64 else out


class OnlyInBatches(Changed):
    """Rows after the first of a decode step get the first one's result."""

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return out[:1].expand_as(out).clone() if 2 <= len(out) <= 64 else out


class OnlyInPrefill(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return -out if len(out) > 64 else out


class NanInOneLayer(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        if int(prepared["layer"]) == 2:
            out[(routing.ids == 5).any(dim=1)] = torch.nan
        return out


class NanMadeZero(NanInOneLayer):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return super().spoil(out, prepared, x, routing).nan_to_num()


class NanLate(Changed):
    """Only in large batches, which come after the first answers."""

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        if len(out) > 2000:
            out[-1] = torch.inf
        return out


class Huge(Changed):
    """Finite in itself; the sum over layers is not."""

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return torch.full_like(out, torch.finfo(out.dtype).max)


class TailTile(Changed):
    """The rows after the last whole tile of 8 are not computed."""

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        out[len(out) // 8 * 8 :] = 0
        return out


class StaleOutput(Right):
    """A result is kept by the number of rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[Any, Any] = {}

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        key = int(prepared["layer"]), len(hidden_states)
        if key not in self.kept:
            self.kept[key] = super().forward(prepared, hidden_states, routing)
        return self.kept[key]


class KeptByContent(Right):
    """Kept by the input as it is: the same answers, and no fault."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[Any, Any] = {}

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        content = hidden_states.float().numpy().tobytes()
        key = int(prepared["layer"]), hashlib.sha256(content).digest()
        if key not in self.kept:
            self.kept[key] = super().forward(prepared, hidden_states, routing)
        return self.kept[key]


class OneLayersWeights(Right):
    """`prepare` keeps what it made by shape: all layers get the first one's."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None

    def prepare(self, weights: Any, config: Any, shard: Any, device: Any) -> Any:
        self.kept = self.kept or super().prepare(weights, config, shard, device)
        return self.kept


class WrongAfterAWhile(Changed):
    """Right for the first calls: a workspace that overflows."""

    calls = 0

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        self.calls += 1
        return out if self.calls < 2000 else out.flip(1)


class SomeTokensWrong(Changed):
    """About `share` of the tokens, chosen by their content."""

    share = 1.0

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        if int(prepared["layer"]) == 3 and len(out) <= 64:
            bits = x.float().abs().sum(dim=1).view(torch.int32) * 2654435761 % 2**20
            out[bits < self.share * 2**20] *= -8
        return out


class AFifthWrong(SomeTokensWrong):
    """Of the answers: a fault in one token in 500 decides."""

    share = 0.002


class TwoPercentWrong(SomeTokensWrong):
    """Of the answers; the rule admits 3 %."""

    share = 0.0002


class Noise(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return out + 4 * torch.randn_like(out)


class SaysNothing(Changed):
    """The experts add nothing at all."""

    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return torch.zeros_like(out)


class RaisesLate(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        if len(out) > 1000:
            raise RuntimeError("CUDA error: an illegal memory access\nwas met")
        return out


class Leaves(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        sys.exit(0)


class Hangs(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        time.sleep(3600)


class OtherShape(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return out[:, :-1]


class Nothing(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        return None


class ChangesTheDefaultDtype(Changed):
    def spoil(self, out: Any, prepared: Any, x: Any, routing: Any) -> Any:
        torch.set_default_dtype(torch.float64)
        return out


class Bypass(Right):
    """Puts itself in the place of transformers' experts, so that the count misses it.

    calls : of the bypass so far; `takes` says which calls go past the count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[Any] = []
        self.calls = 0
        self.original: Any = None

    def takes(self, layer: int) -> bool:
        return True

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        # From the second pass on: the first hands out the prepared weights.
        if len(self.prepared) < self.layers:
            self.prepared.append(prepared)
            self.install()
        return super().forward(prepared, hidden_states, routing)

    def install(self) -> None:
        modeling = sys.modules["transformers.models.gpt_oss.modeling_gpt_oss"]
        if self.original is not None or len(self.prepared) < self.layers:
            return
        self.original = modeling.GptOssExperts.forward
        mine = self

        def forward(module: Any, x: Any, ids: Any, weights: Any) -> Any:
            layer = mine.calls % mine.layers
            mine.calls += 1
            if not mine.takes(layer):
                return mine.original(module, x, ids, weights)
            routing = type("Routing", (), {"ids": ids, "weights": weights.float()})
            return Right.forward(mine, mine.prepared[layer], x, routing)

        modeling.GptOssExperts.forward = forward


class BypassOneLayer(Bypass):
    def takes(self, layer: int) -> bool:
        return layer == 1


class BypassSometimes(Bypass):
    def takes(self, layer: int) -> bool:
        return self.calls % 97 == 0


class HookReplaced(Right):
    """Registers another function under the name that the model asks for."""

    def prepare(self, weights: Any, config: Any, shard: Any, device: Any) -> Any:
        def nothing(module: Any, x: Any, ids: Any, weights: Any) -> Any:
            return torch.zeros_like(x)

        moe = sys.modules["transformers.integrations.moe"]
        moe.ALL_EXPERTS_FUNCTIONS.register("mxmoe_candidate", nothing)
        return super().prepare(weights, config, shard, device)


class HalfABatchAtATime(Right):
    """No fault: a workspace that is small."""

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        half = len(hidden_states) // 2
        parts = [slice(0, half), slice(half, None)]
        routed = [
            type("Routing", (), {"ids": routing.ids[p], "weights": routing.weights[p]})
            for p in parts
        ]
        done = [
            super(HalfABatchAtATime, self).forward(prepared, hidden_states[p], r)
            for p, r in zip(parts, routed, strict=True)
        ]
        return torch.cat(done)
