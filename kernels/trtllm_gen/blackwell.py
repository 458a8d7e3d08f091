"""Whether the ops that need a Blackwell GPU can run here, without importing them."""

from __future__ import annotations

import importlib.util

import torch

from mxmoe.reference.types import MoEConfig

# sm_100 and sm_103: the op checks for the SM100 family (TensorRT-LLM 03853d11,
# ``cpp/tensorrt_llm/thop/mxFp4BlockScaleMoe.cpp``).
_FAMILY = 10

# The same file: the routing kernel takes at most this many experts of a token, and
# fewer than there are; earlier versions and FlashInfer's launcher also want a
# multiple of 4 of them.
_LARGEST_TOP_K = 32
_EXPERTS_MULTIPLE = 4


def missing(library: str) -> str | None:
    """One sentence on why an op of `library` cannot run here, or None."""
    if not torch.cuda.is_available():
        return "needs an sm_100 GPU (B200), this machine has no GPU"
    major, minor = torch.cuda.get_device_capability()
    if major != _FAMILY:
        name = torch.cuda.get_device_name()
        return f"needs an sm_100 GPU (B200), this machine has {name}, sm_{major}{minor}"
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    return None


def takes_shape(config: MoEConfig) -> bool | str:
    """True, or why the routing kernel of both ops refuses the layer."""
    if config.experts % _EXPERTS_MULTIPLE:
        return (
            f"the routing kernel takes multiples of {_EXPERTS_MULTIPLE} experts, "
            f"not {config.experts}"
        )
    if config.top_k >= config.experts:
        return "the routing kernel takes more experts than top_k"
    return config.top_k <= _LARGEST_TOP_K or f"top_k is above {_LARGEST_TOP_K}"
