"""Trained parameters -> a folder in Hugging Face's MXFP4 layout, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save_file
from tokenizers import Tokenizer

from mxmoe.evals.grade_school import tokenizer as task_tokenizer
from mxmoe.evals.training.fake_quantise import RULE
from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.parameters import is_expert_weight
from mxmoe.evals.training.shape import ModelShape
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import encode

WEIGHTS = "model.safetensors"


def export(
    parameters: Parameters,
    shape: ModelShape,
    folder: Path,
    *,
    tokenizer: Path = task_tokenizer.FOLDER,
) -> None:
    """Write config, weights and tokenizer; transformers and the suite read them.

    Expert weights become blocks and scales under the rule that training used, all
    else bfloat16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: Parameters = {}
    for name, value in parameters.items():
        value = value.detach().cpu()
        if is_expert_weight(name):
            blocks, scales = encode(value, RULE)
            tensors[f"{name}_blocks"] = blocks.contiguous()
            tensors[f"{name}_scales"] = scales.contiguous()
        else:
            tensors[name] = value.bfloat16().contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    end = task_tokenizer.token_id(loaded, task_tokenizer.END)
    pad = task_tokenizer.token_id(loaded, task_tokenizer.PAD)
    _write_json(folder / "config.json", shape.config_json(end=end, pad=pad))
    generation = {"do_sample": False, "eos_token_id": end, "pad_token_id": pad}
    _write_json(folder / "generation_config.json", generation)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


def exported_parameters(folder: Path, device: torch.device) -> Parameters:
    """The parameters that a folder holds, as `forward` takes them, float32."""
    tensors = load_file(folder / WEIGHTS)
    found: Parameters = {}
    for name, value in tensors.items():
        if name.endswith("_blocks"):
            weight = name.removesuffix("_blocks")
            found[weight] = decode(value, tensors[f"{weight}_scales"], torch.float32)
        elif not name.endswith("_scales"):
            found[name] = value.float()
    return {name: value.to(device) for name, value in found.items()}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
