"""config.json of a gpt-oss folder -> `MoEConfig` and the number of layers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import LARGEST_DIMENSION
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import MoEConfig

# A real index of gpt-oss-120b is 0.1 MB; past this a file is not one.
LARGEST_JSON_BYTES = 64 * 2**20

_INTEGERS = {
    "hidden": ("hidden_size",),
    "intermediate": ("intermediate_size",),
    "experts": ("num_local_experts", "num_experts"),
    "top_k": ("num_experts_per_tok", "experts_per_token"),
    "layers": ("num_hidden_layers",),
}


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object; `BadInput` if it is absent, huge or not an object."""
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise BadInput(
                f"{path}: expected at most {LARGEST_JSON_BYTES} bytes, "
                f"found {path.stat().st_size}"
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"{path}: expected a readable file, found {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: expected JSON, found {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def read_config(path: Path) -> tuple[MoEConfig, int]:
    """The layer's configuration and the number of layers, or `BadInput`."""
    found = read_json(path)
    model_type = found.get("model_type", "gpt_oss")
    if model_type != "gpt_oss":
        raise BadInput(
            f"{path}: model_type: expected 'gpt_oss', found {model_type!r:.40}"
        )
    if not any(key in found for key in _INTEGERS["top_k"]):
        raise BadInput(
            f"{path}: expected a gpt-oss configuration, "
            f"found none of {', '.join(_INTEGERS['top_k'])}"
        )
    sizes = {name: _integer(path, found, keys) for name, keys in _INTEGERS.items()}
    layers = sizes.pop("layers")
    activation = replace(
        SWIGLU_OAI,
        alpha=_positive(path, found, "swiglu_alpha", SWIGLU_OAI.alpha),
        limit=_positive(path, found, "swiglu_limit", SWIGLU_OAI.limit),
    )
    try:
        return MoEConfig(activation=activation, **sizes), layers  # type: ignore[arg-type]
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def _integer(path: Path, found: dict[str, Any], keys: tuple[str, ...]) -> int:
    for key in keys:
        if key in found:
            value = found[key]
            if type(value) is not int or not 1 <= value <= LARGEST_DIMENSION:
                raise BadInput(
                    f"{path}: {key}: expected an integer from 1 to "
                    f"{LARGEST_DIMENSION}, found {value!r:.40}"
                )
            return value
    raise BadInput(f"{path}: expected {' or '.join(keys)}, found none")


def _positive(path: Path, found: dict[str, Any], key: str, default: float) -> float:
    value = found.get(key, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= sys.float_info.max:
        raise BadInput(
            f"{path}: {key}: expected a positive number, found {value!r:.40}"
        )
    return float(value)
