"""Faults of these kernels: one wrong line each, in a copy of the package.

``python -m mxmoe.evals.judge_source_faults`` sees the suite find them, on a GPU or in
Triton's interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_OUTPUT = "test_output_stays_within_the_bound"
_WEIGHTS = "test_route_weights_are_the_softmax_of_the_chosen"
_HERE = Path(__file__).parent
_NAME = "mxmoe.kernels.triton_moe"


@dataclass(frozen=True, kw_only=True)
class SourceFault:
    """`wrong` in place of `right`, which stands once in `file`.

    check : that must find it. says : the failure's cause holds one of these; empty
    where no cause is claimed.
    """

    name: str
    file: str
    right: str
    wrong: str
    check: str = _OUTPUT
    says: tuple[str, ...] = ()


SOURCE_FAULTS = (
    SourceFault(
        name="down_bias_ignored",
        file="down.py",
        right="has_bias = HAS_BIAS and first_tile == 0",
        wrong="has_bias = HAS_BIAS and first_tile < 0",
        says=("down bias ignored",),
    ),
    SourceFault(
        name="second_part_of_k_dropped",
        file="combine.py",
        right="tl.static_range(1, SPLITS)",
        wrong="tl.static_range(1, 1)",
        says=("of the intermediate missing", "K block of down dropped"),
    ),
    SourceFault(
        name="last_step_of_k_dropped",
        file="weight_gemm.py",
        right="tl.range(first_tile, last_tile, K,",
        wrong="tl.range(first_tile, last_tile - K, K,",
        says=("last K block of gate_up and down dropped",),
    ),
    SourceFault(
        name="activation_rows_end_early",
        file="weight_gemm.py",
        right="inside = present[:, None] & (tile * 64 + k < size)",
        wrong="inside = present[:, None] & (tile * 64 + k < size - 32)",
        says=("last K block of gate_up and down dropped",),
    ),
    SourceFault(
        name="gate_up_bias_on_gates_only",
        file="gate_up.py",
        right="sums += added[:, None]",
        wrong=(
            "sums += tl.where(tl.arange(0, 64 * N) // 8 % 2 == 0, added, 0.0)[:, None]"
        ),
        says=("gate_up bias added to the gate half only",),
    ),
    SourceFault(
        name="up_clamped_from_above_only",
        file="gate_up.py",
        right="up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))",
        wrong="up = tl.where(up > limit, limit, up)",
        says=("up half clamped from above only",),
    ),
    SourceFault(
        name="beta_dropped",
        file="gate_up.py",
        right="* (up + beta)",
        wrong="* up",
        says=("no +1 on the up half",),
    ),
    SourceFault(
        name="alpha_dropped",
        file="gate_up.py",
        right="tl.exp(-alpha * gate)",
        wrong="tl.exp(-gate)",
        says=("alpha taken as 1",),
    ),
    SourceFault(
        name="activation_a_little_large",
        file="gate_up.py",
        right="return gate / (1 +",
        wrong="return 1.0078125 * gate / (1 +",
        says=("GEMM2 times 1.008, not its bias",),
    ),
    SourceFault(
        name="token_of_the_next_slot",
        file="gate_up.py",
        right="(slot // top_k).to(tl.int64)",
        wrong="((slot + 1) // top_k).to(tl.int64)",
        says=("the hidden states of slot n + 1",),
    ),
    SourceFault(
        name="last_slot_of_a_full_tile_left_out",
        file="dispatch.py",
        right="stop = tl.minimum(end, start + BLOCK_T)",
        wrong="stop = tl.minimum(end, start + BLOCK_T - 1)",
        says=("the tokens in the last row of each full tile",),
    ),
    SourceFault(
        name="slots_rounded_before_the_sum",
        file="combine.py",
        right="total += tl.where(served, part, 0.0)",
        wrong="total += tl.where(served, part.to(tl.bfloat16).to(tl.float32), 0.0)",
        says=("each slot's weighted result rounded to bfloat16",),
    ),
    SourceFault(
        name="slots_added_in_bfloat16",
        file="combine.py",
        right="total += tl.where(served, part, 0.0)",
        wrong=(
            "total = (total + tl.where(served, part, 0.0))"
            ".to(tl.bfloat16).to(tl.float32)"
        ),
        says=("slots added up in bfloat16",),
    ),
    SourceFault(
        name="routing_weights_in_bfloat16",
        file="combine.py",
        right="part = weight.to(tl.float32) * value",
        wrong="part = weight.to(tl.bfloat16).to(tl.float32) * value",
        says=("routing weights rounded to bfloat16",),
    ),
    SourceFault(
        name="softmax_over_all_experts",
        file="route.py",
        right="tl.where(slot < TOP_K, tl.exp(loaded - largest), 0.0)",
        wrong="tl.where(there, tl.exp(loaded - largest), 0.0)",
        check=_WEIGHTS,
        says=("softmax over all experts, not only the chosen",),
    ),
)
"""Every one shows on a GPU. In the interpreter none of bfloat16 is tried."""


def plant(fault: SourceFault | None, folder: Path) -> str:
    """Copy this package to `folder`, with the fault in it; None: as it is.

    Returns the name of the package, for ``mxmoe check --candidate NAME.candidate:
    candidate`` with `folder` on the path. Its operators have a namespace of their own.
    """
    name = f"planted_{fault.name if fault else 'nothing'}"
    for source in sorted(_HERE.glob("*.py")):
        text = source.read_text(encoding="utf-8")
        if fault and source.name == fault.file:
            text = spoiled(fault, text)
        for ours, its in ((_NAME, name), ("mxmoe::", f"{name}::")):
            text = text.replace(ours, its)
        text = text.replace("torch.ops.mxmoe.", f"torch.ops.{name}.")
        target = folder / name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return name


def spoiled(fault: SourceFault, text: str) -> str:
    """The source with the fault in it; `ValueError` unless `right` is there once."""
    if (found := text.count(fault.right)) != 1:
        raise ValueError(
            f"{fault.name}: expected {fault.right!r} once in {fault.file}, "
            f"found it {found} times"
        )
    return text.replace(fault.right, fault.wrong)
