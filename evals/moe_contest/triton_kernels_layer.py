"""OpenAI's triton_kernels as a contestant: the layer, put together from its parts.

Router to output as gpt-oss runs it: logits by a bfloat16 torch linear, its top-k with
softmax, its metadata of the ragged batch, two grouped GEMMs on weights in its layout
for the device (the first gathers and fuses SwiGLU, the second multiplies by the
routing weights and scatters), its sum over slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mxmoe.evals.moe_contest.contestant import Layer
from mxmoe.evals.moe_contest.contestant import Unavailable
from mxmoe.evals.moe_contest.triton_kernels_copy import TritonKernels
from mxmoe.evals.moe_contest.triton_kernels_copy import import_triton_kernels
from mxmoe.evals.moe_contest.triton_kernels_copy import package_version
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig

# Its layouts for MXFP4 weights begin with Hopper's.
_FIRST_CAPABILITY = (9, 0)
# Which of the two is faster depends on the batch: both take part.
NUM_WARPS = (4, 8)


@dataclass(frozen=True)
class TritonKernelsLayer:
    """The layer with one of its Hopper scale layouts.

    source : wheel or folder of the package; None for the installed one. num_warps :
    of that layout, and of its GEMMs; other devices have one layout.
    """

    source: Path | None
    num_warps: int

    arithmetic = ARITHMETIC["w4a16_fp32acc_bf16slots"]
    routing_dtype = torch.bfloat16
    router = "bfloat16 logits (torch linear), its topk, routing weights in bfloat16"

    @property
    def name(self) -> str:
        """``triton_kernels.w4`` or ``triton_kernels.w8``."""
        return f"triton_kernels.w{self.num_warps}"

    @property
    def version(self) -> str | None:
        """Of the package."""
        return package_version(self.source)

    def build(
        self, weights: ExpertWeights, config: MoEConfig, device: torch.device
    ) -> Layer:
        """See `Contestant`."""
        if device.type != "cuda":
            raise Unavailable(f"needs a CUDA device, found {device}")
        capability = torch.cuda.get_device_capability(device)
        if capability < _FIRST_CAPABILITY:
            raise Unavailable(
                f"needs compute capability {_FIRST_CAPABILITY}, found {capability}"
            )
        return self.assemble(import_triton_kernels(self.source), weights, config)

    def assemble(
        self, tk: TritonKernels, weights: ExpertWeights, config: MoEConfig
    ) -> Layer:
        """The layer from the modules of the package."""
        w1, precision1 = self._matrix(
            tk, weights.gate_up_blocks, weights.gate_up_scales
        )
        w2, precision2 = self._matrix(tk, weights.down_blocks, weights.down_scales)
        b1, b2 = weights.gate_up_bias, weights.down_bias
        b1 = None if b1 is None else b1.float()
        b2 = None if b2 is None else b2.float()
        top_k, activation = config.top_k, config.activation
        # Gate and up interleaved, up + 1: what its swiglu expects is the checkpoint's.
        assert activation.beta == 1
        swiglu = tk.matmul.FusedActivation(
            tk.matmul.FnSpecs(
                "swiglu", tk.swiglu.swiglu_fn, ("alpha", "limit"), reduction_n=2
            ),
            (activation.alpha, activation.limit),
        )

        def layer(x: torch.Tensor) -> torch.Tensor:
            logits = torch.nn.functional.linear(
                x, weights.router_weight, weights.router_bias
            )
            chosen = tk.topk.topk(logits, top_k, apply_softmax=True)
            slots = chosen.mask_metadata.col_sorted_indx
            ragged = tk.tensor.make_ragged_tensor_metadata(
                chosen.mask_metadata.col_sum, len(slots)
            )
            activated = tk.matmul.matmul(
                x,
                w1,
                b1,
                a_ragged_metadata=ragged,
                gather_indx=slots // top_k,
                precision_config=precision1,
                fused_activation=swiglu,
            )
            down = tk.matmul.matmul(
                activated,
                w2,
                b2,
                a_ragged_metadata=ragged,
                scatter_indx=slots,
                precision_config=precision2,
                gammas=chosen.vals.flatten().index_select(0, slots),
            )
            out, _ = tk.reduce.reduce(down.view(len(x), top_k, -1), dim=1)
            return out

        return layer

    def _matrix(
        self, tk: TritonKernels, blocks: torch.Tensor, scales: torch.Tensor
    ) -> tuple[Any, Any]:
        """One weight [e, columns, rows] in its layout, and the scales that go along."""
        wrap, convert = tk.tensor.wrap_torch_tensor, tk.tensor.convert_layout
        weight = convert(
            wrap(blocks.flatten(-2).mT, dtype=tk.tensor.FP4),
            tk.layout.make_default_matmul_mxfp4_w_layout(mx_axis=-2),
        )
        scale = convert(
            wrap(scales.mT),
            tk.layout.make_default_matmul_mxfp4_w_scale_layout(
                mx_axis=-2, num_warps=self.num_warps
            ),
        )
        precision = tk.matmul.PrecisionConfig(b_mx_scale=scale, b_microblock_size=BLOCK)
        return weight, precision
