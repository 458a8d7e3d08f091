"""Each project's rule beside its recipe, its reference's precision and its source."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.evals.peer_rules import recipes
from mxmoe.evals.peer_rules.expected import Precision
from mxmoe.evals.peer_rules.recipes import Recipe
from mxmoe.evals.peer_rules.rules import Rule
from mxmoe.evals.peer_rules.rules import all_within_largest
from mxmoe.evals.peer_rules.rules import largest_and_rms
from mxmoe.evals.peer_rules.rules import relative_norm
from mxmoe.evals.peer_rules.rules import share_close
from mxmoe.evals.peer_rules.rules import share_close_in_either
from mxmoe.evals.peer_rules.rules import share_within_spread

_BF16 = torch.bfloat16
_FLASHINFER = "https://github.com/flashinfer-ai/flashinfer/blob/{}/tests/moe/{}"
_BENCH = "https://github.com/flashinfer-ai/flashinfer-bench/blob/{}/flashinfer_bench/{}"
_VLLM = "https://github.com/vllm-project/vllm/blob/{}/tests/kernels/moe/{}"
_TRITON = "https://github.com/triton-lang/triton/blob/{}/python/triton_kernels/{}"
_TRTLLM = "https://github.com/NVIDIA/TensorRT-LLM/blob/{}/tests/unittest/_torch/{}"
_SGLANG = "https://github.com/sgl-project/sglang/blob/{}/test/registered/moe/{}"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One acceptance rule. `says` is the rule in a phrase, `source` where it stands."""

    name: str
    title: str
    says: str
    source: str
    rule: Rule
    recipe: Recipe
    precision: Precision


_PEERS = (
    Peer(
        name="flashinfer_unified",
        title="FlashInfer unified",
        says="97 % of elements: error < max(0.05, 1.5 std of all) or 0.5 abs(expected)",
        source=_FLASHINFER.format(
            "000c2aaf0b490e2635a122d8b538642e372a74e9", "test_unified_moe_mxfp4.py"
        ),
        rule=share_within_spread(floor=0.05, spreads=1.5, relative=0.5, share=0.97),
        recipe=recipes.flashinfer_unified,
        # Upstream also passes the activation through NVFP4, which only adds noise.
        precision=Precision(unquantised=True),
    ),
    Peer(
        name="flashinfer_fp4_moe",
        title="FlashInfer FP4Moe",
        says="92 % of elements: error <= 0.1 + 0.85 abs(expected); finite",
        source=_FLASHINFER.format(
            "042d4a2679fbf1693af47c4bf9ba7ec33f9e0103",
            "trtllm_gen_fused_moe_utils.py",
        ),
        # isclose(expected, output): the output's magnitude counts.
        rule=share_close(
            absolute=0.1, relative=0.85, share=0.92, nan="rejected", of="output"
        ),
        recipe=recipes.flashinfer_fp4_moe,
        precision=Precision(intermediate=_BF16),
    ),
    Peer(
        name="flashinfer_fuzz",
        title="FlashInfer fuzz W4A16",
        says="every element: error <= 0.05 max of all + 0.001 + 0.3 abs(expected)",
        source=_FLASHINFER.format(
            "000c2aaf0b490e2635a122d8b538642e372a74e9", "test_unified_moe_fuzz.py"
        ),
        rule=all_within_largest(of_largest=0.05, absolute=1e-3, relative=0.3),
        recipe=recipes.flashinfer_fuzz,
        precision=Precision(intermediate=_BF16, weights=_BF16),
    ),
    Peer(
        name="flashinfer_bench_moe",
        title="FlashInfer-Bench moe",
        says="95 % of elements: error <= 0.01 or <= 0.01 abs(expected); finite",
        source=_BENCH.format(
            "00a1ec889fdae3b2cf7b08d551a180bb2e480db2", "bench/utils.py"
        ),
        rule=share_close_in_either(absolute=1e-2, relative=1e-2, share=0.95),
        recipe=recipes.flashinfer_bench_moe,
        precision=Precision(output=_BF16),
    ),
    Peer(
        name="vllm_ocp_mx",
        title="vLLM ocp_mx",
        says="80 % of elements: error <= 0.3 abs(output); finite",
        source=_VLLM.format(
            "01e4fce07423dafcc832600ba05159fb28dc1126", "test_ocp_mx_moe.py"
        ),
        rule=share_close(
            absolute=0.0, relative=0.3, share=0.8, nan="rejected", of="output"
        ),
        recipe=recipes.vllm_ocp_mx,
        precision=Precision(output=_BF16),
    ),
    Peer(
        name="vllm_gpt_oss_triton",
        title="vLLM gpt_oss triton",
        says="error / max(RMS, abs(expected)): largest <= 0.025, RMS <= 0.005",
        source=_VLLM.format(
            "0328802bed2bb6ca346ea10acb61221a0c607768", "test_gpt_oss_triton_kernels.py"
        ),
        rule=largest_and_rms(largest=0.025, rms=0.005),
        recipe=recipes.vllm_gpt_oss_triton,
        # The reference itself computes in bfloat16.
        precision=Precision(compute=_BF16),
    ),
    Peer(
        name="triton_kernels_matmul",
        title="triton_kernels matmul",
        says="error / max(RMS, abs(expected)): largest <= 0.03, RMS <= 0.004",
        source=_TRITON.format(
            "002402cf5a3e7359f3c17adeeba849ec809d1cfe", "tests/test_matmul.py"
        ),
        rule=largest_and_rms(largest=3e-2, rms=4e-3),
        recipe=recipes.triton_kernels_matmul,
        precision=Precision(intermediate=_BF16, output=_BF16),
    ),
    Peer(
        name="tensorrt_llm_w4a16",
        title="TensorRT-LLM W4A16",
        says="85 % of elements: error <= 0.1 + 0.1 abs(expected); NaN passes",
        source=_TRTLLM.format(
            "002366a4074cacd4f7be481727bea2e1eb9136a5", "modules/moe/quantize_utils.py"
        ),
        rule=share_close(absolute=0.1, relative=0.1, share=0.85, nan="accepted"),
        recipe=recipes.tensorrt_llm_w4a16,
        precision=Precision(compute=_BF16),
    ),
    Peer(
        name="tensorrt_llm_w4a8",
        title="TensorRT-LLM W4A8",
        says="80 % of elements: error <= 0.2 + 0.1 abs(expected); NaN passes",
        source=_TRTLLM.format(
            "002366a4074cacd4f7be481727bea2e1eb9136a5", "modules/moe/quantize_utils.py"
        ),
        rule=share_close(absolute=0.2, relative=0.1, share=0.8, nan="accepted"),
        recipe=recipes.tensorrt_llm_w4a8,
        precision=Precision(compute=_BF16),
    ),
    Peer(
        name="sglang_aiter",
        title="SGLang aiter",
        says="abs(error) < 0.01 abs(expected) over the whole output, Euclidean; finite",
        source=_SGLANG.format(
            "866d733cfdfc79084b529a086d81b6be7eea85ed", "test_aiter_mxfp4_triton_moe.py"
        ),
        rule=relative_norm(below=1e-2),
        recipe=recipes.sglang_aiter,
        precision=Precision(),
    ),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _PEERS}
