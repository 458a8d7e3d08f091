"""A loader of the trtllm-gen layout: cut, pad, pair rows, shuffle, swizzle."""

from typing import ClassVar

import torch
from torch.nn.functional import pad

# The rows of a checkpoint that 32 rows of the epilogue's tile hold: 0 4 8 .. 28, 1 5 ..
EPILOGUE = torch.tensor([4 * (n % 8) + n // 8 for n in range(32)])


def ceil_to(n, multiple):
    """The least multiple that is not below n."""
    return -(-n // multiple) * multiple


def grow(x, dim, to):
    """x with zeros behind, so that its dimension has `to` entries."""
    return pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, to - x.shape[dim]])


def epilogue_rows(x):
    """[e, n, ...] -> the same rows, each 32 in the epilogue's order."""
    return x[:, (torch.arange(0, x.shape[1], 32)[:, None] + EPILOGUE).flatten()]


def swizzle(s):
    """[e, r, c] -> the same in tiles of 128 x 4, row by row."""
    e, r, c = s.shape
    tiles = s.view(e, r // 128, 4, 32, c // 4, 4)
    return tiles.permute(0, 1, 4, 3, 2, 5).reshape(e, r, c)


class Loader:
    """Has no `forward`: its bytes are what is judged."""

    name = "loader_alone"
    capabilities: ClassVar = {"layout": "trtllm_gen.v1", "shards": "any"}

    def prepare(self, weights, config, shard, device):
        """The ten tensors of the layout."""
        tp, rank = shard.tp_size, shard.tp_rank
        lanes = ceil_to(config.intermediate, 128 * tp) // tp
        hidden1, hidden2 = ceil_to(config.hidden, 512), ceil_to(config.hidden, 128)
        own = shard.expert_range(config)
        experts = slice(own.start, own.stop)

        def pairs(x):  # [e, 2i, ...] -> [e, 2 * lanes, ...], up and gate of each lane
            halves = (grow(half, 1, lanes * tp) for half in (x[:, 0::2], x[:, 1::2]))
            gate, up = (half[:, rank * lanes :][:, :lanes] for half in halves)
            return epilogue_rows(torch.stack((up, gate), 2).flatten(1, 2))

        def columns(x, size):  # [e, h, i / size] -> [e, padded h, lanes / size]
            x = grow(x, 2, lanes * tp // size)[:, :, rank * lanes // size :]
            return epilogue_rows(grow(x[:, :, : lanes // size], 1, hidden2))

        blocks1, scales1 = weights.gate_up_blocks, weights.gate_up_scales
        blocks2, scales2 = weights.down_blocks, weights.down_scales
        a = config.activation
        out = {
            "fc1_weights": grow(pairs(blocks1[experts].flatten(2)), 2, hidden1 // 2),
            "fc1_scales": swizzle(grow(pairs(scales1[experts]), 2, hidden1 // 32)),
            "fc2_weights": columns(blocks2[experts].flatten(2), 2),
            "fc2_scales": swizzle(columns(scales2[experts], 32)),
            "swiglu_alpha": torch.full((len(own),), a.alpha),
            "swiglu_beta": torch.full((len(own),), a.beta),
            "swiglu_limit": torch.full((len(own),), a.limit),
        }
        if config.has_bias:
            out["fc1_bias"] = pairs(weights.gate_up_bias[experts].float())
            bias = grow(weights.down_bias[experts].float(), 1, hidden2)
            out["fc2_bias"] = epilogue_rows(bias) / tp
        return {name: tensor.contiguous().to(device) for name, tensor in out.items()}


candidate = Loader()
