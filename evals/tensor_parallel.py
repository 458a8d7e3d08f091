"""The whole model on several ranks: ``torchrun ... -m mxmoe.evals.tensor_parallel``.

transformers shards the attention (q, k, v and sinks by heads, o_proj by rows) and
reduces it. It has no plan for the experts of gpt-oss, whose down bias each rank would
add: each rank's experts here are the reference's partial sum on its part, reduced
once. All in float32, on a CPU, with a recording process group.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

from mxmoe.evals.recording_group import start_recording
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.moe import moe_of_rank
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

ATTENTION = "model.layers.*.self_attn"
PLAN = {
    **{f"{ATTENTION}.{name}_proj": "colwise" for name in "qkv"},
    f"{ATTENTION}.o_proj": "rowwise",
    f"{ATTENTION}.sinks": "colwise",
    ATTENTION: "local_params",
    # Every rank computes all logits: no collective of its own.
    "lm_head": "replicate",
}
TOKENS = 24
# Unit roundoff of float32.
_U = 2.0**-24
# Draws of rounding noise; the largest effect counts, and twice of it is allowed.
_DRAWS = 4


class RankExperts(torch.nn.Module):
    """In the place of `GptOssExperts`: one rank's partial sum, then one all-reduce."""

    def __init__(self, checkpoint: Checkpoint, layer: int, shard: Shard) -> None:
        super().__init__()
        self.config, self.shard = checkpoint.config, shard
        self.part = shard_weights(checkpoint.layer(layer), self.config, shard)

    def forward(
        self,
        hidden_states: torch.Tensor,
        router_indices: torch.Tensor,
        routing_weights: torch.Tensor,
    ) -> torch.Tensor:
        """[t, h] float32 -> [t, h], the same on every rank."""
        partial = moe_of_rank(
            self.part,
            self.config,
            hidden_states,
            Routing(router_indices, routing_weights),
            shard=self.shard,
            arithmetic=ARITHMETIC["fp32"],
        )["combine"]
        return self.reduce(partial)

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum over ranks."""
        if self.shard.tp_size > 1:
            dist.all_reduce(partial)
        return partial


def load(folder: Path, shard: Shard) -> Any:
    """The model, of which this process holds the part `shard`."""
    options: dict[str, Any] = {}
    if shard.tp_size > 1:
        options["distributed_config"] = transformers.DistributedConfig(
            tp_size=shard.tp_size, tp_plan=PLAN
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
        dtype=torch.float32,
        attn_implementation="eager",
        **options,
    )
    checkpoint = open_checkpoint(folder)
    for number, layer in enumerate(model.model.layers):
        layer.mlp.experts = RankExperts(checkpoint, number, shard)
    return model.eval()


def logits_of(model: Any) -> torch.Tensor:
    """[t, vocabulary] for fixed tokens."""
    ids = torch.arange(TOKENS)[None] * 7 % model.config.vocab_size
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return found


def rounding_effect(model: Any, logits: torch.Tensor) -> float:
    """By how much rounding at the reductions of the one-rank `model` moves a logit.

    Cutting a dot product of K terms over ranks adds them in another order: with
    K u relative noise, K the longest dot product that is cut (terms of random sign
    make it sqrt(K) u), put on every output of o_proj and of the experts. The largest
    change of any logit over some draws of the noise, doubled for those not drawn.
    """
    config = model.config
    heads = config.num_attention_heads * config.head_dim
    noise = max(heads, config.intermediate_size) * _U
    random = torch.Generator().manual_seed(0)

    def disturb(_module: Any, _inputs: Any, out: torch.Tensor) -> torch.Tensor:
        drawn = 2 * torch.rand(out.shape, generator=random) - 1
        rms: torch.Tensor = out.square().mean(dim=-1, keepdim=True).sqrt()
        return out + noise * rms * drawn

    hooks = []
    for layer in model.model.layers:
        for module in (layer.self_attn.o_proj, layer.mlp.experts):
            hooks.append(module.register_forward_hook(disturb))
    moved = [(logits_of(model) - logits).abs().max() for _ in range(_DRAWS)]
    for hook in hooks:
        hook.remove()
    return 2 * float(max(moved))


def main(folder: Path, out: Path) -> None:
    """Compare the ranks' logits with one rank's; each rank writes its own findings."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    group = start_recording()
    model = load(folder, Shard(tp_size=size, tp_rank=rank))
    attention = model.model.layers[0].self_attn
    parts = {
        "q_proj": attention.q_proj.weight.to_local().shape,
        "o_proj": attention.o_proj.weight.to_local().shape,
        "down_blocks": model.model.layers[0].mlp.experts.part.down_blocks.shape,
    }
    group.all_reduced.clear()
    found = logits_of(model)
    all_reduced = list(group.all_reduced)
    alone = load(folder, Shard())
    wanted = logits_of(alone)
    facts = {
        "layers": model.config.num_hidden_layers,
        "all_reduced": all_reduced,
        "parts": {name: list(shape) for name, shape in parts.items()},
        "difference": float((found - wanted).abs().max()),
        "allowed": rounding_effect(alone, wanted),
        "largest_logit": float(wanted.abs().max()),
    }
    out.with_suffix(f".{rank}.json").write_text(json.dumps(facts), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
