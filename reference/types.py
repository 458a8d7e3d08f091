"""The contract: every type that crosses a package border, all frozen.

Letters, the same in code, text and einsums:

    t token     k slot (0..top_k-1)     e expert
    h hidden    i intermediate (unpadded, whole)
    g block of 32 elements              b byte
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from dataclasses import replace

import torch

from mxmoe.reference.arithmetic import ARITHMETIC as ARITHMETIC
from mxmoe.reference.arithmetic import FLOAT64 as FLOAT64
from mxmoe.reference.arithmetic import RESERVED_ARITHMETIC as RESERVED_ARITHMETIC
from mxmoe.reference.arithmetic import Arithmetic as Arithmetic
from mxmoe.reference.errors import BadInput

# OCP Microscaling Formats (MX) v1.0, section 5.2: an MXFP4 block is 32 E2M1
# elements, 4 bits each, that share one E8M0 scale.
BLOCK = 32
BLOCK_BYTES = BLOCK // 2

# Far above any published model and far below an overflow of int64 index
# arithmetic on experts * rows * columns; anything larger is a damaged file.
LARGEST_DIMENSION = 2**20

STAGES = (
    "router_logits",
    "ids",
    "weights",
    "gate_up",
    "activation",
    "down",
    "combine",
    "all_reduce",
)
"""Stages in data-flow order; traces, bounds and failure texts use these names.

``gate_up`` is taken after the bias with columns in checkpoint order (gate and
up interleaved); ``down`` after the bias and before the routing weight.
"""


@dataclass(frozen=True)
class Activation:
    """gate' * sigmoid(alpha * gate') * (up' + beta), both halves clamped at `limit`.

    gate' = min(gate, limit); up' = clamp(up, -limit, limit). The gate has no
    lower clamp. Source: openai/gpt-oss, ``gpt_oss/torch/model.py::swiglu``.
    """

    name: str
    alpha: float
    beta: float
    limit: float


SWIGLU_OAI = Activation("swiglu_oai", alpha=1.702, beta=1.0, limit=7.0)
SILU = Activation("silu", alpha=1.0, beta=0.0, limit=math.inf)

ROUTINGS = ("topk_softmax",)
RESERVED_ROUTINGS = ("softmax_topk", "softmax_topk_renorm", "sigmoid_grouped")


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """One mixture-of-experts layer, as the checkpoint describes it.

    ``routing="topk_softmax"``: top-k on the raw logits (lowest expert id wins a
    tie), softmax in float32 over the k chosen. ``routed_scaling`` multiplies
    the routing weights.
    """

    hidden: int
    intermediate: int
    experts: int
    top_k: int
    activation: Activation = SWIGLU_OAI
    routing: str = "topk_softmax"
    has_bias: bool = True
    routed_scaling: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hidden", "intermediate", "experts", "top_k"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= LARGEST_DIMENSION:
                raise BadInput(
                    f"{name}: expected an integer from 1 to {LARGEST_DIMENSION}, "
                    f"found {value!r}"
                )
        for name in ("hidden", "intermediate"):
            if getattr(self, name) % BLOCK:
                raise BadInput(
                    f"{name}: expected a multiple of {BLOCK} (one MXFP4 block), "
                    f"found {getattr(self, name)}"
                )
        if self.top_k > self.experts:
            raise BadInput(
                f"top_k: expected at most experts = {self.experts}, found {self.top_k}"
            )
        if self.routing not in ROUTINGS:
            reserved = " (reserved)" if self.routing in RESERVED_ROUTINGS else ""
            raise BadInput(
                f"routing: expected one of {', '.join(ROUTINGS)}, "
                f"found {self.routing!r}{reserved}"
            )

    def label(self) -> str:
        """The shape in one word, e.g. ``e8k4h160i224``; other options appended."""
        word = f"e{self.experts}k{self.top_k}h{self.hidden}i{self.intermediate}"
        if self.activation != SWIGLU_OAI:
            word += f"-{self.activation.name}"
        return word if self.has_bias else word + "-nobias"


GPT_OSS_20B = MoEConfig(hidden=2880, intermediate=2880, experts=32, top_k=4)
GPT_OSS_120B = MoEConfig(hidden=2880, intermediate=2880, experts=128, top_k=4)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertWeights:
    """One layer's experts and router in checkpoint order.

    =================  =========  =================  ===============================
    ``gate_up_blocks``  uint8      [e, 2i, h/32, 16]  rows interleaved: 2i gate, 2i+1 up
    ``gate_up_scales``  uint8      [e, 2i, h/32]      biased exponents
    ``gate_up_bias``    bfloat16   [e, 2i] or None    interleaved like the rows
    ``down_blocks``     uint8      [e, h, i/32, 16]   row = output hidden index
    ``down_scales``     uint8      [e, h, i/32]       biased exponents
    ``down_bias``       bfloat16   [e, h] or None
    ``router_weight``   floating   [e, h]
    ``router_bias``     floating   [e] or None
    =================  =========  =================  ===============================

    Byte b of a block holds element 2b in its low nibble and 2b+1 in its high
    nibble.
    """

    gate_up_blocks: torch.Tensor
    gate_up_scales: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down_blocks: torch.Tensor
    down_scales: torch.Tensor
    down_bias: torch.Tensor | None
    router_weight: torch.Tensor
    router_bias: torch.Tensor | None

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that are present, by field name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: torch.device | str) -> ExpertWeights:
        """The same weights on `device`."""
        return replace(self, **{n: t.to(device) for n, t in self.tensors().items()})

    def clone(self) -> ExpertWeights:
        """The same weights in memory of their own."""
        return replace(self, **{n: t.clone() for n, t in self.tensors().items()})

    def check(self, config: MoEConfig) -> None:
        """Raise `BadInput` unless every shape and dtype is what `config` implies."""
        expected = expected_tensors(config)
        for name in self.tensors():
            if name not in expected:
                raise BadInput(f"{name}: expected none without biases, found a tensor")
        for name, (shape, dtype) in expected.items():
            tensor = getattr(self, name)
            if tensor is None:
                raise BadInput(f"{name}: expected a tensor {list(shape)}, found none")
            if tuple(tensor.shape) != shape:
                raise BadInput(
                    f"{name}: expected shape {list(shape)}, found {list(tensor.shape)}"
                )
            if dtype is None and not tensor.is_floating_point():
                raise BadInput(
                    f"{name}: expected a floating dtype, found {tensor.dtype}"
                )
            if dtype is not None and tensor.dtype != dtype:
                raise BadInput(f"{name}: expected {dtype}, found {tensor.dtype}")


def expected_tensors(
    config: MoEConfig,
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Shape and dtype of each tensor of one layer; dtype None: any floating type."""
    e, h, i = config.experts, config.hidden, config.intermediate
    g_h, g_i = h // BLOCK, i // BLOCK
    u8, bf16 = torch.uint8, torch.bfloat16
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype | None]] = {
        "gate_up_blocks": ((e, 2 * i, g_h, BLOCK_BYTES), u8),
        "gate_up_scales": ((e, 2 * i, g_h), u8),
        "down_blocks": ((e, h, g_i, BLOCK_BYTES), u8),
        "down_scales": ((e, h, g_i), u8),
        "router_weight": ((e, h), None),
    }
    if config.has_bias:
        tensors["gate_up_bias"] = ((e, 2 * i), bf16)
        tensors["down_bias"] = ((e, h), bf16)
        tensors["router_bias"] = ((e,), None)
    return tensors


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One rank's part of a layer: a range of i (tensor), of e (expert parallel).

    The intermediate axis is padded first and sliced second, so that no block of
    32 straddles two ranks. With a = `alignment` (32 in the checkpoint's own order,
    128 in trtllm-gen; it follows from the layout and is no part of the label):

        P = a * ceil(i / (a * tp))

    (TensorRT-LLM spells it up(up(i, lcm(a, tp)) / tp, a), with up(x, m) = x rounded
    up to m) and rank r owns [r*P, (r+1)*P) cut off at i; a rank beyond i owns nothing.
    """

    tp_size: int = 1
    tp_rank: int = 0
    ep_size: int = 1
    ep_rank: int = 0
    alignment: int = BLOCK

    def __post_init__(self) -> None:
        if type(self.alignment) is not int or (
            self.alignment < 1 or self.alignment % BLOCK
        ):
            raise BadInput(
                f"alignment: expected a multiple of {BLOCK}, found {self.alignment!r}"
            )
        for kind in ("tp", "ep"):
            size, rank = getattr(self, f"{kind}_size"), getattr(self, f"{kind}_rank")
            if type(size) is not int or not 1 <= size <= LARGEST_DIMENSION:
                raise BadInput(
                    f"{kind}_size: expected an integer from 1 to "
                    f"{LARGEST_DIMENSION}, found {size!r}"
                )
            if type(rank) is not int or not 0 <= rank < size:
                raise BadInput(f"{kind}_rank: expected 0 to {size - 1}, found {rank!r}")

    def is_whole(self) -> bool:
        """Whether this one rank holds the whole layer."""
        return self.tp_size == 1 and self.ep_size == 1

    def padded_intermediate(self, config: MoEConfig) -> int:
        """P: the lanes of i, padding included, that each rank is given."""
        a = self.alignment
        return a * -(-config.intermediate // (a * self.tp_size))

    def intermediate_range(self, config: MoEConfig) -> range:
        """The lanes of i that this rank owns; possibly none."""
        padded = self.padded_intermediate(config)
        start = min(config.intermediate, self.tp_rank * padded)
        return range(start, min(config.intermediate, start + padded))

    def expert_range(self, config: MoEConfig) -> range:
        """The global ids of the experts that this rank owns, contiguous and equal."""
        if config.experts % self.ep_size:
            raise BadInput(
                f"ep_size: expected a divisor of experts = {config.experts}, "
                f"found {self.ep_size}"
            )
        count = config.experts // self.ep_size
        return range(self.ep_rank * count, (self.ep_rank + 1) * count)

    def label(self) -> str:
        """``tp8r7``, ``tp1r0-ep4r2``: the form used in test ids."""
        word = f"tp{self.tp_size}r{self.tp_rank}"
        return word if self.ep_size == 1 else f"{word}-ep{self.ep_size}r{self.ep_rank}"


WHOLE = Shard()


@dataclass(frozen=True, eq=False)
class Routing:
    """Which experts each token visits, and with what weight.

    ids : int32 [t, k], *global* expert ids, distinct within a token except for
        -1, which means no expert and contributes exactly nothing.
    weights : [t, k] in the declared dtype, made once, before both sides see
        them, so that routing noise cannot hide a fault in the GEMMs.
    """

    ids: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device | str) -> Routing:
        """The same routing on `device`."""
        return Routing(self.ids.to(device), self.weights.to(device))

    def clone(self) -> Routing:
        """The same routing in memory of its own."""
        return Routing(self.ids.clone(), self.weights.clone())


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedWeights(Mapping[str, object]):
    """What a `forward` receives: the tensors of `prepare`, and their context.

    Reads like a mapping (``prepared["gate_up_blocks"]``). `layout` is the name
    of a layout that the suite knows, or None for the candidate's own.
    `valid_hidden` and `valid_intermediate` count the unpadded lanes.
    """

    tensors: Mapping[str, object]
    layout: str | None
    config: MoEConfig
    shard: Shard = WHOLE
    valid_hidden: int
    valid_intermediate: int

    def __getitem__(self, name: str) -> object:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True, eq=False)
class Trace:
    """Stages of one forward pass, by the names in `STAGES`.

    Rows are keyed (t, k) in order: ``gate_up`` [t, k, 2i'], ``activation``
    [t, k, i'], ``down`` [t, k, h], where i' is the number of lanes that the rank
    owns; ``combine`` [t, h]. Rows of slots that the rank does not serve are 0.
    """

    stages: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __getitem__(self, stage: str) -> torch.Tensor:
        return self.stages[stage]
