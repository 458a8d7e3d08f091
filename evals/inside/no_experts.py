"""transformers' gpt-oss model whose experts hold nothing: a candidate will serve them.

transformers keeps experts dequantised on a CPU: 3 * 2880 * 2880 * 128 float32, 12.7 GB,
a layer of gpt-oss-120b, until a candidate takes their place. Here they are never read:
while the model is built, modules without parameters stand for `GptOssExperts`, and the
checkpoint's experts are left where they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from mxmoe.reference.checkpoint import Checkpoint


class NoExperts(GptOssExperts):  # type: ignore[misc]
    """Calls what serves it, as any `GptOssExperts` does; alone it raises."""

    def __init__(self, config: Any) -> None:
        with torch.device("meta"):
            super().__init__(config)
        for name in [name for name, _ in self.named_parameters()]:
            delattr(self, name)
        # transformers would draw the parameters that it has not read.
        self._is_hf_initialized = True


@contextlib.contextmanager
def built_without_experts() -> Iterator[None]:
    """Models that transformers builds inside of this hold no experts."""
    modeling_gpt_oss.GptOssExperts = NoExperts
    try:
        yield
    finally:
        modeling_gpt_oss.GptOssExperts = GptOssExperts


def expert_names(checkpoint: Checkpoint) -> frozenset[str]:
    """The names of the checkpoint's tensors that such a model has no place for."""
    fields = [field for field in checkpoint.spelling if not field.startswith("router")]
    return frozenset(
        checkpoint.spelling[field].format(layer=layer)
        for field in fields
        for layer in range(checkpoint.layers)
    )
