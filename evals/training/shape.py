"""The sizes of the model, and its config.json for transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mxmoe.evals.grade_school.tokenizer import VOCABULARY
from mxmoe.reference.types import SWIGLU_OAI

# gpt-oss's own.
ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
MAX_POSITIONS = 131072


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a gpt-oss model.

    The defaults are the shipped model's: multiples of 32, none of 128, so that every
    kernel pads; hidden != intermediate; heads for tensor parallelism over 2 and 4;
    a window shorter than a problem.
    """

    hidden: int = 192
    intermediate: int = 160
    layers: int = 4
    experts: int = 8
    top_k: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 24
    window: int = 64
    vocabulary: int = VOCABULARY
    norm_eps: float = 1e-5
    alpha: float = SWIGLU_OAI.alpha
    limit: float = SWIGLU_OAI.limit

    def layer_window(self, layer: int) -> int | None:
        """The window of a layer; every second layer sees everything."""
        return None if layer % 2 else self.window

    def config_json(self, *, end: int, pad: int) -> dict[str, Any]:
        """config.json; `end` and `pad` are token ids."""
        return {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": MAX_POSITIONS,
            "initial_context_length": ROPE["original_max_position_embeddings"],
            "rope_theta": ROPE["rope_theta"],
            "rope_parameters": ROPE,
            "sliding_window": self.window,
            "layer_types": [
                "full_attention" if n % 2 else "sliding_attention"
                for n in range(self.layers)
            ],
            "rms_norm_eps": self.norm_eps,
            "swiglu_alpha": self.alpha,
            "swiglu_limit": self.limit,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": pad,
            "quantization_config": {
                "quant_method": "mxfp4",
                "modules_to_not_convert": [
                    "model.layers.*.self_attn",
                    "model.layers.*.mlp.router",
                    "model.embed_tokens",
                    "lm_head",
                ],
            },
        }
