"""Make the golden vectors of triton_kernels by running that package on a CPU.

    pip install --no-deps --target tk tokenspeed-triton-kernels==1.0.0.post20260510
    PYTHONPATH=tk python conformance/golden/make_triton_kernels.py

It uses nothing of mxmoe. Ranks are cut out by hand here: the package knows none.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import triton
import triton.language.target_info

HERE = Path(__file__).parent
SEEDS = {
    "gate_up_blocks": 1,
    "gate_up_scales": 2,
    "down_blocks": 4,
    "down_scales": 5,
}
# (name, experts, hidden, intermediate, (tp, rank) each): odd and even numbers of blocks
# in K and in rows, more rows than one group of 4 or 8 warps, ranks with fewer lanes
# and with none.
SMALL = (
    ("s1", 2, 64, 96, ((1, 0), (2, 1))),
    ("s2", 1, 160, 160, ((1, 0), (4, 2), (4, 3))),
)
GPT_OSS_EXPERT = (1, 2880, 2880)
GPT_OSS_RANKS = ((1, 0), (2, 1), (8, 7))


@triton.constexpr_function  # type: ignore[untyped-decorator]
def is_hip_gfx1250() -> bool:
    """Triton 3.7.1 has no such target yet, and the package asks for it."""
    return False


triton.language.target_info.is_hip_gfx1250 = is_hip_gfx1250

from triton_kernels.tensor import FP4  # noqa: E402
from triton_kernels.tensor import convert_layout  # noqa: E402
from triton_kernels.tensor import wrap_torch_tensor  # noqa: E402
from triton_kernels.tensor_details import layout as tk  # noqa: E402

VALUES = {
    "hopper": tk.HopperMXValueLayout(mx_axis=-2, mma_version=3),
    "blackwell": tk.BlackwellMXValueLayout(),
    "blackwell_shuffled": tk.BlackwellMX4ValueShuffledLayout(block_k=128, block_n=256),
}
SCALES = {
    "hopper_warps8": tk.HopperMXScaleLayout(mx_axis=-2, num_warps=8),
    "hopper_warps4": tk.HopperMXScaleLayout(mx_axis=-2, num_warps=4),
    "blackwell": tk.BlackwellMXScaleLayout(),
}


def filled(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The byte generator of README.md."""
    i = np.arange(np.prod(shape), dtype=np.uint64)
    x = (i * np.uint64(2654435761) + np.uint64(seed * 0x9E3779B1)) & 0xFFFFFFFF
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x85EBCA6B)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(13)
    x = (x * np.uint64(0xC2B2AE35)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return torch.from_numpy((x & np.uint64(0xFF)).astype(np.uint8).reshape(shape))


def layer(experts: int, h: int, i: int) -> dict[str, torch.Tensor]:
    """Blocks and scales in checkpoint order."""
    shapes = {
        "gate_up_blocks": (experts, 2 * i, h // 32, 16),
        "gate_up_scales": (experts, 2 * i, h // 32),
        "down_blocks": (experts, h, i // 32, 16),
        "down_scales": (experts, h, i // 32),
    }
    return {name: filled(SEEDS[name], shape) for name, shape in shapes.items()}


def of_rank(
    tensors: dict[str, torch.Tensor], tp: int, rank: int
) -> dict[str, torch.Tensor]:
    """ceil(blocks / tp) blocks of 32 lanes each, the last ranks filled with zeros."""
    each = -(-tensors["down_scales"].shape[2] // tp)
    cut = {}
    for name, tensor in tensors.items():
        axis, size = (1, 64 * each) if name.startswith("gate_up") else (2, each)
        part = tensor.narrow(axis, *_within(tensor.shape[axis], rank * size, size))
        full = part.new_zeros((*part.shape[:axis], size, *part.shape[axis + 1 :]))
        full.narrow(axis, 0, part.shape[axis]).copy_(part)
        cut[name] = full
    return cut


def _within(length: int, start: int, size: int) -> tuple[int, int]:
    start = min(start, length)
    return start, min(size, length - start)


def in_memory_order(tensor: torch.Tensor) -> np.ndarray:
    """The package's tensor as it lies in memory: transposed back where it is a view."""
    stored = tensor if tensor.is_contiguous() else tensor.mT
    assert stored.is_contiguous()
    return stored.numpy()


def outputs(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Every layout of weights and scales of both matrices."""
    found = {}
    for matrix in ("gate_up", "down"):
        blocks = tensors[f"{matrix}_blocks"].flatten(2)
        scales = tensors[f"{matrix}_scales"]
        for name, layout in VALUES.items():
            weights = convert_layout(wrap_torch_tensor(blocks.mT, dtype=FP4), layout)
            stored = in_memory_order(weights.storage.data)
            if name == "blackwell":  # it leaves its K padding uninitialised
                stored[..., blocks.shape[2] :] = 0
            found[f"{matrix}_weights_{name}"] = stored
        for name, layout in SCALES.items():
            swizzled = convert_layout(wrap_torch_tensor(scales.mT), layout)
            stored = in_memory_order(swizzled.storage.data)
            found[f"{matrix}_scales_{name}"] = stored
    return found


def main() -> None:
    """Write the small arrays and the digests of one gpt-oss expert."""
    arrays = {}
    for case, experts, h, i, ranks in SMALL:
        whole = layer(experts, h, i)
        for tp, rank in ranks:
            for name, array in outputs(of_rank(whole, tp, rank)).items():
                arrays[f"{case}_tp{tp}_r{rank}_{name}"] = array
    np.savez_compressed(HERE / "triton_kernels.npz", allow_pickle=False, **arrays)
    whole = layer(*GPT_OSS_EXPERT)
    digests = {}
    for tp, rank in GPT_OSS_RANKS:
        for name, array in outputs(of_rank(whole, tp, rank)).items():
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            entry = {"shape": list(array.shape), "sha256": digest}
            digests[f"tp{tp}_r{rank}_{name}"] = entry
    record = {
        "package": version("tokenspeed-triton-kernels"),
        "triton": triton.__version__,
        "torch": torch.__version__,
        "gptoss_layer_E1": digests,
    }
    text = json.dumps(record, indent=1) + "\n"
    (HERE / "triton_kernels_sha256.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
