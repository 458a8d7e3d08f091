"""The embedded default checkpoint: a small gpt-oss model made from a seed.

Exactly the Hugging Face MXFP4 layout, so that transformers loads it: config.json,
two safetensors shards, an index. H != I and neither is a multiple of 128; block
scales vary along rows and columns, some are 0x00; biases are as large as the GEMM
output. It does not answer questions: nobody trained it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from mxmoe.conformance.cases.designed import make_weights
from mxmoe.reference.checkpoint.names import HUGGING_FACE
from mxmoe.reference.checkpoint.read import INDEX_NAME
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import MoEConfig

EMBEDDED_SHAPE = MoEConfig(hidden=160, intermediate=224, experts=8, top_k=4)
EMBEDDED_LAYERS = 2
EMBEDDED_SEED = 0
_VOCABULARY = 256
_HEADS, _KV_HEADS, _HEAD_DIM = 8, 4, 16


def write_checkpoint(
    folder: Path,
    *,
    config: MoEConfig = EMBEDDED_SHAPE,
    layers: int = EMBEDDED_LAYERS,
    seed: int = EMBEDDED_SEED,
) -> None:
    """Write the checkpoint into `folder`, which must be empty or absent."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: expected an empty or absent folder, found content")
    if not config.has_bias or config.activation.name != "swiglu_oai":
        raise BadInput(
            f"checkpoint: expected a gpt-oss shape with biases, found {config.label()}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"{folder}: expected a folder that can be written, {error.strerror}"
        ) from error
    shards = [_outer_tensors(config, seed)]
    shards += [_layer_tensors(config, layer, seed) for layer in range(layers)]
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    total = sum(t.nbytes for tensors in shards for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / INDEX_NAME, index)
    _write_json(folder / "config.json", _config_json(config, layers))


def _layer_tensors(config: MoEConfig, layer: int, seed: int) -> dict[str, torch.Tensor]:
    weights = make_weights(config, seed + layer, hot=("zero_scale",))
    tensors = {
        HUGGING_FACE[field].format(layer=layer): tensor
        for field, tensor in weights.tensors().items()
    }
    random = np.random.default_rng((seed, 2, layer))
    prefix = f"model.layers.{layer}"
    heads = {"q": _HEADS, "k": _KV_HEADS, "v": _KV_HEADS}
    for name, count in heads.items():
        width = count * _HEAD_DIM
        tensors[f"{prefix}.self_attn.{name}_proj.weight"] = _dense(
            random, (width, config.hidden)
        )
        tensors[f"{prefix}.self_attn.{name}_proj.bias"] = _dense(random, (width,))
    tensors[f"{prefix}.self_attn.o_proj.weight"] = _dense(
        random, (config.hidden, _HEADS * _HEAD_DIM)
    )
    tensors[f"{prefix}.self_attn.o_proj.bias"] = _dense(random, (config.hidden,))
    tensors[f"{prefix}.self_attn.sinks"] = _dense(random, (_HEADS,))
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{prefix}.{norm}.weight"] = torch.ones(config.hidden).bfloat16()
    return tensors


def _outer_tensors(config: MoEConfig, seed: int) -> dict[str, torch.Tensor]:
    random = np.random.default_rng((seed, 3))
    return {
        "model.embed_tokens.weight": _dense(random, (_VOCABULARY, config.hidden)),
        "model.norm.weight": torch.ones(config.hidden).bfloat16(),
        "lm_head.weight": _dense(random, (_VOCABULARY, config.hidden)),
    }


def _dense(random: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    values = random.standard_normal(shape) / math.sqrt(shape[-1])
    return torch.from_numpy(values).bfloat16()


def _config_json(config: MoEConfig, layers: int) -> dict[str, object]:
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.top_k,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": 4096,
        "sliding_window": 128,
        "swiglu_limit": config.activation.limit,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
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


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
