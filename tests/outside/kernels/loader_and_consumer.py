"""A loader of the trtllm-gen layout, and a consumer that reads its bytes back."""

from typing import ClassVar

import torch
from torch.nn.functional import pad

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def ceil_to(n, multiple):
    """The least multiple that is not below n."""
    return -(-n // multiple) * multiple


def pad_dim(x, dim, to):
    """x with zeros behind, so that its dimension has `to` entries."""
    return pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, to - x.shape[dim]])


def row_order(n):
    """The row that each of n rows comes from; the same in each 32 of them."""
    j = torch.arange(n) % 32
    return torch.arange(n) // 32 * 32 + j % 8 * 4 + j // 8


def swizzle_index(rows, cols):
    """Where the scale of each row and column lies: tiles of 128 x 4, row by row."""
    r, c = torch.arange(rows)[:, None], torch.arange(cols)
    tile = r // 128 * 128 * cols + c // 4 * 512
    return tile + r % 32 * 16 + r % 128 // 32 * 4 + c % 4


def swizzle(s, cols):
    """[e, r, c] -> the same in tiles of 128 x 4, of `cols` columns with padding."""
    s = pad_dim(s, 2, cols)
    out = s.new_zeros(s.shape[0], s[0].numel())
    out[:, swizzle_index(*s.shape[1:]).flatten().to(s.device)] = s.flatten(1)
    return out.view(s.shape)


def unswizzle(s):
    """One expert's scales [r, c], in their rows and columns again."""
    return s.flatten()[swizzle_index(*s.shape).to(s.device)]


def fc1_rows(x, lanes, first):
    """[e, 2i, ...], gate, up -> [e, 2 * lanes, ...], up, gate in the kernel's order."""
    pairs = x.unflatten(1, (-1, 2))
    end = first + lanes
    pairs = pad_dim(pairs, 1, max(pairs.shape[1], end))[:, first:end]
    return pairs.flip(2).flatten(1, 2)[:, row_order(2 * lanes).to(x.device)]


def fc2_cols(x, cols, first):
    """[e, h, n] -> [e, h, cols] from `first` on, with zeros behind the last."""
    return pad_dim(x, 2, max(x.shape[2], first + cols))[:, :, first : first + cols]


def fc2_rows(x):
    """[e, h, ...] -> [e, h padded to 128, ...] in the kernel's order."""
    x = pad_dim(x, 1, ceil_to(x.shape[1], 128))
    return x[:, row_order(x.shape[1]).to(x.device)]


def dequant(packed, scales):
    """uint8 [n, k / 2] and [n, k / 32] -> float32 [n, k]."""
    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(-2).int()
    values = E2M1.to(packed.device)[codes].unflatten(-1, (-1, 32))
    values = torch.ldexp(values, scales.int()[..., None] - 127)
    return torch.where(scales[..., None] == 255, float("nan"), values).flatten(-2)


class Kernel:
    """Prepares any rank, and computes from what it prepared."""

    name = "loader_and_consumer"
    capabilities: ClassVar = {
        "shards": "any",
        "layout": "trtllm_gen.v1",
        "execution": "emulated",
    }

    def prepare(self, weights, config, shard, device):
        """The ten tensors of the layout."""
        own = shard.expert_range(config)
        experts = slice(own.start, own.stop)
        lanes = ceil_to(config.intermediate, 128 * shard.tp_size) // shard.tp_size
        first = shard.tp_rank * lanes
        hidden = ceil_to(config.hidden, 512)
        blocks = weights.gate_up_blocks[experts].to(device).flatten(2)
        scales = weights.gate_up_scales[experts].to(device)
        out = {
            "fc1_weights": pad_dim(fc1_rows(blocks, lanes, first), 2, hidden // 2),
            "fc1_scales": swizzle(fc1_rows(scales, lanes, first), hidden // 32),
        }
        blocks = weights.down_blocks[experts].to(device).flatten(2)
        scales = weights.down_scales[experts].to(device)
        scales = fc2_rows(fc2_cols(scales, lanes // 32, first // 32))
        out["fc2_weights"] = fc2_rows(fc2_cols(blocks, lanes // 2, first // 2))
        out["fc2_scales"] = swizzle(scales, lanes // 32)
        if config.has_bias:
            bias = weights.gate_up_bias[experts].to(device).float()
            out["fc1_bias"] = fc1_rows(bias, lanes, first)
            bias = weights.down_bias[experts].to(device).float()
            out["fc2_bias"] = fc2_rows(bias / shard.tp_size)
        a = config.activation
        for name, value in (("alpha", a.alpha), ("beta", a.beta), ("limit", a.limit)):
            out[f"swiglu_{name}"] = torch.full((len(own),), value, device=device)
        return {name: tensor.contiguous() for name, tensor in out.items()}

    def forward(self, p, x, routing):
        """[t, h] -> [t, h], the part of this rank's experts and lanes."""
        h, has_bias = p.config.hidden, p.config.has_bias
        back1 = torch.argsort(row_order(p["fc1_weights"].shape[1])).to(x.device)
        back2 = torch.argsort(row_order(p["fc2_weights"].shape[1])).to(x.device)
        out = torch.zeros(len(x), h, device=x.device)
        for j, e in enumerate(p.shard.expert_range(p.config)):
            t, k = torch.where(routing.ids == e)
            if not len(t):
                continue
            w1 = dequant(p["fc1_weights"][j], unswizzle(p["fc1_scales"][j]))[back1]
            w2 = dequant(p["fc2_weights"][j], unswizzle(p["fc2_scales"][j]))[back2]
            z = x[t].float() @ w1[:, :h].T
            if has_bias:
                z = z + p["fc1_bias"][j][back1]
            limit = p["swiglu_limit"][j]
            up, gate = z[:, 0::2].clamp(-limit, limit), z[:, 1::2].clamp(max=limit)
            act = gate * torch.sigmoid(p["swiglu_alpha"][j] * gate)
            act = act * (up + p["swiglu_beta"][j])
            y = act.bfloat16().float() @ w2[:h].T
            if has_bias:
                y = y + p["fc2_bias"][j][back2][:h]
            out.index_add_(0, t, routing.weights[t, k, None].float() * y)
        return out.to(x.dtype)


candidate = Kernel()
