"""TensorRT-LLM's own MXFP4 MoE op as a candidate. Unexecuted: nobody had a B200.

Arithmetic: the second GEMM writes each slot's output in bfloat16 before the weighted
sum (``gemm2_output`` in ``mxFp4BlockScaleMoe.cpp`` at 03853d11), so the class is
``w4a16_fp32acc_bf16slots``. The op also takes the routing weights in bfloat16 only.
No class allows that rounding, and it does leave the bound: hence the capability
``routing_weights``, for which the suite makes weights that bfloat16 holds exactly.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import torch

from mxmoe.kernels.trtllm_gen import blackwell
from mxmoe.kernels.trtllm_gen.hidden_pad import PadBuffer
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.kernels.trtllm_gen.trtllm_arguments import SWIGLU
from mxmoe.kernels.trtllm_gen.trtllm_arguments import MoEArguments
from mxmoe.kernels.trtllm_gen.trtllm_arguments import fc1_width
from mxmoe.kernels.trtllm_gen.trtllm_arguments import fused_arguments
from mxmoe.kernels.trtllm_gen.trtllm_arguments import moe_arguments
from mxmoe.kernels.trtllm_gen.trtllm_arguments import positional
from mxmoe.kernels.trtllm_gen.trtllm_arguments import run_moe_positional
from mxmoe.kernels.trtllm_gen.trtllm_arguments import tactic_query
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

LIBRARY = "tensorrt_llm"

Tactic = tuple[int, int]
"""(tokens in a tile, index of the kernel's configuration)."""


@dataclass(eq=False)
class TrtllmOp:
    """``torch.ops.trtllm.bf16_mxe2m1_block_scale_moe_runner``.

    op, runner : stand-ins with the op's schema and the runner's methods; None takes
    TensorRT-LLM's.
    """

    op: Callable[..., torch.Tensor] | None = None
    runner: Any = None
    name: str = "trtllm_op"
    _buffer: PadBuffer = field(default_factory=PadBuffer)

    @property
    def capabilities(self) -> dict[str, Any]:
        """Any shard; the tactics are those that the library enumerates for a rank."""
        real = self.op is None
        return {
            "arithmetic": "w4a16_fp32acc_bf16slots",
            "routing_weights": "bfloat16",
            "layout": "trtllm_gen.v1",
            "devices": ("cuda",) if real else ("cuda", "cpu"),
            "shapes": blackwell.takes_shape,
            "shards": "any",
            "tactics": self.tactics,
            "execution": "unexecuted" if real else "emulated",
        }

    def unavailable(self) -> str | None:
        """An sm_100 GPU and TensorRT-LLM are needed, unless there are stand-ins."""
        return blackwell.missing(LIBRARY) if self.op is None else None

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """Layout ``trtllm_gen.v1``."""
        return prepare(weights, config, shard, device)

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        routing: Routing,
        *,
        tactic: Tactic | None = None,
    ) -> torch.Tensor:
        """[t, h] -> [t, h]; the library tunes by itself unless a tactic is forced."""
        if hidden_states.shape[0] == 0:
            return torch.empty_like(hidden_states)
        padded = self._buffer.pad(hidden_states, fc1_width(prepared))
        return self._call(moe_arguments(prepared, padded, routing), tactic)

    def forward_fused(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        router_weight: torch.Tensor,
        router_bias: torch.Tensor | None,
        top_k: int,
    ) -> torch.Tensor:
        """Logits in the dtype of the activations, as the engine makes them."""
        if hidden_states.shape[0] == 0:
            return torch.empty_like(hidden_states)
        dtype = hidden_states.dtype
        bias = None if router_bias is None else router_bias.to(dtype)
        logits = torch.nn.functional.linear(
            hidden_states, router_weight.to(dtype), bias
        )
        padded = self._buffer.pad(hidden_states, fc1_width(prepared))
        arguments = fused_arguments(prepared, padded, logits, top_k)
        return self._call(arguments, None)

    def tactics(
        self, config: MoEConfig, tokens: int, shard: Shard = WHOLE
    ) -> Sequence[Tactic]:
        """What the library's own query gives for a rank; empty if it finds none."""
        query = tactic_query(config, tokens, shard)
        found = self._runner().get_valid_configs(*positional(query))
        return [(int(tile), int(index)) for tile, index in found]

    def _call(self, arguments: MoEArguments, tactic: Tactic | None) -> torch.Tensor:
        if tactic is None:
            out = self._op()(*positional(arguments))
        else:
            out = self._runner().run_moe(*run_moe_positional(arguments, tactic))
        # Unpadded already where the op knows valid_hidden_size.
        return out[:, : arguments.valid_hidden_size]

    def _op(self) -> Callable[..., torch.Tensor]:
        if self.op is not None:
            return self.op
        importlib.import_module(LIBRARY)  # registers the op
        found: Callable[..., torch.Tensor] = (
            torch.ops.trtllm.bf16_mxe2m1_block_scale_moe_runner
        )
        return found

    def _runner(self) -> Any:
        if self.runner is None:
            importlib.import_module(LIBRARY)
            self.runner = torch.classes.trtllm.Bf16MxE2m1BlockScaleMoERunner(SWIGLU)
        return self.runner


candidate = TrtllmOp()
