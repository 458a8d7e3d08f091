"""A rank's experts and lanes cut out once; tiles of 16 rows added to the output."""

from typing import ClassVar

import torch

TILE_ROWS = 16
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def dequant(blocks, scales):
    """uint8 [n, g, 16] and [n, g] -> float32 [n, 32g]."""
    codes = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).int()
    return torch.ldexp(E2M1[codes], scales.int()[..., None] - 127).flatten(-2)


def swiglu(z, a):
    """[n, 2i], gates and ups interleaved -> [n, i]."""
    gate = z[:, 0::2].clamp(max=a.limit)
    up = z[:, 1::2].clamp(-a.limit, a.limit)
    return gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)


class Kernel:
    """Keeps its own copy of what a rank owns."""

    name = "rank_slices"
    capabilities: ClassVar = {"shards": "any", "deterministic": True}

    def prepare(self, weights, config, shard, device):
        """The rank's part of both GEMMs, in checkpoint order."""
        own, lanes = shard.expert_range(config), shard.intermediate_range(config)
        experts = slice(own.start, own.stop)
        rows = slice(2 * lanes.start, 2 * lanes.stop)
        groups = slice(lanes.start // 32, lanes.stop // 32)
        parts = {
            "w1": weights.gate_up_blocks[experts, rows],
            "s1": weights.gate_up_scales[experts, rows],
            "w2": weights.down_blocks[experts, :, groups],
            "s2": weights.down_scales[experts, :, groups],
        }
        if config.has_bias:
            parts["b1"] = weights.gate_up_bias[experts, rows].float()
            parts["b2"] = weights.down_bias[experts].float() / shard.tp_size
        return {n: v.contiguous().clone().to(device) for n, v in parts.items()}

    def forward(self, p, x, routing):
        """[t, h] -> [t, h], the part of this rank's experts and lanes."""
        config, top_k = p.config, routing.ids.shape[1]
        out = torch.zeros(len(x), config.hidden)
        own = p.shard.expert_range(config)
        experts = len(own)
        ids = routing.ids.flatten().long()
        mine = (ids >= own.start) & (ids < own.stop)
        local = torch.where(mine, ids - own.start, experts)  # the others come last
        order = torch.argsort(local, stable=True)
        counts = torch.bincount(local, minlength=experts + 1)[:experts]
        ends = counts.cumsum(0)
        weights = routing.weights.flatten().float()
        for e in range(experts):
            if counts[e] == 0:
                continue
            w1, w2 = dequant(p["w1"][e], p["s1"][e]), dequant(p["w2"][e], p["s2"][e])
            for slots in order[ends[e] - counts[e] : ends[e]].split(TILE_ROWS):
                t = slots // top_k
                z = x[t].float() @ w1.T
                if config.has_bias:
                    z = z + p["b1"][e]
                y = swiglu(z, config.activation).bfloat16().float() @ w2.T
                if config.has_bias:
                    y = y + p["b2"][e]
                out.index_add_(0, t, y * weights[slots][:, None])
        return out.to(x.dtype)


candidate = Kernel()
